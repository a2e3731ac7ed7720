"""A model to be judged: one class around any nn.Module, and the narrower views that attacks see.

Images are float32 in [0, 1], N x C x H x W. A module that wants another range says so with
`bounds`, and the classifier scales for it, so that eps means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol, Self, final

import torch
from torch import Tensor, nn

from mithridate.cost import Cost as Cost
from mithridate.errors import InputError


class Bounds(NamedTuple):
    """Smallest and largest pixel value."""

    low: float
    high: float


class Oracle(Protocol):
    """All that a decision-based attack may see: labels, and what they cost."""

    bounds: Bounds
    classes: int
    cost: Cost

    def labels(self, x: Tensor) -> Tensor: ...


class ScoreOracle(Oracle, Protocol):
    """What a score-based attack may see: labels and probabilities."""

    def scores(self, x: Tensor) -> Tensor: ...


class Objective(Protocol):
    """What a gradient is taken of: a loss per row, and the same for some of the rows."""

    def loss(self, logits: Tensor) -> Tensor: ...
    def __getitem__(self, rows: slice) -> Self: ...


@final
class Classifier:
    """Any module of images -> logits, with bounds, counts of queries, and input gradients only.

    Args:
        module: maps (N, C, H, W) to (N, classes) logits.
        bounds: pixel range that the module itself expects; callers always pass [0, 1].
        classes: how many classes, or their names.
        image_shape: (C, H, W), checked where given.
        compute_batch: images per forward pass; independent of the batch that is asked for.
        channels_last: memory layout of the passes. Both default to what measured fastest on
            the device's kind (docs/decisions/0003); `settle` measures this machine instead.
        autocast: bfloat16 passes. Changes rounding, hence results; off by default.
        outputs: "probabilities" where the module ends in a softmax: its logarithm is taken.
        info: free-form record (training, architecture), kept in checkpoints.
        rejected: the class, if there is one, that means "not answered": a detector's. No goal
            is reached by it.
        attacker: makes the view that a defence inside declares for attackers who know it.

    Raises:
        InputError: not a module, fewer than two classes, empty bounds, no such class to reject.

    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), classes=3)
    >>> model.logits(torch.zeros(2, 1, 2, 2)).shape
    torch.Size([2, 3])
    >>> model.cost.queries
    2
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        classes: int | Sequence[str],
        image_shape: tuple[int, int, int] | None = None,
        device: torch.device | str | None = None,
        compute_batch: int | None = None,
        channels_last: bool | None = None,
        autocast: bool = False,
        outputs: str = "logits",
        info: dict[str, Any] | None = None,
        rejected: int | None = None,
        attacker: Callable[[], Classifier] | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(f"a classifier wraps a torch.nn.Module, got {type(module).__name__}")
        names = [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
        if len(names) < 2:
            raise InputError(f"a classifier has at least 2 classes, got {len(names)}")
        if not bounds[0] < bounds[1]:
            raise InputError(f"bounds are (low, high) with low < high, got {bounds}")
        if outputs not in ("logits", "probabilities"):
            raise InputError(f"outputs is 'logits' or 'probabilities', got {outputs!r}")
        if rejected is not None and not 0 <= rejected < len(names):
            raise InputError(f"rejected is one of the {len(names)} classes, got {rejected}")
        if device is not None:
            module.to(device)
        self.module = module
        self.bounds = Bounds(0.0, 1.0)
        self.input_range = Bounds(float(bounds[0]), float(bounds[1]))
        self.classes = len(names)
        self.class_names = tuple(names)
        self.image_shape = image_shape
        self.autocast = autocast
        self.outputs = outputs
        self.info = dict(info or {})
        self.rejected = rejected
        self._attacker = attacker
        self.cost = Cost()
        on_cpu = self.device.type == "cpu"
        self.compute_batch = compute_batch or (128 if on_cpu else 2048)
        self.channels_last = on_cpu if channels_last is None else channels_last
        self._frozen = False

    @property
    def device(self) -> torch.device:
        """Where the module's parameters are (CPU for a module without any)."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def attacker(self) -> Classifier:
        """What an attacker who knows the defences inside looks at; self where there are none."""
        return self if self._attacker is None else self._attacker()

    def core(self) -> nn.Module:
        """The module, shared and not copied, as one of images in [0, 1] -> logits."""
        return Core(self.module, self.input_range, self.outputs)

    def around(
        self,
        module: nn.Module,
        *,
        info: dict[str, Any],
        attacker: Callable[[], Classifier],
        rejects: bool = False,
    ) -> Classifier:
        """A classifier of a module built around this one's `core`; all else is as here.

        Args:
            module: images in [0, 1] -> logits of the same classes, in the same order.
            info: the record to keep.
            attacker: makes the view of those who know what was built around.
            rejects: one class more comes last, *rejected*, unless there is one already.

        >>> model = Classifier(nn.Flatten(), classes=["cat", "dog"], bounds=(0, 255))
        >>> again = model.around(model.core(), info={}, attacker=lambda: model)
        >>> again.logits(torch.ones(1, 1, 1, 2)), again.class_names
        (tensor([[255., 255.]]), ('cat', 'dog'))
        """
        adds = rejects and self.rejected is None
        return Classifier(
            module,
            classes=(*self.class_names, "rejected") if adds else self.class_names,
            image_shape=self.image_shape,
            compute_batch=self.compute_batch,
            channels_last=self.channels_last,
            autocast=self.autocast,
            info=info,
            rejected=self.classes if adds else self.rejected,
            attacker=attacker,
        )

    def to(self, device: torch.device | str) -> Classifier:
        """Move the module; returns self."""
        self.module.to(device)
        return self

    @contextmanager
    def frozen(self) -> Iterator[Classifier]:
        """Evaluation mode, no parameter gradients, fast layout; all restored on exit."""
        if self._frozen:
            yield self
            return
        self._frozen = True
        modes = [(m, m.training) for m in self.module.modules()]
        wanted = [(p, p.requires_grad) for p in self.module.parameters()]
        data = [(p, p.data) for p, _ in wanted if self.channels_last and p.dim() == 4]
        self.module.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        for parameter, tensor in data:
            # Not `contiguous`: it leaves a one-channel weight as it is, and with it the whole net.
            parameter.data = tensor.to(memory_format=torch.channels_last)
        try:
            yield self
        finally:
            self._frozen = False
            for parameter, tensor in data:
                parameter.data = tensor
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)
            for m, training in modes:
                m.training = training

    def _forward(self, x: Tensor) -> Tensor:
        """One pass of at most `compute_batch` rows, inside `frozen`."""
        self.cost.queries += len(x)
        x = _scaled(x.to(self.device), self.input_range)
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            out = self.module(x)
        if not isinstance(out, Tensor) or out.dim() != 2 or out.shape[1] != self.classes:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise InputError(
                f"the module returns {got}, expected (N, {self.classes}) logits: "
                f"was the number of classes given right?"
            )
        return _as_logits(out, self.outputs)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W); differentiable where x asks for it."""
        if len(x) == 0:
            return x.new_zeros((0, self.classes))
        self.cost.charge(len(x))
        with self.frozen():
            return torch.cat([self._forward(x[rows]) for rows in self._chunks(len(x))])

    def scores(self, x: Tensor) -> Tensor:
        """Probabilities (N, classes), no gradient."""
        with torch.no_grad():
            return self.logits(x).softmax(1)

    def labels(self, x: Tensor) -> Tensor:
        """Predicted classes (N,), int64."""
        with torch.no_grad():
            return self.logits(x).argmax(1)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations (N, F): the input of the last linear layer, no gradient."""
        layer = self.last_linear()
        seen: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            with torch.no_grad():
                self.logits(x)
        finally:
            handle.remove()
        return torch.cat(seen).flatten(1) if seen else x.new_zeros((0, layer.in_features))

    def gradient(self, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        """Gradient of the summed loss by the input, and the logits it was taken at.

        Only inputs carry a graph, never parameters, and the graph of one pass is freed
        before the next: memory is that of `compute_batch` images. The objective is a `Goal`,
        or anything with `loss(logits) -> (N,)` and row slicing.
        """
        if len(x) == 0:
            return torch.zeros_like(x), x.new_zeros((0, self.classes))
        self.cost.charge(len(x))
        grads, outs = [], []
        with self.frozen(), torch.enable_grad():
            for rows in self._chunks(len(x)):
                part = x[rows].detach().requires_grad_()
                out = self._forward(part)
                loss = objective[rows].loss(out).sum()
                self.cost.gradients += len(part)
                grads.append(torch.autograd.grad(loss, part)[0])
                outs.append(out.detach())
        return torch.cat(grads), torch.cat(outs)

    def _chunks(self, n: int) -> Iterator[slice]:
        """Equal parts, as a short last pass costs more per image than the others."""
        size = -(-n // -(-n // self.compute_batch))
        return (slice(i, i + size) for i in range(0, n, size))

    def settle(
        self,
        clock: Callable[[], float],
        image_shape: tuple[int, int, int],
        batches: Sequence[int] = (64, 128, 256, 512),
    ) -> str:
        """Measure batch sizes and layouts here, keep the fastest, and say what was chosen.

        Not called by default: a choice by noise would make the same seed give other bytes.
        """
        times: dict[tuple[bool, int], float] = {}
        for self.channels_last in (True, False):
            for self.compute_batch in batches:
                x = torch.full((max(batches), *image_shape), 0.5, device=self.device)
                zero = _Sum()
                self.gradient(x, zero)
                began = clock()
                self.gradient(x, zero)
                times[self.channels_last, self.compute_batch] = clock() - began
        self.channels_last, self.compute_batch = min(times, key=times.__getitem__)
        layout = "channels-last" if self.channels_last else "default"
        return f"batches of {self.compute_batch}, {layout} layout, on {self.device}"

    def last_linear(self) -> nn.Linear:
        """The last linear layer, whose input are the features."""
        linear = [m for m in self.module.modules() if isinstance(m, nn.Linear)]
        if linear:
            return linear[-1]
        raise InputError("features need a linear last layer, and the module has no nn.Linear")


def _scaled(x: Tensor, to: Bounds) -> Tensor:
    return x if to == (0.0, 1.0) else to.low + x * (to.high - to.low)


def _as_logits(out: Tensor, outputs: str) -> Tensor:
    return out.float() if outputs == "logits" else out.float().clamp(min=1e-12).log()


@final
class Core(nn.Module):
    """A classifier's module with the range of its pixels and its outputs' kind taken care of."""

    def __init__(self, module: nn.Module, input_range: Bounds, outputs: str) -> None:
        super().__init__()
        self.module, self.input_range, self.outputs = module, input_range, outputs

    def forward(self, x: Tensor) -> Tensor:
        return _as_logits(self.module(_scaled(x, self.input_range)), self.outputs)


@final
class Guarded:
    """A model behind a guard: labels and scores, every query shown to the guard beforehand.

    Args:
        behind: what answers.
        watch: called with each query (N, C, H, W) before it is answered; may raise
            `QueriesRefused`, and then it is not.

    Attributes:
        model: the classifier behind all guards, by which a runner certifies: certification is
            no query of the attacker's.

    >>> seen = []
    >>> oracle = Guarded(Classifier(nn.Flatten(), classes=2), lambda x: seen.append(len(x)))
    >>> oracle.labels(torch.zeros(3, 1, 1, 2)), seen
    (tensor([0, 0, 0]), [3])
    """

    def __init__(self, behind: Classifier | Guarded, watch: Callable[[Tensor], None]) -> None:
        self._behind, self._watch = behind, watch
        self.model: Classifier = behind.model if isinstance(behind, Guarded) else behind
        self.bounds: Bounds = self.model.bounds
        self.classes: int = self.model.classes
        self.cost: Cost = self.model.cost

    def labels(self, x: Tensor) -> Tensor:
        """Predicted classes (N,), int64.

        Raises:
            QueriesRefused: by the guard.
        """
        self._watch(x.detach())
        return self._behind.labels(x)

    def scores(self, x: Tensor) -> Tensor:
        """Probabilities (N, classes); raises as `labels`."""
        self._watch(x.detach())
        return self._behind.scores(x)

    def attacker(self) -> Guarded:
        """What an attacker looks at: the answers, and nothing behind them."""
        return self

    def frozen(self) -> AbstractContextManager[Classifier]:
        """As `Classifier.frozen`, of the model behind."""
        return self.model.frozen()


class _Sum:
    """The sum of the logits, an objective for timing."""

    def loss(self, logits: Tensor) -> Tensor:
        return logits.sum(1)

    def __getitem__(self, rows: slice) -> _Sum:
        return self


def check_images(x: Tensor, image_shape: tuple[int, ...] | None = None) -> Tensor:
    """Images as every entry point wants them, or one clear line.

    Args:
        x: (N, C, H, W), floating, in [0, 1] up to 1e-6 of rounding, which is clipped away.
        image_shape: expected (C, H, W), where known.

    Raises:
        InputError: wrong rank, type, shape or range, or not finite.

    >>> check_images(torch.full((1, 1, 2, 2), 1.0000001)).max().item()
    1.0
    """
    if not isinstance(x, Tensor) or x.dim() != 4:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"images are a tensor N x C x H x W, got {got}")
    if image_shape is not None and tuple(x.shape[1:]) != tuple(image_shape):
        got = tuple(x.shape[1:])
        raise InputError(f"images are {got}, the model was built for {tuple(image_shape)}")
    if not x.is_floating_point():
        raise InputError(f"images are float in [0, 1], got {x.dtype}: use x.float() / 255")
    if x.numel() == 0:
        return x.float()
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (low == low and high == high) or high == float("inf") or low == float("-inf"):
        raise InputError("images hold NaN or infinite values")
    if high > 1 + 1e-6 or low < -1e-6:
        hint = "divide by 255" if low >= 0 else "undo the normalisation"
        raise InputError(f"images lie in [0, 1], got [{low:g}, {high:g}]: {hint} before this call")
    if 0 < high <= 1.01 / 255:
        raise InputError(f"the brightest pixel is {high:g}: were images divided by 255 twice?")
    return x.float().clamp(0, 1)
