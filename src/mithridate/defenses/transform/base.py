"""What a transform is: it changes images, and the model answers for what came out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier, as_classifier
from mithridate.component import Component, name_of, values


class Transform(Component, ABC):
    """Changes images before the model sees them. Fields are hyper-parameters."""

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to images alike, each by itself; x is not changed.

        Gradients pass where the arithmetic has any; where it has none, see `surrogate`.
        """

    def surrogate(self, x: Tensor) -> Tensor:
        """Something differentiable that comes near `transform(x)`: by default, the same.

        An attacker who knows the defence gets the values of `transform` and the gradient of
        this (BPDA: Athalye, Carlini and Wagner 2018, section 4.1). Override it where the
        gradient of `transform` is zero, missing or useless.
        """
        return self.transform(x)

    def attacker(self, model: Classifier) -> Classifier:
        """The view of an attacker who knows this defence of `model`, and those inside it.

        Override it where values must differ too, such as a mean over draws where the transform
        is random (EOT, the same paper, section 4.2).
        """
        return self._behind(model.attacker(), self._known)

    @final
    def wrap(self, model: Classifier) -> Classifier:
        """The classifier of the changed images; `model` is shared, not copied, and unchanged.

        The last wrapped comes first: `b.wrap(a.wrap(model))` answers model(a(b(x))).
        """
        return self._behind(as_classifier(model), self.transform)

    @final
    def _behind(self, model: Classifier, change: Callable[[Tensor], Tensor]) -> Classifier:
        defenses = [*model.info.get("defenses", []), {"name": name_of(self), **values(self)}]
        return model.around(
            _Changed(change, model.core(), repr(self)),
            info={**model.info, "defenses": defenses},
            attacker=lambda: self.attacker(model),
        )

    @final
    def _known(self, x: Tensor) -> Tensor:
        if type(self).surrogate is Transform.surrogate or not x.requires_grad:
            return self.transform(x)
        with torch.no_grad():
            exact = self.transform(x)
        return substituted(exact, self.surrogate(x))


def substituted(exact: Tensor, near: Tensor) -> Tensor:
    """The values of one tensor, bit by bit, with the gradient of another.

    >>> x = torch.tensor([0.3], requires_grad=True)
    >>> y = substituted(x.detach().round(), 2 * x)
    >>> y.item(), torch.autograd.grad(y, x)[0].item()
    (0.0, 2.0)
    """
    out: Tensor = _Substituted.apply(exact, near)  # type: ignore[no-untyped-call]
    return out


class _Substituted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, exact: Tensor, near: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


@final
class _Changed(nn.Module):
    """Change, then classify. What the change is stands in a buffer: the fingerprint sees it."""

    def __init__(self, change: Callable[[Tensor], Tensor], core: nn.Module, name: str) -> None:
        super().__init__()
        self.change, self.core = change, core
        self.register_buffer("name", torch.tensor(list(name.encode()), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        fast = x.is_contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):
            x = self.change(x)
        return self.core(x.contiguous(memory_format=torch.channels_last) if fast else x)  # type: ignore[no-any-return]
