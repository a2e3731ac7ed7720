"""Polynomial mutation against its distribution, and the schedule of its rate."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

import mithridate as mi
from mithridate.fooling import Direct
from mithridate.fooling.map_elites import mutated


@pytest.mark.parametrize(
    ("generation", "rate"), [(0, 0.1), (999, 0.1), (1000, 0.05), (2999, 0.025), (5000, 0.003125)]
)
def test_the_rate_halves_every_thousand_generations(generation, rate) -> None:
    assert Direct().rate_at(generation) == pytest.approx(rate)


def test_the_share_of_changed_pixels_is_the_rate() -> None:
    genes = torch.full((100, 1, 20, 20), 0.5)
    changed = int((mutated(genes, 0.1, 15.0, rng=mi.rng(1)) != genes).sum())
    assert stats.binomtest(changed, genes.numel(), 0.1).pvalue > 1e-3


@pytest.mark.parametrize("eta", [3.0, 15.0])
def test_steps_follow_the_polynomial_distribution(eta) -> None:
    """The size of a step is Beta(1, eta + 1); its sign is fair."""
    genes = torch.full((20_000,), 0.0)
    steps = mutated(genes, 1.0, eta, low=-0.5, high=0.5, rng=mi.rng(2)).double()
    inside = steps[steps.abs() < 0.5].abs()
    law = stats.beta(1, eta + 1)
    assert stats.kstest(inside.numpy(), lambda t: law.cdf(t) / law.cdf(0.5)).pvalue > 1e-3
    assert stats.binomtest(int((steps > 0).sum()), len(steps), 0.5).pvalue > 1e-3


def test_mutation_stays_in_bounds_and_leaves_the_parents() -> None:
    genes = torch.rand((50, 3, 4, 4), generator=mi.rng(3))
    before = genes.clone()
    child = mutated(genes, 0.5, 1.0, rng=mi.rng(4))
    assert (child.min(), child.max()) >= (0, 0)
    assert child.max() <= 1
    assert torch.equal(genes, before)
