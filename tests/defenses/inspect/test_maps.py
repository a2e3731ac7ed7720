"""Algorithms I and II against a slow, literal version of the paper's pseudo-code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import mithridate as mi
from mithridate.defenses.inspect.maps import CHUNK, algorithm_one, algorithm_two, probes
from mithridate.testing import linear_model, linear_weights


@pytest.fixture(scope="module")
def model() -> mi.Classifier:
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return mi.Classifier(network, classes=10)


def literal(model: mi.Classifier, x: torch.Tensor, pairs, eps: float, steps: int):
    """One image at a time, as the pseudo-code says."""
    module = model.module.eval()
    seen: dict[int, list[torch.Tensor]] = {k: [] for k in range(model.classes)}
    for source, target in pairs:
        for image in x:
            point = image[None].clone()
            for _ in range(steps):
                point.requires_grad_()
                logits = module(point)
                loss = F.cross_entropy(logits, torch.tensor([target]))
                if source is not None:
                    loss = loss - F.cross_entropy(logits, torch.tensor([source]))
                gradient = torch.autograd.grad(loss, point)[0]
                point = (point.detach() - eps * gradient.sign()).clamp(0, 1)
            seen[int(module(point).argmax())].append(point[0])
    return seen


def test_algorithm_one_is_the_pseudo_code(model: mi.Classifier) -> None:
    x = torch.rand(6, 1, 8, 8, generator=mi.rng(3))
    maps = algorithm_one(model, [x[:4], x[4:]], eps=0.1, steps=3)
    expected = literal(model, x, [(None, t) for t in range(10)], 0.1, 3)
    assert maps.count.tolist() == [len(expected[k]) for k in range(10)]
    assert float(maps.count.sum()) == 60
    for k in range(10):
        if expected[k]:
            assert torch.allclose(maps.mean[k], torch.stack(expected[k]).mean(0), atol=2e-2)
        else:
            assert maps.mean[k].isnan().all()
    assert maps.cost.gradients == 6 * 10 * 3


def test_algorithm_two_is_the_pseudo_code(model: mi.Classifier) -> None:
    x = torch.rand(5, 1, 8, 8, generator=mi.rng(4))
    pairs = [(0, 1), (7, 2)]
    maps = algorithm_two(model, [x], pairs, eps=0.2, steps=4)
    for row, (source, target) in enumerate(pairs):
        expected = literal(model, x, [(source, target)], 0.2, 4)[target]
        assert int(maps.count[row]) == len(expected)
        if expected:
            assert torch.allclose(maps.mean[row], torch.stack(expected).mean(0), atol=2e-2)


def test_closed_form_on_a_linear_model() -> None:
    model = linear_model((1, 4, 4), classes=3)
    x = torch.full((2, 1, 4, 4), 0.5)
    maps = algorithm_two(model, [x], [(0, 2)], eps=0.01, steps=5)
    weights = linear_weights(model)
    direction = (weights[2] - weights[0]).sign().reshape(1, 4, 4)
    assert torch.allclose(maps.shift[0], 0.05 * direction, atol=1e-6)


def test_untargeted_variant_by_hand() -> None:
    """Logits are the two pixels: away from the larger one means lower it and raise the other."""
    model = mi.Classifier(torch.nn.Flatten(), classes=2)
    x = torch.tensor([[[[0.6, 0.4]]], [[[0.3, 0.5]]]])
    maps = algorithm_one(model, [x], eps=0.25, steps=1, untargeted=True)
    assert maps.count.tolist() == [1, 1]
    assert torch.allclose(maps.mean[1], torch.tensor([[[0.35, 0.65]]]))
    assert torch.allclose(maps.mean[0], torch.tensor([[[0.55, 0.25]]]))


def test_probes_do_not_depend_on_how_many_are_asked_for() -> None:
    _, test = mi.load_data("digits")
    short = next(iter(probes("noise", test, 100, mi.rng(1))))
    first = next(iter(probes("noise", test, CHUNK, mi.rng(1))))
    assert torch.equal(short, first[:100])
    assert [len(c) for c in probes("noise", test, 2 * CHUNK + 1, mi.rng(1))] == [CHUNK, CHUNK, 1]
    assert sum(len(c) for c in probes("data", test, 10_000, mi.rng(1))) == len(test)
    assert float(next(iter(probes("blank", test, 9, mi.rng(1)))).sum()) == 0


def test_data_probes_come_from_the_rows_given() -> None:
    _, test = mi.load_data("digits")
    rows = torch.tensor([3, 5, 8])
    drawn = torch.cat(list(probes("data", test, 10, mi.rng(1), rows)))
    expected = test.batch(rows)[0]
    assert {tuple(i.flatten().tolist()) for i in drawn} == {
        tuple(i.flatten().tolist()) for i in expected
    }
