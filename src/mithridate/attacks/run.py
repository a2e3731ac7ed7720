"""Runs an attack in batches, and certifies bounds, budget and success."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from mithridate.attacks.base import Attack, BoundedAttack
from mithridate.attacks.batches import Batches
from mithridate.attacks.losses import LogOdds
from mithridate.attacks.quantize import check_levels, rounded, within_levels
from mithridate.classifier import Classifier, Guarded, as_classifier, check_images
from mithridate.component import find, in_order
from mithridate.errors import (
    InputError,
    MithridateError,
    NothingAssessedError,
    QueriesRefused,
    RunError,
    check_number,
)
from mithridate.goals import Goal, as_goal
from mithridate.metrics import wilson
from mithridate.norms import L0, L1, L2, LINF, fits
from mithridate.rng import as_generator, child

ASKED, AGAIN = 4, 6
"""Images, and how often they are asked about, to see whether the model answers by chance."""
REFUSED = "stopped: refused"


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What an attack did, measured from outside. All tensors are on the images' device.

    A row that was misclassified before the attack counts as a success of an `Untargeted`
    goal: `clean_predicted` lets a report leave such rows out.

    Attributes:
        adversarials: (N, C, H, W) in [0, 1]; the input where a row was not attacked.
        success: bool (N,), by predicting `adversarials` anew; False where logits are not finite,
            or the model rejects the image.
        predicted: classes of `adversarials`, (N,); `model.rejected` where it rejects them.
        clean_predicted: classes of the input, (N,).
        l0: values changed, (N,); l1, l2, linf: distances to the input, (N,).
        queries: images that the attack asked about, all rows together, those that a guard refused
            too, certification not counted; of the model that the attacker looked at.
        gradients: images differentiated by the attack, likewise.
        refused: how many of the queries a guard refused.
        row_queries: queries of each row, int64 (N,), their sum is `queries`; None where
            that cannot be told, as from an attack that drops rows without `Cost.on_rows`.
        seconds: time spent in the attack.
        status: "done", "interrupted" (Ctrl-C: finished batches are kept, the other rows equal
            the input) or "stopped: refused after N queries" (by a guard, which answered N: rows
            that were given up equal the input, the others do not).
        no_gradient: rows not fooled at whose input the gradient is 0 or not finite, bool (N,);
            None for an attack that asks for no gradients.
        random: the model answers the same image in several ways, and does not say so (`draws`).
        lost_to_rounding: rows that the attack's proposal fooled and no rounded image did, bool
            (N,); None without `quantize`.
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
    refused: int = 0
    row_queries: Tensor | None = None
    no_gradient: Tensor | None = None
    lost_to_rounding: Tensor | None = None
    random: bool = False

    def __len__(self) -> int:
        return len(self.success)

    def __repr__(self) -> str:
        """The figures, without the pixels: success with its 95 % interval, distances of those."""
        n, k = len(self), int(self.success.sum())
        parts = [f"{self.status}: success on {k:,} of {n:,} images"]
        if n:
            share = wilson(k, n)
            parts[0] += f", {share.value:.1%} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
            still = int((self.success & (self.linf == 0)).sum())
            parts[0] += f" ({still:,} of them unchanged)" if still else ""
            spent = (self.queries / n, self.gradients / n)
            parts.append("{:,.4g} queries and {:,.4g} gradients an image".format(*spent))
        if k:
            sizes = (float(part[self.success].mean()) for part in (self.l2, self.linf))
            parts.insert(1, "mean L2 {:.3g}, Linf {:.3g}".format(*sizes))
        return f"AttackResult({'; '.join(parts)})"

    @property
    def given_up(self) -> Tensor:
        """Rows that failed and came back as they were, as without a starting point: bool (N,)."""
        return ~self.success & (self.linf == 0)


def run_attack(
    attack: Attack,
    model: Classifier | Guarded | nn.Module,
    x: Tensor,
    goal: Goal | Tensor | Sequence[int],
    *,
    rng: torch.Generator | int,
    through: Classifier | Guarded | None = None,
    quantize: int | None = None,
    known: Tensor | None = None,
    batch_size: int | None = None,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AttackResult:
    """Attack images, then check every claim: no attack certifies itself.

    The attacker looks at `through`; labels, success and distances are those of `model`. So an
    attack that leaves alone what has reached its goal leaves alone a row that fools `through`,
    whether it fools `model` or not; and it works on a row that fools `model` alone, whose success
    is then what became of it.

    Where the model answers by chance, by its own word (`model.draws`) or as it is found, the attack
    is the one for such models (`Attack.at_random`). Success is that of one more answer.

    Where a GPU runs out of memory, the batch is halved and the same rows are tried again. Such
    a try counts in `seconds` only.

    Args:
        attack: proposes images.
        model: moved nowhere and returned as it was; batches go to its device. Behind a guard, it
            is the guard that the attack asks, and the model itself that certifies, unasked. A
            bare module is wrapped: images in [0, 1], its classes counted by running it.
        x: images (N, C, H, W) in [0, 1].
        goal: one goal per image; of labels, to leave them.
        through: what the attacker looks at. None: `model.attacker()`, the view that its own
            defences declare for one who knows them. The model without its defence: an attacker
            who ignores it (*oblivious*). Another model: a transfer.
        quantize: bits of the image file that must hold the result, 8 as a rule: adversarials are
            whole levels (`quantize.rounded` says how), and all figures are theirs. Costs at most
            10 queries an image more.
        known: images (N, C, H, W) as another attack, or the same within a smaller eps, left them:
            a row that they fool within the budget is certified, kept as it is and not attacked;
            another is attacked as it would be without them, from x.
        rng: a seeded generator, or a seed. A row's random numbers depend on its seed and the row's
            place in x, not on the batch; only an attack that is universal depends on that.
        batch_size: images handed to the attack at once; `model.compute_batch` is another
            thing. None for as many as fit in `memory`, at most 1024.
        memory: bytes that the attack and its passes may take, beside x and the result, where
            there is no `batch_size`; None for 2 GiB, or three quarters of a CUDA card. Behind a
            guard images come one by one, so that a refusal costs one row and not all.
        progress: called with (images done, images in all) after each batch.

    Raises:
        InputError: unusable images or labels, a `through` of other classes or images, or an
            attack by gradients on a guard, or with `quantize` images that are no whole levels;
            `known` of another shape.
        NothingAssessedError: the model's logits on x are not finite.
        RunError: the attack crashed, or left [0, 1], its budget or the shape of x: a bug of the
            attack; or the memory does not hold a single image.

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
    if not isinstance(attack, Attack):
        what = f"the class {attack.__name__}" if isinstance(attack, type) else repr(attack)
        raise InputError(f"an attack is an instance such as FGSM(eps=0.1), got {what}")
    rng = as_generator(rng)
    with torch.inference_mode(False):  # tensors of that mode have no gradients
        if not isinstance(model, Guarded | Classifier):
            if len(x) == 0:
                raise InputError("no images to attack, and a bare module is wrapped by its images")
            model = as_classifier(model, check_images(x))
        goal = as_goal(goal)
        judge, asked = white(model), model.attacker() if through is None else through
        seen = white(asked)
        paces = judge.compute_batch, seen.compute_batch
        _check_view(attack, judge, asked)
        x, first = _checked(judge, x.clone() if x.is_inference() else x, goal)
        if seen is not judge:
            _checked(seen, x, goal)
        if quantize is not None:
            check_levels(x, quantize)
        known = _as_known(known, x, quantize)
        if batch_size is None and isinstance(asked, Guarded):
            batch_size = 1
        with judge.frozen(), seen.frozen():
            try:
                batch = Batches(attack, seen, x, size=batch_size, memory=memory)
                wanted = goal.avoiding(judge.rejected)
                run = _Run(attack, judge, asked, x, wanted, rng, batch, quantize)
                run.keep(known, batch)
                random = not judge.draws and _at_random(judge, x, first, run.first)
                if judge.draws or seen.draws or random:
                    run.attack = attack.at_random()
                for rows in batch.over(len(run.left), run.work):
                    if run.status != "done" and not run.status.startswith(REFUSED):
                        break
                    if progress is not None:
                        progress(rows.stop, len(run.left))
            finally:
                judge.compute_batch, seen.compute_batch = paces
        return replace(run.result(), random=random)


def white(model: Classifier | Guarded) -> Classifier:
    """The classifier behind the guards, if there are any."""
    return model.model if isinstance(model, Guarded) else model


def differ(first: Tensor | None, again: Tensor | None) -> bool:
    """Whether an image was answered otherwise when it was asked about again."""
    if first is None or again is None:
        return False
    return bool((first - again).abs().max() > 1e-3 * (1 + first.abs().max()))


@contextmanager
def uncounted(model: Classifier) -> Iterator[None]:
    """What is asked inside is no cost of an attack."""
    before = model.cost.queries, model.cost.gradients
    try:
        yield
    finally:
        model.cost.queries, model.cost.gradients = before


def _at_random(judge: Classifier, x: Tensor, first: Tensor | None, other: Tensor | None) -> bool:
    """Whether some images, asked about again and again, are answered otherwise.

    A service is asked again only about what it answered otherwise beside others.
    """
    if first is None:
        return False
    few, times = x[:: max(1, len(x) // ASKED)][:ASKED].to(judge.device), AGAIN
    if judge.info.get("runtime") == "http":
        few, times = few[:1], 3 if differ(first, other) else 0
    with torch.no_grad(), uncounted(judge):
        answers = [judge.logits(few) for _ in range(times)]
    return any(differ(answers[0], one) for one in answers)


def _checked(model: Classifier, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor | None]:
    """The images, fit for the model and the goals, and the logits of the first, (1, K).

    Raises:
        InputError: unusable images or labels.
    """
    x, classes = check_images(x, model.image_shape).detach(), model.classes
    first: Tensor | None = None
    if len(goal) != len(x):
        raise InputError(f"one goal per image: got {len(goal)} goals for {len(x)} images")
    for labels in goal.classes():
        if len(x) and int(labels.max()) >= classes:
            low, high = int(labels.min()), int(labels.max())
            hint = "subtract 1" if low >= 1 and high == classes else f"use 0 to {classes - 1}"
            raise InputError(f"labels run {low}..{high} for {classes} classes: {hint}")
    if len(x):
        try:
            with torch.no_grad():
                first = model.logits(x[:1].to(model.device)).cpu()
        except torch.OutOfMemoryError:
            pass  # the batches deal with it
        except RuntimeError as error:
            raise InputError(
                f"the model cannot take images of shape {tuple(x.shape[1:])}: {_first_line(error)}"
            ) from error
    return x, first


def _as_known(known: Tensor | None, x: Tensor, quantize: int | None) -> Tensor | None:
    """Images that may fool already, beside x.

    Raises:
        InputError: of another shape, or of no whole levels where `quantize` wants them.
    """
    if known is None:
        return None
    if known.shape != x.shape:
        raise InputError(f"known are images {tuple(x.shape)} as x is, got {tuple(known.shape)}")
    known = check_images(known.to(x)).detach()
    if quantize is not None:
        check_levels(known, quantize)
    return known


def _check_view(attack: Attack, judge: Classifier, asked: Classifier | Guarded) -> None:
    """Refuse to look through another kind of model, or for gradients through a guard."""
    seen = white(asked)
    mine, theirs = (m.classes - (m.rejected is not None) for m in (judge, seen))
    if mine != theirs:
        raise InputError(
            f"the model has {mine} classes, that of through= has {theirs}: take one alike"
        )
    shapes = judge.image_shape, seen.image_shape
    if None not in shapes and shapes[0] != shapes[1]:
        raise InputError(
            f"the model takes images {shapes[0]}, that of through= {shapes[1]}: take one alike"
        )
    if not seen.shows(attack.about.access):
        known = ((n, find("attacks", n).about.access) for n in in_order("attacks"))
        others = [name for name, access in known if seen.shows(access)]
        lacking = next(kind for kind in attack.about.access if not seen.shows((kind,)))
        raise InputError(
            f"{type(attack).__name__} needs {lacking}s, and this model gives {seen.gives}: take "
            f"one of {', '.join(others)}, or give through= (--through) a model with {lacking}s"
        )
    if isinstance(asked, Guarded) and "gradient" in attack.about.access:
        raise InputError(
            f"{type(attack).__name__} needs gradients, and a guard gives labels and scores: take "
            "an attack by labels (hopskipjump) or scores (square), or give through= (--through) a "
            "model"
        )


class _Run:
    """The rows attacked so far; the others are as the input. All results are on its device.

    Raises:
        NothingAssessedError: logits that are not finite.
    """

    def __init__(
        self,
        attack: Attack,
        judge: Classifier,
        asked: Classifier | Guarded,
        x: Tensor,
        goal: Goal,
        rng: torch.Generator,
        batch: Batches,
        quantize: int | None,
    ) -> None:
        self.quantize = quantize
        self.attack, self.judge, self.asked, self.seen = attack, judge, asked, white(asked)
        self.x, self.goal, self.rng = x, goal, rng
        self.queries, self.gradients, self.refused, self.seconds = 0, 0, 0, 0.0
        self.status, self.traced = "done", True
        self.out, self.sizes = x.clone(), x.new_zeros((4, len(x)))
        self.row_queries = x.new_zeros(len(x), dtype=torch.int64)
        self.clean, finite = torch.zeros_like(self.row_queries), x.new_zeros(len(x)).bool()
        self.first: Tensor | None = None

        def look(rows: slice) -> None:
            self.clean[rows], finite[rows] = self._predict(x[rows])

        for _ in batch.over(len(x), look):
            pass
        broken = int((~finite).sum())
        if broken:
            raise NothingAssessedError(
                f"the model's logits are NaN or infinite on {broken} of {len(x)} images: "
                "nothing to attack"
            )
        self.no_gradient, self.lost = torch.zeros_like(finite), torch.zeros_like(finite)
        self.predicted = self.clean.clone()
        self.success = self._reached(slice(None), self.clean)
        self.left = torch.arange(len(x))  # rows to attack

    def keep(self, known: Tensor | None, batch: Batches) -> None:
        """Rows that these images fool within the budget stay as they are there."""
        if known is None:
            return

        def look(rows: slice) -> None:
            x, near = self.x[rows], known[rows]
            predicted, sound = self._predict(near)
            kept = self._reached(rows, predicted) & sound & _inside(self.attack, near, x)
            places = kept.nonzero()[:, 0] + rows.start
            self.out[places], self.predicted[places] = near[kept], predicted[kept]
            self.sizes[:, places], self.success[places] = _distances(near[kept], x[kept]), True
            untried[rows] = ~kept.cpu()

        untried = torch.ones(len(known), dtype=torch.bool)
        for _ in batch.over(len(known), look):
            pass
        self.left = untried.nonzero()[:, 0]

    def work(self, part: slice) -> None:
        """Attack some of the rows left; where memory runs out, nothing but time was spent."""
        rows = self.left[part]
        x, device, cost = self.x[rows].to(self.seen.device), self.seen.device, self.asked.cost
        goal = self.goal[rows].to(device).avoiding(self.seen.rejected)
        stream = child(self.rng, "attack", device=device, rows=rows)
        before, began = (cost.queries, cost.gradients, cost.refused), _now(device)
        with cost.by_row(len(x), device) as ledger:
            try:
                proposal, status = self._propose(rows, x, goal, stream)
            finally:
                self.seconds += _now(device) - began
        after = cost.queries, cost.gradients, cost.refused
        queries, gradients, refused = (b - a for a, b in zip(before, after, strict=True))
        if proposal is not None:
            proposal = certified(self.attack, proposal, x)
            distances = _distances(proposal, x)
            predicted, sound = self._predict(proposal)
            self.out[rows], self.predicted[rows] = proposal.to(self.x.device), predicted
            self.success[rows] = self._reached(rows, predicted) & sound
            self.sizes[:, rows] = distances.to(self.x.device)
            if "gradient" in self.attack.about.access:
                self._look_for_gradient(rows, x, goal)
        self.row_queries[rows] = ledger.counts.to(self.x.device)
        self.traced = self.traced and not ledger.broken
        self.queries, self.gradients = self.queries + queries + refused, self.gradients + gradients
        self.refused += refused
        if REFUSED in (status, self.status[: len(REFUSED)]) and status in ("done", REFUSED):
            status = f"{REFUSED} after {self.queries - self.refused} queries"
        self.status = status

    def _look_for_gradient(self, rows: Tensor, x: Tensor, goal: Goal) -> None:
        """Rows not fooled whose input has no gradient: an attack by gradients was blind there."""
        cost = self.seen.cost
        before, left = (cost.queries, cost.gradients), ~self.success[rows].to(x.device)
        gradient, _ = self.seen.gradient(x[left], LogOdds(goal[left]), finite=False)
        cost.queries, cost.gradients = before
        size = gradient.flatten(1).abs().sum(1)
        blind = torch.zeros_like(left)
        blind[left] = ~((size > 0) & size.isfinite())
        self.no_gradient[rows] = blind.to(self.no_gradient.device)

    def _reached(self, rows: slice | Tensor, predicted: Tensor) -> Tensor:
        """Which goals these predictions reach; none by being rejected, whatever the goal says."""
        reached = self.goal[rows].to(predicted.device).reached(predicted)
        rejected = self.judge.rejected
        return reached if rejected is None else reached & (predicted != rejected)

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Classes, and which rows have finite logits."""
        judge = self.judge
        # Where memory ran out, it is the attacker's model whose passes were halved.
        judge.compute_batch = min(judge.compute_batch, self.seen.compute_batch)
        with torch.no_grad():
            logits = judge.logits(x.to(judge.device))
        self.first = logits[:1].cpu() if self.first is None else self.first
        device = self.x.device
        return logits.argmax(1).to(device), logits.isfinite().all(1).to(device)

    def _propose(
        self, rows: Tensor, x: Tensor, goal: Goal, rng: torch.Generator
    ) -> tuple[Tensor | None, str]:
        """The attack's images, or None where it stopped; and how it ended."""
        # A guard is no Classifier: what an attack asks of it, it was checked, is an Oracle's.
        view = cast(Classifier, self.asked)
        try:
            # A copy: were an attack to write into its input, distances would come out as 0.
            attack = self.attack
            if self.quantize is not None:
                attack = within_levels(attack, self.quantize)
            with view.frozen():
                near = attack.perturb(view, x.clone(), goal, rng=rng).detach()
            if self.quantize is not None:
                near, lost = rounded(view, self.attack, x, near, goal, self.quantize)
                self.lost[rows] = lost.to(self.lost.device)
            return near, "done"
        except KeyboardInterrupt:
            return None, "interrupted"
        except QueriesRefused:
            return None, REFUSED
        except (MithridateError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {_first_line(error)}"
            raise RunError(f"{type(self.attack).__name__} crashed: {text}") from error

    def result(self) -> AttackResult:
        whole = self.traced and int(self.row_queries.sum()) == self.queries
        l0, l1, l2, linf = self.sizes
        return AttackResult(
            adversarials=self.out,
            success=self.success,
            predicted=self.predicted,
            clean_predicted=self.clean,
            l0=l0,
            l1=l1,
            l2=l2,
            linf=linf,
            queries=self.queries,
            gradients=self.gradients,
            seconds=self.seconds,
            status=self.status,
            refused=self.refused,
            row_queries=self.row_queries if whole else None,
            no_gradient=self.no_gradient if "gradient" in self.attack.about.access else None,
            lost_to_rounding=None if self.quantize is None else self.lost,
        )


def _distances(near: Tensor, x: Tensor) -> Tensor:
    """L0, L1, L2 and LINF of each row: (4, N)."""
    return torch.stack([norm.distance(near, x) for norm in (L0, L1, L2, LINF)])


def _inside(attack: Attack, near: Tensor, x: Tensor) -> Tensor:
    """Which rows keep the attack's budget, but for rounding: bool (N,)."""
    if not isinstance(attack, BoundedAttack):
        return near.new_ones(len(near), dtype=torch.bool)
    return fits(attack.norm.distance(near, x), attack.eps)


def certified(attack: Attack, proposal: Tensor, x: Tensor) -> Tensor:
    """The proposal as float32, or the contract that it breaks."""
    name = type(attack).__name__
    if proposal.shape != x.shape:
        raise RunError(f"{name} returned shape {tuple(proposal.shape)} for {tuple(x.shape)}: a bug")
    proposal = proposal.to(x)
    if len(proposal) == 0:
        return proposal
    low, high = (float(v) for v in torch.aminmax(proposal))
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise RunError(f"{name} left [0, 1]: returned values in [{low:g}, {high:g}]: a bug")
    proposal = proposal.clamp(0, 1)
    if isinstance(attack, BoundedAttack) and not bool(_inside(attack, proposal, x).all()):
        farthest = float(attack.norm.distance(proposal, x).max())
        raise RunError(
            f"{name} left its budget: {attack.norm} distance {farthest:g}, "
            f"eps {attack.eps:g}: a bug"
        )
    return proposal


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
