import dataclasses
import re
from typing import Literal

import pytest

from mithridate import component
from mithridate.about import FACTS
from mithridate.attacks import FGSM, PGD, Attack
from mithridate.attacks.base import BoundedAttack, MinimalAttack
from mithridate.errors import InputError
from mithridate.norms import L2, Norm
from mithridate.poisons import CraftedPoison


def test_find_and_name_are_inverse():
    for name in component.TABLES["attacks"]:
        assert component.name_of(component.find("attacks", name)) == name
    assert component.name_of(3) == "int"


def test_create_reads_strings_by_type():
    made = component.create(
        "attacks",
        "pgd",
        {"eps": "8/255", "steps": "10", "step-size": "2/255", "norm": "L2", "random_start": "no"},
    )
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


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("none", float | None, None),
        ("3", int | None, 3),
        ("a", Literal["a", "b"], "a"),
        ("yes", bool, True),
        ("linf", Norm, Norm.named("linf")),
        ("x", str, "x"),
    ],
)
def test_parse(text, hint, value):
    assert component.parse(text, hint, "here") == value


def test_parse_refuses():
    with pytest.raises(InputError, match="one of a, b"):
        component.parse("c", Literal["a", "b"], "here")
    with pytest.raises(InputError, match="here is a whole number"):
        component.parse("c", int | None, "here")


def test_settings_are_the_fields():
    assert component.settings(FGSM)["eps"] is dataclasses.MISSING
    assert set(component.settings(FGSM)) == {"eps", "norm"}


def test_third_party_entry_points(monkeypatch):
    class Point:
        name = "mine"

        def load(self):
            return FGSM

    monkeypatch.setattr(component, "points", lambda kind: (Point(),))
    assert "mine" in component.names("attacks")
    assert component.find("attacks", "mine") is FGSM


@pytest.mark.parametrize("name", component.TABLES["attacks"])
def test_what_is_told_of_an_attack_is_so(name):
    about, cls = component.about(name), component.find("attacks", name)
    bases = {"bounded": BoundedAttack, "minimal": MinimalAttack, "universal": Attack}
    assert issubclass(cls, bases[about.kind])
    assert set(about.access) <= {"gradient", "score", "label"}
    assert about.access
    assert any(word.isdigit() for word in about.paper.replace("b", " ").replace(",", " ").split())
    fields = component.settings(cls)
    if "norm" in fields:
        assert str(fields["norm"]) == about.norms[0]
        given = {key: "1" for key, value in fields.items() if value is dataclasses.MISSING}
        for norm in about.norms:
            assert str(component.create("attacks", name, given | {"norm": norm}).norm) == norm
    assert set(about.norms) <= {"l0", "l1", "l2", "linf"}


@pytest.mark.parametrize("kind", FACTS)
def test_every_component_is_told_of(kind):
    shape, known = FACTS[kind]
    assert set(known) == set(component.TABLES[kind])
    assert all(type(each) is shape for each in known.values())
    for paper in (each.paper for each in known.values()):
        assert re.match(r"\w.* (et al\.|and \w+|Borji) 20\d\d|Borji 20\d\d", paper)
    assert component.facts(kind, "nothing-such") is None


def test_attacks_keep_their_order():
    assert list(FACTS["attacks"][1]) == list(component.ABOUT)
    assert component.about("nothing-such") is None
    assert component.about("badnets") is None


@pytest.mark.parametrize("name", component.TABLES["poisons"])
def test_what_a_poison_needs_is_its_type_or_a_setting(name):
    about, cls = component.facts("poisons", name), component.find("poisons", name)
    fields = component.settings(cls)
    assert (about.needs == "surrogate") == issubclass(cls, CraftedPoison)
    assert (about.needs == "generator") == ("generator" in fields)
    assert about.trigger.startswith("none") == ("trigger" not in fields)


def test_a_third_partys_facts_are_of_its_kind(monkeypatch):
    class Mine(FGSM):
        about = component.About(("linf",), ("gradient",), "bounded", "Me 2030")

    class Point:
        name = "mine"

        def load(self):
            return Mine

    monkeypatch.setattr(component, "points", lambda kind: (Point(),))
    assert component.about("mine") is Mine.about
    assert component.facts("attacks", "mine") is Mine.about
    assert component.facts("poisons", "mine") is None
    assert component.facts("networks", "mine") is None
