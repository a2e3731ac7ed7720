"""What every network must keep. Subclass, give the class, inherit the tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.networks.base import Network, initialise, seeded
from mithridate.testing.checks import refusal


class NetworkConformance(ABC):
    """Contract tests of a network, run by pytest as methods of a subclass.

    >>> from mithridate.networks.digits_cnn import DigitsCNN
    >>> class TestDigitsCNN(NetworkConformance):
    ...     image_shape = (1, 8, 8)
    ...
    ...     def network(self):
    ...         return DigitsCNN
    >>> TestDigitsCNN().test_logits_of_any_size_channels_and_classes()
    """

    image_shape: tuple[int, int, int] = (3, 32, 32)
    """Of the images that it is made for."""
    width = 0.1
    """A small one, so that the tests are quick."""

    @abstractmethod
    def network(self) -> type[Network]:
        """The class under test."""

    def make(
        self, image_shape: tuple[int, int, int] | None = None, classes: int = 4, *, seed: int = 0
    ) -> Network:
        """One of them in evaluation mode, its weights drawn on a seed."""
        with seeded(seed):
            return self.network()(image_shape or self.image_shape, classes, width=self.width).eval()

    def images(self, n: int = 3, image_shape: tuple[int, int, int] | None = None) -> Tensor:
        """Images (n, C, H, W) in [0, 1]."""
        return torch.rand((n, *(image_shape or self.image_shape)), generator=random.rng(1))

    def test_about_names_a_paper(self) -> None:
        assert self.network().about.paper, "about names no paper: say none where there is none"

    def test_logits_of_any_size_channels_and_classes(self) -> None:
        least = self.network().smallest
        for shape in (self.image_shape, (2, least + 3, least + 8), (1, least, least)):
            for n in (0, 1, 3):
                with torch.no_grad():
                    logits = self.make(shape, 7)(self.images(n, shape))
                assert logits.shape == (n, 7)
                assert bool(logits.isfinite().all())

    def test_settings_make_the_same_network(self) -> None:
        net = self.make()
        other = self.network()(**net.settings).eval()
        other.load_state_dict(net.state_dict())
        x = self.images()
        assert other.settings == net.settings
        assert torch.equal(other(x), net(x))

    def test_weights_follow_their_seed_and_no_other(self) -> None:
        before = torch.get_rng_state()
        one, same, other = (self.make(seed=seed).state_dict() for seed in (3, 3, 4))
        assert torch.equal(before, torch.get_rng_state()), "the global random state was changed"
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert any(not torch.equal(one[key], other[key]) for key in one)
        net = self.make(seed=5)
        net.train()(self.images(4))  # running statistics move
        initialise(net, random.rng(3))
        fresh = self.make(seed=3)
        initialise(fresh, random.rng(3))
        for key, value in net.state_dict().items():
            assert torch.equal(value, fresh.state_dict()[key]), f"{key} is not drawn anew"

    def test_evaluation_is_deterministic_and_changes_nothing(self) -> None:
        net, x = self.make(), self.images()
        before = {key: value.clone() for key, value in net.state_dict().items()}
        assert torch.equal(net(x), net(x))
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())

    def test_neighbours_do_not_matter(self) -> None:
        net, x = self.make(), self.images(5)
        with torch.no_grad():
            parts = torch.cat([net(x[:1]), net(x[1:])])
            torch.testing.assert_close(parts, net(x), rtol=1e-4, atol=1e-5)

    def test_what_it_cannot_take_is_refused_in_one_line(self) -> None:
        least = self.network().smallest
        bad: list[tuple[Any, Any]] = [
            ((1, least, least - 1), 4),
            (self.image_shape[1:], 4),
            ((3, 32.0, 32), 4),
            (self.image_shape, 1),
        ]
        for shape, classes in bad:
            refusal(lambda s=shape, c=classes: self.network()(s, c))  # type: ignore[misc]
