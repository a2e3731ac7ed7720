"""Attacks for the smallest change in several norms, on a line whose nearest point is known."""

import pytest
import torch

import mithridate as mi
from mithridate.attacks import ALMA, DDN, FAB, FMN, PDPGD, Nearest, SigmaZero, run_attack
from mithridate.attacks.fab import project
from mithridate.attacks.nearest import thinned
from mithridate.attacks.pdpgd import proximal
from mithridate.cost import Sizes
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L0, L1, L2, LINF
from mithridate.testing.models import digits_model, linear_model, linear_weights


def nearest(model, x, norm):
    """The smallest change of images (N, C, H, W) within the box, for two classes: (N,)."""
    weights, labels = linear_weights(model), model.labels(x)
    w = weights[1 - labels] - weights[labels]
    gap = -(w * (x.flatten(1) - 0.5)).sum(1)
    if norm is not L0:
        return norm.size(project(x.flatten(1), w, gap, norm))
    room = torch.where(w > 0, 1 - x.flatten(1), x.flatten(1))
    gains = (w.abs() * room).sort(1, descending=True).values.cumsum(1)
    return (gains < gap[:, None]).sum(1) + 1.0


def images(n, shape):  # up to the walls
    return torch.rand((n, *shape), generator=mi.rng(1))


CASES = [
    *(FMN(norm=norm, steps=500) for norm in (L0, L1, L2, LINF)),
    *(ALMA(norm=norm, steps=1000) for norm in (L1, L2)),
    *(PDPGD(norm=norm, steps=1000) for norm in (L1, L2, LINF)),
    SigmaZero(),
    *(Nearest(norm=norm) for norm in (L0, L1, L2, LINF)),
]


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
@pytest.mark.parametrize("attack", CASES, ids=str)
def test_within_one_percent_of_the_nearest(attack, shape):
    model, x = linear_model(shape), images(32, shape)
    norm = getattr(attack, "norm", L0)
    if isinstance(attack, FMN):  # its ball knows no walls but in L1
        x = 0.2 + 0.6 * x
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=0)
    best, size = nearest(model, x, norm), norm.distance(r.adversarials, x)
    assert bool(r.success.all())
    assert bool((size >= best * (1 - 1e-4)).all())
    # A count of values is a whole number, and FMN's is now and then one too many.
    factor = 1.25 if isinstance(attack, FMN) and norm is L0 else 1.01
    assert float(size.mean()) <= factor * float(best.mean())


@pytest.mark.parametrize("attack", [Nearest(passes=300), ALMA(), FMN(steps=100), PDPGD()], ids=str)
def test_goals_of_two_classes_agree(attack):
    model, x = linear_model(), images(8, (1, 4, 4))
    labels = model.labels(x)
    goals = Untargeted(labels), Targeted(1 - labels), SourceToTarget(labels, 1 - labels)
    sizes = [L2.distance(run_attack(attack, model, x, g, rng=0).adversarials, x) for g in goals]
    for other in sizes[1:]:
        torch.testing.assert_close(other, sizes[0], rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("norm", [L0, L1, L2, LINF])
def test_a_proximal_step_is_the_smallest_of_many(norm):
    numbers = torch.rand((3, 200, 6), generator=mi.rng(2))
    v, h, t = numbers[0, :1] * 2 - 1, 0.5 + numbers[1, :1], torch.tensor([0.7])

    def objective(d):
        size = L2.size(d) ** 2 if norm is L2 else norm.size(d)
        return t * size + (h * (d - v) ** 2).sum(1) / 2

    d = proximal(v, t, h, norm)
    others = torch.cat([d + 0.1 * (numbers[2] - 0.5), d * numbers[2], v, 0 * v])
    assert bool((objective(others) >= objective(d) - 1e-6).all())


def test_thinning_by_hand():
    """Logits (z1, z2) of four values; the last two changes are not needed."""
    model = linear_model((1, 1, 4))
    with torch.no_grad():
        weights = torch.tensor([[0.0, 0.0, 0.0, 0.0], [4.0, 2.0, 0.5, 0.1]])
        model.module.get_submodule("1").weight.copy_(weights)
    x = torch.tensor([[[[0.4, 0.4, 0.4, 0.4]]]])
    image = torch.tensor([[[[0.6, 0.5, 0.5, 0.5]]]])
    found = thinned(model, x, Untargeted([0]), image, 6)
    torch.testing.assert_close(found, torch.tensor([[[[1.0, 0.4, 0.4, 0.4]]]]))


@pytest.mark.parametrize("norm", [L0, L1, L2, LINF])
@pytest.mark.parametrize(
    ("passes", "classes", "kind"),
    [
        *((passes, 2, Untargeted) for passes in (50, 100, 399, 2300, 3000)),
        *((passes, 10, Untargeted) for passes in (50, 100, 399)),
        *((passes, 10, Targeted) for passes in (50, 100, 399, 2300)),
    ],
)
def test_no_image_is_looked_at_more_often_than_passes(passes, classes, kind, norm):
    model = linear_model((1, 8, 8)) if classes == 2 else digits_model()[0]
    x = images(4, (1, 8, 8))
    labels = model.labels(x)
    goal = kind(labels if kind is Untargeted else (labels + 3) % classes)
    before = model.cost.queries + model.cost.gradients
    Nearest(norm=norm, passes=passes).perturb(model, x, goal, rng=mi.rng(0))
    spent = model.cost.queries + model.cost.gradients - before
    assert spent <= passes * len(x)
    most = Nearest(norm=norm, passes=passes).cost(Sizes(test=4, classes=classes))
    assert spent <= most.forwards + 2 * most.gradients + 4  # the look before


@pytest.mark.parametrize(
    ("passes", "kind"), [(200, Untargeted), (800, Untargeted), (200, Targeted), (400, Targeted)]
)
@pytest.mark.parametrize("norm", [L0, L1, L2, LINF])
def test_nearest_is_no_farther_than_its_peers(norm, passes, kind):
    """On a network, with the same number of gradients; of one round, where there is but one."""
    model, _, test = digits_model()
    x, y = test.batch(slice(64))
    goal = kind(y if kind is Untargeted else (y + 3) % 10)
    steps = passes // 2
    peers = [FMN(norm=norm, steps=steps), PDPGD(norm=norm, steps=steps)]
    peers += [FAB(norm=norm, steps=steps // 9)] if norm is not L0 else [SigmaZero(steps=steps)]
    peers += [DDN(steps=steps)] if norm is L2 else []
    mean = {}
    for attack in (Nearest(norm=norm, passes=passes), *peers):
        r = run_attack(attack, model, x, goal, rng=0)
        size = torch.where(r.success, norm.distance(r.adversarials, x), norm.size(0 * x + 1))
        mean[str(attack)] = float(size.mean())
    own = mean.pop(str(Nearest(norm=norm, passes=passes)))
    assert own <= (1.05 if passes < 400 else 1.01) * min(mean.values()), (own, mean)
