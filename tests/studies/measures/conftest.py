"""Cells' settings as a study's file gives them."""

from __future__ import annotations

import pytest

COMMON = {
    "data": "digits",
    "network": "digits-cnn",
    "train": {"epochs": 2},
}
POISON = {"name": "badnets", "trigger": "single-pixel", "source": 8, "target": 9, "count": 60}


@pytest.fixture
def unit_of():
    """The measuring unit of a cell."""

    def made(measure, **settings):
        made = measure()
        return made.unit(made.settings.model_validate({**COMMON, **settings}))

    return made


@pytest.fixture
def poison():
    return dict(POISON)
