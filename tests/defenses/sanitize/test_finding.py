"""What the filters find: all of a planted cloud, most of a real backdoor, nothing in clean data."""

from __future__ import annotations

from math import floor, log

import numpy as np
import pytest
import torch

import mithridate as mi
from mithridate.defenses.sanitize import ActivationClustering, Outliers, SpectralSignatures
from mithridate.errors import InputError

AUTO = [SpectralSignatures(), ActivationClustering(), ActivationClustering(analysis="silhouette")]


def filter(sanitizer, found, seed=0):
    return sanitizer.filter(found.model, found.data, rng=mi.rng(seed))


@pytest.mark.parametrize("share", [0.1, 0.47, 0.65])
@pytest.mark.parametrize("sanitizer", AUTO, ids=["spectral", "gap", "silhouette"])
def test_clouds_apart_are_told_apart_exactly(make, sanitizer, share) -> None:
    clouds = make(share)
    found = sift(sanitizer, clouds)
    assert torch.equal(~found.keep, clouds.poison)
    assert found.suspicious == (1,)
    assert "which-side" not in [doubt.id for doubt in found.doubts]


def test_by_size_the_clean_images_go_once_they_are_fewer(make) -> None:
    clouds = make(0.65)
    found = sift(SpectralSignatures(side="smaller"), clouds)
    own = clouds.data.labels == 1
    assert torch.equal(~found.keep, own & ~clouds.poison)


def test_the_papers_rule_is_its_algorithm(make) -> None:
    """Against numpy's singular vectors, and its count of every class."""
    clouds = make(0.2)
    found = sift(SpectralSignatures(classes="all", eps=0.2), clouds)
    labels = clouds.data.labels
    for c in range(4):
        rows = (labels == c).nonzero()[:, 0]
        x = clouds.data.batch(rows)[0].flatten(1).double().numpy()
        x = x - x.mean(0)
        _, _, axes = np.linalg.svd(x, full_matrices=False)
        score = (x @ axes[0]) ** 2
        assert np.allclose(found.score[rows].numpy(), score, rtol=1e-4, atol=1e-6)
        count = floor(1.5 * 0.2 * len(rows))
        assert found.classes[c].dropped == count
        wanted = set(np.argsort(-score)[:count].tolist())
        assert set((~found.keep[rows]).nonzero()[:, 0].tolist()) == wanted
        assert found.classes[c].suspicious is None
    assert bool((~found.keep)[clouds.poison].all())


def test_the_papers_rule_empties_a_share_of_a_clean_set_too(make) -> None:
    found = sift(SpectralSignatures(classes="all", eps=0.1), make())
    assert len(found.dropped) == 4 * 18


def test_the_papers_clustering_of_few_poisons(make) -> None:
    clouds = make(0.1)
    paper = {"features": "plain", "reduce": "ica", "side": "smaller"}
    for analysis in ("silhouette", "relative-size"):
        found = sift(ActivationClustering(analysis=analysis, **paper), clouds)
        assert 1 in found.suspicious
        assert bool((~found.keep)[clouds.poison].all())


def test_digits_with_a_backdoor(digits) -> None:
    for sanitizer in AUTO[:2]:
        found = sanitizer.filter(digits.model, digits.poisoned, rng=mi.rng(0))
        gone = ~found.keep
        assert float(gone[digits.poison].double().mean()) >= 0.95
        assert float(gone[~digits.poison].double().mean()) <= 0.05
        assert found.suspicious == (1,)


def test_clean_digits(digits) -> None:
    for sanitizer in AUTO[:2]:
        found = sanitizer.filter(digits.clean_model, digits.clean, rng=mi.rng(0))
        assert bool(found.keep.all()), found.classes
        assert [doubt.id for doubt in found.doubts] == ["found-nothing"]


def test_exclusion_asks_a_model_that_never_saw_the_cluster(digits) -> None:
    sanitizer = ActivationClustering(analysis="exclusion", epochs=15)
    found = sanitizer.filter(digits.model, digits.poisoned, rng=mi.rng(0))
    target, gone = digits.poisoned.labels == 1, ~found.keep
    assert found.classes[1].value < 1
    assert float(gone[digits.poison].double().mean()) >= 0.9
    assert float(gone[target & ~digits.poison].double().mean()) <= 0.1
    assert found.cost.gradients % 15 == 0
    assert found.cost.queries > found.cost.gradients > 0


@pytest.fixture(scope="session")
def sifted(digits):
    """With the trusted images of the test set, at the default threshold."""
    judged = Outliers(trusted=digits.test, epochs=20)
    return judged.filter(digits.model, digits.poisoned, rng=mi.rng(0))


class TestOutliers:
    def test_mislabelled_images_score_high(self, digits, sifted) -> None:
        poison, clean = sifted.score[digits.poison], sifted.score[~digits.poison]
        assert float((poison[:, None] > clean).double().mean()) > 0.97

    def test_the_threshold_is_a_probability(self, sifted) -> None:
        assert torch.equal(sifted.keep, sifted.score <= -log(0.01))
        assert bool((sifted.score >= 0).all())
        assert {note.suspicious for note in sifted.classes} == {None}
        assert sifted.cost.gradients == 20 * 360
        assert sifted.cost.queries == 20 * 360 + 1437

    @pytest.mark.parametrize(("settings", "wanted"), [({"count": 30}, 30), ({"share": 0.1}, 144)])
    def test_a_count_takes_the_least_probable(self, digits, settings, wanted) -> None:
        judged = Outliers(trusted=digits.test, epochs=1, **settings)
        found = judged.filter(digits.model, digits.poisoned, rng=mi.rng(0))
        assert len(found.dropped) == wanted
        assert float(found.score[~found.keep].min()) >= float(found.score[found.keep].max())

    def test_without_trust_it_says_that_it_may_share_the_poison(self, digits) -> None:
        found = Outliers(epochs=1, count=10).filter(digits.model, digits.poisoned, rng=mi.rng(0))
        assert [doubt.id for doubt in found.doubts] == ["same-poison"]
        again = Outliers(epochs=1, count=10).filter(digits.model, digits.poisoned, rng=mi.rng(0))
        assert torch.equal(found.score, again.score)
        assert found.cost.gradients == 1437

    def test_few_trusted_images(self, digits) -> None:
        few = digits.test.subset(range(0, 360, 30))
        found = Outliers(trusted=few, epochs=1).filter(digits.model, digits.clean, rng=mi.rng(0))
        assert "weak-judge" in [doubt.id for doubt in found.doubts]

    def test_other_trusted_images(self, digits, make) -> None:
        with pytest.raises(InputError, match="trusted images are"):
            Outliers(trusted=make().data).filter(digits.model, digits.clean, rng=mi.rng(0))

    def test_more_than_there_are(self, digits) -> None:
        with pytest.raises(InputError, match="count is 2000, digits/train has 1437"):
            Outliers(count=2000).filter(digits.model, digits.clean, rng=mi.rng(0))
