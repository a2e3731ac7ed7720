"""Detectors against scikit-learn and by hand, and what they learn of a trained network."""

import copy

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.covariance import EmpiricalCovariance
from torch import nn

from mithridate.attacks import FGSM, PGD, run_attack
from mithridate.classifier import Classifier
from mithridate.data import ImageSet, load_data
from mithridate.defenses import detect as detectors
from mithridate.defenses.detect.base import FittedDetector
from mithridate.defenses.guard import QueryGuard
from mithridate.defenses.transform import PCA, BitDepth, MagNet, SpatialSmoothing
from mithridate.errors import InputError
from mithridate.goals import Untargeted
from mithridate.networks import create
from mithridate.rng import rng
from mithridate.testing import linear_model
from mithridate.testing.checks import refusal
from mithridate.training import fit

EPS = {"eps": 0.2, "step_size": 0.02, "steps": 20}


@pytest.fixture(scope="module")
def digits():
    train, test = load_data("digits")
    net = create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return fit(net, train, epochs=8, rng=rng(0)), train, test


@pytest.fixture(scope="module")
def attacked(digits):
    """What PGD makes of 600 training and of 100 test images, where it changes them."""
    model, train, test = digits
    out = []
    for data, count in ((train, 600), (test, 100)):
        x, labels = data.batch(range(count))
        result = run_attack(PGD(**EPS), model, x, Untargeted(labels), rng=rng(0))
        out.append(result.adversarials[result.linf > 0])
    return out


def test_feature_squeezing_is_the_largest_l1_gap(digits):
    model, train, test = digits
    x = test.batch(range(20))[0]
    fitted = detectors.FeatureSqueezing(bits=2, window=3).fit(model, train, rng=rng(0))
    gaps = [
        (model.scores(squeezer.transform(x)) - model.scores(x)).abs().sum(1)
        for squeezer in (BitDepth(bits=2), SpatialSmoothing(window=3))
    ]
    torch.testing.assert_close(fitted.score(x), torch.stack(gaps).max(0).values)


def test_mahalanobis_is_scikit_learns_in_each_layer(digits):
    model, train, test = digits
    x, (many, labels) = test.batch(range(30))[0], train.batch(range(len(train)))
    detector = detectors.Mahalanobis()
    scorer = detector.scorer(model, train.image_shape)
    detector.learn(scorer, model, train, None, rng=rng(0))
    first, second = nn.Sequential(*model.module.layers[:1]), model.module.layers[:3]
    hidden, logits = model.module.layers[:7], model.module
    expected = 0
    for layer in (first, second, hidden, logits):
        with torch.no_grad():
            own, learned = (layer(each).double() for each in (x, many))
        own, learned = (
            each.flatten(2).mean(2) if each.dim() > 2 else each for each in (own, learned)
        )
        own, learned = own.numpy(), learned.numpy()
        means = np.stack([learned[labels.numpy() == k].mean(0) for k in range(10)])
        spread = EmpiricalCovariance(assume_centered=True).fit(learned - means[labels.numpy()])
        near, usual = (
            np.min([spread.mahalanobis(each - mean) for mean in means], axis=0)
            for each in (own, learned)
        )
        expected = expected + near / usual.mean() / 4
    np.testing.assert_allclose(scorer(x).numpy(), expected, rtol=1e-2)


def test_mahalanobis_flags_what_no_class_has(digits, attacked):
    model, train, _ = digits
    fitted = detectors.Mahalanobis(rate=0.02).fit(model, train, rng=rng(0))
    assert (fitted.score(attacked[1]) > fitted.threshold).float().mean() > 0.9


def test_magnets_divergence_is_scipys(digits):
    model, train, test = digits
    x = test.batch(range(20))[0]
    detector = detectors.MagNetDetector(epochs=20, statistic="divergence", temperature=3)
    fitted = detector.fit(model, train, rng=rng(0))
    near = fitted.scorer.autoencoder(x)
    p, q = ((model.logits(each) / 3).softmax(1).numpy() for each in (x, near))
    np.testing.assert_allclose(fitted.score(x), jensenshannon(p, q, axis=1) ** 2, atol=1e-5)


@pytest.mark.parametrize("network", ["", "digits-cnn"])
def test_it_flags_unseen_images_of_the_attack_that_it_learned(digits, attacked, network):
    """And no more clean ones than stated; who knows it evades it."""
    model, train, test = digits
    images, unseen = attacked
    detector = detectors.InputDetector(rate=0.02, epochs=40, lr=5e-3, network=network)
    fitted = detector.fit(model, train, images, rng=rng(0))
    assert (fitted.score(unseen) > fitted.threshold).float().mean() >= 0.95
    x, labels = test.batch(range(len(test)))
    wrapped = fitted.wrap(model)
    assert (wrapped.labels(x) == 10).float().mean() < 0.06
    x, goal = x[:60], Untargeted(labels[:60])
    left = [
        1 - run_attack(PGD(**EPS), wrapped, x, goal, rng=rng(0), through=through).success.float()
        for through in (None, model)
    ]
    assert left[0].mean() < left[1].mean()


def test_layers_up_to_the_one_named_stay_as_they_are(digits, attacked):
    model, train, _ = digits
    fitted = detectors.InputDetector(epochs=2, layer="layers.3", rate=0.02).fit(
        model, train, attacked[0], rng=rng(0)
    )
    before = dict(model.module.named_parameters())
    changed = {
        name.replace("layer.", "").removeprefix("net.core.module."): not torch.equal(value, old)
        for name, value in fitted.scorer.named_parameters()
        for own, old in before.items()
        if name.replace(".layer.", ".").endswith(own) and value.shape == old.shape
    }
    assert changed
    assert all(later == (int(name.split(".")[1]) > 3) for name, later in changed.items())


def test_it_makes_its_own_attacked_images(digits):
    model, train, test = digits
    detector = detectors.InputDetector(rate=0.02, images=300, epochs=40, attack="fgsm")
    fitted = detector.fit(model, train, rng=rng(0))
    x, labels = test.batch(range(200))
    fooled = run_attack(FGSM(eps=0.3), model, x, Untargeted(labels), rng=rng(0)).adversarials
    assert fitted.score(fooled).median() > fitted.score(x).quantile(0.95)


def test_an_excess_too_small_for_the_logits_rejects_all_the_same():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(net[1].weight)
    nn.init.constant_(net[1].bias, 1e6)
    model, x = Classifier(net, classes=2, image_shape=(1, 2, 2)), torch.full((1, 1, 2, 2), 0.5)
    scorer = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(0))
    fitted = FittedDetector(detectors.Mahalanobis(), scorer, 0.5 - 1e-7)
    assert fitted.wrap(model).labels(x).tolist() == [2]
    assert FittedDetector(fitted.detector, scorer, 0.5).wrap(model).labels(x).tolist() == [0]


@pytest.mark.parametrize(
    "defense",
    [
        detectors.MagNetDetector(epochs=1, rate=0.05),
        detectors.InputDetector(epochs=1, rate=0.05, images=100),
        MagNet(epochs=1),
        PCA(components=20),
    ],
    ids=lambda defense: type(defense).__name__,
)
def test_a_model_in_double_precision_stands_behind_what_learned_in_single(digits, defense):
    model, train, test = digits
    double = Classifier(copy.deepcopy(model.module).double(), classes=10, image_shape=(1, 8, 8))
    if isinstance(defense, detectors.Detector):
        wrapped, alike = (
            defense.fit(each, train, rng=rng(0)).wrap(each) for each in (double, model)
        )
    else:
        fitted = defense.fit(train, rng=rng(0))
        wrapped, alike = fitted.wrap(double), fitted.wrap(model)
    x, labels = test.batch(range(50))
    right = [(each.labels(x) == labels).float().mean() for each in (wrapped, alike)]
    assert abs(right[0] - right[1]) <= 0.1 < min(right)
    result = run_attack(FGSM(eps=0.2), wrapped, x, Untargeted(labels), rng=rng(0))
    assert result.adversarials.dtype == torch.float32


class Constant(nn.Module):
    """No layer, one answer."""

    def forward(self, x):
        return torch.eye(2)[0].expand(len(x), 2) + 0 * x.flatten(1)[:, :2]


BLANK = ImageSet(torch.zeros(600, 1, 8, 8).byte(), [0, 1] * 300, ["a", "b"])
ONE = Classifier(Constant(), classes=2, image_shape=(1, 8, 8))
BARE = Classifier(Constant(), classes=2, image_shape=(1, 8, 8), gradients=False)
LINEAR = linear_model((1, 8, 8), classes=2)
SILENT = Classifier(LINEAR.module, classes=2, gradients=False, scored=False)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: detectors.InputDetector(network="x"), "no network named 'x'"),
        (
            lambda: detectors.InputDetector().fit(SILENT, BLANK, rng=rng(0)),
            "attacks the model by pgd .* gives labels only: give it attacked images",
        ),
        (lambda: detectors.InputDetector(network="digits-cnn", layer="1"), "leave layer out"),
        (lambda: detectors.InputDetector(attack="fgsn"), "did you mean 'fgsm'"),
        (
            lambda: detectors.InputDetector().fit(
                LINEAR, BLANK, BLANK.batch([0])[0][:0], rng=rng(0)
            ),
            "input-detector is given no attacked image",
        ),
        (
            lambda: detectors.InputDetector(network="digits-cnn").fit(ONE, BLANK, rng=rng(0)),
            "fools none of",
        ),
        (
            lambda: detectors.InputDetector(network="digits-cnn").fit(BARE, BLANK, rng=rng(0)),
            "labels and scores",
        ),
        (lambda: detectors.InputDetector().fit(BARE, BLANK, rng=rng(0)), "linear last layer"),
        (lambda: detectors.InputDetector(layer="7").fit(LINEAR, BLANK, rng=rng(0)), "no layer"),
        (lambda: detectors.InputDetector(layer="1").fit(LINEAR, BLANK, rng=rng(0)), "an earlier"),
        (lambda: detectors.Mahalanobis().fit(BARE, BLANK, rng=rng(0)), "no linear or convol"),
        (
            lambda: detectors.Mahalanobis(rate=0.001).fit(LINEAR, BLANK, rng=rng(0)),
            "120 clean images are held out, and a rate of 0.001 needs 1000",
        ),
        (
            lambda: detectors.Mahalanobis(rate=0.1).fit(
                LINEAR, BLANK.subset(range(0, 600, 2)), rng=rng(0)
            ),
            "0 images of class 1",
        ),
        (lambda: detectors.MagNetDetector(statistic="l3"), "statistic is one of"),
        (lambda: detectors.MagNetDetector(temperature=0), "temperature must be above 0"),
        (
            lambda: detectors.FeatureSqueezing().fit(QueryGuard().wrap(LINEAR), BLANK, rng=rng(0)),
            "got Guarded",
        ),
    ],
)
def test_what_is_refused(call, text):
    with pytest.raises(InputError, match=text):
        call()
    refusal(call)


def test_squeezing_needs_scores() -> None:
    class Labels(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot((x.mean((1, 2, 3)) > 0.5).long(), 2).float()

    model = Classifier(Labels(), classes=2, scored=False, gradients=False)
    with pytest.raises(InputError, match="labels alone"):
        detectors.FeatureSqueezing().scorer(model, (1, 4, 4))
