"""A clean double of the suspect: what it says of clean images, learned by a fresh network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.errors import NothingAssessedError
from mithridate.networks import create
from mithridate.networks.base import kept
from mithridate.training import Batch, Hardening, fit

COPIES = 16
"""Augmented copies of each image, where there are few of them."""
MOST = 4000
"""Augmented images at most."""
EPOCHS, RATE, BATCH = 16, 6e-3, 64


def double(suspect: Classifier, data: ImageSet, *, rng: torch.Generator) -> Classifier:
    """A network of the suspect's architecture that was taught by the suspect, on clean images.

    Its weights are drawn anew and trained on the suspect's own probabilities for augmented clean
    images (Hinton et al. 2015, at temperature 1): moved, turned, scaled and sheared a little, three
    in ten of them mixed with another, and noise. It learns what the suspect makes of clean images;
    a trigger, which none of them carries, it does not. So it is a clean model of the suspect's own
    population where none is at hand: it errs where the suspect errs, and classes that lie near to
    each other for the one do for the other.

    What a network with a layer that cannot be drawn anew says, and one without weights, is taught
    to a small network of ours.

    Args:
        suspect: gives probabilities, and the architecture; it comes back unchanged.
        data: clean images; a hundred are enough. Their labels are not used.

    Raises:
        NothingAssessedError: the suspect answers NaN or infinity.

    >>> import mithridate as mi
    >>> net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    >>> suspect = mi.Classifier(net, classes=10, image_shape=(1, 8, 8))
    >>> double(suspect, mi.load_data("digits")[1].subset(range(20)), rng=mi.rng(0)).classes
    10
    """
    child = random.child(rng, "double")
    each = max(1, min(COPIES, MOST // len(data)))
    x, _ = data.batch(range(min(len(data), MOST)))
    shown = torch.cat([augmented(x, child) for _ in range(each)])
    images = ImageSet.from_float(shown, torch.zeros(len(shown)).long(), suspect.class_names)
    soft = torch.cat(
        [
            suspect.scores(images.batch(range(at, min(at + 1024, len(images))))[0]).cpu()
            for at in range(0, len(images), 1024)
        ]
    )
    if not bool(soft.isfinite().all()):
        raise NothingAssessedError(
            "the model's answers to clean images are not finite: nothing can be assessed"
        )
    images = ImageSet(images.raw(range(len(images))), soft.argmax(1), suspect.class_names, "taught")
    network: nn.Module | Classifier = suspect
    if kept(suspect.module) or not any(True for _ in suspect.module.parameters()):
        name = "digits-cnn" if min(data.image_shape[1:]) < 16 else "mnist-cnn"
        network = create(name, image_shape=data.image_shape, classes=suspect.classes)
    return fit(
        network,
        images,
        epochs=EPOCHS,
        rng=child,
        lr=RATE,
        schedule="onecycle",
        batch_size=BATCH,
        augment="none",
        hardening=_Taught(soft),
        fresh=True,
    )


class _Taught(Hardening):
    """Cross-entropy with the suspect's probabilities."""

    def __init__(self, soft: Tensor) -> None:
        self.soft = soft

    def losses(
        self, model: Classifier, logits: Callable[[Tensor], Tensor], batches: Iterator[Batch]
    ) -> Iterator[Tensor]:
        for batch in batches:
            yield F.cross_entropy(logits(batch.x), self.soft[batch.rows].to(batch.x.device))


def augmented(x: Tensor, rng: torch.Generator) -> Tensor:
    """Images (N, C, H, W) moved by up to an eighth, turned by up to 14 degrees, and so on."""
    n = len(x)
    angle, grow, lean = ((torch.rand(n, generator=rng) - 0.5) * k for k in (0.5, 0.3, 0.3))
    moved = (torch.rand(n, 2, generator=rng) - 0.5) / 4
    cos, sin = angle.cos() / (1 + grow), angle.sin() / (1 + grow)
    rows = [
        torch.stack([cos, lean - sin, moved[:, 0]], 1),
        torch.stack([sin, cos, moved[:, 1]], 1),
    ]
    places = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    bent = F.grid_sample(x, places, align_corners=False, padding_mode="border")
    share = torch.rand(n, 1, 1, 1, generator=rng).clamp(0.5)
    mixed = share * bent + (1 - share) * bent[torch.randperm(n, generator=rng)]
    some = torch.rand(n, 1, 1, 1, generator=rng) < 0.3
    noise = 0.05 * torch.randn(x.shape, generator=rng)
    return (torch.where(some, mixed, bent) + noise).clamp(0, 1)


def agreement(one: Classifier, two: Classifier, x: Tensor) -> float:
    """Share of images to which both give the same label; NaN of none."""
    if len(x) == 0:
        return math.nan
    return float((one.labels(x).cpu() == two.labels(x).cpu()).float().mean())
