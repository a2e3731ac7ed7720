"""Gradient ascent against its closed form on a linear model."""

from __future__ import annotations

import torch

import mithridate as mi
from mithridate.fooling import GradientAscent
from mithridate.testing.models import linear_model, linear_weights


def test_one_step_is_the_formula() -> None:
    """From mid-grey every class is equally likely: the gradient is w_k minus the mean of all."""
    model = linear_model((1, 4, 4), classes=3)
    method = GradientAscent(start="mean", steps=1, step_size=0.1, decay=0.5, confidence=None)
    *_, last = method.search(model, (1, 4, 4), rng=mi.rng(0))
    weights = linear_weights(model)
    up = weights - weights.mean(0)
    expected = 0.5 + 0.1 * up / up.norm(dim=1, keepdim=True)
    assert torch.allclose(last.images.flatten(1), expected, atol=1e-6)


def test_decay_pulls_to_the_mean() -> None:
    """With a step of nothing, noise shrinks to the mean by 1 - decay each step."""
    model = linear_model((1, 4, 4), classes=2)
    settings = {"steps": 3, "step_size": 1e-9, "mean": 0.25, "confidence": None}
    rounds = list(GradientAscent(decay=0.5, **settings).search(model, (1, 4, 4), rng=mi.rng(0)))
    first = rounds[0].images
    path = [0.25 + (first - 0.25) * 0.5**k for k in range(4)]
    scores = torch.stack([model.scores(x).diagonal() for x in path])
    best = torch.stack([path[int(k)][i] for i, k in enumerate(scores.argmax(0))])
    assert torch.allclose(rounds[-1].images, best, atol=1e-6)
    assert torch.allclose(rounds[-1].confidence, scores.max(0).values, atol=1e-6)
