"""How many images at once: as many as a stated memory holds, and half where it ran out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.attacks.base import Attack
from mithridate.classifier import Classifier
from mithridate.errors import RunError, check_number

LARGEST = 1024
"""Images handed to an attack at once at most: more are no faster."""
CPU_MEMORY = 2 * 2**30
"""Bytes, where none are stated."""
CUDA_SHARE = 0.75
"""Of the card's whole memory, where none is stated: the same at every call."""

log = logging.getLogger(__name__)


def pass_bytes(model: Classifier, image: Tensor) -> int:
    """What a pass holds per image, estimated on one (1, C, H, W): every layer's output, and
    the two gradients that meet at the largest.
    """
    sizes = [0]

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    leaves = [m for m in model.module.modules() if not any(True for _ in m.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with torch.no_grad():
            model.logits(image)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(sizes) + 2 * max(sizes)


class Batches:
    """Slices of rows of x for an attack, whose size is halved where memory runs out.

    It changes the model's `compute_batch`: who hands in the model gives it back.

    Args:
        size: images a batch; None to keep to `memory`.
        memory: bytes; None for the module's defaults.

    Attributes:
        size: images a batch.
    """

    def __init__(
        self, attack: Attack, model: Classifier, x: Tensor, *, size: int | None, memory: int | None
    ) -> None:
        self.model = model
        if memory is None:
            memory, device = CPU_MEMORY, model.device
            if device.type == "cuda":
                memory = int(CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory)
        self.size = self._fitting(attack, x, memory) if size is None else size

    def _fitting(self, attack: Attack, x: Tensor, memory: int) -> int:
        """Images a batch: passes may take half of the memory, the attack the rest."""
        check_number("memory", memory, low=1)
        model, size = self.model, LARGEST
        if len(x) == 0:
            return size
        try:
            each = max(1, pass_bytes(model, x[:1].to(model.device)))
        except torch.OutOfMemoryError:
            each = memory
        model.compute_batch = max(1, min(model.compute_batch, memory // 2 // each))
        left, values = memory - model.compute_batch * each, x[0].numel() + model.classes
        while size > 1 and 4 * attack.held(size, values) > left:
            size //= 2
        return size

    def over(self, n: int, work: Callable[[slice], None]) -> Iterator[slice]:
        """Work on n rows slice by slice; each slice after it is done.

        Raises:
            RunError: a single image does not fit in the memory.

        >>> from mithridate.attacks.fast_gradient import FGSM
        >>> model, x = Classifier(nn.Flatten(), classes=2), torch.zeros(10, 1, 1, 2)
        >>> batches = Batches(FGSM(eps=0.1), model, x, size=4, memory=None)
        >>> list(batches.over(10, lambda rows: None))
        [slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
        """
        start = 0
        while start < n:
            rows = slice(start, min(start + self.size, n))
            try:
                work(rows)
            except torch.OutOfMemoryError:
                full = True
            else:
                full = False
            if full:  # only here are the tensors of the failed try free
                self._halve(rows)
                continue
            yield rows
            start = rows.stop

    def _halve(self, rows: slice) -> None:
        """Halve the larger of the batch and the images a pass, both where they are alike."""
        size, passed = rows.stop - rows.start, self.model.compute_batch
        if size == passed == 1:
            raise RunError(
                f"out of memory on {self.model.device} with 1 image at once: "
                "free some of it, or move the model to a larger device or the CPU"
            )
        self.size = size // 2 if size >= passed else size
        self.model.compute_batch = passed // 2 if passed >= size else passed
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory: going on with %d images at once, %d a pass",
            self.size,
            self.model.compute_batch,
        )
