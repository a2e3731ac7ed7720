import logging
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mithridate import rng as random
from mithridate.attacks import (
    APGD,
    DDN,
    FAB,
    FGSM,
    JSMA,
    LBFGS,
    PGD,
    AdversarialPatch,
    AutoAttack,
    Boundary,
    CarliniWagner,
    CarliniWagnerL0,
    CarliniWagnerLinf,
    DeepFool,
    HopSkipJump,
    OnePixel,
    Square,
    run_attack,
)
from mithridate.attacks.batches import pass_bytes
from mithridate.classifier import Classifier
from mithridate.errors import InputError, RunError
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import L1, L2, LINF
from mithridate.testing.models import linear_model

X = torch.rand((20, 1, 4, 4), generator=random.rng(1))
STATED = {
    "pgd": PGD(eps=0.05, steps=4, step_size=0.02, restarts=2),
    "pgd l1": PGD(eps=0.3, norm=L1, steps=4, step_size=0.1),
    "pgd l2": PGD(eps=0.3, norm=L2, steps=4, step_size=0.1, stop_at_goal=False, restarts=2),
    "apgd": APGD(eps=0.05, steps=5, restarts=2),
    "apgd l2": APGD(eps=0.3, norm=L2, steps=5, loss="dlr-targeted", stop_at_goal=False),
    "fab l1": FAB(norm=L1, steps=3, restarts=2),
    "fab linf": FAB(norm=LINF, steps=3, targets=3),
    "autoattack": AutoAttack(eps=0.02, variant="plus", steps=3, queries=10),
    "square linf": Square(eps=0.02, queries=20),
    "square l2": Square(eps=0.2, norm=L2, queries=20),
    "deepfool": DeepFool(candidates=None),
    "ddn": DDN(steps=4),
    "cw": CarliniWagner(steps=4, search_steps=2),
    "cw l0": CarliniWagnerL0(steps=4, rounds=3),
    "cw linf": CarliniWagnerLinf(steps=4, rounds=3),
    "lbfgs": LBFGS(steps=4, search_steps=2, memory=8),
    "jsma": JSMA(gamma=0.02),
    "one-pixel": OnePixel(pixels=3, population=50, generations=2),
    "hopskipjump": HopSkipJump(max_iter=3, init_eval=200),
    "boundary": Boundary(budget=60),
    "patch": AdversarialPatch(steps=2, batch=16),
}


@pytest.mark.filterwarnings("ignore")  # of the profiler
@pytest.mark.parametrize("name", STATED)
def test_no_attack_holds_more_than_it_says(name):
    """Every allocation of the attack is counted."""
    attack, n, shape, classes = STATED[name], 48, (3, 16, 16), 10
    model = linear_model(shape, classes=classes)
    model.compute_batch = 8
    x = torch.rand((n, *shape), generator=random.rng(1))
    goal = Untargeted(model.labels(x))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        attack.perturb(model, x.clone(), goal, rng=random.rng(0))
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    values = x[0].numel() + classes
    assert most > 2 * 4 * n * values
    assert most <= 4 * attack.held(n, values)


class Small(nn.Module):
    """A device that holds `most` images at once, and keeps the sizes of the passes."""

    def __init__(self, most, classes=3):
        super().__init__()
        self.most, self.sizes = most, []
        self.layer = nn.Linear(16, classes, bias=False)
        nn.init.sparse_(self.layer.weight, 0, generator=random.rng(0))

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return self.layer(x.flatten(1) - 0.5)


def attacked(attack, most, **settings):
    model = Classifier(Small(most), classes=3, compute_batch=16)
    goal = Untargeted(torch.arange(20) % 3)
    with torch.no_grad():
        return model, run_attack(attack, model, X, goal, rng=random.rng(0), **settings)


SOME = {
    "pgd": PGD(eps=0.05, steps=4, step_size=0.02, restarts=2),
    "square": Square(eps=0.1, queries=20),
    "fab": FAB(steps=3, restarts=2),
    "hopskipjump": HopSkipJump(budget=60),
}


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("most", [1, 5])
def test_where_memory_runs_out_smaller_batches_give_the_same(name, most, caplog):
    _, whole = attacked(SOME[name], 1024)
    with caplog.at_level(logging.WARNING):
        model, found = attacked(SOME[name], most)
    assert found.status == "done"
    torch.testing.assert_close(found.adversarials, whole.adversarials, rtol=0, atol=1e-5)
    assert torch.equal(found.success, whole.success)
    assert torch.equal(found.row_queries, whole.row_queries)
    assert (found.queries, found.gradients) == (whole.queries, whole.gradients)
    assert any("out of memory: going on with" in r.getMessage() for r in caplog.records)
    assert model.compute_batch == 16
    assert model.cost.ledger is None


def test_rows_that_are_done_are_not_attacked_again():
    """Memory runs out once, in the second batch, as when another program takes it."""
    done, attack = [], PGD(eps=0.1, steps=3, step_size=0.05)

    class Device(Small):
        def forward(self, x):
            if len(done) == 1 and len(x) > 4:
                raise torch.OutOfMemoryError("full")
            return super().forward(x)

    model, goal = Classifier(Device(99), classes=3, compute_batch=8), Untargeted([0, 1] * 10)
    found = run_attack(
        attack,
        model,
        X,
        goal,
        batch_size=8,
        rng=random.rng(0),
        progress=lambda rows, _: done.append(rows),
    )
    assert done == [8, 12, 16, 20]
    model = Classifier(Small(99), classes=3)
    whole = run_attack(attack, model, X, goal, rng=random.rng(0))
    torch.testing.assert_close(found.adversarials, whole.adversarials, rtol=0, atol=1e-5)
    assert found.queries == whole.queries


def test_a_single_image_that_does_not_fit():
    with pytest.raises(RunError, match="out of memory on cpu with 1 image at once: free") as caught:
        attacked(FGSM(eps=0.1), 0)
    assert "\n" not in str(caught.value)


def test_another_error_is_no_lack_of_memory():
    class Broken(Small):
        def forward(self, x):
            if len(x) > 1:
                raise RuntimeError("device-side assert")
            return super().forward(x)

    model = Classifier(Broken(9), classes=3)
    with pytest.raises(RuntimeError, match="device-side"):
        run_attack(FGSM(eps=0.1), model, X, Untargeted([0] * 20), rng=random.rng(0))


def test_what_a_pass_holds_by_hand():
    """Outputs of 2 x 3 x 3, the same again, 18, and 5 values; and twice the largest."""
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 5))
    assert pass_bytes(Classifier(module, classes=5), X[:1]) == 4 * (18 + 18 + 18 + 5 + 2 * 18)
    assert not module[0]._forward_hooks


@pytest.mark.parametrize(
    ("memory", "sizes"), [(2**30, {20}), (30_000, {16, 4}), (6_000, {4}), (1, {1})]
)
def test_batches_follow_the_memory(memory, sizes):
    """16 images of 19 values for each of the batch, 16 passes of 3 x 3 values beside."""
    seen = set()

    class Note(FGSM):
        def perturb(self, model, x, goal, *, rng):
            seen.add(len(x))
            return x

    model, found = attacked(Note(eps=0.1), 1024, memory=memory)
    assert seen == sizes
    assert model.compute_batch == 16
    assert found.status == "done"


@pytest.mark.parametrize("settings", [{"memory": 0}, {"memory": -1}, {"batch_size": 0}])
def test_no_memory_at_all(settings):
    with pytest.raises(InputError, match="must be at least 1"):
        attacked(FGSM(eps=0.1), 1024, **settings)


_MEASURED = """
import torch
from mithridate import rng
from mithridate.attacks import APGD, run_attack
from mithridate.goals import Untargeted
from mithridate.testing.models import linear_model
torch.set_num_threads(1)
model, x = linear_model((3, 128, 128)), torch.rand((64, 3, 128, 128), generator=rng.rng(0))
attack, goal = APGD(eps=0.01, steps=3, stop_at_goal=False), Untargeted(model.labels(x))
def peak():
    lines = open("/proc/self/status").read().splitlines()  # ru_maxrss is inherited on a fork
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
for memory in (20_000_000, 100_000_000, 2**30):  # a first run, so that all code is loaded
    run_attack(attack, model, x, goal, rng=rng.rng(0), memory=memory)
    print(peak(), end=" ")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is of Linux")
def test_peak_of_the_process_keeps_to_the_memory():
    """64 images of 192 KiB: all at once take some 200 MiB."""
    command = [sys.executable, "-c", _MEASURED]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    first, stated, ample = map(int, found.stdout.split())
    assert stated - first < 100_000_000 < ample - first


UNEASY = {
    "pgd restarts": PGD(eps=0.05, steps=3, step_size=0.02, restarts=3),
    "pgd l1": PGD(eps=0.4, norm=L1, steps=5, step_size=0.1, restarts=2),
    "pgd l2": PGD(eps=0.15, norm=L2, steps=5, step_size=0.05, restarts=2, stop_at_goal=False),
    "apgd dlr": APGD(eps=0.05, steps=5, loss="dlr-targeted", restarts=2),
    "fab restarts": FAB(norm=LINF, steps=5, restarts=3),
    "square l2": Square(eps=0.2, norm=L2, queries=30),
    "autoattack plus": AutoAttack(eps=0.05, variant="plus", steps=3, queries=20),
    "autoattack rand": AutoAttack(eps=0.05, variant="rand", steps=2),
    "hopskipjump linf": HopSkipJump(norm=LINF, budget=120),
    "one-pixel": OnePixel(pixels=2, population=10, generations=4),
    "a given patch": AdversarialPatch(patch=torch.eye(4)[None], scale_min=0.6, scale_max=0.9),
}


@pytest.mark.parametrize("name", UNEASY)
def test_rows_that_are_left_keep_their_numbers(name):
    """Some rows leave early, so the others' places in the batch change."""
    model = linear_model(classes=4)
    x = 0.5 + 0.3 * (X - 0.5) * torch.linspace(0.1, 1, 20)[:, None, None, None]
    goal = Untargeted(model.labels(x))

    def run(size):
        found = run_attack(UNEASY[name], model, x, goal, batch_size=size, rng=random.rng(0))
        assert found.status == "done"
        return found

    whole = run(None)
    for size in (1, 7):
        parts = run(size)
        # Sums of a batch of another size are rounded otherwise, which grows over iterations.
        torch.testing.assert_close(parts.adversarials, whole.adversarials, rtol=0, atol=1e-4)
        assert torch.equal(parts.row_queries, whole.row_queries)


@pytest.mark.parametrize("name", ["pgd", "square", "fab", "hopskipjump"])
def test_a_target_at_a_time_gives_the_same(name):
    model = linear_model(classes=4)
    goal = Targeted((model.labels(X) + 1) % 4)
    whole, parts = (
        run_attack(SOME[name], model, X, goal, batch_size=size, rng=random.rng(0))
        for size in (None, 3)
    )
    torch.testing.assert_close(parts.adversarials, whole.adversarials, rtol=0, atol=1e-5)
