"""MAP-Elites with a niche per class (Mouret and Clune 2015), the archive by pyribs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mithridate.classifier import ScoreOracle
from mithridate.errors import InputError
from mithridate.fooling.base import Elites, Shape, enough, sound


def imported() -> Any:
    """The archives of pyribs.

    Raises:
        InputError: it cannot be imported.
    """
    try:
        return importlib.import_module("ribs.archives")
    except ImportError as error:
        raise InputError(
            f"evolved fooling images need pyribs ({error}): pip install 'mithridate[fooling]', "
            "or use the method gradient"
        ) from None


class Niches:
    """A cell per class, in it the candidate with the highest score of that class.

    Every candidate competes in every cell; a tie leaves the elder.

    Args:
        classes: how many cells.
        genes: shape of a candidate's genes.
        shape: (C, H, W) of its image.
    """

    def __init__(self, classes: int, genes: tuple[int, ...], shape: Shape) -> None:
        # Cell k reaches from k - 0.5 to k + 0.5, so that class k lies in its middle.
        self._archive = imported().GridArchive(
            solution_dim=genes,
            dims=[classes],
            ranges=[(-0.5, classes - 0.5)],
            dtype=np.float32,
            extra_fields={"image": (shape, np.float32)},
        )
        self.genes = torch.empty(0)
        self.elites = Elites(torch.empty(0), torch.full((classes,), -1.0))

    def offer(self, genes: Tensor, images: Tensor, scores: Tensor) -> None:
        """Let candidates in where they are better.

        Args:
            genes: (N, ...); images: (N, C, H, W); scores: (N, K), finite.
        """
        best, who = scores.max(0)
        device = scores.device
        winners = (best > self.elites.confidence.to(device)).nonzero()[:, 0].cpu()
        if not len(winners):
            return
        # Cell by cell: the batch form compiles itself in every process, for seconds.
        for k, row, score in zip(
            winners.tolist(), who.cpu()[winners].tolist(), best.cpu()[winners], strict=True
        ):
            self._archive.add_single(
                genes[row].cpu().numpy(), score.numpy(), [k], image=images[row].cpu().numpy()
            )
        content = self._archive.data(["index", "solution", "image", "objective"])
        order = np.argsort(content["index"])
        self.genes, images, confidence = (
            torch.from_numpy(content[name][order]).to(device)
            for name in ("solution", "image", "objective")
        )
        self.elites = Elites(images, confidence)


def map_elites(
    model: ScoreOracle,
    shape: Shape,
    first: Tensor,
    *,
    render: Callable[[Tensor], Tensor],
    mutate: Callable[[Tensor, int], Tensor],
    generations: int,
    confidence: float | None,
    rng: torch.Generator,
) -> Iterator[Elites]:
    """Evolve images for all classes at once; one pass of the model per generation.

    A child's parent is the elite of a class drawn at random; the child may win any class.

    Args:
        first: (N, ...), the genes of the first population; each generation has as many children.
        render: genes to images (N, C, H, W).
        mutate: (parents, generation from 0) to children.
        confidence: stop once every class has it.
    """
    niches = Niches(model.classes, tuple(first.shape[1:]), shape)
    genes = first
    for generation in range(generations + 1):
        if generation:
            drawn = torch.randint(model.classes, (len(first),), generator=rng, device=first.device)
            genes = mutate(niches.genes[drawn], generation - 1)
        images = render(genes)
        niches.offer(genes, images, sound(model.scores(images)))
        yield niches.elites
        if enough(niches.elites, confidence):
            return


def mutated(
    genes: Tensor,
    rate: float,
    eta: float,
    *,
    low: float = 0.0,
    high: float = 1.0,
    rng: torch.Generator,
) -> Tensor:
    """Each gene changed with probability `rate`, by polynomial mutation (Deb and Agrawal 1995).

    With u uniform, the step is `(2u)^(1/(eta+1)) - 1` for u below a half, its mirror image
    above, times `high - low`; results are clipped to [low, high].

    >>> from mithridate.rng import rng
    >>> mutated(torch.zeros(2), 1.0, 15.0, low=-1.0, rng=rng(0)).abs().max() < 1
    tensor(True)
    """
    chosen = torch.rand(genes.shape, generator=rng, device=rng.device) < rate
    u = torch.rand(genes.shape, generator=rng, device=rng.device)
    size = 1 - (2 * torch.minimum(u, 1 - u)) ** (1 / (eta + 1))
    step = torch.where(u < 0.5, -size, size) * (high - low)
    return torch.where(chosen, (genes + step).clamp(low, high), genes)
