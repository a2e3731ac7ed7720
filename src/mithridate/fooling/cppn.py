"""Indirect encoding: networks that draw; evolution ends in regular images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.errors import check_number
from mithridate.fooling.base import Elites, FoolingMethod, Shape, check_enough
from mithridate.fooling.map_elites import map_elites, mutated

INPUTS = 4
"""x and y, both from -1 to 1, the distance to the centre, and a 1."""
FUNCTIONS = ("sine", "sigmoid", "gaussian", "linear")
REACH = 10.0
"""Weights lie in [-REACH, REACH], as in the authors' code."""


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
        def networks(genes: Tensor) -> Genomes:
            return Genomes.of(genes, self.nodes, shape[0])

        return map_elites(
            model,
            shape,
            first_genomes(self.population, self.nodes, shape[0], rng=rng).flat(),
            render=lambda genes: render(networks(genes), shape),
            mutate=lambda parents, _: self.child(networks(parents), rng=rng).flat(),
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


class Genomes(NamedTuple):
    """N networks of up to H hidden nodes and C outputs.

    A connection leads from a node to one of a greater depth, so there are no cycles.

    Attributes:
        weights: (N, H + C, INPUTS + H), to hidden nodes and outputs, from inputs and hidden
            nodes; 0 where there is no connection.
        depth: (N, H), in (0, 1); 0 where there is no node. Inputs lie at 0, outputs at 1.
        function: (N, H + C), index in FUNCTIONS.
    """

    weights: Tensor
    depth: Tensor
    function: Tensor

    def flat(self) -> Tensor:
        """One row of numbers per network."""
        return torch.cat([self.weights.flatten(1), self.depth, self.function], 1)

    @staticmethod
    def of(rows: Tensor, hidden: int, outputs: int) -> Genomes:
        """The networks that `flat` made rows of."""
        nodes = hidden + outputs
        wires = nodes * (INPUTS + hidden)
        weights = rows[:, :wires].reshape(-1, nodes, INPUTS + hidden)
        return Genomes(weights, rows[:, wires : wires + hidden], rows[:, wires + hidden :])


def first_genomes(n: int, hidden: int, outputs: int, *, rng: torch.Generator) -> Genomes:
    """Networks without hidden nodes, every input connected to every output."""
    nodes, device = hidden + outputs, rng.device
    weights = torch.zeros((n, nodes, INPUTS + hidden), device=device)
    drawn = torch.rand((n, outputs, INPUTS), generator=rng, device=device)
    weights[:, hidden:, :INPUTS] = REACH * (2 * drawn - 1)
    function = torch.randint(len(FUNCTIONS), (n, nodes), generator=rng, device=device)
    return Genomes(weights, torch.zeros((n, hidden), device=device), function.float())


def render(genomes: Genomes, shape: Shape) -> Tensor:
    """The pictures that networks draw, all in shared products: (N, C, H, W) in [0, 1].

    A pixel is the size of the output at its place, clipped: 0 is black.

    >>> weights = torch.tensor([[[0.5, 0.0, 0.0, 0.0]]])
    >>> linear = torch.tensor([[3.0]])
    >>> render(Genomes(weights, torch.zeros(1, 0), linear), (1, 1, 3))
    tensor([[[[0.5000, 0.0000, 0.5000]]]])
    """
    n, hidden = genomes.depth.shape
    # In the order of depth each node finds what it needs ready. Empty places come first.
    order = genomes.depth.argsort(dim=1, stable=True)
    rows = torch.cat([order, hidden + order.new_tensor(range(shape[0])).expand(n, -1)], 1)
    columns = torch.cat([order.new_tensor(range(INPUTS)).expand(n, -1), INPUTS + order], 1)
    weights = genomes.weights.gather(1, rows[..., None].expand_as(genomes.weights))
    weights = weights.gather(2, columns[:, None].expand_as(weights))
    function = genomes.function.gather(1, rows)
    empty = int((genomes.depth == 0).sum(1).min()) if n and hidden else hidden
    values = weights.new_zeros((n, INPUTS + hidden, shape[1] * shape[2]))
    values[:, :INPUTS] = _places(shape).to(weights)
    for node in range(empty, hidden):
        ready = INPUTS + node
        total = torch.bmm(weights[:, node : node + 1, :ready], values[:, :ready])[:, 0]
        values[:, ready] = activate(total, function[:, node])
    total = torch.bmm(weights[:, hidden:], values)
    outputs = [activate(total[:, c], function[:, hidden + c]) for c in range(shape[0])]
    return torch.stack(outputs, 1).abs().clamp(max=1).view(n, *shape)


def _places(shape: Shape) -> Tensor:
    """The inputs (INPUTS, H * W) at every pixel."""
    axes = [torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1) for size in shape[1:]]
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, torch.hypot(x, y), torch.ones_like(x)]).flatten(1)


def activate(total: Tensor, function: Tensor) -> Tensor:
    """Each row of sums (N, P) through the function (N,) of its node."""
    total = total.clamp(-1000, 1000)  # a chain of linear nodes must not reach infinity
    out = total.clone()
    sine, sigmoid, gaussian = ((function == index).nonzero()[:, 0] for index in range(3))
    out[sine] = torch.sin(total[sine])
    out[sigmoid] = torch.sigmoid(total[sigmoid])
    out[gaussian] = torch.exp(-(total[gaussian] ** 2))
    return out


def pick(allowed: Tensor, chance: float, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """With some chance, one of the allowed columns of each row: the rows that got one, and it."""
    lots = torch.rand(allowed.shape, generator=rng, device=rng.device)
    column = lots.masked_fill(~allowed, -1.0).argmax(1)
    lucky = torch.rand(len(allowed), generator=rng, device=rng.device) < chance
    rows = (lucky & allowed.any(1)).nonzero()[:, 0]
    return rows, column[rows]


def mutate_numbers(genomes: Genomes, rate: float, eta: float, *, rng: torch.Generator) -> Genomes:
    """Weights by polynomial mutation, functions drawn anew, each with probability `rate`."""
    there = genomes.weights != 0
    moved = mutated(genomes.weights, rate, eta, low=-REACH, high=REACH, rng=rng)
    drawn = torch.rand(genomes.function.shape, generator=rng, device=rng.device) < rate
    other = torch.randint(len(FUNCTIONS), drawn.shape, generator=rng, device=rng.device).float()
    function = torch.where(drawn, other, genomes.function)
    return Genomes(moved * there, genomes.depth, function)
