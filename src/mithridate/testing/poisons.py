"""What every trigger and every poison must keep to. Subclass a suite, say how to make yours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.component import settings
from mithridate.cost import Sizes
from mithridate.data.image_set import ImageSet
from mithridate.networks.storage import digest
from mithridate.poisons.badnets import BadNets
from mithridate.poisons.base import ImageShape, Poison, Poisoned, Trigger
from mithridate.poisons.crafted import CraftedPoison
from mithridate.rng import rng
from mithridate.testing.checks import check_facts, model_state, refusal


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
    with torch.random.fork_rng(devices=[]):  # layers draw first weights from the global state
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

    def _stamp(self, x: Tensor, seed: int = 0) -> Tensor:
        return self.make().stamp(x, rng=rng(seed))

    def test_facts(self) -> None:
        check_facts(self.make())

    def test_lies_where_it_says(self) -> None:
        place = self.make().about.place
        assert place in ("fixed", "random", "everywhere")
        assert (self.make().support(self.image_shape) is not None) == (place == "fixed")
        x = torch.full((4, *self.image_shape), 0.05)  # blank, so that a patch may lie anywhere
        changed = (self._stamp(x) != x).any(1)
        if place == "random":
            assert bool((changed != changed[0]).any())

    def test_stays_in_range(self) -> None:
        for x in (striped_images(5, self.image_shape), torch.ones(5, *self.image_shape)):
            out = self._stamp(x)
            assert out.shape == x.shape
            assert out.dtype == x.dtype
            assert bool(((out >= 0) & (out <= 1)).all())

    def test_changes_every_image(self) -> None:
        x = striped_images(5, self.image_shape)
        assert bool((self._stamp(x) != x).flatten(1).any(1).all())

    def test_input_untouched(self) -> None:
        x = striped_images(5, self.image_shape)
        before = x.clone()
        out = self._stamp(x)
        out.fill_(0.5)
        assert torch.equal(x, before)

    def test_same_seed_same_result(self) -> None:
        x = striped_images(5, self.image_shape)
        assert torch.equal(self._stamp(x, seed=3), self._stamp(x, seed=3))

    def test_global_random_state_untouched(self) -> None:
        before = torch.get_rng_state()
        self._stamp(striped_images(5, self.image_shape))
        assert torch.equal(torch.get_rng_state(), before)

    def test_empty_and_single(self) -> None:
        assert self._stamp(torch.zeros(0, *self.image_shape)).shape == (0, *self.image_shape)
        assert self._stamp(striped_images(1, self.image_shape)).shape == (1, *self.image_shape)

    def test_changes_only_its_support(self) -> None:
        support = self.make().support(self.image_shape)
        if support is None:
            return
        assert support.dtype == torch.bool
        assert support.shape == self.image_shape[1:]
        x = striped_images(5, self.image_shape)
        assert torch.equal(self._stamp(x)[..., ~support], x[..., ~support])

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

    def _run(self, data: ImageSet, seed: int = 0) -> Poisoned:
        return self.make().poison(data, surrogate=self.surrogate(), rng=rng(seed))

    def test_facts(self) -> None:
        """A poison needs a surrogate by its type and by what it says, both or neither."""
        poison, about = self.make(), self.make().about
        check_facts(poison)
        assert isinstance(poison, CraftedPoison) == (about.needs == ("surrogate",))
        assert ("generator" in about.needs) == ("generator" in settings(type(poison)))

    def test_labels_and_trigger_are_as_it_says(self) -> None:
        poisoned, about = self._run(striped_set(self.image_shape)), self.make().about
        assert about.labels == ("changed" if bool(poisoned.relabelled.any()) else "kept")
        assert (poisoned.trigger is None) == about.trigger.startswith("none")

    def test_data_untouched(self) -> None:
        data = striped_set(self.image_shape)
        before, labels = data.raw(range(len(data))), data.labels.clone()
        poisoned = self._run(data)
        assert poisoned.images is not data
        assert poisoned.images.class_names == data.class_names
        assert torch.equal(data.raw(range(len(data))), before)
        assert torch.equal(data.labels, labels)

    def test_records_the_truth(self) -> None:
        """Rows outside `indices` are the old ones, bit by bit; those inside are not."""
        data = striped_set(self.image_shape)
        poisoned = self._run(data)
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
        poisoned = self._run(striped_set(self.image_shape))
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
        poisoned, needed = self._run(striped_set(self.image_shape)), self.surrogate()
        assert isinstance(self.make(), CraftedPoison) == (needed is not None)
        if needed is not None:
            assert poisoned.surrogate == digest(needed.module.state_dict())
        elif poisoned.surrogate is not None:  # of another kind of model, which is a setting
            assert len(poisoned.surrogate) == 64

    def test_order_of_draws_does_not_matter(self) -> None:
        data, used = striped_set(self.image_shape), rng(5)
        torch.rand(3, generator=used)
        poisoned = self.make().poison(data, surrogate=self.surrogate(), rng=used)
        assert poisoned.images.fingerprint() == self._run(data, seed=5).images.fingerprint()

    def test_same_seed_same_result(self) -> None:
        data = striped_set(self.image_shape)
        one, two = self._run(data, seed=5), self._run(data, seed=5)
        assert torch.equal(one.indices, two.indices)
        assert one.images.fingerprint() == two.images.fingerprint()

    def test_other_seed_other_result(self) -> None:
        data = striped_set(self.image_shape)
        prints = {self._run(data, seed=s).images.fingerprint() for s in range(5)}
        assert len(prints) > 1

    def test_global_random_state_untouched(self) -> None:
        before = torch.get_rng_state()
        self._run(striped_set(self.image_shape))
        assert torch.equal(torch.get_rng_state(), before)


class CraftedPoisonConformance(PoisonConformance):
    """Contract tests of a `CraftedPoison`, crafted against `striped_surrogate`.

    >>> class TestMine(CraftedPoisonConformance):
    ...     def make(self):
    ...         from mithridate.poisons import AdversarialPoisons
    ...         return AdversarialPoisons(eps=0.1, steps=2)
    >>> TestMine().test_refuses_other_classes()
    """

    def surrogate(self) -> Classifier:
        """The same weights at every call."""
        return striped_surrogate(self.image_shape)

    def test_needs_a_surrogate(self) -> None:
        self._refuses(None, "surrogate=")

    def test_refuses_other_classes(self) -> None:
        self._refuses(striped_surrogate(self.image_shape, classes=4), "4 classes")

    def test_refuses_other_images(self) -> None:
        channels, height, width = self.image_shape
        self._refuses(striped_surrogate((channels, height, width + 1)), "takes images")
        other = striped_surrogate((channels, height, width + 1))
        other.image_shape = None  # it does not say so, but cannot take them
        self._refuses(other, "does not take images")

    def _refuses(self, surrogate: Classifier | None, message: str) -> None:
        poison, data = self.make(), striped_set(self.image_shape)
        assert message in refusal(lambda: poison.poison(data, surrogate=surrogate, rng=rng(0)))

    def test_surrogate_untouched(self) -> None:
        surrogate = self.surrogate()
        surrogate.module.train()
        before = model_state(surrogate)
        self.make().poison(striped_set(self.image_shape), surrogate=surrogate, rng=rng(0))
        assert model_state(surrogate) == before

    def test_cost_is_about_what_was_estimated(self) -> None:
        data, surrogate = striped_set(self.image_shape), self.surrogate()
        self.make().poison(data, surrogate=surrogate, rng=rng(0))
        estimate = self.make().cost(Sizes(train=len(data), classes=data.classes)).gradients
        assert surrogate.cost.gradients / 2 <= estimate <= 2 * surrogate.cost.gradients

    def test_compute_batch_does_not_matter(self) -> None:
        """Up to a grey level, as sums are rounded in another order."""
        data, small = striped_set(self.image_shape), self.surrogate()
        small.compute_batch = 2
        one = self._run(data)
        two = self.make().poison(data, surrogate=small, rng=rng(0))
        assert torch.equal(one.indices, two.indices)
        apart = one.images.raw(one.indices).int() - two.images.raw(two.indices).int()
        assert (apart.abs() > 1).float().mean() < 0.01
