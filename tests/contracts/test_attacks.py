"""Every registered attack keeps the contract of attacks, and takes what people hand to it."""

import json
import subprocess
import sys
from functools import cache

import pytest
import torch

from mithridate import component
from mithridate import rng as random
from mithridate.attacks import Attack, BoundedAttack, run_attack
from mithridate.errors import InputError
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L0, L1, LINF
from mithridate.testing import AttackConformance
from mithridate.testing.models import linear_model

SETTINGS = {
    "fgsm": {"eps": 0.3},
    "iterative-fgsm": {"eps": 0.3},
    "pgd": {"eps": 0.3, "steps": 10, "step_size": 0.05},
    "lagrangian-pgd": {"eps": 0.3, "steps": 20},
    "deepfool": {},
    "dynamic-deepfool": {},
    "ddn": {"steps": 20},
    "alma": {"steps": 30},
    "fmn": {"steps": 30},
    "pdpgd": {"steps": 40},
    "sigma-zero": {"steps": 30},
    "nearest": {"passes": 150},
    "carlini-wagner": {"steps": 20, "search_steps": 2},
    "carlini-wagner-l0": {"steps": 20, "rounds": 5},
    "carlini-wagner-linf": {"steps": 20, "rounds": 5},
    "lbfgs": {"steps": 10, "search_steps": 3},
    "jsma": {"gamma": 1.0},
    "apgd": {"eps": 0.3, "steps": 10},
    "square": {"eps": 0.3, "queries": 60},
    "fab": {"steps": 10},
    "autoattack": {"eps": 0.3, "steps": 5, "queries": 10},
    "hopskipjump": {"budget": 150},
    "boundary": {"budget": 150},
    "one-pixel": {"pixels": 3, "population": 20, "generations": 10},
    "adversarial-patch": {"scale_min": 0.7, "scale_max": 0.9, "steps": 30, "step_size": 0.2},
}
VARIANTS = {
    "iterative-fgsm l2": {"eps": 1.0, "norm": "l2", "step_size": 0.2},
    "pgd l2": {"eps": 1.5, "norm": "l2", "steps": 5, "step_size": 0.3, "restarts": 2},
    "lagrangian-pgd l2": {"eps": 1.5, "norm": "l2", "steps": 30, "restarts": 2},
    "pgd l1": {"eps": 5.0, "norm": "l1", "steps": 9, "step_size": 1.0, "restarts": 2},
    "apgd l2": {
        "eps": 1.5, "norm": "l2", "steps": 10, "loss": "dlr-targeted", "restarts": 2,
    },
    "square l2": {"eps": 1.5, "norm": "l2", "queries": 60},
    "apgd l1": {"eps": 5.0, "norm": "l1", "steps": 20, "restarts": 2},
    "square l1": {"eps": 5.0, "norm": "l1", "queries": 60},
    "fab linf": {"norm": "linf", "steps": 10, "targets": 9, "restarts": 2},
    "deepfool linf": {"norm": "linf", "candidates": None},
    "alma l1": {"norm": "l1", "steps": 30},
    "fmn linf": {"norm": "linf", "steps": 30},
    "fmn l1": {"norm": "l1", "steps": 30},
    "fmn l0": {"norm": "l0", "steps": 30},
    "pdpgd linf": {"norm": "linf", "steps": 40},
    "pdpgd l1": {"norm": "l1", "steps": 40},
    "pdpgd l0": {"norm": "l0", "steps": 300},
    "nearest linf": {"norm": "linf", "passes": 200},
    "nearest l1": {"norm": "l1", "passes": 100},
    "nearest l0": {"norm": "l0", "passes": 100},
    "hopskipjump linf": {"norm": "linf", "budget": 150},
    "autoattack l2": {"eps": 1.5, "norm": "l2", "variant": "plus", "steps": 3, "queries": 10},
}  # fmt: skip
"""Other settings that take another way through the code: name of the attack, and a word."""
CASES = SETTINGS | VARIANTS
UNIVERSAL = {"adversarial-patch"}
"""A patch is learned on the whole batch: other images, another patch (Brown et al. 2017)."""
NAMES = sorted(component.TABLES["attacks"])


@pytest.fixture(params=sorted(CASES))
def _name(request):
    return request.param


class TestRegisteredAttacks(AttackConformance):
    name = "fgsm"

    @pytest.fixture(autouse=True)
    def _choose(self, _name):
        self.name = _name
        self.universal = _name in UNIVERSAL

    def attack(self) -> Attack:
        return component.create("attacks", self.name.split()[0], CASES[self.name])

    def test_same_bytes_in_another_process(self):
        assert elsewhere()[self.name] == self.digest()


@cache
def elsewhere():
    """Digests of all cases, from one other process."""
    code = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('contract', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "suite, digests = module.TestRegisteredAttacks(), {}\n"
        "for suite.name in module.CASES:\n"
        "    digests[suite.name] = suite.digest()\n"
        "print(json.dumps(digests))\n"
    )
    command = [sys.executable, "-c", code, __file__]
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    return json.loads(other.stdout)


def test_every_registered_attack_has_settings_here():
    assert set(SETTINGS) == set(NAMES)


BOUNDED = [name for name in NAMES if issubclass(component.find("attacks", name), BoundedAttack)]


def make(name, **settings):
    return component.create("attacks", name, SETTINGS[name] | settings)


def images(n=6, shape=(1, 4, 4)):
    return torch.rand((n, *shape), generator=random.rng(1))


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


BAD = {
    "fgsm": [{"eps": -1}],
    "iterative-fgsm": [{"step_size": 0}, {"steps": 0}],
    "pgd": [{"steps": 0}, {"steps": 1.5}, {"step_size": 0}, {"restarts": 0}],
    "lagrangian-pgd": [{"steps": 0}, {"restarts": 0}, {"norm": L1}],
    "deepfool": [{"steps": 0}, {"overshoot": -0.1}, {"candidates": 0}, {"norm": L0}],
    "dynamic-deepfool": [{"steps": 0}, {"overshoot": -0.1}, {"candidates": 0}, {"norm": L1}],
    "ddn": [{"steps": 0}, {"gamma": 0}, {"gamma": 1}, {"step_size": 0}, {"radius": 0}],
    "alma": [{"steps": 0}, {"step_size": 0}, {"momentum": 1}, {"norm": LINF}],
    "fmn": [{"steps": 0}, {"step_size": 0}, {"gamma": 0}, {"gamma": 1}],
    "pdpgd": [{"steps": 0}, {"step_size": 0}, {"dual_step": 0}],
    "sigma-zero": [
        {"steps": 0}, {"step_size": 0}, {"sigma": 0}, {"threshold": 0}, {"threshold": 1},
        {"pace": 0},
    ],
    "nearest": [{"passes": 49}, {"passes": 100.5}],
    "carlini-wagner": [
        {"steps": 0}, {"search_steps": 0}, {"step_size": 0}, {"c": 0}, {"confidence": -1},
    ],
    "carlini-wagner-l0": [
        {"steps": 0}, {"rounds": 0}, {"share": 1}, {"share": 0}, {"c": 0}, {"largest_c": 0.1},
    ],
    "carlini-wagner-linf": [
        {"steps": 0}, {"rounds": 0}, {"decay": 1}, {"decay": 0}, {"c": 0}, {"largest_c": 0.1},
    ],
    "lbfgs": [{"steps": 0}, {"search_steps": 0}, {"c": 0}, {"memory": 0}],
    "jsma": [{"theta": 0}, {"theta": 2}, {"gamma": 0}, {"gamma": 1.1}, {"candidates": 1}],
    "apgd": [
        {"steps": 0}, {"restarts": 0}, {"targets": 0}, {"eot": 0}, {"norm": L0}, {"loss": "cw"},
    ],
    "square": [{"queries": 1}, {"p": 0}, {"p": 1.1}, {"norm": L0}],
    "fab": [{"steps": 0}, {"restarts": 0}, {"targets": 0}, {"enough": -1}, {"norm": L0}],
    "autoattack": [
        {"steps": 0}, {"queries": 1}, {"targets": 0}, {"norm": L0}, {"variant": "fast"},
    ],
    "hopskipjump": [
        {"norm": L1}, {"max_iter": -1}, {"init_eval": 0}, {"max_eval": 0}, {"budget": 0},
        {"momentum": 1}, {"init_trials": -1},
    ],
    "boundary": [
        {"budget": 0}, {"budget": None}, {"side": 0}, {"pull": 0}, {"pull": 1}, {"init_trials": -1},
    ],
    "one-pixel": [{"pixels": 0}, {"population": 3}, {"generations": -1}, {"weight": 0}],
    "adversarial-patch": [
        {"scale_min": 0}, {"scale_max": 0.6}, {"scale_max": 1.1}, {"rotation": 181},
        {"shape": "star"}, {"steps": 0}, {"step_size": 0}, {"batch": 0},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "wrong"), [(name, wrong) for name in NAMES for wrong in BAD[name]], ids=str
)
def test_settings_out_of_range_are_refused_by_name(name, wrong):
    field = next(iter(wrong))
    with pytest.raises(InputError, match=rf"^(\d )?{field} (must|is)") as caught:
        component.find("attacks", name)(**(SETTINGS[name] | wrong))
    assert "\n" not in str(caught.value)


def test_hints_that_only_a_type_checker_can_read_are_let_be():
    class Mine(Attack):
        when: "datetime.date"  # noqa: F821

        def perturb(self, model, x, goal, *, rng):
            return x

    Mine().__post_init__()


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
    """Those that ask for a gradient per class say how many are enough."""
    model, x = linear_model((3, 8, 8), classes=10_000), images(4, (3, 8, 8))
    few = {"steps": 3, "targets": 9} if name == "fab" else {}
    labels = model.labels(x)
    goal = Untargeted(labels) if direction == "untargeted" else Targeted((labels + 1) % 10_000)
    r = run_attack(make(name, **few), model, x, goal, rng=random.rng(0))
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
