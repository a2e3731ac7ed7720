"""A model to be judged: one class around any nn.Module, and the narrower views that attacks see.

Images are float32 in [0, 1], N x C x H x W. A module that wants another range says so with
`bounds`, and the classifier scales for it, so that eps means the same everywhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol, Self, TypeVar, final

import torch
from torch import Tensor, nn

from mithridate.cost import Cost as Cost
from mithridate.errors import InputError, QueriesRefused, check_whole, one_line

OUTPUTS = ("logits", "probabilities", "sigmoid")
SLACK, ROUNDED = 0.02, 0.005
"""By which probabilities may not add up to 1, and how much more for each of them: services and
small number formats round."""
"""What a module may return."""

SMALLEST = torch.finfo(torch.float32).tiny
"""A module's probabilities below count as this: those of its float32 that are 0 have no slope."""
ASIDE = 1e-3
"""How far from a value without a slope it is looked for again."""
T = TypeVar("T")


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
    def log_scores(self, x: Tensor) -> Tensor: ...


class Objective(Protocol):
    """What a gradient is taken of: a loss per row, and the same for some of the rows."""

    def loss(self, logits: Tensor) -> Tensor: ...
    def __getitem__(self, rows: slice) -> Self: ...


@final
class Classifier:
    """Any module of images -> logits, with bounds, counts of queries, and input gradients only.

    Args:
        module: maps (N, C, H, W) to (N, classes) logits; or to a tuple, a dict or an object with
            `.logits` that holds one such tensor. Images come in the number format of its weights.
        bounds: pixel range that the module itself expects; callers always pass [0, 1].
        classes: how many classes, or their names, in a list or by number in a dict.
        image_shape: (C, H, W), checked where given.
        compute_batch: images per forward pass; independent of the batch that is asked for.
        channels_last: memory layout of the passes. Both default to what measured fastest on
            the device's kind (docs/decisions/0003); `settle` measures this machine instead. A
            module that fails in this layout, and not in the default one, gets the latter, and
            so does one for which torch is not safe in it (`overruns`).
        autocast: bfloat16 passes. Changes rounding, hence results; off by default.
        outputs: "probabilities" where the module ends in a softmax: its logarithm is taken;
            "sigmoid" where it gives one number an image, the logit of the second of two classes.
        info: free-form record (training, architecture), kept in checkpoints.
        rejected: the class, if there is one, that means "not answered": a detector's. No goal
            is reached by it.
        attacker: makes the view that a defence inside declares for attackers who know it.
        gradients: whether the module has any; another runtime's gives labels and scores only.
        scored: whether it gives scores; where it gives labels only, the module's outputs are 1 at
            the label and 0 elsewhere.
        draws: something inside is random, and each answer is the mean of so many draws; 0: nothing
            is, and an image is always answered alike.

    Raises:
        InputError: not a module, a program of torch.export, fewer than two classes, empty bounds,
            no such class to reject.

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
        classes: int | Sequence[str] | Mapping[Any, str],
        image_shape: tuple[int, int, int] | None = None,
        device: torch.device | str | None = None,
        compute_batch: int | None = None,
        channels_last: bool | None = None,
        autocast: bool = False,
        outputs: str = "logits",
        info: dict[str, Any] | None = None,
        rejected: int | None = None,
        attacker: Callable[[], Classifier] | None = None,
        gradients: bool = True,
        scored: bool = True,
        draws: int = 0,
    ) -> None:
        _check_module(module)
        names = class_names_of(classes)
        if len(names) < 2:
            raise InputError(f"a classifier has at least 2 classes, got {len(names)}")
        try:
            low, high = (float(end) for end in bounds)
        except (TypeError, ValueError):
            low = high = 0.0
        if not low < high:
            raise InputError(f"bounds are (low, high) with low < high, got {bounds}")
        if outputs not in OUTPUTS:
            raise InputError(f"outputs is 'logits', 'probabilities' or 'sigmoid', got {outputs!r}")
        if outputs == "sigmoid" and len(names) != 2:
            raise InputError(f"outputs 'sigmoid' is for 2 classes, got {len(names)}")
        if rejected is not None and not 0 <= rejected < len(names):
            raise InputError(f"rejected is one of the {len(names)} classes, got {rejected}")
        if image_shape is not None and not _is_shape(image_shape):
            raise InputError(f"image_shape is (channels, height, width), got {image_shape!r}")
        if compute_batch is not None:
            check_whole("compute_batch", compute_batch, low=1)
        if device is not None:
            move(module, device)
        self.module = module
        self.bounds = Bounds(0.0, 1.0)
        self.input_range = Bounds(low, high)
        self.classes = len(names)
        self.class_names = tuple(names)
        self.image_shape = image_shape
        self.autocast = autocast
        self.outputs = outputs
        self.info = dict(info or {})
        self.rejected = rejected
        self._attacker = attacker
        self.gradients, self.scored = gradients, scored
        self.draws = draws
        self.cost = Cost()
        on_cpu = self.device.type == "cpu"
        self.compute_batch = compute_batch or (128 if on_cpu else 2048)
        self._layouts = (False,) if overruns(module) else (True, False)
        wanted = on_cpu if channels_last is None else channels_last
        self.channels_last = wanted and True in self._layouts
        self._frozen = False
        self._plain: list[tuple[nn.Parameter, Tensor]] = []
        self._core = self.core()
        self._head: tuple[nn.Linear, int] | None = None

    def __repr__(self) -> str:
        """What it is, in a line.

        >>> Classifier(nn.Flatten(), classes=2, image_shape=(1, 1, 2), bounds=(0, 255))
        Classifier(Flatten, 2 classes, images 1x1x2 as [0, 255], on cpu)
        """
        own = getattr(self.module, "network_name", type(self.module).__name__)
        shape = "x".join(map(str, self.image_shape)) if self.image_shape else "of any shape"
        if self.input_range != (0, 1):
            shape += f" as [{self.input_range.low:g}, {self.input_range.high:g}]"
        outputs = "" if self.outputs == "logits" else f", {self.outputs}"
        return (
            f"Classifier({own}, {self.classes} classes, images {shape}{outputs}, on {self.device})"
        )

    @property
    def device(self) -> torch.device:
        """Where the module's parameters are (CPU for a module without any)."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def gives(self) -> str:
        """What may be asked of it, in words."""
        scores = "labels and scores" if self.scored else "labels only"
        return "gradients" if self.gradients else scores

    def shows(self, access: Collection[str]) -> bool:
        """Whether it gives what a component needs to see, as `About.access` has it."""
        there = {"gradient": self.gradients, "score": self.scored}
        return all(there.get(kind, True) for kind in access)

    def attacker(self) -> Classifier:
        """What an attacker who knows the defences inside looks at; self where there are none.

        >>> plain = Classifier(nn.Flatten(), classes=2)
        >>> plain.attacker() is plain
        True
        """
        return self if self._attacker is None else self._attacker()

    def core(self) -> nn.Module:
        """The module, shared and not copied, as one of images in [0, 1] -> logits."""
        return Core(self.module, self.input_range, self.outputs, self.classes)

    def around(
        self,
        module: nn.Module,
        *,
        info: dict[str, Any],
        attacker: Callable[[], Classifier] | None = None,
        rejects: bool = False,
        draws: int = 0,
    ) -> Classifier:
        """A classifier of a module built around this one's `core`; all else is as here.

        Args:
            module: images in [0, 1] -> logits of the same classes, in the same order.
            info: the record to keep.
            attacker: makes the view of those who know what was built around; None for itself.
            rejects: one class more comes last, *rejected*, unless there is one already.
            draws: of what was built around.

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
            gradients=self.gradients,
            scored=self.scored,
            draws=max(self.draws, draws),
        )

    def to(self, device: torch.device | str) -> Classifier:
        """Move the module; returns self.

        Raises:
            InputError: no such device.
        """
        move(self.module, device)
        return self

    @contextmanager
    def frozen(self) -> Iterator[Classifier]:
        """Evaluation mode, no parameter gradients, fast layout; all restored on exit."""
        if self._frozen:
            yield self
            return
        self._frozen = True
        undo = _without_inference(self.module)
        modes = [(m, m.training) for m in self.module.modules()]
        wanted = [(p, p.requires_grad) for p in self.module.parameters()]
        self._plain = [(p, p.data) for p, _ in wanted if p.dim() == 4]
        self.module.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        if self.channels_last:
            self._lay_out(True)
        try:
            yield self
        finally:
            self._lay_out(False)
            self._frozen, self._plain = False, []
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)
            for m, training in modes:
                m.training = training
            undo()

    def _lay_out(self, channels_last: bool) -> None:
        """Inside `frozen`: the weights in that layout, or as they were."""
        with torch.inference_mode(False):
            for parameter, tensor in self._plain:
                # Not `contiguous`: it leaves a one-channel weight as it is, and all behind it.
                layout = torch.channels_last if channels_last else torch.preserve_format
                parameter.data = tensor.to(memory_format=layout)

    def _passed(self, rows: slice, work: Callable[[slice], T]) -> T:
        """`work` of at most `compute_batch` rows, inside `frozen`.

        Where it fails in the fast layout alone, as it does in a module that flattens by
        `x.view(len(x), -1)`, that layout is given up for good.
        """
        before = self.cost.queries, self.cost.gradients
        try:
            return work(rows)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if not self.channels_last:
                raise
        self.cost.queries, self.cost.gradients = before
        self.channels_last = False
        self._lay_out(False)
        try:
            return work(rows)
        except RuntimeError:
            self.channels_last = True
            self._lay_out(True)
            raise

    def _forward(self, x: Tensor) -> Tensor:
        """One pass of at most `compute_batch` rows, inside `frozen`."""
        self.cost.queries += len(x)
        fast = self.channels_last and x.dim() == 4
        layout = torch.channels_last if fast else torch.contiguous_format
        x = x.to(self.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            out: Tensor = self._core(x, layout)
            return out

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W); differentiable where x asks for it.

        Raises:
            InputError: no float tensor, or images of another shape than the model's.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"images are a float tensor N x C x H x W in [0, 1], got {got}")
        if self.image_shape is not None and tuple(x.shape[1:]) != tuple(self.image_shape):
            raise InputError(
                f"images are {tuple(x.shape[1:])}, the model was built for {self.image_shape}"
            )
        if len(x) == 0:
            return x.new_zeros((0, self.classes))
        self.cost.charge(len(x))
        with self.frozen():
            parts = [
                self._passed(rows, lambda rows: self._forward(x[rows]))
                for rows in self._chunks(len(x))
            ]
            return torch.cat(parts)

    def __call__(self, x: Tensor | Sequence[Any]) -> Tensor:
        """Logits (N, classes) of images, a tensor or one by one; with `metadata`, MAITE's Model."""
        if not isinstance(x, Tensor):
            x = torch.stack([torch.as_tensor(image) for image in x])
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            return self.logits(x)

    @property
    def metadata(self) -> dict[str, Any]:
        """What it is called, and its classes, as MAITE has it."""
        return {"id": repr(self), "index2label": dict(enumerate(self.class_names))}

    def scores(self, x: Tensor) -> Tensor:
        """Probabilities (N, classes), no gradient.

        Raises:
            InputError: the model gives labels only.
        """
        if not self.scored:
            raise InputError(f"this model gives {self.gives}, no scores")
        with torch.no_grad():
            return self.logits(x).softmax(1)

    def log_scores(self, x: Tensor) -> Tensor:
        """Their logarithms (N, classes), exact also where a probability rounds to 0 or 1."""
        with torch.no_grad():
            return self.logits(x).log_softmax(1)

    def labels(self, x: Tensor) -> Tensor:
        """Predicted classes (N,), int64."""
        with torch.no_grad():
            return self.logits(x).argmax(1)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations (N, F): the input of `last_linear()`, no gradient.

        Raises:
            InputError: there is no such layer, or it has not one row for each image.
        """
        if len(x) == 0:
            return x.new_zeros((0, self.last_linear().in_features))
        layer, call = self._head or self._find_head(x)
        seen: list[Tensor] = []

        def work(rows: slice) -> Tensor:
            seen.clear()
            self._forward(x[rows])
            return seen[call].float()

        self.cost.charge(len(x))
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            with self.frozen(), torch.no_grad():
                return torch.cat([self._passed(rows, work) for rows in self._chunks(len(x))])
        finally:
            handle.remove()

    def gradient(
        self, x: Tensor, objective: Objective, *, finite: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Gradient of the summed loss by the input, and the logits it was taken at.

        A slope that is NaN or infinite leads nowhere, as that of a root at a black pixel: unless
        `finite` is False, it is taken anew `ASIDE` further into the box, which costs another
        pass, and is 0 where that does not help.

        Only inputs carry a graph, never parameters, and the graph of one pass is freed
        before the next: memory is that of `compute_batch` images. The objective is a `Goal`,
        or anything with `loss(logits) -> (N,)` and row slicing.

        Raises:
            InputError: the model has no gradients, or its forward cuts them off.
        """
        if not self.gradients:
            raise InputError(f"this model gives {self.gives}, no gradients")
        if len(x) == 0:
            return torch.zeros_like(x), x.new_zeros((0, self.classes))
        slope, logits = self._slopes(x, objective)
        if finite and bool((wrong := ~slope.isfinite()).any()):
            aside = torch.where(wrong, x + ASIDE * (0.5 - x).sign(), x)
            again = self._slopes(aside, objective)[0].nan_to_num(0.0, 0.0, 0.0)
            slope = torch.where(wrong, again, slope)
        return slope, logits

    def _slopes(self, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        self.cost.charge(len(x))

        def work(rows: slice) -> tuple[Tensor, Tensor]:
            part = x[rows].detach()
            part = (part.clone() if part.is_inference() else part).requires_grad_()
            out = with_slope(self._forward(part))
            loss = objective[rows].loss(out).sum()
            self.cost.gradients += len(part)
            return torch.autograd.grad(loss, part)[0], out.detach()

        with self.frozen(), torch.inference_mode(False), torch.enable_grad():
            parts = [self._passed(rows, work) for rows in self._chunks(len(x))]
        grads, outs = zip(*parts, strict=True)
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
        for last in self._layouts:
            self.channels_last = last
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

    def last_linear(self, x: Tensor | None = None) -> nn.Linear:
        """The layer that makes the logits, whose input are the features.

        It is found by running the module, unless it was before.

        Args:
            x: images to run it on; None for noise of the model's shape.

        Raises:
            InputError: there is none, or the shape of the images is not known.
        """
        linear = [m for m in self.module.modules() if isinstance(m, nn.Linear)]
        if self._head is not None:
            return self._head[0]
        if len(linear) == 1:
            return linear[0]
        if x is None:
            if self.image_shape is None:
                raise InputError(
                    f"which of {len(linear)} nn.Linear makes the logits is found by running the "
                    "module: give the classifier its image_shape"
                )
            x = torch.rand((8, *self.image_shape), generator=torch.Generator().manual_seed(0))
        return self._find_head(x)[0]

    def _find_head(self, x: Tensor) -> tuple[nn.Linear, int]:
        """Which nn.Linear makes the logits, and in which of its calls: kept from now on.

        It is the first that ran whose output is the logits, up to a shift of each row and a
        factor (a softmax, a temperature); else the last that gives a row of logits an image, and
        on which the logits depend.
        """
        calls: list[tuple[nn.Linear, Tensor]] = []
        linear = [m for m in self.module.modules() if isinstance(m, nn.Linear)]
        hooks = [m.register_forward_hook(lambda m, _, out: calls.append((m, out))) for m in linear]

        def work(rows: slice) -> Tensor:
            calls.clear()
            return self._forward(x[rows])

        before = self.cost.queries
        try:
            with self.frozen(), torch.no_grad():
                logits = self._passed(slice(0, min(8, self.compute_batch)), work)
        finally:
            self.cost.queries = before
            for hook in hooks:
                hook.remove()
        own = self.classes - (self.rejected is not None)
        widths = (1, 2, self.classes) if own == 2 else (own, self.classes)
        fitting = [
            place
            for place, (_, out) in enumerate(calls)
            if out.dim() == 2 and len(out) == len(logits) and out.shape[1] in widths
        ]
        exact = [
            place
            for place in fitting
            if _alike(out := calls[place][1], logits[:, : max(own, out.shape[1])])
        ]
        if not exact:
            fitting = [place for place in fitting if self._matters(calls[place][0], x, logits)]
        layers = {id(calls[place][0]) for place in fitting}
        if not fitting or (not exact and len(fitting) > len(layers)):
            why = "is called more than once a pass" if fitting else "is no nn.Linear"
            raise InputError(
                f"features need a linear last layer, and what makes the logits {why} in "
                f"{type(self.module).__name__}: end it in one nn.Linear of {own} outputs"
            )
        place = exact[0] if exact else fitting[-1]
        layer = calls[place][0]
        self._head = layer, sum(other is layer for other, _ in calls[:place])
        return self._head

    def _matters(self, layer: nn.Linear, x: Tensor, logits: Tensor) -> bool:
        """Are the logits of the first images others when this layer's output is?"""
        before = self.cost.queries
        hook = layer.register_forward_hook(lambda _, args, out: out.flip(-1) + 1)
        try:
            with self.frozen(), torch.no_grad():
                other = self._passed(slice(0, len(logits)), lambda rows: self._forward(x[rows]))
        finally:
            self.cost.queries = before
            hook.remove()
        return not torch.equal(other, logits)


def with_slope(out: Tensor) -> Tensor:
    """Logits, if a gradient can be taken of them.

    Raises:
        InputError: it cannot.
    """
    if not out.requires_grad:
        raise InputError(
            "the module's forward gives no gradient, as under torch.no_grad() or after .detach(): "
            "take that out, or take an attack by scores (square) or labels (hopskipjump)"
        )
    return out


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, tuple | list)
        and len(shape) == 3
        and all(isinstance(size, int) and size > 0 for size in shape)
    )


def overruns(module: nn.Module) -> bool:
    """Whether torch may write out of bounds when the module runs channels-last on a CPU.

    In torch 2.13 the weights' gradient of a 1 x 1 convolution with a stride does, where it has
    fewer input channels than a register holds numbers: Python dies by a signal, or goes on.

    >>> overruns(nn.Conv2d(3, 8, 1, stride=2)), overruns(nn.Conv2d(3, 8, 1))
    (True, False)
    """
    return any(
        isinstance(part, nn.Conv2d)
        and part.kernel_size == (1, 1)
        and part.stride != (1, 1)
        and part.groups == 1
        and part.in_channels < 16
        for part in module.modules()
    )


def move(module: nn.Module, device: torch.device | str) -> None:
    """Bring a module to a device.

    Raises:
        InputError: there is no such device.
    """
    try:
        module.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = one_line(error, 120)
        raise InputError(f"device {str(device)!r} cannot be used ({reason}): use cpu") from None


def as_classifier(
    model: object, x: Tensor | None = None, names: Sequence[str] | None = None
) -> Classifier:
    """A classifier as it is; a bare module as one of logits, for images in [0, 1].

    How many classes a module has is found by running it on two images.

    Args:
        x: images (N, C, H, W) that it takes; needed for a module.
        names: of the classes, where they are known.

    Raises:
        InputError: neither a classifier nor a module, or a module that does not take the images.

    >>> as_classifier(nn.Flatten(), torch.zeros(5, 1, 1, 3))
    Classifier(Flatten, 3 classes, images 1x1x3, on cpu)
    """
    if isinstance(model, Classifier):
        return model
    if not isinstance(model, nn.Module) or x is None:
        also = "" if x is None else " or a torch.nn.Module"
        raise InputError(
            f"a model is a Classifier{also}, got {type(model).__name__}: wrap it, "
            "mi.Classifier(module, classes=...)"
        )
    channels, height, width = x.shape[1:]
    shape = channels, height, width
    modes = [(part, part.training) for part in model.modules()]
    trial = Classifier(model, classes=2)
    model.eval()
    try:
        with torch.no_grad():
            some = x[:2].to(trial.device)
            count = Core(model, Bounds(0.0, 1.0), "logits")(some).shape[1]
    except InputError:
        raise
    except Exception as error:  # the user's own forward may raise anything
        raise InputError(
            f"the module cannot take images of shape {shape}: {one_line(error)}"
        ) from error
    finally:
        for part, training in modes:
            part.training = training
    if count == 1:
        raise InputError(
            "the module gives one number an image: wrap it in Classifier(module, classes=2, "
            'outputs="sigmoid")'
        )
    if names is not None and len(names) != count:
        raise InputError(f"the module has {count} outputs, and the data {len(names)} classes")
    return Classifier(model, classes=count if names is None else names, image_shape=shape)


def class_names_of(classes: object) -> list[str]:
    """The names of the classes; numbers where only their number is given."""
    if isinstance(classes, Mapping):
        return [str(classes[key]) for key in sorted(classes, key=int)]
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        return list(classes)
    try:
        return [str(i) for i in range(operator.index(classes))]  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"classes is how many there are, or their names, got {type(classes).__name__}"
        ) from None


def _alike(out: Tensor, logits: Tensor) -> bool:
    """Is an output (N, K), or (N, 1) for two classes, the logits but for shift and factor?"""
    logits = logits[:, : max(2, out.shape[1])]
    if out.shape[1] == 1:
        out, logits = out.float(), (logits[:, 1] - logits[:, 0])[:, None]
    else:
        out, logits = (t.float() - t.float().mean(1, keepdim=True) for t in (out, logits))
    sizes = out.norm() * logits.norm()
    return bool((out * logits).sum() > 0.9999 * sizes) and bool(sizes > 0)


def _without_inference(module: nn.Module) -> Callable[[], None]:
    """Copies in place of weights made under `torch.inference_mode`: through those goes no gradient.

    Returns:
        What puts the old ones back.
    """
    old: list[tuple[dict[str, Any], str, Tensor]] = []
    new: dict[int, Tensor] = {}
    with torch.inference_mode(False):
        for part in module.modules():
            stores: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
            for store in stores:
                for name, tensor in list(store.items()):
                    if tensor is None or not tensor.is_inference():
                        continue
                    if id(tensor) not in new:
                        copy = tensor.detach().clone()
                        is_weight = isinstance(tensor, nn.Parameter)
                        new[id(tensor)] = nn.Parameter(copy) if is_weight else copy
                    old.append((store, name, tensor))
                    store[name] = new[id(tensor)]

    def undo() -> None:
        for store, name, tensor in old:
            store[name] = tensor

    return undo


def _scaled(x: Tensor, to: Bounds) -> Tensor:
    return x if to == (0.0, 1.0) else to.low + x * (to.high - to.low)


def _as_logits(out: Tensor, outputs: str) -> Tensor:
    out = out.float()
    if outputs == "sigmoid":
        return torch.cat([torch.zeros_like(out), out], 1)
    if outputs == "logits":
        return out
    both = torch.cat([1 - out, out], 1) if out.shape[1] == 1 else out
    off = (both.sum(1) - 1).abs() > SLACK + ROUNDED * both.shape[1]
    if bool((both < -SLACK).any()) or bool(off.any()):
        raise InputError(
            "the module returns numbers below 0, or that do not add up to 1, where "
            "outputs='probabilities' (--outputs probabilities) is stated: leave it out, logits and "
            "log-probabilities need no word"
        )
    return both.clamp(min=SMALLEST).log()


def output_of(out: object, n: int, classes: int | None = None, outputs: str = "logits") -> Tensor:
    """The outputs (n, K) among what a module returned for n images.

    Args:
        classes: K; None where it is not known yet.

    Raises:
        InputError: there is none, or more than one.

    >>> output_of((torch.zeros(2, 7, 3), torch.ones(2, 3, 1, 1)), 2, 3).shape
    torch.Size([2, 3])
    """
    named = out.get("logits") if isinstance(out, Mapping) else getattr(out, "logits", None)
    tensors = [named] if isinstance(named, Tensor) else list(_tensors(out))
    one = outputs == "sigmoid" or (outputs == "probabilities" and classes == 2)
    widths = {1} if outputs == "sigmoid" else {classes, 1} if one else {classes}
    rows = [t for t in (_rows(tensor, n, one) for tensor in tensors) if t is not None]
    fitting = [t for t in rows if classes is None or t.shape[1] in widths]
    if len(fitting) == 1:
        return fitting[0]
    shapes = ", ".join(str(tuple(t.shape)) for t in tensors) or type(out).__name__
    wanted = f"(N, {classes or 'classes'}) logits"
    if len(tensors) > 1:
        which = "none of them is" if not fitting else f"{len(fitting)} of them are"
        raise InputError(
            f"the module returns {shapes}, and {which} {wanted}: wrap it in a module whose "
            "forward returns the logits alone, such as net(x)[0]"
        )
    if len(tensors) == 1 and tensors[0].numel() == n:
        raise InputError(
            f'the module returns {shapes}, one number an image: give outputs="sigmoid" '
            "(--outputs sigmoid) for the logit of the second of two classes"
        )
    raise InputError(
        f"the module returns {shapes}, expected {wanted}: was the number of classes given right? "
        "Data without images of a class name it all the same, in classes.txt"
    )


def _tensors(out: object) -> Iterator[Tensor]:
    """The tensors in what a module returned, in order."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, Mapping | tuple | list):
        for part in out.values() if isinstance(out, Mapping) else out:
            yield from _tensors(part)


def _rows(out: Tensor, n: int, one: bool) -> Tensor | None:
    """The outputs (n, K) where they are that but for axes of length 1: (n, K, 1, 1), or (K,)."""
    if one and out.numel() == n:
        return out.reshape(n, 1)
    if out.dim() == 1 and n == 1:
        return out[None]
    if out.dim() < 2 or len(out) != n or out[0].numel() != out.shape[1]:
        return None
    return out.flatten(1)


def _number_format(module: nn.Module) -> torch.dtype:
    """Of the weights: float32 where there are none."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


@final
class Core(nn.Module):
    """A classifier's module; range and format of its pixels and outputs are taken care of."""

    def __init__(
        self, module: nn.Module, input_range: Bounds, outputs: str, classes: int | None = None
    ) -> None:
        super().__init__()
        self.module, self.input_range, self.outputs = module, input_range, outputs
        self.classes = classes

    def forward(self, x: Tensor, layout: torch.memory_format = torch.preserve_format) -> Tensor:
        """Logits (N, classes) float32; x is not changed, whatever the module writes into."""
        given = x
        x = _scaled(x, self.input_range)
        if x.is_floating_point():
            x = x.to(_number_format(self.module))
        if layout is not torch.preserve_format:
            x = laid_out(x, layout)
        out = self.module(x.clone() if x is given else x)
        return _as_logits(output_of(out, len(x), self.classes, self.outputs), self.outputs)


def _check_module(module: object) -> None:
    """Refuse what has no evaluation mode, no gradients that can be switched, or no hooks.

    Raises:
        InputError: no module, a program of torch.export, or one of TorchScript.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"a classifier wraps a torch.nn.Module, got {type(module).__name__}")
    if "eval" in vars(module):
        raise InputError(
            "a classifier needs a module that can be set to evaluation mode, and a program of "
            "torch.export cannot: load its weights, torch.export.load(FILE).state_dict, into "
            "the network they are of"
        )
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise InputError(
            "a classifier needs a module that can be looked into, and one of TorchScript cannot: "
            "load its state_dict() into the network that it was made of"
        )


def laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """A batch in a layout, strides included: a single channel leaves those open to `contiguous`.

    >>> x = torch.rand(2, 8, 8, 1).permute(0, 3, 1, 2)
    >>> x.contiguous().stride(), laid_out(x, torch.contiguous_format).stride()
    ((64, 1, 8, 1), (64, 64, 8, 1))
    """
    if x.stride() == torch.empty(x.shape, device="meta", memory_format=layout).stride():
        return x
    return x.clone(memory_format=layout)


def laid_like(x: Tensor, given: Tensor) -> Tensor:
    """A changed batch in the layout of the one that was given, for a network behind the change."""
    fast = given.stride(1) == 1 and given.is_contiguous(memory_format=torch.channels_last)
    return laid_out(x, torch.channels_last if fast else torch.contiguous_format)


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
        self._show(x)
        return self._behind.labels(x)

    def scores(self, x: Tensor) -> Tensor:
        """Probabilities (N, classes); raises as `labels`."""
        self._show(x)
        return self._behind.scores(x)

    def log_scores(self, x: Tensor) -> Tensor:
        """Their logarithms (N, classes); raises as `labels`."""
        self._show(x)
        return self._behind.log_scores(x)

    def _show(self, x: Tensor) -> None:
        try:
            self._watch(x.detach())
        except QueriesRefused:
            self.cost.refused += len(x)
            self.cost.charge(len(x))
            raise

    def attacker(self) -> Guarded:
        """What an attacker looks at: the answers, and nothing behind them."""
        return self

    def frozen(self) -> AbstractContextManager[Classifier]:
        """As `Classifier.frozen`, of the model behind."""
        return self.model.frozen()


def check_white(name: str, model: object) -> None:
    """Refuse to put a defence around a guard, which gives answers and nothing else.

    Raises:
        InputError: it is no `Classifier`.
    """
    if not isinstance(model, Classifier):
        raise InputError(
            f"{name} goes around a classifier, got {type(model).__name__}: put it in front of the "
            "model, and any guard after it"
        )


def check_undefended(model: Classifier) -> None:
    """Refuse to change the weights of a model behind a defence.

    A copy of its module is one with the defence inside, but without the view of those who know
    of it: their gradients would be those of the defence, zero often, and it would look good.

    Raises:
        InputError: it has such a view.

    >>> check_undefended(Classifier(nn.Flatten(), classes=2))
    """
    if model.attacker() is not model:
        raise InputError(
            "a model behind a defence is neither trained nor mended: do that to the model itself, "
            "and wrap what comes out"
        )


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
        hint = "clamp them" if low > -0.01 and high < 1.01 else f"{hint} before this call"
        raise InputError(f"images lie in [0, 1], got [{low:g}, {high:.7g}]: {hint}")
    if 0 < high <= 1.01 / 255:
        raise InputError(f"the brightest pixel is {high:g}: were images divided by 255 twice?")
    return x.float().clamp(0, 1)
