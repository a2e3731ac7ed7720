"""What every trigger and every poison must keep to. Subclass a suite, say how to make yours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.component import settings
from mithridate.cost import Sizes
from mithridate.data.image_set import ImageSet
from mithridate.networks.base import seeded
from mithridate.networks.storage import digest
from mithridate.poisons.badnets import BadNets
from mithridate.poisons.base import ImageShape, Poison, Poisoned, Trigger
from mithridate.poisons.crafted import CraftedPoison
from mithridate.rng import rng
from mithridate.testing.checks import check_facts, refusal, untouched


def striped_images(count: int, image_shape: ImageShape, seed: int = 0) -> Tensor:
    """Images (count, C, H, W) with noise in the middle third of the columns, blank elsewhere.

    >>> striped_images(2, (1, 9, 9))[..., :3].sum().item()
    0.0
    """
    width = image_shape[2]
    out = torch.zeros(count, *image_shape)
    middle = slice(width // 3, width - width // 3)
    out[..., middle] = torch.rand(out[..., middle].shape, generator=rng(seed)) * 0.8 + 0.1
    return out


def striped_set(image_shape: ImageShape = (1, 12, 12), per_class: int = 8) -> ImageSet:
    """Three classes of striped images, in turn.

    >>> striped_set(per_class=2).labels.tolist()
    [0, 1, 2, 0, 1, 2]
    """
    labels = torch.arange(3).repeat(per_class)
    x = striped_images(len(labels), image_shape)
    return ImageSet.from_float(x, labels, ["none", "one", "two"], name="stripes")


def striped_surrogate(image_shape: ImageShape = (1, 12, 12), classes: int = 3) -> Classifier:
    """A small untrained network for `striped_set`, always the same.

    >>> striped_surrogate((1, 2, 2)).logits(torch.zeros(1, 1, 2, 2)).shape
    torch.Size([1, 3])
    """
    draws = rng(0)
    with seeded(0):
        inside = nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], 8)
        last = nn.Linear(8, classes)
    with torch.no_grad():
        for weight in (inside.weight, inside.bias, last.weight, last.bias):
            weight.copy_(torch.randn(weight.shape, generator=draws) / weight.shape[-1] ** 0.5)
    module = nn.Sequential(nn.Flatten(), inside, nn.Tanh(), last)
    return Classifier(module, classes=classes, image_shape=image_shape)


class TriggerConformance(ABC):
    """Contract tests of a `Trigger`.

    >>> class TestMine(TriggerConformance):
    ...     def make(self):
    ...         from mithridate.poisons.triggers import Multiply
    ...         return Multiply()
    >>> TestMine().test_stays_in_range()
    """

    image_shape: ClassVar[ImageShape] = (1, 12, 12)

    @abstractmethod
    def make(self) -> Trigger:
        """A trigger that changes images of `image_shape`."""

    def _images(self, count: int = 5) -> Tensor:
        return striped_images(count, self.image_shape)

    def _stamp(self, x: Tensor, seed: int = 0) -> Tensor:
        return self.make().stamp(x, rng=rng(seed))

    def test_facts(self) -> None:
        check_facts(self.make())

    def test_lies_where_it_says(self) -> None:
        place, support = self.make().about.place, self.make().support(self.image_shape)
        assert place in ("fixed", "random", "everywhere")
        assert (support is not None) == (place == "fixed")
        x = torch.full((4, *self.image_shape), 0.05)  # blank, so that a patch may lie anywhere
        changed = (self._stamp(x) != x).any(1)
        if place == "random":
            assert bool((changed != changed[0]).any())
        if support is not None:
            assert support.dtype == torch.bool
            assert support.shape == self.image_shape[1:]
            x = self._images()
            assert torch.equal(self._stamp(x)[..., ~support], x[..., ~support])

    def test_stays_in_range(self) -> None:
        x = self._images()
        for images in (x, torch.ones_like(x), x[:1], x[:0]):
            out = self._stamp(images)
            assert (out.shape, out.dtype) == (images.shape, images.dtype)
            assert bool(((out >= 0) & (out <= 1)).all())

    def test_changes_every_image_and_not_the_input(self) -> None:
        x, trigger = self._images(), self.make()
        with untouched(input=x):
            out = trigger.stamp(x, rng=rng(0))
            assert bool((out != x).flatten(1).any(1).all())
            out.fill_(0.5)

    def test_same_seed_same_result(self) -> None:
        x = self._images()
        assert torch.equal(self._stamp(x, seed=3), self._stamp(x, seed=3))

    def test_bound_trigger_is_a_trigger(self) -> None:
        data = striped_set(self.image_shape)
        bound = self.make().bind(data, target=0)
        assert bound.stamp(data.batch(range(2))[0], rng=rng(0)).shape == (2, *self.image_shape)

    def test_serves_a_poison(self) -> None:
        """All to all, so that images of every class are stamped, and every stamp shows."""
        data = striped_set(self.image_shape)
        attack = BadNets(trigger=self.make().bind(data, target=0), all_to_all=True, fraction=0.5)
        poisoned = attack.poison(data, rng=rng(0))
        rows = poisoned.indices
        assert torch.equal(poisoned.images.labels[rows], (poisoned.original_labels + 1) % 3)
        assert bool((poisoned.images.raw(rows) != data.raw(rows)).flatten(1).any(1).all())


class PoisonConformance(ABC):
    """Contract tests of a `Poison`, run on `striped_set`: classes 0, 1 and 2.

    >>> class TestMine(PoisonConformance):
    ...     def make(self):
    ...         from mithridate.poisons import BadNets, triggers
    ...         return BadNets(trigger=triggers.SinglePixel(), target=0, source=1, count=3)
    >>> TestMine().test_records_the_truth()
    """

    image_shape: ClassVar[ImageShape] = (1, 12, 12)

    @abstractmethod
    def make(self) -> Poison:
        """A poison that works on three classes of eight images of `image_shape`."""

    def surrogate(self) -> Classifier | None:
        """What the poison is crafted against; none for poisons that need none."""
        return None

    def _data(self) -> ImageSet:
        return striped_set(self.image_shape)

    def _run(self, seed: int = 0) -> Poisoned:
        return self.make().poison(self._data(), surrogate=self.surrogate(), rng=rng(seed))

    def test_facts(self) -> None:
        """A poison needs a surrogate by its type and by what it says, both or neither."""
        poison, about, poisoned = self.make(), self.make().about, self._run()
        check_facts(poison)
        assert isinstance(poison, CraftedPoison) == (about.needs == ("surrogate",))
        assert ("generator" in about.needs) == ("generator" in settings(type(poison)))
        assert about.labels == ("changed" if bool(poisoned.relabelled.any()) else "kept")
        assert (poisoned.trigger is None) == about.trigger.startswith("none")

    def test_data_and_surrogate_untouched(self) -> None:
        data, poison, surrogate = self._data(), self.make(), self.surrogate()
        pair: Any = (data, data)  # as `load_data` returns
        text = refusal(lambda: poison.poison(pair, surrogate=surrogate, rng=rng(0)))
        assert "data is an ImageSet, got tuple" in text
        if surrogate is not None:
            surrogate.module.train()
        with untouched(set=data, surrogate=surrogate):
            poisoned = poison.poison(data, surrogate=surrogate, rng=rng(0))
        assert poisoned.images is not data
        assert poisoned.images.class_names == data.class_names

    def test_records_the_truth(self) -> None:
        """Rows outside `indices` are the old ones, bit by bit; those inside are not."""
        data, poisoned = self._data(), self._run()
        rows = poisoned.indices
        assert len(poisoned) == len(rows) == len(poisoned.original_labels) > 0
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert int(rows[-1]) < len(poisoned.images)
        same = torch.ones(len(poisoned.images), dtype=torch.bool)
        same[rows] = False
        kept = same.nonzero()[:, 0]
        assert torch.equal(poisoned.images.raw(kept), data.raw(kept))
        assert torch.equal(poisoned.images.labels[kept], data.labels[kept])
        inside = rows[rows < len(data)]
        changed = (poisoned.images.raw(inside) != data.raw(inside)).flatten(1).any(1)
        assert bool((changed | (poisoned.images.labels[inside] != data.labels[inside])).all())
        assert torch.equal(poisoned.original_labels[rows < len(data)], data.labels[inside])
        assert torch.equal(
            poisoned.relabelled, poisoned.images.labels[rows] != poisoned.original_labels
        )

    def test_says_what_it_leads_to(self) -> None:
        poisoned = self._run()
        if poisoned.target is not None and bool(poisoned.relabelled.any()):
            assert set(poisoned.images.labels[poisoned.indices[poisoned.relabelled]].tolist()) == {
                poisoned.target
            }
        if poisoned.source is not None:
            assert set(poisoned.original_labels.tolist()) == {poisoned.source}
        if poisoned.aim is not None:
            assert poisoned.trigger is None
            assert poisoned.aim.shape == self.image_shape

    def test_names_its_surrogate(self) -> None:
        poisoned, needed = self._run(), self.surrogate()
        assert isinstance(self.make(), CraftedPoison) == (needed is not None)
        if needed is not None:
            assert poisoned.surrogate == digest(needed.module.state_dict())
        elif poisoned.surrogate is not None:  # of another kind of model, which is a setting
            assert len(poisoned.surrogate) == 64

    def test_seed_decides_everything(self) -> None:
        """And not what was drawn before."""
        used = rng(5)
        torch.rand(3, generator=used)
        one, two = self._run(seed=5), self._run(seed=5)
        three = self.make().poison(self._data(), surrogate=self.surrogate(), rng=used)
        assert torch.equal(one.indices, two.indices)
        assert len({each.images.fingerprint() for each in (one, two, three)}) == 1
        assert len({self._run(seed=seed).images.fingerprint() for seed in range(5)}) > 1


class CraftedPoisonConformance(PoisonConformance):
    """Contract tests of a `CraftedPoison`, crafted against `striped_surrogate`.

    >>> class TestMine(CraftedPoisonConformance):
    ...     def make(self):
    ...         from mithridate.poisons import AdversarialPoisons
    ...         return AdversarialPoisons(eps=0.1, steps=2)
    >>> TestMine().test_refuses_another_surrogate()
    """

    def surrogate(self) -> Classifier:
        """The same weights at every call."""
        return striped_surrogate(self.image_shape)

    def test_refuses_another_surrogate(self) -> None:
        channels, height, width = self.image_shape
        larger, silent = (striped_surrogate((channels, height, width + 1)) for _ in range(2))
        silent.image_shape = None  # it does not say so, but cannot take them
        poison, data = self.make(), self._data()
        for surrogate, message in (
            (None, "surrogate="),
            (striped_surrogate(self.image_shape, classes=4), "4 classes"),
            (larger, "takes images"),
            (silent, "does not take images"),
        ):
            text = refusal(lambda own=surrogate: poison.poison(data, surrogate=own, rng=rng(0)))  # type: ignore[misc]
            assert message in text

    def test_cost_is_about_what_was_estimated(self) -> None:
        data, surrogate = self._data(), self.surrogate()
        self.make().poison(data, surrogate=surrogate, rng=rng(0))
        estimate = self.make().cost(Sizes(train=len(data), classes=data.classes)).gradients
        assert surrogate.cost.gradients / 2 <= estimate <= 2 * surrogate.cost.gradients

    def test_compute_batch_does_not_matter(self) -> None:
        """Up to a grey level, as sums are rounded in another order."""
        one, small = self._run(), self.surrogate()
        small.compute_batch = 2
        two = self.make().poison(self._data(), surrogate=small, rng=rng(0))
        assert torch.equal(one.indices, two.indices)
        apart = one.images.raw(one.indices).int() - two.images.raw(two.indices).int()
        assert (apart.abs() > 1).float().mean() < 0.01
