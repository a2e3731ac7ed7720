"""Every doubt of `checks`: a model or a record made to raise it, and one that must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.attacks import FGSM, PGD, DeepFool, HopSkipJump, Square
from mithridate.checks import Measured, compared, doubts_of, examined, false_alarms
from mithridate.data import ImageSet
from mithridate.defenses.transform.base import substituted
from mithridate.testing import linear_model
from mithridate.testing.models import boundary_distance

X = torch.rand((40, 1, 8, 8), generator=mi.rng(1))
PLAIN = linear_model((1, 8, 8), classes=4)
LABELS = PLAIN.labels(X)
EPS = float(boundary_distance(PLAIN, X, mi.LINF).median())
"""A budget that fools half of the images."""
FULL = PGD(eps=EPS, steps=20, step_size=EPS / 5)


class Made(nn.Module):
    """Logits of `PLAIN`, made into others from the images (N, 1, 8, 8) and themselves (N, 4)."""

    def __init__(self, make) -> None:
        super().__init__()
        self.core, self.make = PLAIN.core(), make

    def forward(self, x):
        return self.make(x, self.core(x))


MODELS = {
    "random-answers": lambda x, z: z + 0.1 * torch.randn_like(z),
    "batch-dependent": lambda x, z: z - 0.1 * z.mean(0),
    "saturated-softmax": lambda x, z: 1e5 * z,
    "bounded-outputs": lambda x, z: z.sigmoid(),
    "zero-gradients": lambda x, z: z.detach() + 0 * x.sum(),
    "larger-eps-no-help": lambda x, z: substituted(z, -z),
    "unbounded-fails": lambda x, z: substituted(z, -z),
    "": lambda x, z: z,
}


def raised(attack, model, x=X, labels=LABELS, **more):
    torch.manual_seed(0)  # one of the models draws
    goal = mi.Untargeted(labels)
    result = mi.run_attack(attack, model, x, goal, rng=0)
    before = model.cost.queries, model.cost.gradients
    doubts = examined(attack, result, model, x, goal, **more)
    assert (model.cost.queries, model.cost.gradients) == before, "checks are no queries"
    return {doubt.id: doubt.text for doubt in [*doubts_of(attack, result, labels), *doubts]}


@pytest.mark.parametrize("id", MODELS)
def test_a_model_made_to_raise_it(id):
    """And the same model as it is raises none."""
    with torch.random.fork_rng():
        found = raised(FULL, mi.Classifier(Made(MODELS[id]), classes=4, image_shape=(1, 8, 8)))
    misleading = {"larger-eps-no-help", "unbounded-fails"}
    assert set(found) == {"few-images"} | (misleading if id in misleading else {id} - {""})


def test_figures_are_in_the_line():
    found = raised(FULL, mi.Classifier(Made(MODELS["saturated-softmax"]), classes=4))
    assert found["saturated-softmax"].startswith("On 16 of 16 images")


@pytest.mark.parametrize(
    ("attack", "id"),
    [
        (PGD(eps=EPS, steps=2, step_size=EPS / 20), "not-converged"),
        (PGD(eps=EPS, steps=2, step_size=EPS / 20, random_start=False), "not-converged"),
        (FGSM(eps=EPS), None),  # one step is all that it is
        (PGD(eps=1.0, norm=mi.L2, steps=20), None),
        (PGD(eps=20.0, norm=mi.L1, steps=40), None),
        (Square(eps=EPS, queries=20), "small-budget"),
        (DeepFool(), None),
        (DeepFool(steps=1, overshoot=0.0), "unfinished"),
        (HopSkipJump(budget=50), "small-budget"),
    ],
    ids=lambda one: repr(one)[:30],
)
def test_of_attacks_on_an_honest_model(attack, id):
    assert set(raised(attack, PLAIN)) - {"few-images", "nothing-left"} == ({id} if id else set())


def test_a_service_is_not_asked_again():
    model = mi.Classifier(Made(MODELS["random-answers"]), classes=4, info={"runtime": "http"})
    assert examined(FULL, None, model, X, mi.Untargeted(LABELS)) == []


@pytest.mark.parametrize("seen", [True, False])
def test_images_by_which_the_threshold_was_set(seen):
    data = ImageSet.from_float(X.repeat(3, 1, 1, 1), LABELS.repeat(3), list("0123"))
    other = ImageSet.from_float(1 - X.repeat(3, 1, 1, 1), LABELS.repeat(3), list("0123"))
    trained = data if seen else other
    model = mi.detectors.FeatureSqueezing(rate=0.1).fit(PLAIN, trained, rng=mi.rng(0)).wrap(PLAIN)
    x = data.batch(range(40))[0]
    found = raised(FGSM(eps=0.01), model, x=x, trained=trained)
    assert ("threshold-seen" in found) == seen
    if seen:
        assert "40 of 40 attacked images are among those by which feature-squeezing" in str(found)
    assert "threshold-seen" not in raised(FGSM(eps=0.01), PLAIN, x=x, trained=trained)


def test_more_false_alarms_than_asked_for():
    """The images that set the threshold are grey, those that it meets are not."""
    grey = ImageSet.from_float(
        torch.full_like(X, 0.5).repeat(9, 1, 1, 1), LABELS.repeat(9), list("0123")
    )
    detector = mi.detectors.MagNetDetector(epochs=3, rate=0.1)
    model = detector.fit(PLAIN, grey, rng=mi.rng(0)).wrap(PLAIN)
    (doubt,) = false_alarms(model, model.labels(X))
    assert (doubt.id, f"rejects {len(X)} of {len(X)} (" in doubt.text) == ("false-alarms", True)
    assert "magnet-detector was to reject 10 % of clean images" in doubt.text
    assert false_alarms(model, model.labels(torch.full_like(X, 0.5))) == []
    assert false_alarms(PLAIN, PLAIN.labels(X)) == []


def cell(name, left, *, eps=0.1, sees="gradient", steps=40.0, size=0.1, transfer=False, start=0):
    """An attack on 40 images from `start` on, that leaves the last `left`."""
    images = np.arange(start, start + 40)
    return Measured(
        name=name,
        norm="linf",
        eps=eps,
        access=[sees],
        steps=steps,
        transfer=transfer,
        images=images,
        fooled=np.arange(40) < 40 - left,
        distances={"linf": np.full(40, size)},
    )


@pytest.mark.parametrize(
    ("other", "id"),
    [
        (cell("square", 10, sees="score", steps=0), "black-box-beats-white-box"),
        (cell("square", 18, sees="score", steps=0), None),  # 2 of 40 are chance
        (cell("hopskipjump", 10, eps=None, sees="label", steps=0), "black-box-beats-white-box"),
        (cell("hopskipjump", 0, eps=None, sees="label", steps=0, size=0.2), None),  # from farther
        (cell("square", 10, sees="score", steps=0, start=40), None),  # other images
        (cell("pgd", 10, transfer=True), "transfer-beats-direct"),
        (cell("fgsm", 10, steps=1), "one-step-beats-many"),
        (cell("ddn", 10, eps=None), None),
        (cell("pgd", 10, eps=0.2, size=0.2, transfer=True), None),
    ],
    ids=lambda one: f"{one.name}-{one.eps}" if isinstance(one, Measured) else one,
)
def test_attacks_that_outdo_the_strongest_by_gradients(other, id):
    weaker, strongest = cell("iterative-fgsm", 30), cell("pgd", 20)
    found = compared([weaker, strongest, other])
    assert found.keys() == ({1} if id else set()), "it is said of the strongest alone"
    if id:
        (doubt,) = found[1]
        assert doubt.id == id
        assert (
            "leaves 10 of 40 images at linf eps 0.1, and this attack by gradients 20" in doubt.text
        )
    assert compared([other]) == {}
