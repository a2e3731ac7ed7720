import math

import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.run import run_attack
from mithridate.attacks.square import Square, _bump, _paint, bumps, share
from mithridate.classifier import Classifier
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L2, LINF
from mithridate.rng import by_row
from mithridate.testing.models import linear_model


def images(n=16, shape=(1, 4, 4), seed=1):
    return 0.5 + 0.1 * (torch.rand((n, *shape), generator=random.rng(seed)) - 0.5)


def draws(n, seed=0):
    return by_row(random.rng(seed), n)


def test_schedule_of_the_authors():
    marks = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    assert [share(0.8, m, 10_000) for m in marks] == [0.8 / 2**i for i in range(9)]
    assert [share(0.8, m + 1, 10_000) for m in marks] == [0.8 / 2 ** (i + 1) for i in range(9)]
    assert share(0.8, 100, 1000) == share(0.8, 1000, 10_000)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 10])
def test_bumps_by_hand(side):
    """The paper's formula summed term by term."""

    def pyramid(height, width, r, s):
        far = max(abs(r - height // 2), abs(s - width // 2))
        return sum(1 / (k + 1) ** 2 for k in range(far, max(height, width) // 2 + 1))

    half = side // 2
    both = torch.tensor(
        [
            [pyramid(half, side, r, s) if r < half else -pyramid(side - half, side, r - half, s)
             for s in range(side)]
            for r in range(side)
        ]
    )  # fmt: skip
    torch.testing.assert_close(bumps(side), both / both.norm())


def test_a_painted_square_by_hand():
    """Its pixels sit at x +- eps, clipped; the others stay; its side follows the share."""
    x = images(64, (3, 8, 8))
    tried = _paint(x, x, 0.1, 0.25, draws(64))
    moved = (tried - x).abs()
    assert bool(((moved == 0) | ((moved - 0.1).abs() < 1e-6)).all())
    assert (moved > 0).flatten(1).sum(1).tolist() == [3 * 4 * 4] * 64
    rows, columns = (moved > 0).any(1).any(2), (moved > 0).any(1).any(1)
    for side in (rows, columns):  # contiguous, of length 4, and everywhere
        places = side.float().argmax(1)
        assert all(bool(s[p : p + 4].all()) for s, p in zip(side, places.tolist(), strict=True))
        assert set(places.tolist()) == set(range(5))


def test_a_square_always_changes_something():
    """On black, eps down is no change: eps up comes in its place."""
    x = torch.zeros(32, 1, 8, 8)
    tried = _paint(x, x, 0.2, 0.1, draws(32))
    assert (tried - x).flatten(1).sum(1).tolist() == pytest.approx([0.2 * 9] * 32)


def test_a_bump_keeps_the_whole_budget():
    """Algorithm 3: the norm is eps again, save for clipping."""
    x = torch.full((32, 3, 9, 9), 0.5)
    numbers, best = draws(32), x
    for _ in range(5):
        best = _bump(best, x, 0.4, 0.2, numbers)
        torch.testing.assert_close(L2.distance(best, x), torch.full((32,), 0.4))


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
@pytest.mark.parametrize(("norm", "dual"), [(LINF, 1), (L2, 2)])
def test_nears_the_optimum_on_a_linear_model(norm, dual, shape, n):
    """With no end to reach, the margin falls most of its way; in L2 no window is below 3 x 3."""
    model, x, eps = linear_model(shape), images(n, shape), 0.05
    weights = model.module.get_submodule("1").weight.detach()
    goal = Untargeted(model.labels(x))
    far = _Shifted(model, 100.0)
    found = Square(eps=eps, norm=norm, queries=200).perturb(far, x, goal, rng=random.rng(0))
    fall = goal.margin(model.logits(x)) - goal.margin(model.logits(found))
    best = eps * (weights[0] - weights[1]).norm(dual)
    assert bool((fall > (0.65 if norm is LINF else 0.4) * best).all())
    assert bool((fall <= best * 1.001).all())


class _Shifted:
    """Scores of a model that never changes its mind."""

    def __init__(self, model, by):
        self.model, self.by, self.cost, self.frozen = model, by, model.cost, model.frozen

    def log_scores(self, x):
        z = self.model.logits(x).detach() / self.by
        self.labels_ = getattr(self, "labels_", z.argmax(1))
        return (z + torch.nn.functional.one_hot(self.labels_, 2)).log_softmax(1)


def test_one_query_for_each_row_and_iteration():
    model, x = linear_model(), images()
    labels = model.labels(x)
    r = run_attack(Square(eps=1e-6, queries=37), model, x, Untargeted(labels), rng=random.rng(0))
    assert not bool(r.success.all())
    assert r.row_queries[~r.success].unique().tolist() == [37]
    assert r.gradients == 0
    easy = run_attack(Square(eps=0.2, queries=37), model, x, Untargeted(labels), rng=random.rng(0))
    assert bool(easy.success.all())
    assert int(easy.row_queries.max()) < 37
    assert int(easy.row_queries.sum()) == easy.queries


def test_targets():
    model, x = linear_model(classes=4), images()
    labels = model.labels(x)
    target = (labels + 1) % 4
    for goal in (Targeted(target), SourceToTarget(labels, target)):
        r = run_attack(Square(eps=0.4, queries=200), model, x, goal, rng=random.rng(0))
        assert bool(r.success.all())


def test_sure_models_and_odd_shapes():
    """Probabilities that round to 0 or 1, and images that are not square."""
    model = Classifier(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 3 * 7, 3)), classes=3
    )
    with torch.no_grad():
        model.module[1].weight.copy_(1000 * torch.randn((3, 42), generator=random.rng(0)))
    x = images(8, (2, 3, 7))
    for norm, eps in ((LINF, 0.3), (L2, 2.0)):
        attack = Square(eps=eps, norm=norm, queries=100)
        r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
        assert r.status == "done"
        assert math.isfinite(float(r.l2.sum()))
        assert bool(r.success.any())


def test_smallest_images():
    model, x = linear_model((1, 1, 1)), torch.full((4, 1, 1, 1), 0.6)
    for norm in (L2, LINF):
        attack = Square(eps=0.3, norm=norm, queries=20)
        r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
        assert (r.status, bool(r.success.all())) == ("done", True)
