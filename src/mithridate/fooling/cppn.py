"""Indirect encoding: networks that draw; evolution ends in regular images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.errors import check_number
from mithridate.fooling.base import Elites, FoolingMethod, Shape, check_enough
from mithridate.fooling.genome import (
    INPUTS,
    REACH,
    Genomes,
    first_genomes,
    mutate_numbers,
    pick,
    render,
)
from mithridate.fooling.map_elites import map_elites


@dataclass(frozen=True, kw_only=True)
class CPPN(FoolingMethod):
    """Evolves networks that draw the image (Nguyen et al. 2015, section 2, indirect encoding).

    A network maps a pixel's x, y, distance to the centre, and 1 to its value; nodes are sines,
    sigmoids, Gaussians or linear. It starts without hidden nodes. A child may lose and gain a
    connection and a node, and each of its numbers may mutate. All children of a generation are
    drawn in shared matrix products.

    Deviations: no crossover and no moved connections; at most `nodes` hidden nodes; a colour
    image has one output per channel (paper: hue, saturation, value); the search stops once every
    class has `confidence`.

    Args:
        population: children per generation, asked about in one pass (authors' code: 200).
        generations: after the first population.
        nodes: most hidden nodes of a network.
        add_node, remove_node, connect, disconnect: chances of a child (authors' code: 0.5, 0.2,
            0.5, 0.3).
        rate: chance of each weight and function to mutate (authors' code: 0.1).
        eta: of the weights' polynomial mutation (paper: 15).
        confidence: to stop at, in (0, 1]; None to make every generation.

    Raises:
        InputError: a value out of range; pyribs is not installed.

    >>> CPPN(generations=5).rounds
    6
    """

    about: ClassVar[About] = About(
        paper="Nguyen et al. 2015, section 2",
        access=("score",),
        atlas=("AML.T0015", "AML.T0043.001"),
        nist=("025",),
    )

    population: int = 200
    generations: int = 1000
    nodes: int = 16
    add_node: float = 0.5
    remove_node: float = 0.2
    connect: float = 0.5
    disconnect: float = 0.3
    rate: float = 0.1
    eta: float = 15.0
    confidence: float | None = 0.999

    def __post_init__(self) -> None:
        check_number("population", self.population, low=1)
        check_number("generations", self.generations, low=0)
        check_number("nodes", self.nodes, low=0)
        for name in ("add_node", "remove_node", "connect", "disconnect", "rate"):
            check_number(name, getattr(self, name), low=0, high=1)
        check_number("eta", self.eta, low=0)
        check_enough(self.confidence)

    @property
    def rounds(self) -> int:
        return self.generations + 1

    def search(self, model: Classifier, shape: Shape, *, rng: torch.Generator) -> Iterator[Elites]:
        def drawn(genes: Tensor) -> Tensor:
            return render(Genomes.of(genes, self.nodes, shape[0]), shape)

        def mutate(parents: Tensor, generation: int) -> Tensor:
            return self.child(Genomes.of(parents, self.nodes, shape[0]), rng=rng).flat()

        return map_elites(
            model,
            shape,
            first_genomes(self.population, self.nodes, shape[0], rng=rng).flat(),
            render=drawn,
            mutate=mutate,
            generations=self.generations,
            confidence=self.confidence,
            rng=rng,
        )

    def child(self, parents: Genomes, *, rng: torch.Generator) -> Genomes:
        """One child of each parent: less first, so that what is new stays; then other numbers."""
        weights, depth, function = (part.clone() for part in parents)
        children = Genomes(weights, depth, function)
        if self.nodes:
            rows, node = pick(depth > 0, self.remove_node, rng=rng)
            depth[rows, node] = 0
            weights[rows, node] = 0
            weights[rows, :, INPUTS + node] = 0
        rows, wire = pick((weights != 0).flatten(1), self.disconnect, rng=rng)
        weights.flatten(1)[rows, wire] = 0
        if self.nodes:
            self._split(children, rng)
        rows, wire = pick((free(children)).flatten(1), self.connect, rng=rng)
        value = torch.rand(len(rows), generator=rng, device=rng.device)
        weights.flatten(1)[rows, wire] = REACH * (2 * value - 1)
        return mutate_numbers(children, self.rate, self.eta, rng=rng)

    def _split(self, children: Genomes, rng: torch.Generator) -> None:
        """A new node in the middle of a connection: 1 leads to it, the old weight away (NEAT)."""
        weights, depth, function = children
        room = (depth == 0).any(1, keepdim=True)
        rows, wire = pick((weights != 0).flatten(1) & room, self.add_node, rng=rng)
        target, source = wire // weights.shape[2], wire % weights.shape[2]
        node = (depth[rows] == 0).int().argmax(1)
        sources, targets = ends(depth, weights.shape[1])
        middle = (sources[rows, source] + targets[rows, target]) / 2
        depth[rows, node] = middle
        weights[rows, target, INPUTS + node] = weights[rows, target, source]
        weights[rows, node, source] = 1.0
        weights[rows, target, source] = 0
        drawn = torch.randint(4, (len(rows),), generator=rng, device=rng.device)
        function[rows, node] = drawn.float()


def ends(depth: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Depths of what a connection may come from (N, INPUTS + H) and lead to (N, H + C)."""
    inputs = depth.new_zeros((len(depth), INPUTS))
    outputs = depth.new_ones((len(depth), nodes - depth.shape[1]))
    return torch.cat([inputs, depth], 1), torch.cat([depth, outputs], 1)


def free(genomes: Genomes) -> Tensor:
    """Where a connection may be added: bool, the shape of the weights."""
    sources, targets = ends(genomes.depth, genomes.weights.shape[1])
    there = torch.cat([sources.new_ones((len(sources), INPUTS)), genomes.depth], 1) > 0
    forward = sources[:, None] < targets[:, :, None]
    # An empty place has depth 0: nothing lies below it, so nothing leads to it.
    return forward & there[:, None] & (genomes.weights == 0)
