"""Units: what their keys are made of, and what they are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.poisons import BadNets
from mithridate.poisons.triggers import SinglePixel
from mithridate.studies.engine.plan import plan_of
from mithridate.studies.engine.unit import Unit, plain


@dataclass(frozen=True, kw_only=True, eq=False)
class Plain(Unit[Any]):
    """A value, other units, a component, and something that another field stands for."""

    kind: ClassVar = "plain"

    x: Any = None
    of: Unit | tuple[Unit, ...] = ()
    on: Unit | None = None
    choice: Choice | None = None
    more: Any = None
    aside: Any = field(default=None, metadata={"key": False})


@dataclass(frozen=True, kw_only=True, eq=False)
class Other(Plain):
    kind: ClassVar = "other"
    version: ClassVar = 1


BADNETS = {"trigger": "single-pixel", "target": 1, "count": 9}


def badnets(**settings):
    return Choice("poisons", "badnets", {**BADNETS, **settings})


def test_units_differ_in_what_they_are():
    a, b = Plain(x=1), Plain(x=2)
    every = [
        *(a, b, Other(x=1), Plain(x=True), Plain(x="1"), Plain(x=1.0), Plain(x=[1])),
        *(Plain(more=1), Plain(x=1, threads=2), Plain(x=1, device="cuda")),
        *(Plain(of=a), Plain(of=b), Plain(of=(a,)), Plain(of=(a, b)), Plain(of=(b, a))),
        *(Plain(on=a), Plain(choice=badnets()), Plain(choice=badnets(target=2))),
        Plain(choice=badnets(trigger="multiply")),
    ]
    assert len({unit.key for unit in every}) == len(set(every)) == len(every)
    assert a != "a"


def test_equal_specs_are_the_same_unit():
    a, b = Plain(x=1), Plain(x=2)
    one = Plain(x={"q": {"r": 2, "s": (3,)}, "p": 1}, of=(a, b))
    two = Plain(of=(Plain(x=1), Plain(x=2)), x={"p": 1, "q": {"s": [3], "r": 2}})
    assert one is not two
    assert one == two
    assert hash(one) == hash(two)
    assert list(Plain(of=(b, a), on=one).parents()) == [b, a, one]


def test_what_another_field_stands_for_is_no_part_of_the_key():
    one, two = Plain(aside=Plain(x=1)), Plain(aside=Plain(x=2))
    assert one == two
    assert list(two.parents()) == [Plain(x=2)]  # it is needed all the same


@pytest.mark.parametrize(
    ("raised", "changed"),
    [
        (Plain, {"plain", "on it"}),
        (Other, {"other", "badnets", "multiply", "on it"}),
        (BadNets, {"badnets", "multiply"}),
        (SinglePixel, {"badnets"}),  # held inside the poison
    ],
)
def test_a_key_follows_the_versions_of_unit_and_components(monkeypatch, raised, changed):
    def keys():
        units = {
            "plain": Plain(x=1),
            "other": Other(x=1),
            "badnets": Other(choice=badnets()),
            "multiply": Other(choice=badnets(trigger="multiply")),
            "on it": Other(on=Plain(x=1)),
        }
        return {name: unit.key for name, unit in units.items()}

    before = keys()
    monkeypatch.setattr(raised, "version", 2)
    assert {name for name, key in keys().items() if key != before[name]} == changed


def test_components_deep_among_the_settings_are_seen():
    unit = Plain(x={"a": [badnets()]}, more=(Choice("networks", "digits-cnn"),))
    assert unit.identity["components"] == {"BadNets": 1, "SinglePixel": 1, "DigitsCNN": 1}
    assert unit.identity["spec"]["more"] == [{"name": "digits-cnn"}]
    assert plain(unit.choice) is None


KEYS = """
from mithridate.studies.engine.plan import plan_of
from mithridate.studies.engine.spec import build
import json, sys, mithridate.poisons.wanet
print(json.dumps([unit.key for unit in plan_of(build(json.load(sys.stdin), {}, "")).order]))
"""


def test_keys_are_the_same_in_another_process_whatever_it_imported(study):
    text = '[matrix.b]\nmeasure = "backdoor"\nset = { poison = '
    text += '{ name = "badnets", trigger = "single-pixel", target = 1, count = 9 } }'
    spec = study(text)
    tree = spec.model_dump() | {"scales": {"small": {}}}
    done = subprocess.run(
        [sys.executable, "-c", KEYS],
        input=json.dumps(tree),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert json.loads(done.stdout) == [unit.key for unit in plan_of(spec).order]


def test_code_that_moves_is_no_other_work(monkeypatch):
    """The same component under another module and path: names and versions count, no sources."""

    @dataclass(frozen=True, kw_only=True)
    class Moved(SinglePixel):
        pass

    Moved.__name__ = "SinglePixel"
    before = Plain(choice=badnets()).key
    monkeypatch.setattr("mithridate.poisons.triggers.SinglePixel", Moved)
    assert Plain(choice=badnets()).key == before


def test_what_is_not_json_has_no_key():
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = Plain(x=float("nan")).key
    with pytest.raises(TypeError):
        _ = Plain(x=object()).key


def test_defaults_of_a_unit(tmp_path):
    unit = Plain()
    assert unit.make(None, tmp_path, None) == {}
    assert unit.open(tmp_path, {"x": 1}, None) == {"x": 1}
    assert (unit.needs().gpus, Plain(device="cuda").needs().gpus) == (0, 1)
    assert unit.work(Sizes(1, 1, 1)) == Work()
    assert unit.stored
