"""The templates of the reports, all text escaped."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mithridate.reports import words
from mithridate.reports.tables import SHOWN


@cache
def environment() -> Environment:
    """Where every page is made; an unknown variable is an error.

    >>> environment().from_string("{{ name }}").render(name="<b>")
    '&lt;b&gt;'
    """
    return Environment(
        loader=PackageLoader("mithridate.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def common() -> dict[str, Any]:
    """What every page needs: words, the script, and its hash for the policy."""
    script = (files("mithridate.reports") / "templates" / "tables.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"w": words, "script": Markup(script), "script_hash": digest, "shown": SHOWN}
