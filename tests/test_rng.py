import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, kstest

from mithridate import rng as random
from mithridate.errors import InputError


def test_children_depend_on_seed_and_names_only():
    parent = random.rng(5)
    before = torch.rand(3, generator=random.child(parent, "a"))
    torch.rand(100, generator=parent)
    assert torch.equal(torch.rand(3, generator=random.child(parent, "a")), before)
    seeds = {
        random.child(random.rng(s), *n).initial_seed()
        for s in (5, 6)
        for n in (("a",), ("b",), ("a", 1), ("a", 2))
    }
    assert len(seeds) == 8


def test_child_is_the_same_everywhere():
    """Written down, so that a change of the derivation is noticed."""
    assert random.child(random.rng(0), "attack", 0).initial_seed() == 522859104566055269


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "1", None])
def test_bad_seeds(seed):
    with pytest.raises(InputError, match="a seed is an integer"):
        random.rng(seed)


def test_numbers_of_a_row_are_those_of_splitmix64():
    """Against the generator as published, in Python's whole numbers."""

    def published(state, k):
        wrap, out = 2**64 - 1, []
        for _ in range(k):
            state = (state + 0x9E3779B97F4A7C15) & wrap
            z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & wrap
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
            out.append(((z ^ (z >> 31)) >> 40) / 2**24)
        return out

    seeds = [1, 2**61 + 12345, -7]
    ours = random.Draws(torch.tensor(seeds))
    both = torch.cat([ours.uniform(3), ours.uniform(2)], 1)
    assert both.tolist() == [published(seed % 2**64, 5) for seed in seeds]


def test_numbers_are_uniform_and_normal():
    for rows, k in ((1, 50_000), (50_000, 1), (500, 100)):
        u = random.by_row(random.rng(1), rows).uniform(k).flatten().double().numpy()
        assert 0 <= u.min() <= u.max() < 1
        assert kstest(u, "uniform").pvalue > 0.01
        z = random.by_row(random.rng(2), rows).normal(k).flatten().double().numpy()
        assert np.isfinite(z).all()
        assert kstest(z, "norm").pvalue > 0.01


def test_normal_numbers_are_finite_at_both_ends():
    class Ends(random.Draws):
        def uniform(self, k):
            return torch.tensor([[0.0, 0.5, 1 - 2**-24]])

    low, middle, high = Ends(torch.zeros(1)).normal(3)[0].tolist()
    assert low == -high == pytest.approx(-5.42, abs=0.05)
    assert abs(middle) < 1e-6


def test_neighbouring_rows_seeds_and_calls_are_independent():
    """Of a thousand pairs of neighbours, no more are correlated than chance makes."""

    def numbers(seed, start):
        stream = random.child(random.rng(seed), rows=torch.arange(start, start + 1000))
        return [random.by_row(stream, 1000).uniform(400).double() for _ in range(2)]

    (first, second), (other, _) = numbers(0, 0), numbers(1, 0)
    later = numbers(0, 1)[0]
    for a, b in ((first[:-1], first[1:]), (first, second), (first, other)):
        a, b = (2 * v - 1 for v in (a, b))
        z = 3 * (a * b).sum(1) / np.sqrt(a.shape[1])  # each about standard normal
        assert kstest(z.numpy(), "norm").pvalue > 0.01
    assert torch.equal(first[1:], later[:-1])  # rows 1 to 999 of both
    cells = np.histogram2d(first[0], first[1], bins=4)[0]
    assert chi2_contingency(cells).pvalue > 0.01


def test_a_rows_numbers_depend_on_its_own_number():
    whole = random.child(random.rng(0), "a", rows=torch.arange(100, 120))
    some = random.child(random.rng(0), "a", rows=torch.tensor([117, 103]))
    first, second = (random.by_row(whole, 20).uniform(5) for _ in range(2))
    assert not torch.equal(first, second)
    for expected in (first, second):
        assert torch.equal(random.by_row(some, 2).uniform(5), expected[[17, 3]])


def test_a_childs_rows_are_counted_among_its_parents():
    whole = random.child(random.rng(0), rows=torch.arange(100, 120))
    nested = random.child(whole, "b", rows=torch.tensor([3, 7]))
    flat = random.child(random.child(random.rng(0)), "b", rows=torch.tensor([103, 107]))
    assert torch.equal(random.by_row(nested, 2).uniform(4), random.by_row(flat, 2).uniform(4))
    assert type(random.child(whole, "c")) is torch.Generator


def test_rows_that_left_change_nothing():
    draws, all_along = (random.by_row(random.rng(3), 6) for _ in range(2))
    draws.uniform(4), all_along.uniform(4)
    draws.keep(torch.tensor([1, 4]))
    assert torch.equal(draws.uniform(7), all_along.uniform(7)[[1, 4]])


def test_a_plain_generator_gives_others_at_each_call():
    generator = random.rng(0)
    first, second = (random.by_row(generator, 3).uniform(4) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, random.by_row(random.rng(0), 3).uniform(4))


@pytest.mark.parametrize(("n", "k"), [(0, 3), (3, 0), (0, 0), (2, 40_000)])
def test_shapes_of_draws(n, k):
    assert random.by_row(random.rng(0), n).uniform(k).shape == (n, k)
    assert random.by_row(random.rng(0), n).normal(k).shape == (n, k)
