"""One plain training loop: seeded, resumable, deterministic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.errors import RunError
from mithridate.networks.base import seeded
from mithridate.networks.fitting import check_fits, check_set
from mithridate.networks.recipe import Recipe, crop_flip, lay_out, own_copy
from mithridate.networks.run_file import keep, resume
from mithridate.networks.storage import digest
from mithridate.rng import child

Progress = Callable[[int, int, str], None]
"""Called as progress(batches done, batches in all, text)."""


class Hardening(Protocol):
    """Makes training images harder to read, batch by batch; `defenses.harden` has one."""

    def record(self) -> Mapping[str, Any]:
        """What it is, for the record of the training: a name and settings."""

    def harden(
        self, model: Classifier, x: Tensor, y: Tensor, *, part: float, rng: torch.Generator
    ) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to train on in place of x; `part` of the run is done."""


CHECK_EVERY = 20
"""Batches between two looks at the loss; each look waits for the device."""


def fit(
    network: nn.Module | Classifier,
    data: ImageSet,
    *,
    epochs: int,
    rng: torch.Generator,
    optimizer: str = "adam",
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    batch_size: int = 128,
    augment: str | None = None,
    autocast: bool | None = None,
    hardening: Hardening | None = None,
    device: torch.device | str | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
    validation: ImageSet | None = None,
    fresh: bool | None = None,
) -> Classifier:
    """Train on cross-entropy, from scratch or further. The argument itself is never changed.

    An `nn.Module` is trained from scratch: a copy of it draws new weights on `rng`'s seed (see
    `initialise`), so the result depends on the seed alone. A `Classifier` is fine-tuned: a copy
    of it keeps its weights. `fresh` overrides either.

    The same seed, data, device and number of threads give the same bytes in any process.
    Every epoch draws its order, augmentation and dropout from children of `rng` of its own, so
    a run that was stopped and resumed from `checkpoint` ends at the same weights as one that
    was not.

    Args:
        network: a module of [0, 1] images -> logits, or a classifier to train further.
        data: the training images.
        epochs: passes over the data.
        rng: its seed decides everything; nothing is drawn from it.
        optimizer: "adam" or "sgd".
        lr: largest learning rate.
        momentum: of "sgd" only.
        weight_decay: L2 penalty on all parameters.
        schedule: "constant"; "cosine", down to 0; "onecycle", up in a line over the first 30 %
            of the batches and down in a line to 0.
        batch_size: images per step. A last batch of one image is left out, since batch
            normalisation cannot use it.
        augment: "crop-flip" (random crop after zero padding of 4, random mirroring) or "none";
            without, "crop-flip" for three channels and "none" for others.
        autocast: True multiplies in bfloat16 while training, on CPUs and GPUs that can about
            twice as fast, and the weights stay float32; the network's own setting by default.
        hardening: changes every batch before it is learned from, as adversarial training does.
        device: where to train; the network's own by default.
        checkpoint: a file written after every epoch. Where it exists, training resumes from
            it; it must come from a run of the same settings, data and starting weights.
        progress: called after every batch with (done, total, text).
        validation: images to measure accuracy on after every epoch, for the record.
        fresh: True draws new weights, False keeps them.

    Returns:
        A classifier in evaluation mode; `info["training"]` is the record of the run, and
        `info["parent"]` that of the classifier it was fine-tuned from.

    Raises:
        InputError: a setting out of range, or a network that does not fit the data.
        CheckpointError: `checkpoint` is damaged or belongs to another run.
        RunError: the loss became infinite or NaN, or the checkpoint cannot be written.

    >>> from mithridate.networks import create
    >>> data = ImageSet(torch.zeros(4, 1, 8, 8).byte(), [0, 1, 0, 1], ["even", "odd"])
    >>> net = create("digits-cnn", image_shape=(1, 8, 8), classes=2)
    >>> model = fit(net, data, epochs=1, rng=torch.Generator().manual_seed(0))
    >>> model.class_names, model.info["training"]["n"]
    (('even', 'odd'), 4)
    """
    check_set("training", data)
    if augment is None:
        augment = "crop-flip" if data.image_shape[0] == 3 else "none"
    recipe = Recipe(
        epochs=epochs,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        batch_size=batch_size,
        augment=augment,
        seed=rng.initial_seed(),
    )
    if fresh is None:
        fresh = not isinstance(network, Classifier)
    model = own_copy(network, data, device, child(rng, "init") if fresh else None)
    if validation is not None:
        check_set("validation", validation)
        check_fits(model, validation)
    rounded = model.autocast if autocast is None else autocast
    run = _Run(model, data, recipe, rng, progress, validation, rounded, hardening)
    return run.train(checkpoint)


def predict(
    model: Classifier,
    data: ImageSet,
    *,
    rows: Sequence[int] | None = None,
    batch: int = 1024,
) -> Tensor:
    """Predicted classes of `rows` of a set (all by default), int64 (N,) on the CPU.

    Memory is that of `batch` images.

    >>> data = ImageSet(torch.zeros(3, 1, 2, 2).byte(), [0, 1, 0], ["a", "b"])
    >>> predict(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), classes=2), data).shape
    torch.Size([3])
    """
    chosen: Sequence[int] = range(len(data)) if rows is None else rows
    parts = [torch.zeros(0, dtype=torch.int64)]
    for start in range(0, len(chosen), batch):
        x, _ = data.batch(chosen[start : start + batch])
        parts.append(model.labels(x.to(model.device)).cpu())
    return torch.cat(parts)


class _Run:
    """One training run: the loop, and what a checkpoint needs to continue it."""

    def __init__(
        self,
        model: Classifier,
        data: ImageSet,
        recipe: Recipe,
        rng: torch.Generator,
        progress: Progress | None,
        validation: ImageSet | None,
        autocast: bool,
        hardening: Hardening | None,
    ) -> None:
        self.model, self.data, self.recipe, self.rng = model, data, recipe, rng
        self.progress, self.validation = progress, validation
        self.autocast, self.hardening = autocast, hardening
        lone = len(data) % recipe.batch_size == 1 and len(data) > 1
        self.steps = max(1, math.ceil(len(data) / recipe.batch_size) - lone)
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.core = model.core()
        self.optimizer = recipe.build_optimizer(model.module)

    def train(self, checkpoint: Path | str | None) -> Classifier:
        """All epochs that are left; the trained classifier with its record."""
        model, module, recipe = self.model, self.model.module, self.recipe
        sha256 = self.data.fingerprint()
        settings = {**asdict(recipe), **self._extras()}
        run = {**settings, "data": sha256, "start": digest(module.state_dict())}
        path = None if checkpoint is None else Path(checkpoint)
        if path is not None and path.exists():
            state = resume(path, module, self.optimizer, run=run)
            self.losses, self.accuracies = state["losses"], state["validation"]
        elif path is not None:
            self._keep(path, run)  # a folder that cannot be written shows now, not in an hour
        if model.channels_last:
            lay_out(module, self.optimizer, torch.channels_last)
        for epoch in range(len(self.losses), recipe.epochs):
            self._train_epoch(epoch)
            if self.validation is not None:
                right = predict(model, self.validation) == self.validation.labels
                self.accuracies.append(float(right.double().mean()))
            if path is not None:
                self._keep(path, run)
        lay_out(module, self.optimizer, torch.contiguous_format)
        module.eval()
        model.info["training"] = {
            **settings,
            "data": self.data.name,
            "data_sha256": sha256,
            "n": len(self.data),
            "loss": self.losses[-1],
            "losses": self.losses,
            "validation": self.accuracies,
        }
        return model

    def _extras(self) -> dict[str, Any]:
        """Settings beside the recipe; named only where they are used."""
        found: dict[str, Any] = {"autocast": True} if self.autocast else {}
        if self.hardening is not None:
            found["hardening"] = dict(self.hardening.record())
        return found

    @contextmanager
    def _rounding(self) -> Iterator[None]:
        """Every pass of the training as `autocast` says, those of the hardening too."""
        before, self.model.autocast = self.model.autocast, self.autocast
        try:
            yield
        finally:
            self.model.autocast = before

    def _train_epoch(self, epoch: int) -> None:
        """One pass over the data, random only through children of this epoch."""
        device, recipe, all_steps = self.model.device, self.recipe, self.steps * self.recipe.epochs
        order = child(self.rng, "epoch", epoch, "order")
        crops = child(self.rng, "epoch", epoch, "augment")
        dropout = child(self.rng, "epoch", epoch, "dropout").initial_seed()
        total, seen, text = torch.zeros((), dtype=torch.float64, device=device), 0, ""
        self.model.module.train()
        with (
            seeded(dropout, device),
            self._rounding(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            batches = self.data.batches(recipe.batch_size, rng=order)
            for step, (x, y) in zip(range(self.steps), batches, strict=False):
                done = epoch * self.steps + step
                if recipe.augment == "crop-flip":
                    x = crop_flip(x, crops)
                x, y = x.to(device), y.to(device)
                if self.hardening is not None:
                    own = child(self.rng, "epoch", epoch, "hardening", step, device=device)
                    x = self.hardening.harden(self.model, x, y, part=done / all_steps, rng=own)
                total += len(x) * self._step(x, y, recipe.rate(done, all_steps))
                seen += len(x)
                if step % CHECK_EVERY == 0 or step == self.steps - 1:
                    mean = self._finite(float(total) / seen, epoch)
                    text = f"epoch {epoch + 1}/{recipe.epochs}, loss {mean:.4f}"
                if self.progress is not None:
                    self.progress(done + 1, all_steps, text)
        self.losses.append(float(total) / seen)

    def _step(self, x: Tensor, y: Tensor, rate: float) -> Tensor:
        """One batch: forward, backward, update; its mean loss, detached."""
        model = self.model
        layout = torch.channels_last if model.channels_last else torch.contiguous_format
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=model.autocast):
            out = self.core(x, layout)
        loss = nn.functional.cross_entropy(out, y)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def _finite(self, loss: float, epoch: int) -> float:
        if math.isfinite(loss):
            return loss
        raise RunError(
            f"the loss became {loss} in epoch {epoch + 1}: lower lr (it is {self.recipe.lr:g})"
        )

    def _keep(self, path: Path, run: dict[str, Any]) -> None:
        state = {"losses": self.losses, "validation": self.accuracies}
        keep(path, self.model.module, self.optimizer, run=run, state=state)
