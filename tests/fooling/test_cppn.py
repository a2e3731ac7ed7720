"""Drawing networks against a node-by-node evaluation; mutation keeps them sound."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import mithridate as mi
from mithridate.fooling import CPPN
from mithridate.fooling.cppn import INPUTS, REACH, Genomes, ends, first_genomes, free, pick, render

STILL = {"add_node": 0.0, "remove_node": 0.0, "connect": 0.0, "disconnect": 0.0, "rate": 0.0}
SINE, SIGMOID, GAUSSIAN, LINEAR = range(4)
APPLY = [
    math.sin,
    lambda v: 1 / (1 + math.exp(-v)),
    lambda v: math.exp(-v * v),
    lambda v: v,
]


def pixel(genomes: Genomes, n: int, x: float, y: float, channel: int) -> float:
    """A pixel by recursion, in double precision: no order, no batches."""
    weights, functions = genomes.weights[n].tolist(), genomes.function[n].int().tolist()
    inputs, hidden = [x, y, math.hypot(x, y), 1.0], genomes.depth.shape[1]

    def node(target: int) -> float:
        sources = (
            w * (inputs[s] if s < INPUTS else node(s - INPUTS))
            for s, w in enumerate(weights[target])
            if w != 0
        )
        return APPLY[functions[target]](max(-1000.0, min(1000.0, sum(sources))))

    return min(1.0, abs(node(hidden + channel)))


def evolved(n: int, nodes: int, outputs: int, times: int) -> Genomes:
    method, rng = CPPN(nodes=nodes), mi.rng(5)
    genomes = first_genomes(n, nodes, outputs, rng=rng)
    for _ in range(times):
        genomes = method.child(genomes, rng=rng)
    return genomes


def test_a_network_worked_by_hand() -> None:
    """gaussian(2 * sine(0.5 x + 0.25) - linear(y)); the deeper node has the lower index."""
    weights = torch.zeros(1, 3, INPUTS + 2)
    weights[0, 1, 0], weights[0, 1, 3] = 0.5, 0.25  # place 1, depth 0.25: the sine
    weights[0, 0, 5], weights[0, 0, 1] = 2.0, -1.0  # place 0, depth 0.5, reads place 1
    weights[0, 2, 4] = 1.0
    depth = torch.tensor([[0.5, 0.25]])
    function = torch.tensor([[float(LINEAR), SINE, GAUSSIAN]])
    drawn = render(Genomes(weights, depth, function), (1, 2, 3))[0, 0]
    for row, y in enumerate((-1.0, 1.0)):
        for column, x in enumerate((-1.0, 0.0, 1.0)):
            expected = math.exp(-((2 * math.sin(0.5 * x + 0.25) - y) ** 2))
            assert float(drawn[row, column]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("outputs", [1, 3])
def test_batches_draw_what_single_nodes_compute(outputs) -> None:
    genomes = evolved(12, 6, outputs, 25)
    # Weights of 10 blow up single-precision rounding in sines of sines; smaller ones do not.
    genomes = genomes._replace(weights=genomes.weights / 5)
    drawn = render(genomes, (outputs, 3, 4))
    assert int((genomes.depth > 0).sum()) > 24
    for n in range(12):
        for channel in range(outputs):
            for i, y in enumerate((-1.0, 0.0, 1.0)):
                for j, x in enumerate((-1.0, -1 / 3, 1 / 3, 1.0)):
                    got = float(drawn[n, channel, i, j])
                    assert got == pytest.approx(pixel(genomes, n, x, y, channel), abs=1e-3)


def test_a_row_and_back() -> None:
    genomes = evolved(3, 4, 2, 6)
    again = Genomes.of(genomes.flat(), 4, 2)
    assert all(torch.equal(a, b) for a, b in zip(genomes, again, strict=True))


@pytest.mark.parametrize(("nodes", "outputs"), [(0, 1), (1, 1), (7, 3)])
def test_mutation_keeps_networks_sound(nodes, outputs) -> None:
    """No cycles, nothing at empty places, weights within reach, places of [0, 1]."""
    genomes = evolved(40, nodes, outputs, 30)
    sources, targets = ends(genomes.depth, nodes + outputs)
    wired = genomes.weights != 0
    assert not (wired & (sources[:, None] >= targets[:, :, None])).any()
    empty = torch.cat([torch.zeros(40, INPUTS, dtype=torch.bool), genomes.depth == 0], 1)
    assert not (wired & empty[:, None]).any()
    assert genomes.weights.abs().max() <= REACH
    assert set(genomes.function.unique().tolist()) <= {0, 1, 2, 3}
    drawn = render(genomes, (outputs, 5, 4))
    assert drawn.isfinite().all()
    assert (float(drawn.min()) >= 0, float(drawn.max()) <= 1) == (True, True)


def test_a_child_without_mutations_is_its_parent() -> None:
    parents = evolved(5, 4, 1, 10)
    child = CPPN(nodes=4, **STILL).child(parents, rng=mi.rng(0))
    assert all(torch.equal(a, b) for a, b in zip(parents, child, strict=True))


def test_a_new_node_splits_a_connection() -> None:
    parents = first_genomes(50, 3, 1, rng=mi.rng(0))
    child = CPPN(nodes=3, **STILL | {"add_node": 1.0}).child(parents, rng=mi.rng(1))
    assert child.depth.tolist() == [[0.5, 0, 0]] * 50
    for n in range(50):
        source = int((child.weights[n, 0] != 0).nonzero())
        assert child.weights[n, 0, source] == 1
        assert child.weights[n, 3, INPUTS] == parents.weights[n, 3, source]
        assert child.weights[n, 3, source] == 0
    assert int((child.weights != 0).sum()) == 50 * 5


def test_disconnect_takes_one_and_connect_gives_one_back() -> None:
    parents = first_genomes(30, 2, 1, rng=mi.rng(0))
    assert not free(parents).any()
    less = CPPN(nodes=2, **STILL | {"disconnect": 1.0}).child(parents, rng=mi.rng(1))
    assert (less.weights != 0).sum((1, 2)).tolist() == [3] * 30
    more = CPPN(nodes=2, **STILL | {"connect": 1.0}).child(less, rng=mi.rng(2))
    assert torch.equal(more.weights != 0, parents.weights != 0)


def test_removing_a_node_removes_its_connections() -> None:
    parents = CPPN(nodes=1, **STILL | {"add_node": 1.0}).child(
        first_genomes(20, 1, 1, rng=mi.rng(0)), rng=mi.rng(1)
    )
    child = CPPN(nodes=1, **STILL | {"remove_node": 1.0}).child(parents, rng=mi.rng(2))
    assert not child.depth.any()
    assert (child.weights != 0).sum((1, 2)).tolist() == [3] * 20


def test_rates_are_kept() -> None:
    parents = first_genomes(4000, 1, 1, rng=mi.rng(0))
    child = CPPN(nodes=1, **STILL | {"add_node": 0.5}).child(parents, rng=mi.rng(1))
    grown = int((child.depth > 0).sum())
    assert stats.binomtest(grown, 4000, 0.5).pvalue > 1e-3
    child = CPPN(nodes=1, **STILL | {"rate": 0.1}).child(parents, rng=mi.rng(2))
    moved = int((child.weights != parents.weights).sum())
    assert stats.binomtest(moved, 4000 * 4, 0.1).pvalue > 1e-3
    other = int((child.function != parents.function).sum())
    assert stats.binomtest(other, 4000 * 2, 0.1 * 3 / 4).pvalue > 1e-3


def test_pick_is_fair_among_the_allowed() -> None:
    allowed = torch.tensor([[True, False, True, True]]).expand(3000, -1)
    rows, columns = pick(allowed, 1.0, rng=mi.rng(0))
    counts = torch.bincount(columns, minlength=4).tolist()
    assert len(rows) == 3000
    assert counts[1] == 0
    assert stats.chisquare([counts[i] for i in (0, 2, 3)]).pvalue > 1e-3
