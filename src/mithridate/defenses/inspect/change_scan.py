"""Change scan: the same change of every image, one after the other; whom does it lead where?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import (
    Added,
    Comparison,
    Evidence,
    Inspector,
    Look,
    Progress,
    ranked,
    table_scores,
)
from mithridate.errors import check_number
from mithridate.metrics.outliers import standing_out

GAINS = (0.2, 0.3, 0.4, 0.5, 0.7, 1.4, 2.0, 3.0, 4.0)
OFFSETS = (-0.2, -0.1, 0.1, 0.2, 0.3)
SHARES = (0.15, 0.3)
WAVE = 0.2


@final
@dataclass(frozen=True, kw_only=True)
class ChangeScan(Inspector):
    """Change all images alike, in ways that triggers do, and count which classes are led where.

    Small common changes and patches are what the other searches find. Some triggers are neither:
    an image made darker or brighter, blended with another, or crossed by a wave. They have few
    parameters, so here they are tried one by one: images times a gain, brighter or darker by a
    constant, blended with random ones, and waves along either axis (Barni et al. 2019). For each,
    the share of every class's images that is led to every other is compared with what it was
    without. Clean networks break under some of these, too: only a calibration tells what is much.

    Of each change there is a table of pairs, and of each table three scores, for the three forms
    of a backdoor (`metrics.outliers.forms`). The statistic is the largest share. The scan is the
    project's.

    Args:
        noises: random images that are blended in, at two shares each.
        frequencies: waves over the image's side, from 2 up.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> names = list(ChangeScan(noises=1, frequencies=2).changes((1, 8, 8)))
    >>> names[0], names[-1], len(names)
    ('times 0.2', 'wave 3 down', 20)
    """

    about: ClassVar[About] = About(
        paper="none: the project's own",
        access=("score",),
        needs=("clean images",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = "Largest share of a class that one change leads to another"

    noises: int = 4
    frequencies: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("noises", self.noises, low=0)
        check_number("frequencies", self.frequencies, low=0)

    def changes(self, shape: tuple[int, int, int]) -> dict[str, Added]:
        """Each change by name, of images (C, H, W); the same for the same shape."""
        draws, none = random.rng(0), torch.zeros(shape)
        found = {f"times {gain:g}": Added(none, gain) for gain in GAINS}
        found |= {f"plus {offset:g}": Added(none + offset) for offset in OFFSETS}
        for number in range(self.noises):
            noise = torch.rand(shape, generator=draws)
            found |= {f"blend {s:g} {number}": Added(s * noise, 1 - s) for s in SHARES}
        for count in range(2, 2 + self.frequencies):
            for name, side in (("across", 2), ("down", 1)):
                turn = 2 * math.pi * count * torch.arange(shape[side]) / shape[side]
                wave = turn.sin() if side == 2 else turn.sin()[:, None]
                found[f"wave {count} {name}"] = Added(none + WAVE * wave)
        return found

    def cost(self, sizes: Sizes) -> Work:
        """Every image under each change."""
        count = len(GAINS) + len(OFFSETS) + len(SHARES) * self.noises + 2 * self.frequencies
        return Work(forwards=(1 + count) * sizes.test)

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        return self.cost(sizes)

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """Shares of each class by the label given: `before` (K, K), `led` (changes, K, K)."""
        x, labels = data.batch(range(len(data)))
        own = one_hot(labels, data.classes).float()
        count = own.sum(0).clamp(min=1)[:, None]

        def shares(images: Tensor) -> Tensor:
            given = model.labels(images.to(model.device)).cpu()
            return own.T @ one_hot(given, data.classes).float() / count

        led = [shares(change.apply(x)) for change in self.changes(data.image_shape).values()]
        return {"before": shares(x), "led": torch.stack(led)}

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The pair that most images are led over, and the change that leads them."""
        led = _more(clean.own)
        tables = dict(zip(self.changes(data.image_shape), led, strict=True))
        free = led.amax(0)
        source, target = standing_out(free)
        return Evidence(
            statistic=float(led.nan_to_num(0).max()),
            scores=table_scores(tables),
            tables=tables,
            source=source,
            target=target,
            **self.proposed(clean.own, source, target, data.image_shape),
            ranking=ranked(free),
            pictures={"pair_scores": free},
        )

    def proposed(
        self, look: Look, source: int, target: int, shape: tuple[int, int, int]
    ) -> Mapping[str, Any]:
        """The change that leads the most of the source's images to the target; none leads none."""
        more = _more(look)[:, source, target].nan_to_num(0)
        best = int(more.argmax())
        return {"change": list(self.changes(shape).values())[best]} if more[best] > 0 else {}


def _more(look: Look) -> Tensor:
    """Shares that are led elsewhere under each change and were not before, (changes, K, K)."""
    more = look["led"] - look["before"]
    return more.masked_fill(torch.eye(more.shape[1], dtype=torch.bool), torch.nan)
