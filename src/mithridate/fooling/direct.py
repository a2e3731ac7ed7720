"""Direct encoding: every pixel is a gene; evolution ends in images like noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.errors import check_number
from mithridate.fooling.base import Elites, FoolingMethod, Shape, check_enough
from mithridate.fooling.map_elites import map_elites, mutated


@dataclass(frozen=True, kw_only=True)
class Direct(FoolingMethod):
    """Evolves pixels by MAP-Elites (Nguyen et al. 2015, section 2, direct encoding).

    The first population is uniform noise. In a child every pixel mutates with a probability
    that starts at `rate` and halves every `halve_every` generations, by polynomial mutation.

    Deviation: the search stops once every class has `confidence`.

    Args:
        population: children per generation, asked about in one pass (authors' code: 200).
        generations: after the first population.
        rate: share of the pixels that mutate, in (0, 1].
        halve_every: generations.
        eta: of the mutation; larger means smaller steps (paper: 15).
        confidence: to stop at, in (0, 1]; None to make every generation.

    Raises:
        InputError: a value out of range; pyribs is not installed.

    >>> Direct(rate=0.1).rate_at(999), Direct(rate=0.1).rate_at(1000)
    (0.1, 0.05)
    """

    about: ClassVar[About] = About(
        paper="Nguyen et al. 2015, section 2",
        access=("score",),
        atlas=("AML.T0015", "AML.T0043.001"),
        nist=("025",),
    )

    population: int = 200
    generations: int = 2000
    rate: float = 0.1
    halve_every: int = 1000
    eta: float = 15.0
    confidence: float | None = 0.999

    def __post_init__(self) -> None:
        check_number("population", self.population, low=1)
        check_number("generations", self.generations, low=0)
        check_number("rate", self.rate, low=0, high=1, open_low=True)
        check_number("halve_every", self.halve_every, low=1)
        check_number("eta", self.eta, low=0)
        check_enough(self.confidence)

    @property
    def rounds(self) -> int:
        return self.generations + 1

    def rate_at(self, generation: int) -> float:
        """The share of pixels that mutate in a generation, counted from 0."""
        return float(self.rate * 0.5 ** (generation // self.halve_every))

    def search(self, model: Classifier, shape: Shape, *, rng: torch.Generator) -> Iterator[Elites]:
        return map_elites(
            model,
            shape,
            torch.rand((self.population, *shape), generator=rng, device=rng.device),
            render=lambda genes: genes,
            mutate=lambda parents, k: mutated(parents, self.rate_at(k), self.eta, rng=rng),
            generations=self.generations,
            confidence=self.confidence,
            rng=rng,
        )
