"""Several eps in one call: against closed forms, and against a separate run for each eps."""

from dataclasses import dataclass, replace

import pytest
import torch

from mithridate import rng as random
from mithridate.attacks import (
    APGD,
    DDN,
    FAB,
    FGSM,
    JSMA,
    PGD,
    AdversarialPatch,
    AutoAttack,
    Boundary,
    BoundedAttack,
    HopSkipJump,
    Square,
    eps_curve,
    run_attack,
)
from mithridate.attacks.curve import ascending, radii
from mithridate.errors import InputError
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import L2, LINF
from mithridate.testing.models import digits_model, linear_model, linear_weights


@dataclass(frozen=True, kw_only=True)
class Stops(BoundedAttack):
    """One step, interrupted from eps 0.1 on."""

    norm: object = LINF

    def perturb(self, model, x, goal, *, rng):
        if self.eps >= 0.1:
            raise KeyboardInterrupt
        return FGSM(eps=self.eps).perturb(model, x, goal, rng=rng)


EPS = (0.02, 0.05, 0.1, 0.2)
COUNT = 40


def images(n=64):
    return 0.5 + 0.3 * (torch.rand((n, 1, 4, 4), generator=random.rng(1)) - 0.5)


@pytest.fixture(scope="module")
def digits():
    model, _, test = digits_model()
    x, y = test.batch(range(COUNT))
    return model, x, Untargeted(y)


def test_one_step_on_a_linear_model_is_worked_by_hand():
    """The margin falls by eps times the L1 norm of the weights' difference, for who is left."""
    model, x = linear_model(), images()
    weights, goal = linear_weights(model), Untargeted(model.labels(x))
    need = goal.margin(model.logits(x)) / (weights[0] - weights[1]).norm(1)
    curve = eps_curve(FGSM(eps=1), model, x, goal, eps=EPS, rng=0)
    assert list(curve) == list(EPS)
    asked = 0
    for before, eps in zip((0.0, *EPS), EPS, strict=False):
        asked += int((need >= before).sum())
        result = curve[eps]
        assert torch.equal(result.success, need < eps)
        assert result.gradients == asked
        assert int(result.row_queries.sum()) == result.queries
        first = torch.tensor([min((e for e in EPS if n < e), default=9.0) for n in need])
        there = first <= eps
        torch.testing.assert_close(result.linf[there], first[there])


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.1, steps=7, step_size=0.02, restarts=2),
        PGD(eps=0.1, norm=L2),
        APGD(eps=0.1, steps=8),
        Square(eps=0.1, queries=60),
        AutoAttack(eps=0.1, steps=5, queries=30, targets=2),
    ],
    ids=lambda attack: f"{type(attack).__name__}-{attack.norm}",
)
def test_an_image_is_fooled_where_a_run_within_as_much_or_less_fools_it(digits, attack):
    model, x, goal = digits
    curve = eps_curve(attack, model, x, goal, eps=reversed(EPS), rng=0)
    fooled, cost = torch.zeros(COUNT).bool(), 0
    for eps, result in curve.items():
        alone = run_attack(replace(attack, eps=eps), model, x, goal, rng=0)
        left = ~fooled
        torch.testing.assert_close(result.adversarials[left], alone.adversarials[left])
        fooled, cost = fooled | alone.success, cost + alone.queries + alone.gradients
        assert torch.equal(result.success, fooled)
        assert result.queries + result.gradients <= cost
        assert bool((attack.norm.distance(result.adversarials, x) <= eps + 1e-5).all())
    assert int(fooled.sum()) > 0
    assert result.queries + result.gradients < cost


def test_a_minimal_attack_runs_once_and_its_distances_serve(digits):
    model, x, goal = digits
    alone = run_attack(DDN(), model, x, goal, rng=0)
    curve = eps_curve(DDN(), model, x, goal, eps=[0.5, 0.3, 3], rng=0)
    for eps, result in curve.items():
        near = alone.l2 <= eps
        assert torch.equal(result.success, near)
        assert torch.equal(result.adversarials[near], alone.adversarials[near])
        assert torch.equal(result.adversarials[~near], x[~near])
        assert torch.equal(result.predicted, model.labels(result.adversarials))
        assert bool((result.l2[~near] == 0).all())
        assert (result.queries, result.gradients) == (alone.queries, alone.gradients)
    assert not curve[0.3].success.all()
    assert curve[3].success.all()


def test_what_is_known_to_fool_is_certified_and_kept(digits):
    model, x, goal = digits
    attack = PGD(eps=0.2)
    known = run_attack(attack, model, x, goal, rng=0)
    half = torch.arange(COUNT) % 2 == 0
    some = torch.where(half[:, None, None, None], known.adversarials, x)
    again = run_attack(attack, model, x, goal, rng=0, known=some)
    torch.testing.assert_close(again.adversarials, known.adversarials)
    kept = known.success & (half | (known.linf == 0))
    assert bool((again.row_queries[kept] == 0).all())
    assert torch.equal(again.row_queries[~kept], known.row_queries[~kept])
    assert torch.equal(again.success, known.success)
    # too far for a smaller budget: attacked as if nothing were known
    small = replace(attack, eps=0.01)
    far = run_attack(small, model, x, goal, rng=0, known=torch.where(x > 0.5, 0.0, 1.0))
    assert torch.equal(far.adversarials, run_attack(small, model, x, goal, rng=0).adversarials)


def test_whole_grey_levels_and_targets(digits):
    model, x, _ = digits
    x, goal = (255 * x).round() / 255, Targeted([3] * COUNT)
    curve = eps_curve(FGSM(eps=0), model, x, goal, eps=(0.02, 0.1), rng=0, quantize=8)
    for result in curve.values():
        torch.testing.assert_close(
            result.adversarials * 255, (result.adversarials * 255).round(), rtol=0, atol=1e-4
        )
        assert torch.equal(result.success, result.predicted == 3)
    assert not bool((curve[0.02].success & ~curve[0.1].success).any())
    with pytest.raises(InputError, match="whole levels"):
        run_attack(FGSM(eps=0.1), model, x, goal, rng=0, quantize=8, known=x * 0.999)


def test_an_interrupted_curve_ends_there(digits):
    model, x, goal = digits

    curve = eps_curve(Stops(eps=0), model, x, goal, eps=EPS, rng=0)
    assert [result.status for result in curve.values()] == ["done", "done", "interrupted"]
    done, last = curve[0.05], curve[0.1]
    assert bool(done.success.any())
    fooled = done.success
    assert torch.equal(last.success, fooled)
    assert torch.equal(last.adversarials[fooled], done.adversarials[fooled])
    assert torch.equal(last.adversarials[~fooled], x[~fooled])


def test_no_images():
    model, none = linear_model(), torch.zeros((0, 1, 4, 4))
    curve = eps_curve(FGSM(eps=0), model, none, Untargeted([]), eps=EPS, rng=0)
    assert [len(result) for result in curve.values()] == [0] * len(EPS)


@pytest.mark.parametrize(
    ("attack", "eps", "said"),
    [
        (PGD(eps=0.1), [], "eps is empty"),
        (PGD(eps=0.1), [0.1, 0.2, 0.1], r"eps 0\.1 is given twice"),
        (PGD(eps=0.1), [0.1, -0.2], r"at least 0, got -0\.2"),
        (PGD(eps=0.1), [0.1, 8], "at most 1 in linf.*8/255"),
        (PGD(eps=0.1), [0.1, float("nan")], "eps"),
        (PGD(eps=0.1), ["x"], "eps is a number"),
        (JSMA(), [0.5], "counts values"),
        (AdversarialPatch(), [0.5], "AdversarialPatch has no eps"),
    ],
)
def test_eps_that_cannot_be_are_one_line(attack, eps, said):
    model, x = linear_model(), images(2)
    with pytest.raises(InputError, match=said) as error:
        eps_curve(attack, model, x, Untargeted([0, 0]), eps=eps, rng=0)
    assert "\n" not in str(error.value)


def test_known_images_are_as_many_and_as_large():
    model, x = linear_model(), images(2)
    with pytest.raises(InputError, match="known are images"):
        run_attack(FGSM(eps=0.1), model, x, Untargeted([0, 0]), rng=0, known=x[:1])


@pytest.mark.parametrize(
    "attack", [HopSkipJump(within=0.8), FAB(enough=0.8), Boundary(within=0.8)], ids=str
)
def test_an_eps_below_the_distance_that_ends_the_search_is_refused(attack):
    with pytest.raises(InputError, match=r"0\.8 ends the search .* says nothing of eps 0\.4"):
        radii(attack, [0.8, 0.4])
    assert radii(attack, [0.8, 1.0]) == [0.8, 1.0]


@pytest.mark.parametrize("eps", [float("inf"), "1e999", 1e308])
def test_an_eps_beyond_float32_is_refused(eps):
    with pytest.raises(InputError, match="at most"):
        ascending(eps)
