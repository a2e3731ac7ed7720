"""Blacklight against its definition, and in the way of attacks."""

import hashlib
from contextlib import nullcontext

import pytest
import torch

from mithridate import networks
from mithridate.attacks import HopSkipJump, Square, run_attack
from mithridate.classifier import Classifier
from mithridate.data import load_data
from mithridate.defenses.guard import PIHA, Blacklight, QueryGuard
from mithridate.errors import InputError, QueriesRefused
from mithridate.goals import Untargeted
from mithridate.norms import L2, LINF
from mithridate.rng import rng
from mithridate.testing import linear_model
from mithridate.testing.checks import refusal
from mithridate.training import fit

X = torch.rand((40, 3, 8, 8), generator=rng(0))


def overlap(one, two, guard):
    """The share of windows alike, counted by another hash, of what fingerprints estimate."""
    sets = []
    for image in (one, two):
        flat = [round(float(value) * 255 / guard.quantize) for value in image.flatten()]
        windows = zip(*(flat[i:] for i in range(guard.window)), strict=False)
        sets.append({hashlib.sha256(repr(window).encode()).digest() for window in windows})
    return len(sets[0] & sets[1]) / len(sets[0])


def test_fingerprints_share_what_windows_share():
    guard = Blacklight(keep=1000)
    changed = X[0].clone()
    changed[1] = X[1, 1]
    one, two = guard.fingerprints(torch.stack([X[0], changed]))
    assert len(one) == 192 - 19
    assert len({*one} & {*two}) / len(one) == pytest.approx(overlap(X[0], changed, guard), abs=1e-9)
    few = Blacklight(keep=10).fingerprints(X[:1])[0]
    assert few == one[-10:]
    assert Blacklight(keep=1000, seed=1).fingerprints(X[:1])[0] != one


@pytest.mark.parametrize(("noise", "refused"), [(0.0, True), (0.001, True), (0.3, False)])
def test_a_query_is_refused_where_it_is_near_another(noise, refused):
    watch = Blacklight().watcher()
    watch(X)
    near = (X[:1] + noise * torch.randn((1, 3, 8, 8), generator=rng(1))).clamp(0, 1)
    with pytest.raises(QueriesRefused) if refused else nullcontext():
        watch(near)


def test_a_refusal_costs_an_attack_one_row_and_not_those_after_it():
    model = linear_model((3, 8, 8), classes=4)
    oracle = Blacklight().wrap(model)
    goal = Untargeted(model.labels(X[:6]))
    goal.labels[3:] = (goal.labels[3:] + 1) % 4  # reached at once, by one query each
    attack = HopSkipJump(budget=200, on_refusal="stop")
    r = run_attack(attack, oracle, X[:6], goal, rng=rng(0))
    assert r.status == f"stopped: refused after {r.queries - 3} queries"
    assert r.success.tolist() == [False] * 3 + [True] * 3
    assert r.queries < 600


def test_an_attack_that_adapts_to_refusals_gets_further():
    model, x = linear_model((3, 8, 8), classes=4), X[:12]
    oracle, goal, fooled = Blacklight(), Untargeted(model.labels(X[:12])), {}
    for way in ("stop", "adapt"):
        attack = Square(eps=0.1, queries=150, on_refusal=way)
        r = run_attack(attack, oracle.wrap(model), x, goal, rng=rng(0))
        assert torch.equal(r.success, goal.reached(model.labels(r.adversarials)))
        fooled[way] = int(r.success.sum())
    assert fooled["adapt"] >= fooled["stop"] + 4


@pytest.mark.parametrize("guard", [Blacklight(), PIHA(block=1)])
@pytest.mark.parametrize(("norm", "eps"), [(LINF, 0.3), (L2, 1.2)])
def test_square_goes_on_behind_a_guard_as_without_one(guard, norm, eps):
    """Who knows it fools, within a fifth, as many; redrawn columns fooled one in five."""
    train, test = load_data("digits")
    net = networks.create("digits-cnn", image_shape=train.image_shape, classes=10)
    model = fit(net, train, epochs=5, rng=rng(0))
    x, y = test.batch(range(0, 360, 18))
    attack, left = Square(eps=eps, norm=norm, queries=150), []
    for oracle in (model, guard.wrap(model)):
        r = run_attack(attack, oracle, x, Untargeted(y), rng=rng(0))
        left.append(len(x) - int(r.success.sum()))
    assert left[0] <= 5
    assert left[1] <= left[0] + 4


def test_whom_a_budget_refuses_for_good_gives_up():
    model = linear_model((3, 8, 8), classes=4)
    goal = Untargeted(model.labels(X[:2]))
    oracle = QueryGuard(budget=20).wrap(model)
    r = run_attack(Square(eps=0.001, queries=500), oracle, X[:2], goal, rng=rng(0))
    assert (r.status, r.queries - r.refused) == ("stopped: refused after 20 queries", 20)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Blacklight(quantize=0), "quantize must be at least 1"),
        (lambda: Blacklight(threshold=1), "threshold must be below 1"),
        (lambda: Blacklight(window=50).watcher()(X[:, :1, :4]), "32 values have no window of 50"),
    ],
)
def test_what_is_refused(call, text):
    with pytest.raises(InputError, match=text):
        call()
    refusal(call)


def test_no_image_is_no_query():
    oracle = Blacklight().wrap(Classifier(torch.nn.Flatten(), classes=192))
    assert len(oracle.labels(X[:0])) == 0
