"""Our sanitizers keep to the suite, and find what there is: all of a planted cloud, most of a
real backdoor, nothing in clean data."""

from __future__ import annotations

from math import floor, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mithridate as mi
from mithridate import component
from mithridate.cost import Cost, Sizes
from mithridate.defenses.sanitize import (
    ActivationClustering,
    EarlyLoss,
    Filtered,
    Outliers,
    Sanitizer,
    SpectralSignatures,
    Spectre,
)
from mithridate.defenses.sanitize.base import conclude
from mithridate.errors import InputError, NothingAssessedError
from mithridate.testing.sanitizers import SanitizerConformance, clouds

PAPER = {"features": "plain", "reduce": "ica", "side": "smaller"}


SUITES = {
    "spectral": SpectralSignatures(),
    "spectral by size": SpectralSignatures(side="smaller"),
    "spectral as published": SpectralSignatures(classes="all", eps=0.2),
    "spectre": Spectre(eps=0.2),
    "spectre of all": Spectre(eps=0.2, classes="all"),
    "clustering": ActivationClustering(),
    "clustering in ica": ActivationClustering(reduce="ica"),
    "clustering by silhouette": ActivationClustering(analysis="silhouette"),
    "clustering as published": ActivationClustering(analysis="relative-size", **PAPER),
    "clustering by exclusion": ActivationClustering(analysis="exclusion", epochs=2),
    "early loss": EarlyLoss(judges=2, steps=40, rounds=1),
    "outliers in folds": Outliers(epochs=2, share=0.1),
    "outliers of trusted images": Outliers(trusted=clouds(seed=1).data, epochs=2),
}
BY_FEATURES = list(SUITES.values())[:9]
"""Filters that rest on features alone."""


class TestSanitizers(SanitizerConformance):
    @pytest.fixture(autouse=True, params=SUITES.values(), ids=SUITES)
    def _choose(self, request) -> None:
        self.sanitizer = request.param

    def make(self) -> Sanitizer:
        return self.sanitizer


class TestClusteringOfClean(SanitizerConformance):
    def make(self) -> Sanitizer:
        return ActivationClustering()

    def clouds(self):
        return clouds(0.0)


AUTO = [SpectralSignatures(), ActivationClustering(), ActivationClustering(analysis="silhouette")]
NAMES = ["spectral", "gap", "silhouette"]


def filtered_by(sanitizer: Sanitizer, share: float = 0.2, **more: int) -> Filtered:
    data, model, _ = clouds(share, **more)
    return sanitizer.filter(model, data, rng=mi.rng(0))


def ids(filtered: Filtered) -> list[str]:
    return [doubt.id for doubt in filtered.doubts]


@pytest.mark.parametrize("name", component.names("sanitizers"))
def test_each_is_made_by_name_with_its_defaults(name) -> None:
    assert isinstance(component.create("sanitizers", name), Sanitizer)


@settings(max_examples=10)
@given(seed=st.integers(0, 99), sanitizer=st.sampled_from(BY_FEATURES))
def test_permuted_rows_permute_the_result(seed, sanitizer) -> None:
    data, model, _ = clouds(0.3)
    order = torch.randperm(len(data), generator=mi.rng(seed))
    one, two = (sanitizer.filter(model, each, rng=mi.rng(0)) for each in (data, data.subset(order)))
    assert torch.equal(one.keep[order], two.keep)
    assert torch.allclose(one.score[order], two.score, atol=1e-4, rtol=1e-4)


# What is found


@pytest.mark.parametrize("share", [0.1, 0.47, 0.65])
@pytest.mark.parametrize("sanitizer", AUTO, ids=NAMES)
def test_clouds_apart_are_told_apart_exactly(sanitizer, share) -> None:
    filtered = filtered_by(sanitizer, share)
    assert torch.equal(~filtered.keep, clouds(share).poison)
    assert filtered.suspicious == (1,)
    assert "which-side" not in ids(filtered)


@pytest.mark.parametrize("sanitizer", AUTO, ids=NAMES)
def test_a_clean_set_is_left_alone_and_that_is_said(sanitizer) -> None:
    filtered = filtered_by(sanitizer, 0.0, seed=3)
    assert bool(filtered.keep.all())
    assert filtered.suspicious == ()
    assert ids(filtered) == ["found-nothing"]


@pytest.mark.parametrize("sanitizer", AUTO[:2], ids=NAMES[:2])
@pytest.mark.parametrize(("per_class", "few"), [(99, True), (100, False)])
def test_a_judged_class_of_few_images_is_doubted(sanitizer, per_class, few) -> None:
    data, model, _ = clouds(0.0, seed=3)
    rows = torch.cat([(data.labels == c).nonzero()[:per_class, 0] for c in range(data.classes)])
    filtered = sanitizer.filter(model, data.subset(rows, "few"), rng=mi.rng(0))
    assert ("few-images" in ids(filtered)) == few


@pytest.mark.parametrize("classes", ["strangest", "all"])
def test_what_always_drops_calls_nothing_suspicious_and_says_so(classes) -> None:
    filtered = filtered_by(Spectre(eps=0.2, classes=classes), 0.0, seed=3)
    assert len(filtered.dropped) > 0
    assert filtered.suspicious == ()
    assert "no-threshold" in ids(filtered)


def test_by_size_the_clean_images_go_once_they_are_fewer() -> None:
    data, _, poison = clouds(0.65)
    filtered = filtered_by(SpectralSignatures(side="smaller"), 0.65)
    assert torch.equal(~filtered.keep, (data.labels == 1) & ~poison)


def test_the_papers_rule_is_its_algorithm() -> None:
    """Against numpy's singular vectors, and its count of every class."""
    data, _, poison = clouds(0.2)
    filtered = filtered_by(SpectralSignatures(classes="all", eps=0.2))
    for c in range(4):
        rows = data.of_class(c)
        x = data.batch(rows)[0].flatten(1).double().numpy()
        x = x - x.mean(0)
        _, _, axes = np.linalg.svd(x, full_matrices=False)
        score = (x @ axes[0]) ** 2
        assert np.allclose(filtered.score[rows].numpy(), score, rtol=1e-4, atol=1e-6)
        count = floor(1.5 * 0.2 * len(rows))
        assert filtered.classes[c].dropped == count
        wanted = set(np.argsort(-score)[:count].tolist())
        assert set((~filtered.keep[rows]).nonzero()[:, 0].tolist()) == wanted
        assert filtered.classes[c].suspicious is None
    assert bool((~filtered.keep)[poison].all())


def test_the_papers_rule_empties_a_share_of_a_clean_set_too() -> None:
    filtered = filtered_by(SpectralSignatures(classes="all", eps=0.1), 0.0)
    assert len(filtered.dropped) == 4 * 18


@pytest.mark.parametrize("analysis", ["silhouette", "relative-size"])
def test_the_papers_clustering_of_few_poisons(analysis) -> None:
    filtered = filtered_by(ActivationClustering(analysis=analysis, **PAPER), 0.1)
    assert 1 in filtered.suspicious
    assert bool((~filtered.keep)[clouds(0.1).poison].all())


@pytest.mark.parametrize("sanitizer", AUTO[:2], ids=NAMES[:2])
def test_digits(digits, sanitizer) -> None:
    """With a backdoor, and clean."""
    filtered = sanitizer.filter(digits.model, digits.poisoned, rng=mi.rng(0))
    dropped = ~filtered.keep
    assert float(dropped[digits.poison].double().mean()) >= 0.95
    assert float(dropped[~digits.poison].double().mean()) <= 0.05
    assert filtered.suspicious == (1,)
    clean = sanitizer.filter(digits.clean_model, digits.clean, rng=mi.rng(0))
    assert bool(clean.keep.all()), clean.classes
    assert ids(clean) == ["found-nothing"]


def test_training_on_what_is_kept_unlearns_the_backdoor(digits) -> None:
    kept = SpectralSignatures().filter(digits.model, digits.poisoned, rng=mi.rng(0))
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    again = kept.apply(digits.poisoned)
    assert again.name.endswith("+spectral-signatures")
    model = mi.fit(network, again, epochs=8, batch_size=32, lr=2e-3, rng=mi.rng(0))
    trigger = mi.triggers.Patch.named("checker-bottom-right", image_shape=(1, 8, 8))
    stamped = mi.poisons.poisoned_test(digits.test, trigger, target=1, rng=mi.rng(0))
    reached = [float((mi.predict(m, stamped) == 1).double().mean()) for m in (digits.model, model)]
    assert reached[0] > 0.9
    assert reached[1] < 0.1


def test_exclusion_asks_a_model_that_never_saw_the_cluster(digits) -> None:
    sanitizer = ActivationClustering(analysis="exclusion", epochs=15)
    filtered = sanitizer.filter(digits.model, digits.poisoned, rng=mi.rng(0))
    target, dropped = digits.poisoned.labels == 1, ~filtered.keep
    assert filtered.classes[1].value < 1
    assert float(dropped[digits.poison].double().mean()) >= 0.9
    assert float(dropped[target & ~digits.poison].double().mean()) <= 0.1
    assert filtered.cost.gradients % 15 == 0
    assert filtered.cost.queries > filtered.cost.gradients > 0


@pytest.fixture(scope="session")
def judged(digits) -> Filtered:
    """With the trusted images of the test set, at the default threshold."""
    sanitizer = Outliers(trusted=digits.test, epochs=20)
    return sanitizer.filter(digits.model, digits.poisoned, rng=mi.rng(0))


class TestOutliers:
    def test_mislabelled_images_score_high(self, digits, judged) -> None:
        poison, clean = judged.score[digits.poison], judged.score[~digits.poison]
        assert float((poison[:, None] > clean).double().mean()) > 0.97

    def test_the_threshold_is_a_probability(self, judged) -> None:
        assert torch.equal(judged.keep, judged.score <= -log(0.01))
        assert bool((judged.score >= 0).all())
        assert {note.suspicious for note in judged.classes} == {None}
        assert judged.cost.gradients == 20 * 360
        assert judged.cost.queries == 20 * 360 + 1437

    @pytest.mark.parametrize(("settings", "wanted"), [({"count": 30}, 30), ({"share": 0.1}, 144)])
    def test_a_count_takes_the_least_probable(self, digits, settings, wanted) -> None:
        sanitizer = Outliers(trusted=digits.test, epochs=1, **settings)
        filtered = sanitizer.filter(digits.model, digits.poisoned, rng=mi.rng(0))
        assert len(filtered.dropped) == wanted
        assert float(filtered.score[~filtered.keep].min()) >= float(
            filtered.score[filtered.keep].max()
        )

    def test_without_trust_it_says_that_it_may_share_the_poison(self, digits) -> None:
        sanitizer = Outliers(epochs=1, count=10)
        filtered = sanitizer.filter(digits.model, digits.poisoned, rng=mi.rng(0))
        assert ids(filtered) == ["same-poison"]
        assert filtered.cost.gradients == 1437
        # Two folds: 719 and 718 images, each counted once.
        assert sanitizer.cost(Sizes(train=1437)).trained == 2 * 718

    def test_few_trusted_images(self, digits) -> None:
        few = digits.test.subset(range(0, 360, 30))
        filtered = Outliers(trusted=few, epochs=1).filter(digits.model, digits.clean, rng=mi.rng(0))
        assert "weak-judge" in ids(filtered)

    def test_other_trusted_images(self, digits) -> None:
        with pytest.raises(InputError, match="trusted images are"):
            Outliers(trusted=clouds().data).filter(digits.model, digits.clean, rng=mi.rng(0))

    def test_more_than_there_are(self, digits) -> None:
        with pytest.raises(InputError, match="count is 2000, digits/train has 1437"):
            Outliers(count=2000).filter(digits.model, digits.clean, rng=mi.rng(0))


# What is refused, and what is said


def test_early_loss_finds_what_goes_to_the_next_class(to_the_next) -> None:
    """Where activation clustering and spectral signatures fail: ten poisoned classes at once."""
    images, bad = to_the_next
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    blank = mi.Classifier(network, classes=images.class_names, image_shape=(1, 8, 8))
    gone = ~EarlyLoss(steps=100, rounds=2).filter(blank, images, rng=mi.rng(0)).keep
    assert gone[bad].double().mean() >= 0.8
    assert gone[~bad].double().mean() <= 0.1


def test_a_filter_that_drops_everything_says_so() -> None:
    data = clouds().data
    nothing = torch.zeros(len(data), dtype=torch.bool)
    filtered = conclude(Outliers(), data, nothing, torch.ones(len(data)), [], Cost())
    assert ids(filtered) == ["drops-everything"]
    assert not bool(filtered.keep.any()), "the mask stays the filter's"
    with pytest.raises(NothingAssessedError, match="outliers would drop all 480 images"):
        filtered.apply(data)


@pytest.mark.parametrize("sanitizer", [SpectralSignatures(), ActivationClustering()])
class TestFeaturesThatTellNothing:
    def test_constant(self, sanitizer) -> None:
        data, model, _ = clouds()
        data = data.with_changes(range(len(data)), data.raw([0] * 480))
        with pytest.raises(NothingAssessedError, match="all images of class 0"):
            sanitizer.filter(model, data, rng=mi.rng(0))

    def test_not_finite(self, sanitizer) -> None:
        model = mi.Classifier(
            nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 4)), classes=4
        )
        with torch.no_grad():
            model.module[1].bias.fill_(torch.inf)
        with pytest.raises(NothingAssessedError, match="NaN or infinite"):
            sanitizer.filter(model, clouds().data, rng=mi.rng(0))

    def test_no_linear_layer(self, sanitizer) -> None:
        model = mi.Classifier(nn.Sequential(nn.Conv2d(1, 4, (1, 8)), nn.Flatten()), classes=4)
        with pytest.raises(InputError, match=r"no nn\.Linear"):
            sanitizer.filter(model, clouds().data, rng=mi.rng(0))

    def test_a_class_without_images_is_passed_over(self, sanitizer) -> None:
        data, model, poison = clouds(0.2)
        rows = (data.labels != 0).nonzero()[:, 0]
        filtered = sanitizer.filter(model, data.subset(rows), rng=mi.rng(0))
        assert [note.label for note in filtered.classes] == [1, 2, 3]
        assert torch.equal(~filtered.keep, poison[rows])


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: SpectralSignatures(classes="some"), "classes is one of auto, all"),
        (lambda: SpectralSignatures(classes="all"), "needs eps"),
        (lambda: SpectralSignatures(classes="all", eps=0), "eps must be above 0"),
        (lambda: SpectralSignatures(classes="all", eps=-0.1), "eps must be above 0"),
        (lambda: SpectralSignatures(classes="all", eps=0.7), "all of each class"),
        (lambda: SpectralSignatures(eps=0.1), "eps is for classes='all'"),
        (lambda: SpectralSignatures(gap=0), "gap must be above 0"),
        (lambda: SpectralSignatures(side="left"), "side is one of trace, smaller"),
        (lambda: ActivationClustering(reduce="tsne"), "reduce is one of pca, ica, got 'tsne'"),
        (lambda: ActivationClustering(analysis="size"), "analysis is one of gap, silhouette"),
        (lambda: ActivationClustering(dimensions=0), "dimensions must be at least 1"),
        (lambda: ActivationClustering(epochs=1.5), "epochs is a whole number"),
        (
            lambda: ActivationClustering(analysis="relative-size", threshold=0.6),
            "threshold must be at most 0.5",
        ),
        (lambda: Outliers(threshold=0.1, count=5), "threshold and count both say what to drop"),
        (lambda: Outliers(threshold=0), "threshold must be above 0"),
        (lambda: Outliers(share=1.5), "share must be at most 1"),
        (lambda: Outliers(count=2.5), "count is a whole number"),
        (lambda: Spectre(eps=0), "eps must be above 0"),
        (lambda: Spectre(eps=0.7), "all of a class"),
        (lambda: Spectre(eps=0.1, classes="some"), "classes is one of strangest, all"),
        (lambda: Spectre(eps=0.1, alpha=-1), "alpha must be at least 0"),
        (lambda: EarlyLoss(steps=0), "steps must be at least 1"),
        (lambda: EarlyLoss(threshold=2), "threshold must be at most 1"),
        (lambda: Outliers(folds=1), "folds must be at least 2"),
        (lambda: Outliers(trusted=3), "trusted is an ImageSet"),
    ],
)
def test_settings_out_of_range(make_it, message) -> None:
    with pytest.raises(InputError, match=message):
        make_it()
