"""What people hand to attacks by mistake or at the edge, to every registered attack."""

import pytest
import torch

from mithridate import component
from mithridate import rng as random
from mithridate.attacks import AdversarialPatch, BoundedAttack, run_attack
from mithridate.errors import InputError
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import LINF
from mithridate.testing.models import linear_model

QUICK = {
    "fgsm": {"eps": 0.3},
    "iterative-fgsm": {"eps": 0.3},
    "pgd": {"eps": 0.3, "steps": 5, "step_size": 0.1},
    "deepfool": {},
    "dynamic-deepfool": {},
    "ddn": {"steps": 10},
    "carlini-wagner": {"steps": 10, "search_steps": 2},
    "carlini-wagner-l0": {"steps": 10, "rounds": 3},
    "carlini-wagner-linf": {"steps": 10, "rounds": 3},
    "lbfgs": {"steps": 5, "search_steps": 2},
    "jsma": {"gamma": 0.1},
    "apgd": {"eps": 0.3, "steps": 5},
    "square": {"eps": 0.3, "queries": 20},
    "fab": {"steps": 3, "targets": 9},
    "autoattack": {"eps": 0.3, "steps": 3, "queries": 10},
    "hopskipjump": {"budget": 60},
    "boundary": {"budget": 60},
    "one-pixel": {"pixels": 3, "population": 10, "generations": 3},
    "adversarial-patch": {"steps": 3, "batch": 4},
}
NAMES = sorted(component.TABLES["attacks"])
BOUNDED = [name for name in NAMES if issubclass(component.find("attacks", name), BoundedAttack)]


def make(name, **settings):
    return component.create("attacks", name, QUICK[name] | settings)


def images(n=6, shape=(1, 4, 4)):
    return torch.rand((n, *shape), generator=random.rng(1))


def test_every_registered_attack_is_here():
    assert set(QUICK) == set(NAMES)


@pytest.mark.parametrize("name", BOUNDED)
def test_no_budget_gives_the_input_back(name):
    """It is asked for all the same, and counted."""
    model, x = linear_model(classes=3), images()
    goal = Untargeted(model.labels(x))
    r = run_attack(make(name, eps=0), model, x, goal, rng=random.rng(0))
    assert (r.status, bool(r.success.any())) == ("done", False)
    assert torch.equal(r.adversarials, x)
    assert bool(r.given_up.all())
    assert r.queries >= len(x)


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize(
    ("eps", "said"),
    [
        (-0.1, "eps must be at least 0, got -0.1"),
        (8, "eps is at most 1 in linf, as pixels lie in .*, got 8: .* give 8/255"),
        (1000, "got 1000: give a share"),
        (float("nan"), "eps must be at least 0, got nan"),
    ],
)
def test_a_budget_that_is_none(name, eps, said):
    assert make(name).norm is LINF
    with pytest.raises(InputError, match=said) as caught:
        make(name, eps=eps)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BOUNDED)
def test_a_budget_of_the_whole_range(name):
    model, x = linear_model(), images()
    r = run_attack(make(name, eps=1), model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert (r.status, bool(r.success.all())) == ("done", True)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_that_is_the_class_already(name):
    """The goal is reached before the attack, so nothing is moved."""
    model, x = linear_model(classes=3), images()
    labels = model.labels(x)
    r = run_attack(make(name), model, x, Targeted(labels), rng=random.rng(0))
    assert (r.status, bool(r.success.all())) == ("done", True)
    assert torch.equal(r.adversarials, x)


def test_a_source_that_is_the_target():
    with pytest.raises(InputError, match="source and target are the same class"):
        SourceToTarget([0, 1], [2, 1])


@pytest.mark.parametrize("name", NAMES)
def test_rows_misclassified_before_are_kept_and_can_be_told(name):
    model, x = linear_model(classes=3), images()
    right = model.labels(x)
    labels = torch.where(torch.arange(6) < 3, right, (right + 1) % 3)
    r = run_attack(make(name), model, x, Untargeted(labels), rng=random.rng(0))
    assert r.status == "done"
    assert torch.equal(r.adversarials[3:], x[3:])
    assert bool(r.success[3:].all())
    assert torch.equal(r.clean_predicted != labels, torch.arange(6) >= 3)
    assert not bool(r.given_up[3:].any())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 4, 6)])
def test_grey_and_colour_and_few_images(name, n, shape):
    model, x = linear_model(shape, classes=3), images(n, shape)
    r = run_attack(make(name), model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert (r.status, len(r), r.adversarials.shape) == ("done", n, x.shape)


@pytest.mark.parametrize("name", ["hopskipjump", "boundary"])
def test_a_start_that_no_image_gives(name):
    """The second row has one, the others not."""
    model, x = linear_model(classes=3), images()
    with torch.no_grad():
        model.module.get_submodule("1").bias.copy_(torch.tensor([0.0, -900.0, 0.0]))
    target = torch.ones(6, dtype=torch.long)
    target[1] = 2 * (model.labels(x)[1] == 0)
    r = run_attack(make(name), model, x, Targeted(target), rng=random.rng(0))
    assert (r.status, r.success.tolist()) == ("done", [False, True, *[False] * 4])
    assert r.given_up.tolist() == [True, False, *[True] * 4]
    assert torch.equal(r.adversarials[r.given_up], x[r.given_up])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", ["untargeted", "targeted"])
def test_ten_thousand_classes(name, direction):
    model, x = linear_model((3, 8, 8), classes=10_000), images(4, (3, 8, 8))
    labels = model.labels(x)
    goal = Untargeted(labels) if direction == "untargeted" else Targeted((labels + 1) % 10_000)
    r = run_attack(make(name), model, x, goal, rng=random.rng(0))
    assert r.status == "done"
    assert r.gradients <= 9 * 4 * 100  # none asks for a gradient per class


@pytest.mark.parametrize(
    ("name", "field"),
    [("hopskipjump", "starts"), ("boundary", "starts"), ("adversarial-patch", "patch")],
)
def test_images_are_no_text(name, field):
    assert field not in component.settings(component.find("attacks", name))
    with pytest.raises(InputError, match=f"no setting of {name} named '{field}'"):
        component.create("attacks", name, {field: "x.png"})


def test_a_patch_of_other_channels():
    model, x = linear_model((3, 4, 4)), images(2, (3, 4, 4))
    attack = AdversarialPatch(patch=torch.zeros(1, 4, 4))
    with pytest.raises(InputError, match="a patch is 3 x S x S, got"):
        run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
