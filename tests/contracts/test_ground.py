"""What a number of an attack rests on: gradients, budgets, grey levels, and plain answers."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate import component
from mithridate.attacks import Attack, run_attack
from mithridate.attacks.base import with_usual
from mithridate.checks import doubts_of
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.errors import InputError, RunError
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L1, LINF

SHAPE, N = (1, 8, 8), 64


class Scaled(nn.Module):
    """The same predictions, from other logits."""

    def __init__(self, module, by):
        super().__init__()
        self.module, self.by = module, by

    def forward(self, x):
        return self.by * self.module(x)


@cache
def trained():
    """A small BatchNorm network and digits that it knows."""
    train, test = mi.load_data("digits")
    layers = [
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(),
        nn.Linear(24 * 16, 10),
    ]  # fmt: skip
    model = mi.fit(nn.Sequential(*layers), train, epochs=8, rng=mi.rng(0))
    x, y = test.batch(torch.arange(200))
    known = (model.labels(x) == y).nonzero()[:N, 0]
    return model, x[known], y[known]


def around(module):
    return Classifier(module.eval(), classes=10, image_shape=SHAPE)


def fooled(attack, model, x, goal, **how):
    return int(run_attack(attack, model, x, goal, rng=0, **how).success.sum())


SETTINGS = {
    "fgsm": {"eps": 0.15},
    "iterative-fgsm": {"eps": 0.15},
    "pgd": {"eps": 0.1, "steps": 10, "step_size": 0.02},
    "apgd": {"eps": 0.1, "steps": 10},
    "autoattack": {"eps": 0.1, "steps": 5, "queries": 50},
    "square": {"eps": 0.15, "queries": 100},
    "one-pixel": {"pixels": 2, "population": 20, "generations": 5},
    "lagrangian-pgd": {"eps": 0.1, "steps": 20},
    "deepfool": {},
    "dynamic-deepfool": {},
    "ddn": {"steps": 30},
    "alma": {"steps": 60},
    "fmn": {"steps": 60},
    "pdpgd": {"steps": 60},
    "sigma-zero": {"steps": 40},
    "nearest": {"passes": 150},
    "fab": {"steps": 10},
    "lbfgs": {"steps": 30, "search_steps": 4},
    "jsma": {},
    "carlini-wagner": {"steps": 40, "search_steps": 3},
    "carlini-wagner-l0": {"steps": 40, "rounds": 4},
    "carlini-wagner-linf": {"steps": 40, "rounds": 4},
    "adversarial-patch": {"steps": 20},
    "hopskipjump": {"budget": 150},
    "boundary": {"budget": 150},
}


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_larger_logits_are_no_defence(name, goal):
    """The predictions are the same, so success is, whatever softmax rounds to 1."""
    model, x, y = trained()
    x, y = x[:24], y[:24]
    wanted = Untargeted(y) if goal == "untargeted" else Targeted((y + 1) % 10)
    attack = component.create("attacks", name, SETTINGS[name])
    counts = [fooled(attack, around(Scaled(model.module, by)), x, wanted) for by in (1.0, 1e4)]
    assert counts[1] >= 0.9 * counts[0] - 1, counts


@pytest.mark.parametrize(
    ("name", "more"),
    [("apgd", {"loss": "dlr"}), ("deepfool", {}), ("ddn", {}), ("fab", {}), ("square", {}),
     ("jsma", {}), ("lbfgs", {}), ("one-pixel", {}), ("autoattack", {})],
)  # fmt: skip
def test_small_logits_neither(name, more):
    """Cross-entropy alone is weaker there: it then weighs all rivals alike."""
    model, x, y = trained()
    attack = component.create("attacks", name, SETTINGS[name] | more)
    plain, small = (
        fooled(attack, around(Scaled(model.module, by)), x[:32], y[:32]) for by in (1.0, 1e-3)
    )
    assert small >= 0.9 * plain - 1


class Flat(nn.Module):
    """A step of forward without a gradient, for all rows or for the bright ones."""

    def __init__(self, module, kind):
        super().__init__()
        self.module, self.kind = module, kind

    def forward(self, x):
        if self.kind == "rounded":
            return self.module((x * 255).round() / 255)
        if self.kind == "saturated":
            return (1000 * self.module(x)).softmax(1)
        return self.module(torch.where(x.flatten(1)[:, :1, None, None] > 2, x, x.detach() + 0 * x))


@pytest.mark.parametrize("kind", ["rounded", "saturated", "detached"])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "deepfool", "ddn", "jsma"])
def test_a_vanished_gradient_is_a_doubt(name, kind):
    model, x, y = trained()
    attack = component.create("attacks", name, SETTINGS[name])
    flat = around(Flat(model.module, kind))
    result = run_attack(attack, flat, x, y, rng=0)
    assert int(result.no_gradient.sum()) > 0.5 * N
    doubts = {doubt.id: doubt.text for doubt in doubts_of(attack, result, y)}
    assert f"{int(result.no_gradient.sum())} of {N} images" in doubts["zero-gradients"]
    sound = run_attack(attack, model, x, y, rng=0)
    assert "zero-gradients" not in [doubt.id for doubt in doubts_of(attack, sound, y)]


@pytest.mark.parametrize("eps", [2.0, 4.0])
def test_bounded_attacks_in_l1_leave_no_more_than_fab(eps):
    model, x, y = trained()
    fab = run_attack(mi.attacks.FAB(norm=L1, steps=30), model, x, y, rng=0)
    near = int((fab.success & (fab.l1 <= eps)).sum())
    for attack in (
        mi.attacks.PGD(eps=eps, norm=L1, steps=40),
        mi.attacks.APGD(eps=eps, norm=L1, steps=50),
        mi.attacks.AutoAttack(eps=eps, norm=L1, steps=30, queries=50),
    ):
        assert fooled(attack, model, x, y) >= near, attack
    assert fooled(mi.attacks.FGSM(eps=eps, norm=L1), model, x, y) >= near / 2


@pytest.mark.parametrize("name", ["fgsm", "pgd", "iterative-fgsm", "apgd", "square"])
def test_an_l1_budget_is_used(name):
    """On a linear model the best value of a budget is a sum of the steepest walls."""
    from mithridate.testing.models import linear_model, linear_weights

    model = linear_model((1, 6, 6))
    x = torch.rand((8, 1, 6, 6), generator=mi.rng(3))
    y = model.labels(x)
    w = linear_weights(model)
    slope = torch.where((y == 0)[:, None], w[1] - w[0], w[0] - w[1])
    room = torch.where(slope > 0, 1 - x.flatten(1), x.flatten(1))
    order = slope.abs().argsort(1, descending=True)
    left, best = torch.full((8,), 3.0), torch.zeros(8)
    for place in order.T:
        move = left.minimum(room.gather(1, place[:, None])[:, 0])
        best += move * slope.abs().gather(1, place[:, None])[:, 0]
        left -= move
    lead = (slope * x.flatten(1)).sum(1) - (slope * 0.5).sum(1)
    reachable = (lead + best) > 1e-4
    stop = {"stop_at_goal": False} if name in ("pgd", "iterative-fgsm", "apgd") else {}
    more = {"steps": 60} if name in ("pgd", "apgd") else {}
    attack = component.create("attacks", name, {"eps": 3.0, "norm": "l1", **stop, **more})
    result = run_attack(attack, model, x, y, rng=0)
    assert float(result.l1.max()) <= 3.0 * (1 + 1e-5)
    if name != "square":
        assert torch.equal(result.success, reachable)
        gain = (slope * (result.adversarials - x).flatten(1)).sum(1)
        moved = result.l1 > 0
        assert bool((gain >= 0.97 * best)[moved].all())


@pytest.mark.parametrize("name", ["fgsm", "iterative-fgsm", "pgd", "apgd", "autoattack", "square"])
def test_settings_usual_in_linf_are_not_those_of_l1(name):
    settings = with_usual(name, SHAPE, {"eps": 4.0, "norm": "l1"})
    assert "step_size" not in settings
    model, x, y = trained()
    few = {
        key: value
        for key, value in {"steps": 10, "queries": 200}.items()
        if name == "autoattack" or (name, key) == ("square", "queries")
    }
    attack = component.create("attacks", name, settings | few)
    assert fooled(attack, model, x, y) >= N / 2


@pytest.mark.parametrize("name", ["deepfool", "ddn", "fab", "carlini-wagner-linf", "hopskipjump"])
def test_whole_grey_levels_fool_too(name):
    """Plain rounding loses up to half of them."""
    model, x, y = trained()
    attack = component.create("attacks", name, SETTINGS[name])
    before = run_attack(attack, model, x, y, rng=0)
    result = run_attack(attack, model, x, y, rng=0, quantize=8)
    assert torch.equal(result.adversarials, result.adversarials.mul(255).round().div(255))
    assert torch.equal(result.success, model.labels(result.adversarials) != y)
    assert int(result.success.sum()) >= int(before.success.sum()) - 1
    assert float(result.l2.mean()) <= 1.25 * float(before.l2.mean())
    torch.testing.assert_close(result.l2, (result.adversarials - x).flatten(1).norm(dim=1))
    assert before.queries < result.queries <= before.queries + 10 * N
    assert before.lost_to_rounding is None


@pytest.mark.parametrize(
    ("norm", "eps"), [("linf", 0.1), ("linf", 8 / 255), ("l2", 1.0), ("l1", 3)]
)
def test_whole_grey_levels_keep_the_budget(norm, eps):
    model, x, y = trained()
    attack = mi.attacks.PGD(eps=eps, norm=norm, steps=10)
    result = run_attack(attack, model, x, y, rng=0, quantize=8)
    assert torch.equal(result.adversarials, result.adversarials.mul(255).round().div(255))
    assert float(getattr(result, norm).max()) <= eps * (1 + 1e-5)
    lost = int(result.lost_to_rounding.sum())
    doubts = [d.text for d in doubts_of(attack, result, y) if d.id == "lost-to-rounding"]
    assert [text.split(" ")[0] for text in doubts] == ([str(lost)] if lost else [])


def test_images_between_grey_levels_are_refused():
    model, x, y = trained()
    with pytest.raises(InputError, match="whole levels, multiples of 1/255: round them"):
        run_attack(mi.attacks.FGSM(eps=0.1), model, x * 0.999, y, rng=0, quantize=8)
    with pytest.raises(InputError, match="quantize"):
        run_attack(mi.attacks.FGSM(eps=0.1), model, x, y, rng=0, quantize=17)


class Crashes(Attack):
    def perturb(self, model, x, goal, *, rng):
        raise TypeError("no\nway")


def test_a_crash_is_no_number():
    model, x, y = trained()
    with pytest.raises(RunError, match=r"^Crashes crashed: TypeError: no$"):
        run_attack(Crashes(), model, x, y, rng=0)

    class Cut(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return model.module(x)

    for name in ("fgsm", "deepfool", "apgd"):
        attack = component.create("attacks", name, SETTINGS[name])
        with pytest.raises(InputError, match="gives no gradient"):
            run_attack(attack, around(Cut()), x, y, rng=0)
    assert fooled(mi.attacks.Square(eps=0.15, queries=50), around(Cut()), x, y) > 0


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_callers_in_no_grad_and_inference_mode_get_the_truth(name):
    """Also where the first layer writes into its input."""
    model, x, y = trained()
    x, y = x[:16], y[:16]
    attack = component.create("attacks", name, SETTINGS[name])
    inplace = around(nn.Sequential(nn.ReLU(inplace=True), model.module))
    plain = run_attack(attack, inplace, x, y, rng=0)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            other = run_attack(attack, inplace, x.clone(), Untargeted(y.clone()), rng=0)
        assert torch.equal(other.adversarials, plain.adversarials)
    assert torch.equal(plain.success, model.labels(plain.adversarials) != y)


def test_what_people_hand_in():
    model, x, y = trained()
    attack = mi.attacks.FGSM(eps=0.15)
    whole = run_attack(attack, model, x, Untargeted(y), rng=mi.rng(0))
    for given in (y, y.tolist(), y.int(), y.numpy()):
        for seed in (0, np.int64(0)):
            again = run_attack(attack, model.module, x, given, rng=seed)
            assert torch.equal(again.adversarials, whole.adversarials)
    assert run_attack(mi.attacks.PGD(eps=8 / 255), model, x, y, rng=0).status == "done"


class Single(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attack": mi.attacks.PGD}, "an attack is an instance.*the class PGD"),
        ({"attack": "pgd"}, "an attack is an instance.*'pgd'"),
        ({"goal": ["cat"] * N}, "labels are class numbers"),
        ({"goal": torch.rand(N)}, "labels are class numbers"),
        ({"goal": None}, "labels are class numbers"),
        ({"model": lambda x: x}, r"a model is a Classifier or a torch\.nn\.Module, got function"),
        ({"model": Single()}, 'one number an image.*outputs="sigmoid"'),
        ({"rng": "0"}, "a seed is an integer"),
        ({"rng": -1}, "a seed is an integer"),
        ({"rng": None}, "a seed is an integer"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
    ],
)
def test_what_cannot_be_taken_is_one_line(changes, words):
    model, x, y = trained()
    given = {"attack": mi.attacks.FGSM(eps=0.1), "model": model, "x": x, "goal": y, "rng": 0}
    with pytest.raises(InputError, match=words) as caught:
        run_attack(**(given | changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bounds": None}, "bounds are"),
        ({"bounds": 1}, "bounds are"),
        ({"compute_batch": -1}, "compute_batch must be at least 1"),
        ({"compute_batch": 1.5}, "compute_batch is a whole number"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
    ],
)
def test_classifiers_of_nothing_are_one_line(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        Classifier(nn.Linear(2, 2), **{"classes": 2, **changes})
    assert "\n" not in str(caught.value)


NEEDED = {"eps": 0.1, "target": 1, "count": 5}


def plain_numbers():
    """Every component that these settings make, and each of its settings that is a number."""
    for kind in (kind for kind in component.TABLES if kind not in ("networks", "measures")):
        for name in component.names(kind):
            cls = component.find(kind, name)
            defaults = component.settings(cls)
            given = {key: value for key, value in NEEDED.items() if key in defaults}
            try:
                cls(**given)
            except (TypeError, InputError):  # it needs images, or a trigger
                continue
            numbers = [key for key, value in defaults.items() if type(value) in (int, float)]
            yield from ((cls, given, number) for number in numbers)


@pytest.mark.parametrize(("cls", "given", "field"), list(plain_numbers()))
def test_numbers_are_numbers(cls, given, field):
    """NumPy's, tensors', and whole floats where a whole number is wanted."""
    default = component.settings(cls)[field]
    whole = type(default) is int and "float" not in str(component.hints(cls)[field])
    others = [np.array(default)[()], torch.tensor(default, dtype=torch.float64)]
    for value in others + [float(default)] * whole:
        again = getattr(cls(**{**given, field: value}), field)
        assert again == default
        assert type(again) is type(default) or not whole
    if whole:
        with pytest.raises(InputError, match=f"{field} is a whole number") as caught:
            cls(**{**given, field: default + 0.5})
        assert "\n" not in str(caught.value)


def test_a_norm_by_name_is_the_norm():
    attack = mi.attacks.PGD(eps=np.float32(8 / 255), steps=np.int64(10), norm="linf")
    assert attack.norm is LINF
    assert (type(attack.eps), type(attack.steps)) == (float, int)
    with pytest.raises(InputError, match="no norm named 'l7'"):
        mi.attacks.PGD(eps=1, norm="l7")


@pytest.mark.parametrize("name", ["deepfool", "dynamic-deepfool"])
def test_a_minimal_attack_goes_as_far_as_it_must(name):
    model, x, y = trained()
    make = component.find("attacks", name)
    assert fooled(make(), model, x, y) == N
    short = make(steps=1)
    result = run_attack(short, model, x, y, rng=0)
    doubts = {doubt.id: doubt.text for doubt in doubts_of(short, result, y)}
    left = int((~result.success).sum())
    assert left
    assert doubts["unfinished"].startswith(f"{left} of {N} images")
    assert "raise steps" in doubts["unfinished"]


class Heads(nn.Module):
    """Heads in every order, of which one makes the logits."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first = nn.Linear(4, 3)
        self.body, self.head, self.last = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)
        self.weight = nn.Parameter(torch.randn(3, 4, generator=mi.rng(1)))

    def penultimate(self, x):
        return torch.relu(self.body(x.flatten(1)))

    def forward(self, x):
        features = self.penultimate(x)
        if self.kind == "called and dropped":
            self.last(x.flatten(1))
        if self.kind == "functional":
            self.last(x.flatten(1))
            return features @ self.weight.T
        z = self.head(features)
        if self.kind == "auxiliary":
            return {"logits": z, "aux": self.first(x.flatten(1))}
        return z.clamp(-0.1, 0.1) if self.kind == "clipped" else z


@pytest.mark.parametrize("kind", ["unused", "called and dropped", "auxiliary", "clipped"])
def test_features_are_those_of_the_layer_that_makes_the_logits(kind):
    with torch.random.fork_rng():  # other weights may have every logit clipped
        torch.manual_seed(0)
        module = Heads(kind)
    x = torch.rand((6, 1, 2, 2), generator=mi.rng(0))
    model = Classifier(module, classes=3, image_shape=(1, 2, 2))
    torch.testing.assert_close(model.features(x), module.penultimate(x).detach())
    assert model.last_linear() is module.head


def test_a_functional_head_is_one_line():
    """A layer that ran beside it is not taken for it."""
    model = Classifier(Heads("functional"), classes=3)
    with pytest.raises(InputError, match=r"is no nn\.Linear") as caught:
        model.features(torch.rand(6, 1, 2, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sanitizer", ["spectral-signatures", "activation-clustering"])
def test_few_images_of_many_features_give_the_scores_of_the_large_matrix(sanitizer, monkeypatch):
    from mithridate.defenses.sanitize import features

    pixels = torch.randint(0, 256, (60, 3, 16, 16), generator=mi.rng(0), dtype=torch.uint8)
    labels = torch.arange(60) % 3
    pixels[labels == 1] //= 2
    pixels[:9, :, :4] = 255
    data = ImageSet(pixels, labels.tolist(), ["a", "b", "c"])
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), classes=3)
    make = component.find("sanitizers", sanitizer)
    small = make().filter(model, data, rng=mi.rng(0))
    monkeypatch.setattr(features, "isometric", lambda x: x.double())
    large = make().filter(model, data, rng=mi.rng(0))
    torch.testing.assert_close(small.score, large.score, rtol=1e-6, atol=1e-9)
    assert torch.equal(small.keep, large.keep)


def test_a_width_of_real_images_is_no_wall():
    x = torch.rand((40, 150_528), generator=mi.rng(0))
    from mithridate.defenses.sanitize.features import isometric

    near, apart = isometric(x), x.double() - x.double().mean(0)
    assert near.shape == (40, 40)
    torch.testing.assert_close(near @ near.T, apart @ apart.T)


@pytest.mark.parametrize(
    "goal", [Untargeted([0, 1]), Targeted([2, 0]), SourceToTarget([0, 1], [1, 2])]
)
@pytest.mark.parametrize("rejected", [None, 3])
def test_log_odds_have_the_direction_of_cross_entropy(goal, rejected):
    from mithridate.attacks.losses import LogOdds

    goal = goal.avoiding(rejected)
    logits = torch.randn((2, 4), generator=mi.rng(0)).requires_grad_()
    slopes = [
        torch.autograd.grad(loss.loss(logits).sum(), logits)[0] for loss in (goal, LogOdds(goal))
    ]
    cosine = nn.functional.cosine_similarity(*slopes)
    torch.testing.assert_close(cosine, torch.ones(2))
