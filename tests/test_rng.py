import pytest
import torch

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
