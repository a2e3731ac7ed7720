"""Runs an attack in batches and certifies what it returns: bounds, budget, success."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.attacks.base import Attack, BoundedAttack
from mithridate.classifier import Classifier, check_images
from mithridate.errors import (
    InputError,
    MithridateError,
    NothingAssessedError,
    RunError,
    check_number,
)
from mithridate.goals import Goal
from mithridate.norms import L0, L1, L2, LINF

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


def run_attack(
    attack: Attack,
    model: Classifier,
    x: Tensor,
    goal: Goal,
    *,
    batch_size: int = 1024,
    rng: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> AttackResult:
    """Attack images, then check every claim: no attack certifies itself.

    Args:
        attack: proposes images.
        model: moved nowhere and returned as it was; batches go to its device.
        x: images (N, C, H, W) in [0, 1].
        goal: one goal per image.
        batch_size: images handed to the attack at once; `model.compute_batch` is another
            thing. Random numbers depend on it, as each batch has its own child of `rng`.
        rng: a seeded generator.
        progress: called with (images done, images in all) after each batch.

    Raises:
        InputError: unusable images or labels.
        NothingAssessedError: the model's logits on x are not finite.
        RunError: the attack left [0, 1], its budget or the shape of x: a bug of the attack.

    >>> from mithridate.attacks.fast_gradient import FGSM
    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x = torch.tensor([[[[0.6, 0.5]]]])
    >>> r = run_attack(FGSM(eps=0.1), model, x, Untargeted([0]), rng=random.rng(0))
    >>> r.success, r.linf
    (tensor([True]), tensor([0.1000]))
    """
    x = _checked(model, x, goal, batch_size)
    out, sizes = x.clone(), x.new_zeros((4, len(x)))
    spent, asked = _Spent(), x.new_zeros(len(x), dtype=torch.int64)
    with model.frozen():
        clean = _clean_labels(model, x, batch_size)
        predicted, success = clean.clone(), goal.to(x.device).reached(clean)
        for start in range(0, len(x), batch_size):
            rows = slice(start, min(start + batch_size, len(x)))
            part, aims = x[rows].to(model.device), goal[rows].to(model.device)
            stream = random.child(rng, "attack", start, device=model.device)
            with model.cost.by_row(len(part), model.device) as ledger:
                found = _propose(attack, model, part, aims, stream, spent)
            asked[rows] = ledger.counts.to(x.device)
            spent.traced &= not ledger.broken
            if found is None:
                break
            found = _certified(attack, found, part)
            label, sound = _predict(model, found)
            distances = torch.stack([norm.distance(found, part) for norm in (L0, L1, L2, LINF)])
            out[rows], predicted[rows] = found.to(x.device), label.to(x.device)
            success[rows] = (aims.reached(label) & sound).to(x.device)
            sizes[:, rows] = distances.to(x.device)
            if progress is not None:
                progress(rows.stop, len(x))
    return AttackResult(
        adversarials=out,
        success=success,
        predicted=predicted,
        clean_predicted=clean,
        l0=sizes[0],
        l1=sizes[1],
        l2=sizes[2],
        linf=sizes[3],
        queries=spent.queries,
        gradients=spent.gradients,
        seconds=spent.seconds,
        status=spent.status,
        row_queries=asked if spent.traced and int(asked.sum()) == spent.queries else None,
    )


@dataclass
class _Spent:
    """What the attack itself cost, and how it ended."""

    queries: int = 0
    gradients: int = 0
    seconds: float = 0.0
    status: str = "done"
    traced: bool = True


def _propose(
    attack: Attack, model: Classifier, x: Tensor, goal: Goal, rng: torch.Generator, spent: _Spent
) -> Tensor | None:
    """The attack's images, or None where it was stopped or crashed; either way at its expense."""
    queries, gradients, began = model.cost.queries, model.cost.gradients, _now(model.device)
    try:
        # A copy: were an attack to write into its input, distances would come out as 0.
        return attack.perturb(model, x.clone(), goal, rng=rng).detach()
    except KeyboardInterrupt:
        spent.status = "interrupted"
    except MithridateError:
        raise
    except Exception as error:
        log.exception("%s crashed", attack)
        spent.status = f"failed: {type(error).__name__}: {_first_line(error)}"
    finally:
        spent.seconds += _now(model.device) - began
        spent.queries += model.cost.queries - queries
        spent.gradients += model.cost.gradients - gradients
    return None


def check_labels(goal: Goal, n: int, classes: int) -> None:
    """Refuse goals that do not fit n images of `classes` classes.

    Raises:
        InputError: another number of goals, or a label past the last class.
    """
    if len(goal) != n:
        raise InputError(f"one goal per image: got {len(goal)} goals for {n} images")
    for labels in goal.classes():
        if n == 0 or int(labels.max()) < classes:
            continue
        low, high = int(labels.min()), int(labels.max())
        hint = "subtract 1" if low >= 1 and high == classes else f"use 0 to {classes - 1}"
        raise InputError(f"labels run {low}..{high} for {classes} classes: {hint}")


def _checked(model: Classifier, x: Tensor, goal: Goal, batch_size: int) -> Tensor:
    check_number("batch_size", batch_size, low=1)
    x = check_images(x, model.image_shape).detach()
    check_labels(goal, len(x), model.classes)
    if len(x):
        try:
            with torch.no_grad():
                model.logits(x[:1].to(model.device))
        except RuntimeError as error:
            raise InputError(
                f"the model cannot take images of shape {tuple(x.shape[1:])}: {_first_line(error)}"
            ) from error
    return x


def _clean_labels(model: Classifier, x: Tensor, batch_size: int) -> Tensor:
    labels, broken = [], 0
    for start in range(0, max(1, len(x)), batch_size):
        label, sound = _predict(model, x[start : start + batch_size].to(model.device))
        labels.append(label.to(x.device))
        broken += int((~sound).sum())
    if broken:
        raise NothingAssessedError(
            f"the model's logits are NaN or infinite on {broken} of {len(x)} images: "
            "nothing to attack"
        )
    return torch.cat(labels)


def _predict(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Classes, and which rows have finite logits."""
    with torch.no_grad():
        logits = model.logits(x)
    return logits.argmax(1), logits.isfinite().all(1)


def _certified(attack: Attack, found: Tensor, x: Tensor) -> Tensor:
    """The proposal as float32, or the contract that it breaks."""
    name = type(attack).__name__
    if found.shape != x.shape:
        raise RunError(f"{name} returned shape {tuple(found.shape)} for {tuple(x.shape)}: a bug")
    found = found.to(x)
    if len(found) == 0:
        return found
    low, high = (float(v) for v in torch.aminmax(found))
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise RunError(f"{name} left [0, 1]: returned values in [{low:g}, {high:g}]: a bug")
    found = found.clamp(0, 1)
    if isinstance(attack, BoundedAttack):
        farthest = float(attack.norm.distance(found, x).max())
        if farthest > attack.eps * (1 + 1e-5) + 1e-6:
            raise RunError(
                f"{name} left its budget: {attack.norm} distance {farthest:g}, "
                f"eps {attack.eps:g}: a bug"
            )
    return found


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
