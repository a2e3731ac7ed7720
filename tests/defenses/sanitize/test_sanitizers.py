"""What every sanitizer keeps to: mask and score agree, order does not matter, bad input is told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mithridate as mi
from mithridate import component
from mithridate.defenses.sanitize import (
    ActivationClustering,
    Outliers,
    Sanitizer,
    SpectralSignatures,
)
from mithridate.defenses.sanitize.base import conclude
from mithridate.errors import InputError, NothingAssessedError

FEATURES = [
    SpectralSignatures(),
    SpectralSignatures(side="smaller"),
    SpectralSignatures(classes="all", eps=0.2),
    ActivationClustering(),
    ActivationClustering(reduce="ica"),
    ActivationClustering(analysis="silhouette"),
    ActivationClustering(features="plain", reduce="ica", analysis="relative-size", side="smaller"),
]
"""Filters that rest on features alone."""
AUTO = [filter_ for filter_ in FEATURES if getattr(filter_, "classes", "auto") == "auto"]


def filter(sanitizer, found, seed=0):
    return sanitizer.filter(found.model, found.data, rng=mi.rng(seed))


def agree(found, data):
    """In each class, all that are dropped score at least as high as all that are kept."""
    for c in data.labels.unique().tolist():
        own = data.labels == c
        gone, kept = found.score[own & ~found.keep], found.score[own & found.keep]
        if len(gone) and len(kept):
            assert float(gone.min()) >= float(kept.max())


@pytest.mark.parametrize("name", component.names("sanitizers"))
def test_each_is_made_by_name_with_its_defaults(name) -> None:
    assert isinstance(component.create("sanitizers", name), Sanitizer)


@pytest.mark.parametrize("sanitizer", FEATURES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_mask_score_and_notes_agree(make, sanitizer, share) -> None:
    clouds = make(share)
    before = clouds.model.cost.queries
    found = sift(sanitizer, clouds)
    n = len(clouds.data)
    assert (found.keep.shape, found.keep.dtype) == ((n,), torch.bool)
    assert (found.score.shape, found.score.dtype) == ((n,), torch.float64)
    assert bool(found.score.isfinite().all())
    agree(found, clouds.data)
    assert [note.label for note in found.classes] == [0, 1, 2, 3]
    assert sum(note.dropped for note in found.classes) == len(found.dropped)
    for note in found.classes:
        own = clouds.data.labels == note.label
        assert (note.count, note.dropped) == (int(own.sum()), int((own & ~found.keep).sum()))
        if note.suspicious is not None:
            assert note.suspicious == (note.dropped > 0)
    assert found.cost.queries == clouds.model.cost.queries - before >= n
    assert torch.equal(sanitizer.keep(clouds.model, clouds.data), found.keep)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), which=st.integers(0, len(FEATURES) - 1))
def test_permuted_rows_permute_the_result(make, seed, which) -> None:
    made = make(0.3)
    order = torch.randperm(len(made.data), generator=mi.rng(seed))
    sanitizer = FEATURES[which]
    one = sift(sanitizer, made)
    two = sanitizer.filter(made.model, made.data.subset(order), rng=mi.rng(0))
    assert torch.equal(one.keep[order], two.keep)
    assert torch.allclose(one.score[order], two.score, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sanitizer", FEATURES, ids=str)
def test_model_and_data_stay_as_they_are(make, sanitizer) -> None:
    clouds = make(0.2)
    clouds.model.module.train()
    weights = [p.clone() for p in clouds.model.module.parameters()]
    before, state = clouds.data.fingerprint(), torch.get_rng_state()
    sift(sanitizer, clouds)
    assert clouds.data.fingerprint() == before
    assert clouds.model.module.training
    assert torch.equal(torch.get_rng_state(), state)
    for one, two in zip(weights, clouds.model.module.parameters(), strict=True):
        assert torch.equal(one, two)
        assert two.requires_grad


@pytest.mark.parametrize("sanitizer", AUTO[:5], ids=str)
def test_a_clean_set_is_left_alone_and_that_is_said(make, sanitizer) -> None:
    found = sift(sanitizer, make(0.0, seed=3))
    assert bool(found.keep.all())
    assert found.suspicious == ()
    assert [doubt.id for doubt in found.doubts] == ["found-nothing"]


def test_a_filter_that_drops_everything_says_so(make) -> None:
    data = make(0.0).data
    gone = torch.zeros(len(data), dtype=torch.bool)
    cost = mi.Classifier(nn.Linear(1, 2), classes=2).cost
    found = conclude(data, gone, torch.ones(len(data)), [], cost)
    assert [doubt.id for doubt in found.doubts] == ["drops-everything"]
    assert not bool(found.keep.any()), "the mask stays what the filter found"
    with pytest.raises(InputError, match="needs at least one row"):
        data.subset(found.keep)


@pytest.mark.parametrize("sanitizer", [SpectralSignatures(), ActivationClustering(), Outliers()])
class TestBadInput:
    def test_other_classes(self, make, model_of, sanitizer) -> None:
        with pytest.raises(InputError, match="tells 5 classes apart, clouds has 4"):
            sanitizer.filter(model_of(classes=5), make().data, rng=mi.rng(0))

    def test_no_classifier_or_no_set(self, make, sanitizer) -> None:
        clouds = make()
        with pytest.raises(InputError, match="the model is a Classifier, got Sequential"):
            sanitizer.filter(clouds.model.module, clouds.data, rng=mi.rng(0))
        with pytest.raises(InputError, match="data is an ImageSet, got tuple"):
            sanitizer.filter(clouds.model, (clouds.data, clouds.data), rng=mi.rng(0))

    def test_other_images(self, make, model_of, sanitizer) -> None:
        model = model_of()
        model.image_shape = (1, 2, 4)
        with pytest.raises(InputError, match=r"takes images \(1, 2, 4\), clouds has \(1, 1, 8\)"):
            sanitizer.filter(model, make().data, rng=mi.rng(0))

    def test_a_class_of_one_image(self, make, sanitizer) -> None:
        clouds = make()
        data = clouds.data.subset([*clouds.data.of_class(0)[:50], int(clouds.data.of_class(1)[0])])
        with pytest.raises(InputError, match=r"has 1 image of class 1 \(c1\), a filter needs"):
            sanitizer.filter(clouds.model, data, rng=mi.rng(0))


@pytest.mark.parametrize("sanitizer", [SpectralSignatures(), ActivationClustering()])
class TestFeaturesThatTellNothing:
    def test_constant(self, make, sanitizer) -> None:
        clouds = make()
        data = clouds.data.with_changes(range(len(clouds.data)), clouds.data.raw([0] * 480))
        with pytest.raises(NothingAssessedError, match="all images of class 0"):
            sanitizer.filter(clouds.model, data, rng=mi.rng(0))

    def test_not_finite(self, make, sanitizer) -> None:
        clouds = make()
        model = mi.Classifier(
            nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 4)), classes=4
        )
        with torch.no_grad():
            model.module[1].bias.fill_(torch.inf)
        with pytest.raises(NothingAssessedError, match="NaN or infinite"):
            sanitizer.filter(model, clouds.data, rng=mi.rng(0))

    def test_no_linear_layer(self, make, sanitizer) -> None:
        model = mi.Classifier(nn.Sequential(nn.Conv2d(1, 4, (1, 8)), nn.Flatten()), classes=4)
        with pytest.raises(InputError, match=r"no nn\.Linear"):
            sanitizer.filter(model, make().data, rng=mi.rng(0))

    def test_a_class_without_images_is_passed_over(self, make, sanitizer) -> None:
        clouds = make(0.2)
        rows = (clouds.data.labels != 0).nonzero()[:, 0]
        found = sanitizer.filter(clouds.model, clouds.data.subset(rows), rng=mi.rng(0))
        assert [note.label for note in found.classes] == [1, 2, 3]
        assert torch.equal(~found.keep, clouds.poison[rows])


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda: SpectralSignatures(classes="some"), "classes is 'auto' or 'all'"),
        (lambda: SpectralSignatures(classes="all"), "needs eps"),
        (lambda: SpectralSignatures(classes="all", eps=0), "eps must be above 0"),
        (lambda: SpectralSignatures(classes="all", eps=-0.1), "eps must be above 0"),
        (lambda: SpectralSignatures(classes="all", eps=0.7), "all of each class"),
        (lambda: SpectralSignatures(eps=0.1), "eps is for classes='all'"),
        (lambda: SpectralSignatures(gap=0), "gap must be above 0"),
        (lambda: SpectralSignatures(side="left"), "side is 'trace' or 'smaller'"),
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
        (lambda: Outliers(folds=1), "folds must be at least 2"),
        (lambda: Outliers(trusted=3), "trusted is an ImageSet"),
    ],
)
def test_settings_out_of_range(make_it, said) -> None:
    with pytest.raises(InputError, match=said):
        make_it()
