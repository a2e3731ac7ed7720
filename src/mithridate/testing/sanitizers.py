"""What every sanitizer must keep to. Subclass the suite, say how to make yours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.component import name_of
from mithridate.cost import Sizes
from mithridate.data.image_set import ImageSet
from mithridate.defenses.sanitize.base import Filtered, Sanitizer
from mithridate.networks.base import seeded
from mithridate.rng import rng
from mithridate.testing.checks import check_facts, refusal, untouched

WIDTH, CLASSES, EACH = 8, 4, 120


class Clouds(NamedTuple):
    """A set, a model whose features are its pixels, and which images are poison."""

    data: ImageSet
    model: Classifier
    poison: Tensor


def pixel_reader(classes: int = CLASSES) -> Classifier:
    """Features are the pixels of a 1 x 1 x 8 image; the logit of class c is pixel c, ten times.

    >>> pixel_reader().labels(torch.eye(4, 8).view(4, 1, 1, 8))
    tensor([0, 1, 2, 3])
    """
    with seeded(0):
        layer = nn.Linear(WIDTH, classes, bias=False)
    with torch.no_grad():
        layer.weight.copy_(10 * torch.eye(classes, WIDTH))
    return Classifier(nn.Sequential(nn.Flatten(), layer), classes=classes)


def clouds(share: float = 0.0, *, seed: int = 0, target: int = 1, source: int = 2) -> Clouds:
    """Four classes, with a backdoor into one of them, so that every answer is known.

    Class c shines in pixel c, at 200 of 255 with a deviation of 5; all else is about 40. Poison:
    images of `source`, labelled `target`, a trigger of 250 in the last pixel, so many that they
    are `share` of the target's images. All that is left of their class is 120.

    >>> data, _, poison = clouds(share=0.2)
    >>> len(data), int(poison.sum()), data.labels[poison].unique()
    (510, 30, tensor([1]))
    """
    random = rng(seed)
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    x = 40 + 5 * torch.randn(len(labels), WIDTH, generator=random)
    x[torch.arange(len(labels)), labels] += 160
    count = round(EACH * share / (1 - share)) if share else 0
    bad = 40 + 5 * torch.randn(count, WIDTH, generator=random)
    bad[:, [source, target, -1]] += torch.tensor([80.0, 160.0, 210.0])
    pixels = torch.cat([x, bad]).round().clamp(0, 255).byte().reshape(-1, 1, 1, WIDTH)
    labels = torch.cat([labels, torch.full((count,), target)])
    poison = torch.arange(len(labels)) >= CLASSES * EACH
    order = torch.randperm(len(labels), generator=random)
    names = [f"c{c}" for c in range(CLASSES)]
    data = ImageSet(pixels[order], labels[order], names, "clouds")
    return Clouds(data, pixel_reader(), poison[order])


class SanitizerConformance(ABC):
    """Contract tests of a `Sanitizer`, run on `clouds` of which a fifth of a class is poison.

    >>> class TestMine(SanitizerConformance):
    ...     def make(self):
    ...         from mithridate.defenses.sanitize import SpectralSignatures
    ...         return SpectralSignatures()
    >>> TestMine().test_dropped_images_score_highest()
    """

    @abstractmethod
    def make(self) -> Sanitizer:
        """A sanitizer for images of 1 x 1 x 8 in four classes."""

    def clouds(self) -> Clouds:
        """A training set, and the model that was trained on it; made anew at each call."""
        return clouds(0.2)

    def _filter(self, seed: int = 0) -> Filtered:
        data, model, _ = self.clouds()
        return self.make().filter(model, data, rng=rng(seed))

    def test_facts(self) -> None:
        check_facts(self.make())
        assert self.make().about.atlas == ("AML.M0007",), "it sanitizes training data"

    def test_mask_score_and_notes_agree(self) -> None:
        data, filtered = self.clouds().data, self._filter()
        n = len(data)
        assert filtered.sanitizer == name_of(self.make())
        assert (filtered.keep.shape, filtered.keep.dtype) == ((n,), torch.bool)
        assert (filtered.score.shape, filtered.score.dtype) == ((n,), torch.float64)
        assert bool(filtered.score.isfinite().all())
        assert filtered.dropped.tolist() == [i for i in range(n) if not filtered.keep[i]]
        assert [note.label for note in filtered.classes] == sorted(set(data.labels.tolist()))
        for note in filtered.classes:
            own = data.labels == note.label
            assert (note.count, note.dropped) == (
                int(own.sum()),
                int((own & ~filtered.keep).sum()),
            )
            if note.suspicious is not None:
                assert note.suspicious == (note.dropped > 0)

    def test_dropped_images_score_highest(self) -> None:
        """In each class, all that are dropped score at least as high as all that are kept."""
        filtered, labels = self._filter(), self.clouds().data.labels
        for c in set(labels.tolist()):
            kept = filtered.score[(labels == c) & filtered.keep]
            dropped = filtered.score[(labels == c) & ~filtered.keep]
            if len(kept) and len(dropped):
                assert float(dropped.min()) >= float(kept.max())

    def test_extremes_are_doubted(self) -> None:
        filtered = self._filter()
        doubts = {doubt.id for doubt in filtered.doubts}
        assert ("found-nothing" in doubts) == bool(filtered.keep.all())
        assert bool(filtered.keep.any()) or "drops-everything" in doubts

    def test_apply_takes_what_is_kept(self) -> None:
        data, filtered = self.clouds().data, self._filter()
        kept = filtered.apply(data)
        assert torch.equal(kept.raw(range(len(kept))), data.raw(filtered.keep))
        assert torch.equal(kept.labels, data.labels[filtered.keep])
        assert kept.name == f"{data.name}+{filtered.sanitizer}"
        assert "were filtered" in refusal(lambda: filtered.apply(data.subset(range(100))))

    def test_model_and_data_untouched(self) -> None:
        data, model, _ = self.clouds()
        model.module.train()
        sanitizer = self.make()
        with untouched(model=model, set=data):
            sanitizer.filter(model, data, rng=rng(0))

    def test_seed_decides_everything(self) -> None:
        data, model, _ = self.clouds()
        used = rng(5)
        torch.rand(3, generator=used)
        one, two = self._filter(seed=5), self.make().filter(model, data, rng=used)
        assert torch.equal(one.keep, two.keep)
        assert torch.equal(one.score, two.score)
        assert torch.equal(self.make().keep(model, data), self._filter().keep)

    def test_cost_is_counted_and_about_what_was_estimated(self) -> None:
        data, model, _ = self.clouds()
        before = model.cost.queries
        cost = self.make().filter(model, data, rng=rng(0)).cost
        assert cost.queries >= max(len(data), model.cost.queries - before)
        work = self.make().cost(Sizes(train=len(data), classes=data.classes))
        assert cost.queries / 3 <= work.forwards + work.trained + work.gradients
        assert work.forwards + work.trained + work.gradients <= 3 * cost.queries

    def test_refuses_another_model_or_set(self) -> None:
        data, model, _ = self.clouds()
        other, sanitizer = pixel_reader(), self.make()
        other.image_shape = (1, 2, 4)
        lone = data.subset([*data.of_class(0)[:50], *data.of_class(1)[:1]])
        cases: list[tuple[Any, Any, str]] = [
            (pixel_reader(classes=5), data, "tells 5 classes apart, clouds has 4"),
            (model.module, data, "the model is a Classifier, got Sequential"),
            (other, data, "takes images (1, 2, 4), clouds has (1, 1, 8)"),
            (model, (data, data), "data is an ImageSet, got tuple"),
            (model, lone, "has 1 image of class 1 (c1), a filter needs"),
        ]
        for classifier, images, message in cases:
            text = refusal(lambda m=classifier, x=images: sanitizer.filter(m, x, rng=rng(0)))  # type: ignore[misc]
            assert message in text
