"""The peer libraries, called as their own documentation says: one function per library.

Each returns name -> task; a task attacks all images and returns the images it found. A fault of a
peer that keeps it from running is worked around from outside and said where it is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.norms import L2, Norm

Task = Callable[[], Tensor]
BATCH = 128


@dataclass(frozen=True)
class Case:
    """What every library is given: the same model, images (N, C, H, W), labels and budget."""

    model: Classifier
    x: Tensor
    y: Tensor
    eps: float
    step: float

    @property
    def module(self) -> nn.Module:
        return self.model.module.eval()

    def row(self, i: int) -> Case:
        """The i-th image alone."""
        return replace(self, x=self.x[i : i + 1], y=self.y[i : i + 1])

    def batches(self, attack: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The attack's images, batch by batch as the peers are used."""
        parts = zip(self.x.split(BATCH), self.y.split(BATCH), strict=True)
        return torch.cat([attack(a, b) for a, b in parts])


def art_classifier(case: Case) -> Any:
    """ART's wrapper; float64, which leaks from its decision-based attacks, is cast back."""
    from art.estimators.classification import PyTorchClassifier

    class Cast(PyTorchClassifier):  # type: ignore[misc]
        def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
            return super().predict(np.asarray(x, np.float32), *args, **kwargs)

    return Cast(
        case.module,
        nn.CrossEntropyLoss(),
        tuple(case.x.shape[1:]),
        case.model.classes,
        clip_values=(0, 1),
        device_type="cpu" if case.x.device.type == "cpu" else "gpu",
    )


def art(case: Case) -> dict[str, Task]:
    """Adversarial Robustness Toolbox."""
    from art.attacks import evasion as e

    wrapped = art_classifier(case)
    images, labels = case.x.cpu().numpy(), case.y.cpu().numpy()
    quiet: dict[str, Any] = {"verbose": False, "batch_size": BATCH}

    def task(attack: Any) -> Task:
        return lambda: torch.from_numpy(np.asarray(attack.generate(images, labels), np.float32))

    return {
        "fgsm": task(e.FastGradientMethod(wrapped, eps=case.eps, batch_size=BATCH)),
        "pgd": task(
            e.ProjectedGradientDescentPyTorch(
                wrapped, eps=case.eps, eps_step=case.step, max_iter=40, num_random_init=1, **quiet
            )
        ),
        "apgd": task(
            e.AutoProjectedGradientDescent(
                wrapped,
                eps=case.eps,
                eps_step=2 * case.eps,
                max_iter=40,
                nb_random_init=1,
                loss_type="cross_entropy",
                **quiet,
            )
        ),
        "deepfool": task(e.DeepFool(wrapped, max_iter=50, epsilon=0.02, nb_grads=10, **quiet)),
        "carlini-wagner": task(
            e.CarliniL2Method(wrapped, binary_search_steps=5, max_iter=200, **quiet)
        ),
        "hopskipjump-l2": task(e.HopSkipJump(wrapped, norm=2, **_SMALL, verbose=False)),
        "hopskipjump-linf": task(e.HopSkipJump(wrapped, norm=np.inf, **_SMALL, verbose=False)),
        "boundary": task(e.BoundaryAttack(wrapped, targeted=False, max_iter=100, verbose=False)),
        "square": task(e.SquareAttack(wrapped, eps=case.eps, max_iter=1000, **quiet)),
        "one-pixel": task(e.PixelAttack(wrapped, th=1, es=0, max_iter=10)),
    }


_SMALL = {"max_iter": 8, "max_eval": 100, "init_eval": 10, "batch_size": 64}


def foolbox(case: Case) -> dict[str, Task]:
    """Foolbox."""
    import foolbox as fb

    wrapped = fb.PyTorchModel(case.module, bounds=(0, 1), device=case.x.device)
    attacks = fb.attacks

    def task(attack: Any, eps: float | None = None) -> Task:
        return lambda: case.batches(lambda a, b: attack(wrapped, a, b, epsilons=eps)[1])

    def hops(norm: str) -> Task:
        return task(
            attacks.HopSkipJumpAttack(
                steps=8,
                initial_gradient_eval_steps=10,
                max_gradient_eval_steps=100,
                constraint=norm,
            )
        )

    return {
        "fgsm": task(attacks.LinfFastGradientAttack(), case.eps),
        "pgd": task(attacks.LinfPGD(abs_stepsize=case.step, steps=40), case.eps),
        "deepfool": task(attacks.L2DeepFoolAttack(candidates=4)),
        "deepfool, 10 candidates": task(attacks.L2DeepFoolAttack()),
        "carlini-wagner": task(attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=200)),
        "ddn": task(attacks.DDNAttack(steps=100)),
        "hopskipjump-l2": hops("l2"),
        "hopskipjump-linf": hops("linf"),
        "boundary": task(attacks.BoundaryAttack(steps=1000)),
    }


def torchattacks(case: Case) -> dict[str, Task]:
    """torchattacks; AutoAttack is put together with the original's 100 steps, not its 10."""
    import torchattacks as ta

    module, eps = case.module, case.eps

    def task(attack: Any) -> Task:
        return lambda: case.batches(attack)

    classes = case.model.classes
    auto = [
        ta.APGD(module, eps=eps, steps=100),
        ta.APGDT(module, eps=eps, steps=100, n_classes=classes),
        ta.FAB(module, eps=eps, steps=100, multi_targeted=True, n_classes=classes),
        ta.Square(module, eps=eps, n_queries=5000),
    ]
    return {
        "fgsm": task(ta.FGSM(module, eps=eps)),
        "pgd": task(ta.PGD(module, eps=eps, alpha=case.step, steps=40)),
        "apgd": task(ta.APGD(module, eps=eps, steps=40)),
        "deepfool": task(ta.DeepFool(module)),
        "square": task(ta.Square(module, eps=eps, n_queries=1000)),
        "autoattack": task(ta.MultiAttack(auto)),
        "one-pixel": task(ta.OnePixel(module, pixels=1, steps=10, popsize=100)),
    }


LIBRARIES: dict[str, Callable[[Case], dict[str, Task]]] = {
    "ART": art,
    "Foolbox": foolbox,
    "torchattacks": torchattacks,
}


def installed() -> list[str]:
    """The libraries that import here; the others are named on stderr."""
    found = []
    for name in LIBRARIES:
        try:
            __import__({"ART": "art.attacks.evasion", "Foolbox": "foolbox"}.get(name, name))
            found.append(name)
        except Exception as error:  # a broken install raises more than ImportError
            print(f"{name} left out: {type(error).__name__}: {error}", file=sys.stderr)
    return found


class Spent(Exception):
    """Every query of the budget was asked."""


class Recorder(nn.Module):
    """A model that remembers the nearest adversarial image that it was asked about, per image.

    That is generous to an attack: it is credited with points that it passed and left. Queries are
    counted per image, but for those that repeat the image's last one, and the attack is stopped
    when the last checkpoint is reached by all.
    """

    def __init__(self, case: Case, norm: Norm, marks: tuple[int, ...]) -> None:
        super().__init__()
        self.module, self.case, self.norm, self.marks = case.module, case, norm, marks
        self.asked = torch.zeros(len(case.x), dtype=torch.long)
        self.curve = {mark: torch.full((len(case.x),), float("inf")) for mark in marks}
        self._last = torch.full_like(case.x, -1)
        self.eval()

    @torch.no_grad()
    def forward(self, z: Tensor) -> Tensor:
        """Logits of one image a row (M = len(x)), or of many for the only row."""
        out, x, y = self.module(z), self.case.x, self.case.y
        size = self.norm.distance(z, x.expand_as(z))
        size = size.masked_fill(out.argmax(1) == y.expand(len(z)), float("inf"))
        for part, images in zip(size.split(len(x)), z.split(len(x)), strict=True):
            self.asked += (images != self._last).flatten(1).any(1)
            self._last = images
            for mark, best in self.curve.items():
                self.curve[mark] = torch.where(self.asked <= mark, best.minimum(part), best)
            if int(self.asked.min()) >= self.marks[-1]:
                raise Spent
        return out


def distances_at(
    library: str, attack: str, case: Case, norm: Norm, first: int, marks: tuple[int, ...]
) -> dict[int, Tensor]:
    """Nearest adversarial distance of each image after so many queries, (N,) for each of `marks`.

    Image by image; Foolbox's HopSkipJump as one batch for speed, but for its starts: it asks about
    every image of a batch until the last one has a start, which would be charged to all.

    Args:
        attack: "hopskipjump" or "boundary".
        first: probes of the first estimate, for HopSkipJump.
    """
    if library == "Foolbox" and attack == "hopskipjump":
        return _foolbox_hops(case, norm, first, marks)
    recorders = [Recorder(case.row(i), norm, marks) for i in range(len(case.x))]
    for recorder in recorders:
        with contextlib.suppress(Spent):
            _search(library, attack, recorder, norm, first)
    return {mark: torch.cat([one.curve[mark] for one in recorders]) for mark in marks}


def _foolbox_hops(case: Case, norm: Norm, first: int, marks: tuple[int, ...]) -> dict[int, Tensor]:
    import foolbox as fb

    every, rows, starts = Recorder(case, norm, marks), [], []
    for i in range(len(case.x)):
        one = Recorder(case.row(i), norm, marks)
        start = one.case.x
        with contextlib.suppress(Spent):
            begin = fb.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
            start = begin.run(fb.PyTorchModel(one, bounds=(0, 1), device="cpu"), start, one.case.y)
        every.asked[i] = one.asked[0]
        for mark in marks:
            every.curve[mark][i] = one.curve[mark][0]
        if bool(one.module(start).argmax(1) != one.case.y):
            rows.append(i)
            starts.append(start)
    some = Recorder(replace(case, x=case.x[rows], y=case.y[rows]), norm, marks)
    some.asked = every.asked[rows]
    some.curve = {mark: best[rows] for mark, best in every.curve.items()}
    search = fb.attacks.HopSkipJumpAttack(
        constraint="l2" if norm is L2 else "linf",
        initial_gradient_eval_steps=first,
        max_gradient_eval_steps=1000,
    )
    wrapped = fb.PyTorchModel(some, bounds=(0, 1), device="cpu")
    with contextlib.suppress(Spent):
        search.run(wrapped, some.case.x, some.case.y, starting_points=torch.cat(starts))
    for mark in marks:
        every.curve[mark][rows] = some.curve[mark]
    return every.curve


def _search(library: str, attack: str, model: Recorder, norm: Norm, first: int) -> None:
    if library == "Foolbox":
        import foolbox as fb

        wrapped = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
        fb.attacks.BoundaryAttack()(wrapped, model.case.x, model.case.y, epsilons=None)
        return
    from art.attacks import evasion as e
    from art.estimators.classification import BlackBoxClassifier

    def predict(z: Any) -> Any:
        return model(torch.as_tensor(np.asarray(z, np.float32))).numpy()

    shape = tuple(model.case.x.shape[1:])
    wrapped = BlackBoxClassifier(predict, shape, model.case.model.classes, clip_values=(0.0, 1.0))
    if attack == "boundary":
        search = e.BoundaryAttack(wrapped, targeted=False, max_iter=5000, verbose=False)
    else:
        search = e.HopSkipJump(
            wrapped,
            norm=2 if norm is L2 else np.inf,
            max_iter=64,
            max_eval=1000,
            init_eval=first,
            verbose=False,
        )
    search.generate(model.case.x.numpy(), model.case.y.numpy())
