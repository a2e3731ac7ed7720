"""Compositional pattern-producing networks as rows of numbers: drawn and mutated in batches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mithridate.fooling.base import Shape
from mithridate.fooling.direct import mutated

INPUTS = 4
"""x and y, both from -1 to 1, the distance to the centre, and a 1."""
FUNCTIONS = ("sine", "sigmoid", "gaussian", "linear")
REACH = 10.0
"""Weights lie in [-REACH, REACH], as in the authors' code."""


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
    """Networks without hidden nodes, every input connected to every output.

    >>> from mithridate.rng import rng
    >>> first_genomes(2, 3, 1, rng=rng(0)).weights.count_nonzero().item()
    8
    """
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
    """Each row of sums (N, P) through the function (N,) of its node.

    >>> activate(torch.zeros(4, 1), torch.arange(4.0))[:, 0]
    tensor([0.0000, 0.5000, 1.0000, 0.0000])
    """
    total = total.clamp(-1000, 1000)  # a chain of linear nodes must not reach infinity
    out = total.clone()
    sine, sigmoid, gaussian = ((function == index).nonzero()[:, 0] for index in range(3))
    out[sine] = torch.sin(total[sine])
    out[sigmoid] = torch.sigmoid(total[sigmoid])
    out[gaussian] = torch.exp(-(total[gaussian] ** 2))
    return out


def pick(allowed: Tensor, chance: float, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """With some chance, one of the allowed columns of each row.

    Returns:
        Rows that got one, and their columns.

    >>> from mithridate.rng import rng
    >>> pick(torch.tensor([[False, True], [False, False]]), 1.0, rng=rng(0))
    (tensor([0]), tensor([1]))
    """
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
