"""Plans: what is shared, what is missing, and what it will take, counted by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from mithridate.data import load_data
from mithridate.errors import InputError
from mithridate.studies.engine.cells import Cell
from mithridate.studies.engine.plan import Plan, estimate, place, plan_of
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Unit

TRAIN, TEST, CLASSES = 1437, 360, 10
"""The digits."""

FGSM = 'attack = { name = "fgsm", eps = 0.1 }'
BOTH = """
[options.poison]
"8→9".poison = { name = "badnets", trigger = "single-pixel", source = 8, target = 9, count = 60 }
[options.attack]
fgsm = { attack = { name = "fgsm", eps = 0.1 } }
pgd = { attack = { name = "pgd", eps = 0.1, step_size = 0.02, steps = 5, restarts = 2 } }
[matrix.evasion]
measure = "evasion"
set = { samples = 100 }
axes = { attack = ["fgsm", "pgd"], seed = [0, 1] }
[matrix.backdoor]
measure = "backdoor"
axes = { poison = ["8→9"], seed = [0, 1] }
[matrix.maps]
measure = "bias-maps"
set = { samples = 20, steps = 3 }
axes = { poison = ["8→9"], probe = ["data", "blank"], algorithm = [1, 2] }
[matrix.verdicts]
measure = "inspection"
set.controls = 3
set.inspector = { samples = 20, images = 8, steps = 3, grow_steps = 4, pairs = 2 }
axes = { poison = ["8→9"], reference = ["parent", "other"] }
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plain(Unit[dict]):
    """Counts nothing, makes nothing."""

    kind: ClassVar = "plain"

    name: str
    of: tuple[Unit, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Source(Plain):
    kind: ClassVar = "source"
    stored: ClassVar = False


def unit(name, *parents, kind=Plain):
    return kind(name=name, of=parents)


def planned(*leaves):
    """A plan of these leaves, one cell each."""
    order, seen = [], set()

    def visit(one):
        if one.key not in seen:
            seen.add(one.key)
            for parent in one.parents():
                visit(parent)
            order.append(one)

    cells = [(Cell(f"m/{i:04d}", "m", "x", {}, {}), leaf) for i, leaf in enumerate(leaves)]
    for leaf in leaves:
        visit(leaf)
    return Plan(None, cells, order=order)


def put(store, one):
    with store.draft(one) as draft:
        draft.commit({}, 0.0)


def names(units):
    return [one.name for one in units]


def test_a_unit_that_cells_share_is_there_once(study):
    plan = plan_of(study(BOTH))
    assert len(plan.leaves) == 4 + 2 + 4 + 2
    assert len({one.key for one in plan.order}) == len(plan.order)
    assert Counter(one.kind for one in plan.order) == {
        "data": 1,
        "poisoned": 2,  # one for each seed
        # clean and poisoned of both seeds; three unrelated clean ones, of which the maps use one
        "model": 2 + 2 + 3,
        "adversarial": 4,
        "evasion": 4,
        "backdoor": 2,
        "maps": 4 * 3,
        "bias-maps": 4,
        "look": 4,  # the parent and three unrelated ones, of which either reference has two
        "calibration": 2,
        "inspection": 2,
    }
    place_of = {one.key: i for i, one in enumerate(plan.order)}
    for one in plan.order:
        assert all(place_of[parent.key] < place_of[one.key] for parent in one.parents())


def test_users_are_the_cells_that_rest_on_a_unit(study):
    plan = plan_of(study(BOTH))
    every = [cell.id for cell, _ in plan.leaves]
    users = {one.kind: plan.users[one.key] for one in plan.order if one.kind == "data"}
    assert users["data"] == every
    clean = next(u for u in plan.order if u.kind == "model" and u.seed == 0)
    assert plan.users[clean.key] == [
        *("evasion/0000", "evasion/0002", "backdoor/0000"),
        *(f"maps/{i:04d}" for i in range(4)),
        "verdicts/0000",
    ]
    for cell, leaf in plan.leaves:
        assert plan.users[leaf.key] == [cell.id]


def test_studies_share_units_whatever_their_names(study):
    one, two = plan_of(study(BOTH)), plan_of(study(BOTH.replace("[matrix.evasion]", "[matrix.e]")))
    assert {u.key for u in one.order} == {u.key for u in two.order}
    seeded = plan_of(study(BOTH, {"threads": 2}))
    common = {u.key for u in one.order} & {u.key for u in seeded.order}
    assert {u.kind for u in seeded.order if u.key in common} == {"data", "poisoned"}


def test_two_cells_of_equal_settings_share_their_leaf(study):
    text = """
        [matrix.e]
        measure = "evasion"
        set = { attack = { name = "fgsm", eps = 0.1 } }
        axes = { samples = [400, 360], note = ["a", "b"] }
    """
    with pytest.raises(InputError, match="note"):
        plan_of(study(text))
    text = text.replace(', note = ["a", "b"]', "") + "include = [{ samples = 360, seed = 0 }]"
    plan = plan_of(study(text))
    assert [leaf.key for _, leaf in plan.leaves][1] == plan.leaves[2][1].key
    assert plan.users[plan.leaves[1][1].key] == ["e/0001", "e/0002"]


def test_only_what_unfinished_cells_wait_for_is_missing(tmp_path):
    store = Store(tmp_path)
    data = unit("data", kind=Source)
    a, b = unit("a", data), unit("b", data)
    ab, ab_leaf, b_leaf = unit("ab", a, b), unit("leaf 1", unit("ab", a, b)), unit("leaf 2", b)
    plan = planned(ab_leaf, b_leaf)
    assert names(plan.missing(store)) == ["a", "b", "ab", "leaf 1", "leaf 2"]
    put(store, b)
    assert names(plan.missing(store)) == ["a", "ab", "leaf 1", "leaf 2"]
    put(store, ab)
    assert names(plan.missing(store)) == ["leaf 1", "leaf 2"]
    put(store, ab_leaf)
    assert names(plan.missing(store)) == ["leaf 2"]
    store.discard(b.key)  # trimmed; leaf 2 needs it, leaf 1 no more
    store.discard(ab.key)
    assert names(plan.missing(store)) == ["b", "leaf 2"]
    put(store, b_leaf)
    assert plan.missing(store) == []


def test_a_deep_graph_with_many_ways_through_it_is_walked_once(tmp_path):
    layer = (unit("a0"), unit("b0"))
    for depth in range(1, 40):  # 2**40 ways
        layer = (unit(f"a{depth}", *layer), unit(f"b{depth}", *layer))
    plan = planned(*layer)
    assert len(plan.missing(Store(tmp_path))) == 2 * 40


def test_an_error_names_the_cell_and_its_labels(study):
    text = """
        [matrix.e]
        measure = "evasion"
        axes = { attack = [{ name = "fgsm", eps = 0.1 }, { name = "fgsm", eps = -1 }], seed = [3] }
    """
    with pytest.raises(InputError) as caught:
        plan_of(study(text))
    assert str(caught.value).startswith("cell e/0001 (attack fgsm eps=-1, seed 3): ")
    assert "eps" in str(caught.value).partition(": ")[2]
    typed = text.replace('{ name = "fgsm", eps = -1 }', '"x"').replace("[3]", "[-3]")
    with pytest.raises(InputError) as caught:
        plan_of(study(typed))
    assert str(caught.value).startswith("cell e/0000 (attack fgsm eps=0.1, seed -3): seed must be ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('measure = "backdoor"', "needs a poison"),
        ('measure = "evasion"\nset = { attack = "pgdd" }', "did you mean 'pgd'"),
        ('measure = "evasion"\nset = { attack = { name = "fgsm", ep = 1 } }', "did you mean 'eps'"),
        (f'measure = "evasion"\nset = {{ {FGSM}, network = "digit-cnn" }}', "digits-cnn"),
        (
            'measure = "evasion"\nset = { attack = { name = "fgsm", eps = 0.1 }, data = "none/" }',
            "none",
        ),
        ('measure = "inspection"\nset = { inspector = { sampels = 1 } }', "did you mean 'samples'"),
        (
            'measure = "accuracy"\nset = { model = "none.safetensors", network = "digits-cnn" }',
            "none.safetensors",
        ),
        ('measure = "inspection"\nset = { controls = 0 }', "controls"),
        ('measure = "bias-maps"\nset = { algorithm = 3 }', "algorithm"),
        ('measure = "bias-maps"\nset = { poison = { name = "badnets", target = 1 } }', "trigger"),
    ],
)
def test_mistakes_are_found_before_any_work(study, text, says):
    with pytest.raises(InputError) as caught:
        plan_of(study(f"[matrix.m]\n{text}\n"))
    assert says in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert "cell m/0000" in str(caught.value)


def test_a_study_without_cells_is_refused(study):
    text = """
        [matrix.e]
        measure = "evasion"
        set = { attack = { name = "fgsm", eps = 0.1 } }
        axes = { seed = [0] }
        exclude = [{ seed = 0 }]
    """
    with pytest.raises(InputError, match="exclude everything"):
        plan_of(study(text))


def test_places(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert place("auto") == place("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="no usable CUDA"):
        place("cuda")
    with pytest.raises(InputError, match="did you mean 'cuda'"):
        place("cude")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert place("auto") == place("cuda") == torch.device("cuda")
    assert place("cpu") == torch.device("cpu")


def test_estimate(study, tmp_path):
    train, test = load_data("digits")
    assert (len(train), len(test), train.classes) == (TRAIN, TEST, CLASSES)
    plan, store = plan_of(study(BOTH)), Store(tmp_path)
    found = estimate(plan, store)
    assert found.cells == 12
    assert found.units == {
        "model": (7, 0),
        "adversarial": (4, 0),
        "evasion": (4, 0),
        "backdoor": (2, 0),
        "maps": (12, 0),
        "bias-maps": (4, 0),
        "look": (4, 0),
        "calibration": (2, 0),
        "inspection": (2, 0),
    }
    assert found.trained == 7 * 2 * TRAIN  # two epochs each
    # an attack's images before, after, and between two restarts of PGD; three models or sets of
    # stamped images of a backdoor
    ends, stamps = 20 * CLASSES, 2 * 2 * 8  # of probes; of two pairs, eight images, both ways
    assert found.forwards == (
        4 * 2 * 100 + 2 * 100 + 2 * 3 * TEST
        + 4 * ends + 6 * (9 * stamps + TEST)  # shown to nine models, as the inspector says
        + 2 * (ends + 9 * stamps)
    )  # fmt: skip
    pairs = CLASSES * (CLASSES - 1)
    assert found.gradients == (
        2 * 100 * (1 + 5 * 2)  # one step; five of two restarts
        + 3 * (20 + 1) * (CLASSES + pairs) * 3  # three models, 20 probes or one, three steps
        + (4 + 2) * ends * 3  # four looks at clean models, two at the suspect
        + (2 * 3 + 2) * stamps * 4  # three clean models for either reference
    )
    assert 0 < found.seconds < 600
    assert found.memory >= 2**30
    assert found.disk > 0
    assert not list(tmp_path.iterdir())


def test_estimate_of_what_is_left(study, tmp_path):
    plan, store = plan_of(study(BOTH)), Store(tmp_path)
    for one in plan.order:
        if one.kind in ("model", "adversarial"):
            put(store, one)
    before = torch.get_num_threads()
    found = estimate(plan, store)
    assert torch.get_num_threads() == before
    assert found.units["model"] == (0, 7)
    assert found.units["adversarial"] == (0, 4)
    assert found.units["evasion"] == (4, 0)
    assert found.trained == 0
    assert found.forwards == 2 * 3 * TEST + 4 * 200 + 6 * (9 * 32 + TEST) + 2 * (200 + 9 * 32)
    for one in plan.order:
        if one.kind not in ("data", "poisoned", "model", "adversarial"):
            put(store, one)
    found = estimate(plan, store)
    assert (found.forwards, found.gradients, found.trained, found.seconds, found.disk) == (0,) * 5
    assert all(new == 0 for new, _ in found.units.values())
