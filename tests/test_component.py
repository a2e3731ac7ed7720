import dataclasses
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Literal

import pytest

from mithridate import component
from mithridate.attacks import FGSM, PGD
from mithridate.attacks.base import with_usual
from mithridate.component import About, Choice, Component
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError
from mithridate.norms import L2, Norm


@pytest.fixture
def mine(monkeypatch):
    """A third party's attack, by its entry point."""

    class Mine(FGSM):
        about = About(paper="Me 2030", kind="bounded", norms=("linf",), access=("gradient",))

    module = type(sys)("a_stranger")
    module.Mine = Mine
    Mine.__module__, Mine.__qualname__ = "a_stranger", "Mine"
    monkeypatch.setitem(sys.modules, "a_stranger", module)
    point = EntryPoint("aaa-mine", "a_stranger:Mine", "mithridate.attacks")
    monkeypatch.setattr(component, "points", lambda kind: (point,) if kind == "attacks" else ())
    return Mine


def test_find_and_name_are_inverse():
    for name in component.TABLES["attacks"]:
        assert component.name_of(component.find("attacks", name)) == name
    assert component.name_of(3) == "int"


def test_names_are_sorted_and_the_table_has_an_order(mine):
    assert component.names("attacks")[0] == "aaa-mine"
    assert component.in_order("attacks") == [*component.TABLES["attacks"], "aaa-mine"]
    assert component.in_order("attacks")[:3] == ["fgsm", "iterative-fgsm", "pgd"]
    assert "aaa-mine" not in component.names("poisons")
    with pytest.raises(InputError, match="did you mean 'attacks'"):
        component.in_order("attack")


def test_a_strangers_component_is_found_named_and_made(mine):
    assert component.find("attacks", "aaa-mine") is mine
    assert component.name_of(mine) == "aaa-mine"
    assert component.create("attacks", "aaa-mine", {"eps": "0.1"}) == mine(eps=0.1)
    assert with_usual("aaa-mine", (1, 8, 8)) == {"eps": 0.3}
    with pytest.raises(InputError, match="did you mean 'aaa-mine'"):
        component.find("attacks", "aa-mine")


def test_create_reads_strings_by_type():
    given = {"eps": "8/255", "steps": "10", "step-size": "2/255", "norm": "L2"}
    made = component.create("attacks", "pgd", {**given, "random_start": "no"})
    assert made == PGD(eps=8 / 255, steps=10, step_size=2 / 255, norm=L2, random_start=False)


@pytest.mark.parametrize(
    ("kind", "name", "values", "said"),
    [
        ("attack", "fgsm", {}, "did you mean 'attacks'"),
        ("attacks", "fgms", {}, "did you mean 'fgsm'"),
        ("attacks", "fgsm", {"esp": 1}, "did you mean 'eps'"),
        ("attacks", "fgsm", {}, "fgsm needs eps"),
        ("attacks", "fgsm", {"eps": "much"}, "fgsm.eps is a number"),
        ("attacks", "fgsm", {"eps": "1/0"}, "fgsm.eps is a number"),
        ("attacks", "pgd", {"steps": "1.5"}, "whole number"),
        ("attacks", "pgd", {"random_start": "maybe"}, "true or false"),
        ("attacks", "fgsm", {"eps": "1", "norm": "l3"}, "no norm named 'l3'"),
    ],
)
def test_mistakes_are_named(kind, name, values, said):
    with pytest.raises(InputError, match=said):
        component.create(kind, name, values)


def test_parse():
    for text, hint, value in (
        ("none", float | None, None),
        ("3", int | None, 3),
        ("a", Literal["a", "b"], "a"),
        ("yes", bool, True),
        ("linf", Norm, Norm.named("linf")),
        ("x", str, "x"),
    ):
        assert component.parse(text, hint, "here") == value
    with pytest.raises(InputError, match="one of a, b"):
        component.parse("c", Literal["a", "b"], "here")
    with pytest.raises(InputError, match="here is a whole number"):
        component.parse("c", int | None, "here")


def test_settings_are_the_fields():
    assert component.settings(FGSM)["eps"] is dataclasses.MISSING
    assert set(component.settings(FGSM)) == {"eps", "norm"}


def test_values_are_the_settings_as_json_holds_them():
    attack = component.create("attacks", "hopskipjump", {"budget": 9})
    values = component.values(attack)
    assert (values["norm"], values["budget"], values["momentum"]) == ("l2", 9, 0.7)
    assert "starts" not in values, "images are no settings"
    assert component.create("attacks", "hopskipjump", values) == attack


def test_a_choice_is_a_name_and_settings():
    choice = Choice.of("attacks", {"name": "pgd", "eps": "0.1", "steps": 2, "step_size": 0.05})
    assert choice == Choice("attacks", "pgd", {"eps": "0.1", "steps": 2, "step_size": 0.05})
    assert choice.make() == PGD(eps=0.1, steps=2, step_size=0.05)
    assert choice.versions() == {"PGD": PGD.version}
    with pytest.raises(InputError, match=r"no name among the attacks' settings: give one of .*pgd"):
        Choice.of("attacks", {"eps": 0.1})
    with pytest.raises(InputError, match="fgsm needs eps"):
        Choice("attacks", "fgsm").make()


@dataclass(frozen=True, kw_only=True)
class Part(Component):
    version = 3


@dataclass(frozen=True, kw_only=True)
class Whole(Component):
    part: Part
    other: str = "no component"
    more: Part | None = None


def test_held_is_a_component_and_what_it_is_made_of():
    part, more = Part(), Part()
    assert list(component.held(Whole(part=part))) == [Whole(part=part), part]
    assert [type(one).__name__ for one in component.held(Whole(part=part, more=more))] == [
        "Whole",
        "Part",
        "Part",
    ]
    assert list(component.held("text")) == []


def test_a_component_that_says_nothing_more_has_defaults():
    assert Whole.usual((1, 2, 2)) == {}
    assert Part().cost(Sizes(test=5)) == Work()
    assert (Whole.version, Part.version) == (1, 3)
