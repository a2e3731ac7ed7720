"""Runs an attack in batches and certifies what it returns: bounds, budget, success."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mithridate.attacks.base import Attack
from mithridate.attacks.batches import Batches, batches
from mithridate.attacks.checks import certified, checked, first_line
from mithridate.classifier import Classifier
from mithridate.errors import MithridateError, NothingAssessedError, check_number
from mithridate.goals import Goal
from mithridate.norms import L0, L1, L2, LINF
from mithridate.rng import child

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What an attack did, measured from outside. All tensors are on the images' device.

    A row that was misclassified before the attack counts as a success of an `Untargeted`
    goal: `clean_predicted` lets a report leave such rows out.

    Attributes:
        adversarials: (N, C, H, W) in [0, 1]; the input where a row was not attacked.
        success: bool (N,), by predicting `adversarials` anew; False where logits are not finite.
        predicted: classes of `adversarials`, (N,).
        clean_predicted: classes of the input, (N,).
        l0: values changed, (N,); l1, l2, linf: distances to the input, (N,).
        queries: images forwarded by the attack, all rows together, certification not counted.
        gradients: images differentiated by the attack, likewise.
        row_queries: images forwarded for each row, int64 (N,), their sum is `queries`; None where
            that cannot be told, as from an attack that drops rows without `Cost.on_rows`.
        seconds: time spent in the attack.
        status: "done", "interrupted" (Ctrl-C: finished batches are kept, the other rows equal
            the input) or "failed: ..." (the attack crashed: likewise).
    """

    adversarials: Tensor
    success: Tensor
    predicted: Tensor
    clean_predicted: Tensor
    l0: Tensor
    l1: Tensor
    l2: Tensor
    linf: Tensor
    queries: int
    gradients: int
    seconds: float
    status: str
    row_queries: Tensor | None = None

    def __len__(self) -> int:
        return len(self.success)

    @property
    def given_up(self) -> Tensor:
        """Rows that failed and came back as they were, as without a starting point: bool (N,)."""
        return ~self.success & (self.linf == 0)


def run_attack(
    attack: Attack,
    model: Classifier,
    x: Tensor,
    goal: Goal,
    *,
    rng: torch.Generator,
    batch_size: int | None = None,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AttackResult:
    """Attack images, then check every claim: no attack certifies itself.

    Where a GPU runs out of memory, the batch is halved and the same rows are tried again. Such
    a try counts in `seconds` only.

    Args:
        attack: proposes images.
        model: moved nowhere and returned as it was; batches go to its device.
        x: images (N, C, H, W) in [0, 1].
        goal: one goal per image.
        rng: a seeded generator. A row's random numbers depend on its seed and the row's place
            in x, not on the batch; only an attack that is universal depends on that.
        batch_size: images handed to the attack at once; `model.compute_batch` is another
            thing. None for as many as fit in `memory`, at most 1024.
        memory: bytes that the attack and its passes may take, beside x and the result, where
            there is no `batch_size`; None for 2 GiB, or three quarters of a CUDA card.
        progress: called with (images done, images in all) after each batch.

    Raises:
        InputError: unusable images or labels.
        NothingAssessedError: the model's logits on x are not finite.
        RunError: the attack left [0, 1], its budget or the shape of x: a bug of the attack; or
            the memory does not hold a single image.

    >>> from mithridate.attacks.fast_gradient import FGSM
    >>> from mithridate.goals import Untargeted
    >>> from mithridate.rng import rng
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x = torch.tensor([[[[0.6, 0.5]]]])
    >>> r = run_attack(FGSM(eps=0.1), model, x, Untargeted([0]), rng=rng(0))
    >>> r.success, r.linf
    (tensor([True]), tensor([0.1000]))
    """
    if batch_size is not None:
        check_number("batch_size", batch_size, low=1)
    x = checked(model, x, goal)
    with model.frozen(), batches(attack, model, x, size=batch_size, memory=memory) as batch:
        run = _Run(attack, model, x, goal, rng, _clean_labels(model, x, batch))
        for rows in batch.over(len(x), run.work):
            if run.spent.status != "done":
                break
            if progress is not None:
                progress(rows.stop, len(x))
    return run.result()


@dataclass(frozen=True)
class _Spent:
    """What the attack itself cost, and how it ended."""

    queries: int = 0
    gradients: int = 0
    seconds: float = 0.0
    status: str = "done"
    traced: bool = True


@dataclass
class _Run:
    """The rows attacked so far; the others are as the input."""

    attack: Attack
    model: Classifier
    x: Tensor
    goal: Goal
    rng: torch.Generator
    clean: Tensor
    spent: _Spent = field(default_factory=_Spent)

    def __post_init__(self) -> None:
        x = self.x
        self.out, self.sizes = x.clone(), x.new_zeros((4, len(x)))
        self.asked = x.new_zeros(len(x), dtype=torch.int64)
        self.predicted = self.clean.clone()
        self.success = self.goal.to(x.device).reached(self.clean)

    def work(self, rows: slice) -> None:
        """Attack some rows; where memory runs out, nothing but time was spent."""
        before = self.spent
        try:
            self._attack(rows)
        except torch.OutOfMemoryError:
            self.spent = replace(before, seconds=self.spent.seconds)
            raise

    def _attack(self, rows: slice) -> None:
        model, x = self.model, self.x
        part, aims = x[rows].to(model.device), self.goal[rows].to(model.device)
        numbers = torch.arange(rows.start, rows.stop)
        stream = child(self.rng, "attack", device=model.device, rows=numbers)
        with model.cost.by_row(len(part), model.device) as ledger:
            found = self._propose(part, aims, stream)
        self.asked[rows] = ledger.counts.to(x.device)
        self.spent = replace(self.spent, traced=self.spent.traced and not ledger.broken)
        if found is None:
            return
        found = certified(self.attack, found, part)
        label, sound = _predict(model, found)
        distances = torch.stack([norm.distance(found, part) for norm in (L0, L1, L2, LINF)])
        self.out[rows], self.predicted[rows] = found.to(x.device), label.to(x.device)
        self.success[rows] = (aims.reached(label) & sound).to(x.device)
        self.sizes[:, rows] = distances.to(x.device)

    def _propose(self, x: Tensor, goal: Goal, rng: torch.Generator) -> Tensor | None:
        """The attack's images, or None where it stopped or crashed; either way at its expense."""
        cost, device, status = self.model.cost, self.model.device, self.spent.status
        queries, gradients, began = cost.queries, cost.gradients, _now(device)
        try:
            # A copy: were an attack to write into its input, distances would come out as 0.
            return self.attack.perturb(self.model, x.clone(), goal, rng=rng).detach()
        except KeyboardInterrupt:
            status = "interrupted"
        except (MithridateError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            log.exception("%s crashed", self.attack)
            status = f"failed: {type(error).__name__}: {first_line(error)}"
        finally:
            self.spent = replace(
                self.spent,
                queries=self.spent.queries + cost.queries - queries,
                gradients=self.spent.gradients + cost.gradients - gradients,
                seconds=self.spent.seconds + _now(device) - began,
                status=status,
            )
        return None

    def result(self) -> AttackResult:
        spent = self.spent
        told = spent.traced and int(self.asked.sum()) == spent.queries
        return AttackResult(
            adversarials=self.out,
            success=self.success,
            predicted=self.predicted,
            clean_predicted=self.clean,
            l0=self.sizes[0],
            l1=self.sizes[1],
            l2=self.sizes[2],
            linf=self.sizes[3],
            queries=spent.queries,
            gradients=spent.gradients,
            seconds=spent.seconds,
            status=spent.status,
            row_queries=self.asked if told else None,
        )


def _clean_labels(model: Classifier, x: Tensor, batch: Batches) -> Tensor:
    labels = x.new_zeros(len(x), dtype=torch.int64)
    finite = torch.ones_like(labels, dtype=torch.bool)

    def look(rows: slice) -> None:
        label, sound = _predict(model, x[rows].to(model.device))
        labels[rows], finite[rows] = label.to(x.device), sound.to(x.device)

    for _ in batch.over(len(x), look):
        pass
    broken = int((~finite).sum())
    if broken:
        raise NothingAssessedError(
            f"the model's logits are NaN or infinite on {broken} of {len(x)} images: "
            "nothing to attack"
        )
    return labels


def _predict(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Classes, and which rows have finite logits."""
    with torch.no_grad():
        logits = model.logits(x)
    return logits.argmax(1), logits.isfinite().all(1)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
