"""What every corruption must keep. Subclass, give one, inherit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.corruptions import Corruption, corrupt
from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.testing.checks import check_facts, untouched

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 33, 20), (1, 5, 1), (3, 1, 1)]


class CorruptionConformance(ABC):
    """Subclass and give a corruption.

    >>> from mithridate.corruptions import Fog
    >>> class TestFog(CorruptionConformance):
    ...     def corruption(self):
    ...         return Fog()
    >>> TestFog().test_facts()
    """

    @abstractmethod
    def corruption(self) -> Corruption:
        """What is tested, at any severity."""

    def images(self, shape: tuple[int, int, int], count: int = 5) -> Tensor:
        """Images (N, C, H, W) of whole grey levels: noise, smooth, black and white ones."""
        x = torch.rand((count, *shape), generator=random.rng(1))
        x[1] = x[1].mean()
        x[2], x[3] = 0, 1
        return (x * 255).round() / 255

    def every(self) -> list[Corruption]:
        """The corruption at each severity."""
        made = self.corruption()
        return [replace(made, severity=k + 1) for k in range(len(made.levels))]

    def test_facts(self) -> None:
        for one in self.every():
            check_facts(one)

    def test_a_severity_that_there_is_not(self) -> None:
        made = self.corruption()
        for severity in (0, len(made.levels) + 1):
            with pytest.raises(InputError, match="severity must be at"):
                replace(made, severity=severity)

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_images_come_out_as_whole_grey_levels(self, shape: tuple[int, int, int]) -> None:
        x = self.images(shape)
        for one in self.every():
            with untouched(x=x):
                out = one.apply(x, rng=0)
            assert out.shape == x.shape
            assert out.dtype == x.dtype
            assert bool(((out >= 0) & (out <= 1)).all())
            assert torch.equal(out, (out * 255).round() / 255)

    def test_the_seed_decides(self) -> None:
        x = self.images((3, 32, 32))
        for one in self.every():
            first = one.apply(x, rng=random.rng(4))
            assert torch.equal(first, one.apply(x, rng=4))

    def test_an_image_is_the_same_in_any_batch(self) -> None:
        x = self.images((3, 16, 12), 9)
        rows = torch.tensor([7, 0, 4])
        for one in self.every():
            whole = one.apply(x, rng=3)
            assert torch.equal(one.apply(x[rows], rng=3, rows=rows), whole[rows])

    def test_a_set_keeps_its_labels(self) -> None:
        pixels = (self.images((1, 8, 8), 6) * 255).byte()
        data = ImageSet(pixels, [0, 1, 2, 0, 1, 2], ["a", "b", "c"], "set")
        before = data.fingerprint()
        for one in self.every():
            out = corrupt(data, one, rng=0)
            assert torch.equal(out.labels, data.labels)
            assert out.class_names == data.class_names
            assert out.image_shape == data.image_shape
            assert out.name.startswith("set ")
            some = corrupt(data, one, rng=0, rows=[4, 1])
            assert torch.equal(some.raw([0, 1]), out.raw([4, 1]))
            assert some.labels.tolist() == [1, 1]
        assert data.fingerprint() == before

    def test_no_image_and_odd_channels(self) -> None:
        assert self.corruption().apply(torch.zeros(0, 3, 8, 8), rng=0).shape == (0, 3, 8, 8)
        with pytest.raises(InputError, match="grey or RGB"):
            self.corruption().apply(torch.zeros(2, 2, 8, 8), rng=0)
