import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.apgd import APGD
from mithridate.attacks.autoattack import AutoAttack
from mithridate.attacks.fab import FAB
from mithridate.attacks.fast_gradient import FGSM
from mithridate.attacks.pgd import PGD
from mithridate.attacks.run import run_attack
from mithridate.attacks.square import Square
from mithridate.classifier import Classifier
from mithridate.defenses.transform.resize_and_pad import ResizeAndPad
from mithridate.errors import InputError
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import L2, LINF
from mithridate.testing.models import boundary_distance, linear_model


def images(n=32, shape=(1, 4, 4), seed=1):
    return 0.5 + 0.1 * (torch.rand((n, *shape), generator=random.rng(seed)) - 0.5)


def test_members_and_their_settings():
    standard = AutoAttack(eps=0.3, norm=L2, steps=7, queries=50).members()
    assert list(standard.items()) == [
        ("apgd-ce", APGD(eps=0.3, norm=L2, steps=7)),
        ("apgd-t", APGD(eps=0.3, norm=L2, steps=7, loss="dlr-targeted")),
        ("fab-t", FAB(norm=L2, steps=7, targets=9, enough=0.3)),
        ("square", Square(eps=0.3, norm=L2, queries=50)),
    ]
    plus = AutoAttack(eps=0.3, variant="plus").members()
    assert list(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [plus[name].restarts for name in ("apgd-ce", "apgd-dlr", "fab", "apgd-t")] == [
        5,
        5,
        5,
        1,
    ]
    assert plus["fab"].targets is None
    rand = AutoAttack(eps=0.3, variant="rand").members()
    assert [(m.loss, m.eot) for m in rand.values()] == [("ce", 20), ("dlr", 20)]


def test_the_version_for_random_models():
    usual, standard = AutoAttack(eps=0.3), AutoAttack(eps=0.3, variant="standard")
    assert list(usual.members()) == list(standard.members())
    assert standard.at_random() == standard  # as it was asked for
    rand = usual.at_random()
    assert list(rand.members()) == ["apgd-ce", "apgd-dlr"]
    eots = [[m.eot for m in rand.members(draws=n).values()] for n in (0, 1, 3, 30)]
    assert eots == [[20, 20], [20, 20], [7, 7], [1, 1]]
    assert not any(m.stop_at_goal for m in rand.members().values())
    with pytest.raises(InputError, match="variant is one of"):
        AutoAttack(eps=0.3, variant="random")


def test_a_view_that_is_a_mean_over_draws_is_not_averaged_again():
    """At most two members of so many gradients each, and no query of Square."""
    model, x = ResizeAndPad(eot=30).wrap(linear_model()), images(6)
    r = run_attack(
        AutoAttack(eps=1e-6, steps=5), model, x, Untargeted(model.labels(x)), rng=random.rng(0)
    )
    assert (model.draws, model.attacker().draws) == (1, 30)
    assert 0 < r.gradients <= 6 * 2 * 5
    assert r.queries < 6 * 20


@pytest.mark.parametrize("norm", [L2, LINF])
@pytest.mark.parametrize("variant", ["standard", "plus", "rand"])
def test_robust_accuracy_of_a_linear_model_is_exact(variant, norm):
    """An image is robust where its nearest boundary is further than eps."""
    model, x = linear_model(classes=4), images(24)
    distance = boundary_distance(model, x, norm)
    eps = float(distance.median())
    clear = (distance - eps).abs() > 0.02 * eps
    attack = AutoAttack(eps=eps, norm=norm, variant=variant, steps=12, queries=20)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert r.status == "done"
    assert torch.equal(r.success[clear], (distance < eps)[clear])
    if variant != "rand":
        assert torch.equal(r.adversarials[~r.success], x[~r.success])
    assert int(r.row_queries.sum()) == r.queries


def test_members_see_survivors_only(monkeypatch):
    seen = []
    for member in (APGD, FAB, Square):
        inner = member.perturb

        def watched(self, model, x, goal, *, rng, inner=inner):
            found = inner(self, model, x, goal, rng=rng)
            seen.append((len(x), int(goal.reached(model.labels(found)).sum())))
            return found

        monkeypatch.setattr(member, "perturb", watched)
    model, x = linear_model(classes=4), images()
    labels = model.labels(x)
    goal = Untargeted(torch.where(torch.arange(32) < 3, (labels + 1) % 4, labels))
    eps = float(boundary_distance(model, x, LINF).median())
    AutoAttack(eps=eps, steps=8, queries=10).perturb(model, x, goal, rng=random.rng(0))
    sizes = [n for n, _ in seen]
    assert sizes[0] == 29
    assert sizes[1] == 29 - seen[0][1]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)


def test_a_member_that_needs_too_far_a_step_does_not_count():
    """FAB's nearest image lies beyond a tiny ball: it is not taken."""
    model, x = linear_model(classes=4), images(8) * 0.5
    attack = AutoAttack(eps=1e-6, steps=3, queries=5)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert (r.status, bool(r.success.any())) == ("done", False)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes):
    model, x = linear_model(classes=classes), images(8)
    for goal in (Untargeted(model.labels(x)), Targeted((model.labels(x) + 1) % classes)):
        r = run_attack(AutoAttack(eps=0.3, steps=5), model, x, goal, rng=random.rng(0))
        assert bool(r.success.all())


@pytest.mark.parametrize(
    ("attack", "noise"),
    [
        (APGD(eps=0.3, steps=5, eot=4, stop_at_goal=False), 1.0),
        (AutoAttack(eps=0.3, variant="rand", steps=5), 0.01),
        (AutoAttack(eps=0.3, steps=5), 0.3),
    ],
)
def test_a_model_that_draws(attack, noise):
    class Noisy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.draws = torch.Generator().manual_seed(0)
            self.inner = linear_model().module

        def forward(self, z):
            return self.inner(z) + noise * torch.randn((len(z), 2), generator=self.draws)

    model, x = Classifier(Noisy(), classes=2, bounds=(-0.5, 0.5)), images(8)
    goal = Untargeted(linear_model().labels(x))
    r = run_attack(attack, model, x, goal, rng=random.rng(0))
    assert float(r.success.float().mean()) >= 0.75
    if isinstance(attack, APGD):
        assert bool(r.success.all())
        assert r.gradients == 8 * 5 * 4
    else:
        assert r.random
        assert r.queries <= 8 * (2 * 6 * 20 + 3 * 20 + 2)  # none of Square's 5,000


class Loud(torch.nn.Module):
    """A linear model whose logits have noise as large as its margins."""

    def __init__(self, noise):
        super().__init__()
        self.coins = torch.Generator().manual_seed(0)
        self.noise, self.inner = noise, linear_model().module

    def forward(self, z):
        return self.inner(z) + self.noise * torch.randn((len(z), 2), generator=self.coins)


def test_one_lucky_answer_ends_nothing():
    """The nearest corner of the ball is the best image of a linear model, whatever the noise."""
    plain, x, eps = linear_model(), images(40), 0.02
    goal = Untargeted(plain.labels(x))
    noise = float(goal.margin(plain.logits(x)).median())
    model = Classifier(Loud(noise), classes=2, bounds=(-0.5, 0.5))
    with torch.no_grad():
        least = goal.margin(
            plain.logits(
                run_attack(PGD(eps=eps, stop_at_goal=False), plain, x, goal, rng=0).adversarials
            )
        )
        r = run_attack(AutoAttack(eps=eps, steps=10), model, x, goal, rng=0)
        gained = goal.margin(plain.logits(r.adversarials))
        before = goal.margin(plain.logits(x))
    assert r.random
    assert bool((r.linf > 0).all())  # no row is given up for an answer that was wrong by chance
    assert float((before - gained).mean()) >= 0.9 * float((before - least).mean())


@pytest.mark.parametrize("share", ["forward", "image"])
def test_a_model_that_answers_by_chance_is_found_out(share):
    class Coin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.coins, self.inner = torch.Generator().manual_seed(1), linear_model().module

        def forward(self, z):
            heads = torch.rand(1 if share == "forward" else len(z), 1, generator=self.coins) < 0.5
            return torch.where(heads, self.inner(z), self.inner(-z))

    model, x = Classifier(Coin(), classes=2, bounds=(-0.5, 0.5)), images(8)
    found = [
        run_attack(FGSM(eps=0.1), model, x, Untargeted([0] * 8), rng=seed).random
        for seed in range(20)
    ]
    assert sum(found) >= 17
