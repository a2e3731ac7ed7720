from dataclasses import dataclass

import pytest
import torch

from mithridate import rng as random
from mithridate.attacks import FGSM, PGD, Attack, BoundedAttack, IterativeFGSM, run_attack
from mithridate.classifier import Classifier, Guarded
from mithridate.errors import InputError, NothingAssessedError, QueriesRefused, RunError
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import LINF
from mithridate.testing.models import linear_model

X = torch.rand((10, 1, 4, 4), generator=random.rng(1))


def run(attack, x=X, goal=None, model=None, **settings):
    model = model or linear_model()
    goal = goal if goal is not None else Untargeted(torch.zeros(len(x), dtype=torch.long))
    return run_attack(attack, model, x, goal, rng=random.rng(0), **settings)


@dataclass(frozen=True, kw_only=True)
class Does(BoundedAttack):
    """Calls a function on the images."""

    eps: float = 0.1
    norm: object = LINF
    act: object

    def perturb(self, model, x, goal, *, rng):
        return self.act(x)


def fail_on_second(error):
    calls = []

    def act(x):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return (x + 0.05).clamp(0, 1)

    return act


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda x: x + 0.2 * (x < 0.5), "left its budget"),
        (lambda x: x + 2, "left \\[0, 1\\]"),
        (lambda x: x * float("nan"), "left \\[0, 1\\]"),
        (lambda x: x[:1], "shape"),
    ],
)
def test_broken_contracts_are_named(act, said):
    with pytest.raises(RunError, match=f"Does .*{said}"):
        run(Does(act=act))


def test_an_attack_that_writes_into_its_input_is_still_measured():
    assert run(Does(act=lambda x: x.mul_(0.95))).linf.max() > 0.04


def test_a_crash_is_raised_in_one_line():
    with pytest.raises(RunError, match=r"^Does crashed: ZeroDivisionError: by 0$"):
        run(Does(act=fail_on_second(ZeroDivisionError("by 0"))), batch_size=4)


def test_finished_batches_survive_an_interruption():
    r = run(Does(act=fail_on_second(KeyboardInterrupt())), batch_size=4)
    assert r.status == "interrupted"
    assert bool((r.linf[:4] > 0).all())
    assert torch.equal(r.adversarials[4:], X[4:])
    assert torch.equal(r.predicted[4:], r.clean_predicted[4:])
    assert torch.equal(r.success[4:], r.clean_predicted[4:] != 0)
    assert bool((r.l2[4:] == 0).all())


def test_users_errors_pass_through():
    def refuse(x):
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        run(Does(act=refuse))


def test_measures_by_hand():
    x = torch.full((1, 1, 4, 4), 0.5)

    def act(x):
        x[0, 0, 0, :2] += torch.tensor([0.03, -0.04])
        return x

    r = run(Does(act=act), x=x)
    got = [float(v) for v in (r.l0, r.l1, r.l2, r.linf)]
    assert got == pytest.approx([2, 0.07, 0.05, 0.04], abs=1e-6)


def test_cost_is_the_attacks_alone():
    r = run(FGSM(eps=0.1), batch_size=3)
    assert (r.queries, r.gradients) == (10, 10)


class Counting(torch.nn.Module):
    """Logits of the last two of three pixels; the first names the row, in tenths."""

    def __init__(self):
        super().__init__()
        self.seen = torch.zeros(10, dtype=torch.int64)

    def forward(self, x):
        names = (x[:, 0, 0, 0].detach() * 10).round().long()
        self.seen += names.bincount(minlength=10)
        return x[:, 0, 0, 1:]


def named_rows():
    """Ten images of class 0 that lie between 0 and 0.12 from class 1."""
    x = torch.full((10, 1, 1, 3), 0.5)
    x[:, 0, 0, 0] = torch.arange(10) / 10
    x[:, 0, 0, 1] += torch.tensor([0.01, 0.24, 0.07, 0.05, 0.2, 0.11, 0.0, 0.03, 0.08, 0.16])
    return x


@dataclass(frozen=True)
class Two(Attack):
    """One attack, and another on the rows that it left."""

    first: Attack
    second: Attack

    def perturb(self, model, x, goal, *, rng):
        x = self.first.perturb(model, x, goal, rng=rng)
        left = (~goal.reached(model.labels(x))).nonzero()[:, 0]
        with model.cost.on_rows(left):
            x[left] = self.second.perturb(model, x[left], goal[left], rng=rng)
        return x


RESTARTS = PGD(eps=0.04, steps=3, step_size=0.01, restarts=4)
STOPS = IterativeFGSM(eps=0.04, step_size=0.01)


@pytest.mark.parametrize("batch_size", [4, 1024])
@pytest.mark.parametrize(
    ("attack", "varies"),
    [
        (FGSM(eps=0.04), False),
        (STOPS, True),
        (RESTARTS, True),
        (PGD(eps=0.04, steps=3, step_size=0.01, restarts=2, stop_at_goal=False), False),
        (Two(STOPS, RESTARTS), True),
    ],
)
def test_queries_of_each_row_are_what_the_module_saw(attack, varies, batch_size):
    module = Counting()
    model = Classifier(module, classes=2, compute_batch=3)
    r = run(attack, x=named_rows(), model=model, batch_size=batch_size)
    certified = torch.full((10,), 2)  # clean prediction and certification
    certified[0] += 1  # does the model take such images?
    certified[:8:2] += 6  # does it answer by chance?
    certified += ~r.success & ("gradient" in attack.about.access)  # and a gradient there?
    assert torch.equal(r.row_queries, module.seen - certified)
    assert r.row_queries.dtype == torch.int64
    assert int(r.row_queries.sum()) == r.queries
    assert (len(set(r.row_queries.tolist())) > 1) is varies
    assert model.cost.ledger is None


def asks(*sizes, model=None):
    """Forwards so many images, and tells nobody for which rows."""

    def act(x):
        for size in sizes:
            model.labels(x[:1].expand(size, -1, -1, -1))
        return x

    return Does(act=act)


@pytest.mark.parametrize(
    ("sizes", "each"), [((), 0), ((10, 20), 3), ((10, 7), None), ((5, 5), None), ((25,), None)]
)
def test_rows_that_leave_untold_leave_no_count(sizes, each):
    model = linear_model()
    r = run(asks(*sizes, model=model), model=model)
    assert r.queries == sum(sizes)
    assert r.row_queries is None if each is None else r.row_queries.tolist() == [each] * 10


def test_queries_behind_the_ledger_leave_no_count():
    """A run inside the run keeps its own ledger."""
    model = linear_model()
    inner = []

    def act(x):
        inner.append(run(FGSM(eps=0.1), x, model=model))
        return x

    outer = run(Does(act=act), model=model)
    assert outer.row_queries is None
    assert inner[0].row_queries.tolist() == [1] * 10


def test_unfinished_batches_keep_the_count():
    model, calls = linear_model(), []

    def act(x):
        model.labels(x)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return x

    r = run(Does(act=act), model=model, batch_size=4)
    assert (r.status, r.queries) == ("interrupted", 8)
    assert r.row_queries.tolist() == [1] * 8 + [0] * 2


def test_progress_after_each_batch():
    seen = []
    run(FGSM(eps=0.1), batch_size=4, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize(
    ("x", "goal", "said"),
    [
        (X, Untargeted([0] * 9), "9 goals for 10 images"),
        (X, Targeted([1, 2] * 5), "labels run 1..2 for 2 classes: subtract 1"),
        (X, Targeted([0, 7] * 5), "labels run 0..7 for 2 classes: use 0 to 1"),
        (X * 255, None, "divide by 255"),
        (X - 0.5, None, "undo the normalisation"),
        (X / 255, None, "255 twice"),
        (X[:, :, :2], None, "the model was built for"),
        (X[0], None, "N x C x H x W"),
        (X.mul(255).byte(), None, "uint8"),
        (X * float("nan"), None, "NaN"),
    ],
)
def test_unusable_input_says_what_to_do(x, goal, said):
    with pytest.raises(InputError, match=said) as caught:
        run(FGSM(eps=0.1), x=x, goal=goal)
    assert "\n" not in str(caught.value)


def test_a_shape_the_module_cannot_take():
    model = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2)), classes=2)
    with pytest.raises(InputError, match="cannot take images of shape"):
        run(FGSM(eps=0.1), model=model)


def test_nan_weights_allow_no_conclusion():
    model = linear_model()
    torch.nn.init.constant_(model.module[1].weight, float("nan"))
    with pytest.raises(NothingAssessedError, match="10 of 10"):
        run(FGSM(eps=0.1), model=model)


def test_nan_at_the_adversarial_point_is_no_success():
    class Fragile(torch.nn.Module):
        def forward(self, x):
            flat = x.flatten(1)[:, :2]
            return torch.where(flat.sum(1, keepdim=True) > 1.05, float("nan"), flat)

    x = torch.full((2, 1, 1, 2), 0.5)
    r = run(
        Does(act=lambda x: x + 0.1),
        x=x,
        model=Classifier(Fragile(), classes=2),
        goal=Untargeted([0, 1]),
    )
    assert not bool(r.success.any())


def pixels(*order, **settings):
    """Of images of two pixels: the logits are the pixels, in this order."""

    class Order(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, list(order)]

    return Classifier(Order(), classes=2, image_shape=(1, 1, 2), **settings)


def two_pixels(*rows):
    return torch.tensor(rows).view(-1, 1, 1, 2)


def test_the_attacker_looks_at_one_model_and_another_certifies():
    """Every row is attacked as the attacker sees it: he thinks that the classes are swapped."""
    model, through = pixels(0, 1), pixels(1, 0, compute_batch=7)
    x = two_pixels([0.6, 0.5], [0.5, 0.6], [0.2, 0.9])
    attack = PGD(eps=0.1, steps=3, step_size=0.1, random_start=False)
    r = run(attack, x, Untargeted([0, 0, 0]), model, through=through)
    # Class 1, he sees in the first row: done. The others he takes for class 0, and makes it 1.
    assert torch.equal(r.adversarials[0], x[0])
    torch.testing.assert_close(r.adversarials[1:], two_pixels([0.6, 0.5], [0.3, 0.8]))
    assert r.clean_predicted.tolist() == [0, 1, 1]
    assert r.predicted.tolist() == [0, 0, 1]
    assert r.success.tolist() == [False, False, True]
    # The judge is asked to try an image, for the input, and to certify; nothing by the attack.
    assert (model.cost.queries, model.cost.gradients) == (1 + 3 + 3, 0)
    assert (r.queries, r.gradients, r.row_queries.tolist()) == (6, 6, [1, 2, 3])
    assert (model.compute_batch, through.compute_batch) == (128, 7)


def test_the_default_is_what_the_models_own_defence_declares():
    bare, view = pixels(0, 1), pixels(0, 1)
    model = bare.around(bare.core(), info={}, attacker=lambda: view)
    goal, attack = Untargeted([0]), FGSM(eps=0.1)
    default = run(attack, two_pixels([0.6, 0.5]), goal, model)
    assert (view.cost.gradients, model.cost.gradients, bare.cost.gradients) == (1, 0, 0)
    named = run(attack, two_pixels([0.6, 0.5]), goal, model, through=view)
    assert torch.equal(default.adversarials, named.adversarials)


@pytest.mark.parametrize("batch_size", [3, None])
def test_looking_at_the_model_itself_changes_nothing(batch_size):
    attack = PGD(eps=0.1, steps=4, step_size=0.05, restarts=2)
    model = linear_model()
    one = run(attack, batch_size=batch_size)
    two = run(attack, model=model, through=model, batch_size=batch_size)
    assert torch.equal(one.adversarials, two.adversarials)
    assert torch.equal(one.row_queries, two.row_queries)


def test_a_rejected_image_is_no_success():
    """A third logit that is large where the second pixel is bright."""

    class Wary(torch.nn.Module):
        def forward(self, x):
            flat = x.flatten(1)
            return torch.cat([flat, 2 * flat[:, 1:] - 0.7], 1)

    model = Classifier(Wary(), classes=["a", "b", "rejected"], rejected=2)
    x = two_pixels([0.2, 0.1], [0.2, 0.8], [0.5, 0.45])
    r = run(Does(act=lambda x: x + 0.1), x, Untargeted([0, 0, 1]), model)
    assert r.clean_predicted.tolist() == [0, 2, 0]
    assert r.predicted.tolist() == [0, 2, 0]
    assert r.success.tolist() == [False, False, True]
    # He who ignores the rejection leads class 0 to class 1, and is rejected there.
    r = run(FGSM(eps=0.3), x[2:], Untargeted([0]), model, through=pixels(0, 1))
    assert (r.predicted.tolist(), r.success.tolist()) == ([2], [False])
    with pytest.raises(InputError, match="class 2 is how the model rejects"):
        run(FGSM(eps=0.1), x, Untargeted([2, 2, 2]), model)


def budget(model, limit):
    asked = []

    def watch(x):
        if sum(asked) + len(x) > limit:
            raise QueriesRefused("no more")
        asked.append(len(x))

    return Guarded(model, watch), asked


@dataclass(frozen=True)
class Asks(Attack):
    """Three labels for each image, one image at a time."""

    def perturb(self, model, x, goal, *, rng):
        for row in range(len(x)):
            with model.cost.on_rows(torch.tensor([row])):
                for _ in range(3):
                    model.labels(x[row : row + 1])
        return (x - 0.05).clamp(0, 1)


@pytest.mark.parametrize(("batch_size", "kept", "refused"), [(None, 3, 7), (2, 2, 4), (1024, 0, 1)])
def test_a_guard_that_refuses_stops_the_run(batch_size, kept, refused):
    oracle, asked = budget(linear_model(), 11)
    r = run(Asks(), model=oracle, batch_size=batch_size)
    assert r.status == "stopped: refused after 11 queries"
    assert (r.queries - r.refused, sum(asked)) == (11, 11)
    assert (r.linf > 0).tolist() == [True] * kept + [False] * (10 - kept)
    assert torch.equal(r.predicted, oracle.model.labels(r.adversarials))
    assert (r.refused, int(r.row_queries.sum())) == (refused, r.queries)


def test_gradients_are_not_to_be_had_of_a_guard():
    oracle, _ = budget(linear_model(), 5)
    with pytest.raises(InputError, match="FGSM needs gradients, and a guard gives labels"):
        run(FGSM(eps=0.1), model=oracle)
    transfer = run(FGSM(eps=0.1), model=oracle, through=oracle.model)
    assert transfer.status == "done"


@pytest.mark.parametrize(
    ("through", "said"),
    [
        (linear_model(classes=3), "the model has 2 classes, that of through= has 3"),
        (linear_model((1, 2, 8)), "the model takes images .1, 4, 4., that of through= .1, 2, 8."),
    ],
)
def test_another_kind_of_model_cannot_be_looked_through(through, said):
    with pytest.raises(InputError, match=said) as caught:
        run(FGSM(eps=0.1), through=through)
    assert "\n" not in str(caught.value)


def test_memory_of_either_model_is_halved_together():
    """Passes of more than 2 images are too many, for the model that is attacked as well."""

    class Small(torch.nn.Module):
        def forward(self, x):
            if len(x) > 2:
                raise torch.OutOfMemoryError
            return x.flatten(1)[:, :2]

    model, through = Classifier(Small(), classes=2), pixels(0, 1)
    r = run(
        FGSM(eps=0.1), two_pixels(*[[0.6, 0.5]] * 8), Untargeted([0] * 8), model, through=through
    )
    assert r.status == "done"
    assert r.success.all()
    assert (model.compute_batch, through.compute_batch) == (128, 128)


def test_base_is_abstract():
    with pytest.raises(TypeError):
        Attack()
