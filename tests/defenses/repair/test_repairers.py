"""Each repair against its equations, and on the digits: the backdoor goes, the accuracy stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.repair import drawn, fresh_trigger
from mithridate.defenses.repair.anp import _Masked
from mithridate.defenses.repair.channels import channels_of, prune
from mithridate.defenses.repair.fine_pruning import activity
from mithridate.defenses.repair.ft_sam import away
from mithridate.defenses.repair.i_bau import hypergradient
from mithridate.defenses.repair.unlearning import Triggers, given_trigger
from mithridate.networks.channels import Channels, lipschitz
from mithridate.poisons import poisoned_test
from mithridate.testing.checks import a_verdict
from mithridate.training import predict

R = mi.repairers
PATCH = mi.triggers.Patch.named("checker-bottom-right", image_shape=(1, 8, 8))


@pytest.fixture(scope="module")
def digits():
    return mi.load_data("digits")


@pytest.fixture(scope="module")
def bad(digits):
    """Every stamped digit is a 1."""
    poison = mi.poisons.BadNets(trigger=PATCH, target=1, fraction=0.1)
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    images = poison.poison(digits[0], rng=mi.rng(0)).images
    return mi.fit(network, images, epochs=8, lr=2e-3, batch_size=32, rng=mi.rng(0))


def rates(model, test):
    """Clean accuracy and attack success."""
    stamped = poisoned_test(test, PATCH, target=1, rng=mi.rng(0))
    right = (predict(model, test) == test.labels).float().mean()
    return float(right), float((predict(model, stamped) == 1).float().mean())


@pytest.fixture(scope="module")
def few(digits):
    return drawn(digits[0], 0.2, mi.rng(0))


@pytest.mark.parametrize(
    ("repairer", "most"),
    [(R.Unlearning(find="class", steps=100, batch=32), 0.05), (R.FTSAM(), 0.05)],
    ids=lambda value: type(value).__name__,
)
def test_the_backdoor_goes_and_the_accuracy_stays(bad, few, digits, repairer, most):
    before, asr = rates(bad, digits[1])
    assert asr > 0.97
    mended = repairer.repair(bad, few, rng=mi.rng(0))
    after, left = rates(mended, digits[1])
    assert left <= most
    assert after >= before - 0.02


def test_unlearning_takes_the_verdicts_trigger(bad, few, digits):
    """The true one: what a perfect inspection would name."""
    trigger = torch.full((1, 8, 8), torch.nan)
    support = PATCH.support((1, 8, 8))
    trigger[:, support] = PATCH.stamp(torch.zeros(1, 1, 8, 8), rng=mi.rng(0))[0][:, support]
    verdict = a_verdict(target=1, trigger=trigger)
    x, y = digits[1].batch(range(20))
    stamped = given_trigger(verdict).stamp(x, y, mi.rng(0))
    torch.testing.assert_close(stamped, PATCH.stamp(x, rng=mi.rng(0)))
    mended = R.Unlearning(find="verdict", epochs=20).repair(bad, few, verdict, rng=mi.rng(0))
    before, _ = rates(bad, digits[1])
    after, left = rates(mended, digits[1])
    others = digits[1].subset(digits[1].labels != 1)
    assert left <= float((predict(mended, others) == 1).float().mean()) + 0.03
    assert after >= before - 0.02


def test_an_image_bears_two_triggers_at_their_strength_or_more():
    """Of two whole ones the last is seen; half a mask of 1 on 0 gives 1/2 to 1, twice."""
    x, y, source = torch.zeros(300, 1, 1, 1), torch.arange(300) % 2, torch.tensor([-1, -1])
    one = Triggers(torch.ones(2, 1, 1, 1), torch.tensor([0.25, 0.75]).view(2, 1, 1, 1), source)
    seen = one.stamp(x, y, mi.rng(0)).flatten()
    assert set(seen.tolist()) == {0.25, 0.75}
    half = Triggers(torch.full((1, 1, 1, 1), 0.5), torch.ones(1, 1, 1, 1), source[:1])
    seen = half.stamp(x, y, mi.rng(0))
    assert 0.75 <= float(seen.min()) < 0.85
    assert 0.95 < float(seen.max()) <= 1


def test_an_image_bears_a_trigger_of_its_own_class():
    """Of class 0 one trigger: the upper pixel of its images is always lit, of others often."""
    mask = torch.eye(2)[:, None, :, None]
    two = Triggers(mask, torch.ones(2, 1, 2, 1), torch.tensor([0, 1]))
    y = torch.arange(300) % 3
    seen = two.stamp(torch.zeros(300, 1, 2, 1), y, mi.rng(0)).flatten(1)
    share = torch.stack([(seen[y == k] > 0).float().mean(0) for k in range(3)])
    assert share[0, 0] == share[1, 1] == 1
    assert 0.3 < share[0, 1] < 0.7
    assert bool(((share[2] > 0.6) & (share[2] < 0.9)).all())


def test_a_fresh_trigger_of_a_backdoor_is_small_and_works(bad, few, digits):
    """The stamp has 4 pixels."""
    fresh = fresh_trigger(bad, few, digits[1], rng=mi.rng(0))
    assert fresh.target == 1
    assert fresh.success.value > 0.9
    assert fresh.size < 6
    assert fresh.success.n == int((digits[1].labels != 1).sum())


class Net(nn.Module):
    """A convolution that a normalisation reads, in an order other than the constructor's."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2 * 64, 2)
        self.second = nn.Conv2d(6, 2, 1)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        generator = mi.rng(3)
        with torch.no_grad():
            for weights in (*self.parameters(), self.norm.running_mean):
                weights.copy_(torch.randn(weights.shape, generator=generator))
            self.norm.running_var.copy_(torch.rand(6, generator=generator) + 0.5)

    def forward(self, x):
        return self.head(self.second(self.norm(self.first(x)).relu()).flatten(1))


@pytest.fixture
def own():
    return Classifier(Net().eval(), classes=2, image_shape=(1, 8, 8))


@pytest.fixture
def noise():
    x = torch.rand((30, 1, 8, 8), generator=mi.rng(1))
    return mi.ImageSet.from_float(x, torch.arange(30) % 2, ["a", "b"])


def test_channels_are_found_by_running_the_network(own, noise):
    first, second = channels_of(R.CLP(), own, noise)
    net = own.module
    assert (first.conv, first.norm) == (net.first, net.norm)
    assert (second.conv, second.norm) == (net.second, None)


def test_the_bound_is_the_largest_singular_value_times_the_scale(own, noise):
    first, second = channels_of(R.CLP(), own, noise)
    scale = (first.norm.weight.abs() / (first.norm.running_var + first.norm.eps).sqrt()).detach()
    for channels, factor in ((first, scale), (second, torch.ones(2))):
        kernels = channels.conv.weight.detach().numpy()
        expected = [np.linalg.svd(k.reshape(len(k), -1), compute_uv=False)[0] for k in kernels]
        assert np.allclose(lipschitz(channels).numpy(), expected * factor.numpy(), rtol=1e-5)


def test_clp_prunes_the_channel_that_stands_out(noise):
    conv = nn.Conv2d(1, 20, 3, padding=1)
    module = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(20 * 64, 2))
    with torch.no_grad():
        conv.weight[7] *= 50
    model = Classifier(module, classes=2, image_shape=(1, 8, 8))
    mended = R.CLP().repair(model, noise, rng=mi.rng(0))
    silent = mended.module[0].weight.flatten(1).abs().sum(1) == 0
    assert silent.nonzero().flatten().tolist() == [7]
    assert mended.module[0].bias[7] == 0
    assert (mended.info["repair"]["pruned"], mended.info["repair"]["channels"]) == (1, 20)


@pytest.mark.parametrize("affine", [True, False])
def test_a_silent_channel_is_0_for_every_image(affine):
    conv, norm = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, affine=affine).eval()
    norm.running_mean.fill_(0.7)
    Channels(conv, norm).silence(torch.tensor([0, 2]))
    out = norm(conv(torch.rand(4, 1, 2, 2)))
    assert (out[:, [0, 2]] == 0).all()
    assert (out[:, 1] != 0).any()


def test_activity_is_the_mean_positive_part(own, noise):
    first = channels_of(R.CLP(), own, noise)[0]
    with torch.no_grad():
        out = own.module.norm(own.module.first(noise.batch(range(30))[0])).relu()
    expected = out.mean((0, 2, 3)).double()
    torch.testing.assert_close(activity(own, noise, first), expected, rtol=1e-4, atol=1e-6)


def test_pruning_ends_before_the_accuracy_falls_too_far():
    """Logit k of class k is channel k: each channel lost is half of the accuracy."""
    conv = nn.Conv2d(2, 3, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0]]).view(3, 2, 1, 1))
    module = nn.Sequential(conv, nn.Flatten())
    own = Classifier(module, classes=3, image_shape=(2, 1, 1))
    x = torch.eye(2).repeat(5, 1).view(10, 2, 1, 1)
    data = mi.ImageSet.from_float(x, torch.arange(10) % 2, ["a", "b", "c"])
    channels = Channels(conv, None)
    order = [(channels, k) for k in (2, 1, 0)]
    assert prune(own, data, order, step=1, loss=0.1) == order[:1]
    assert conv.weight.flatten(1).sum(1).tolist() == [1, 1, 0]


def test_pruned_channels_stay_silent_through_the_training(noise):
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2)
    )
    model = Classifier(module.eval(), classes=2, image_shape=(1, 8, 8))
    mended = R.FinePruning(loss=1.0, epochs=2).repair(model, noise, rng=mi.rng(0))
    assert mended.info["repair"]["pruned"] == 8
    assert mended.module[1].weight.abs().sum() == mended.module[1].bias.abs().sum() == 0
    assert not torch.equal(mended.module[4].bias, module[4].bias)


def test_masks_and_changes_scale_weights_and_biases(own, noise):
    """By hand: the network with scaled parameters written into it."""
    layers = channels_of(R.ANP(), own, noise)
    x, y = noise.batch(range(30))
    net = _Masked(own, layers)
    draws = mi.rng(5)
    masks = [torch.rand(n, generator=draws) for n in net.sizes]
    changes = [torch.rand(n, generator=draws) - 0.5 for n in net.sizes * 2]
    loss = net.loss(x, y, masks, changes)
    module = own.module
    with torch.no_grad():
        module.norm.weight *= masks[0] + changes[0]
        module.second.weight *= (masks[1] + changes[1]).view(-1, 1, 1, 1)
        module.norm.bias *= 1 + changes[2]
        module.second.bias *= 1 + changes[3]
        torch.testing.assert_close(loss, nn.functional.cross_entropy(module(x), y))


def test_masks_are_learned_within_their_range(own, noise):
    """Masks lie in [0, 1], one a channel, and some of them fell."""
    masks = R.ANP(steps=5).masks(own, noise, channels_of(R.ANP(), own, noise), mi.rng(0))
    assert [len(mask) for mask in masks] == [6, 2]
    assert all(bool(((mask >= 0) & (mask <= 1)).all()) for mask in masks)
    assert any(bool((mask < 1).any()) for mask in masks)


def test_sam_moves_to_the_worst_weights_in_the_adaptive_ball():
    """Of all moves of norm rho in units of |w|, none gains more at first order."""
    generator = mi.rng(0)
    weights = [nn.Parameter(torch.randn(5, generator=generator)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.randn(5, generator=generator)
    before = torch.cat([w.detach().clone() for w in weights])
    slope = torch.cat([w.grad for w in weights])
    move = torch.cat(away(weights, 0.3))
    torch.testing.assert_close(torch.cat([w.detach() for w in weights]), before + move)
    torch.testing.assert_close((move / before.abs()).norm(), torch.tensor(0.3))
    torch.testing.assert_close((move * slope).sum(), 0.3 * (before.abs() * slope).norm())


def test_the_hypergradient_is_that_of_a_quadratic_in_closed_form():
    """inner = d A d / 2 - d B t has its minimum at inv(A) B t; outer = c d + t t / 2 there."""
    generator = mi.rng(0)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    a = root @ root.T + torch.eye(4)
    b = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    c = torch.randn(4, generator=generator, dtype=torch.float64)
    theta = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    delta = torch.linalg.solve(a, b @ theta.detach())

    def inner(d, w):
        return 0.5 * d @ a @ d - d @ (b @ w["t"])

    def outer(d, w):
        return c @ d + 0.5 * w["t"].square().sum()

    rate = 1 / float(torch.linalg.eigvalsh(a).max())
    (slope,) = hypergradient(outer, inner, delta, {"t": theta}, 2000, rate)
    expected = b.T @ torch.linalg.solve(a, c) + theta.detach()
    torch.testing.assert_close(slope, expected)
    (direct,) = hypergradient(outer, inner, delta, {"t": theta}, 0, rate)
    torch.testing.assert_close(direct, theta.detach())


def test_sam_keeps_the_statistics_of_the_weights_before_they_move(own, noise):
    """By hand: one step, one update by the momentum of 0.1."""
    x = noise.batch(range(30))[0]
    with torch.no_grad():
        mean = own.module.first(x).mean((0, 2, 3))
    old = own.module.norm.running_mean.clone()
    mended = R.FTSAM(epochs=1, batch_size=30).repair(own, noise, rng=mi.rng(0))
    norm = mended.module.norm
    torch.testing.assert_close(norm.running_mean, 0.9 * old + 0.1 * mean, rtol=1e-4, atol=1e-5)
    assert (norm.momentum, norm.training) == (0.1, False)
