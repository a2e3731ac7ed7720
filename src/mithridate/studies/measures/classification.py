"""Classification: precision, recall, area under the curve and loss before and after an attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from mithridate.classifier import Classifier
from mithridate.cost import Sizes, Work
from mithridate.metrics import chance_doubts, scores
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.base import Measure, row
from mithridate.studies.measures.evasion import Evasion, Settings, measured
from mithridate.studies.parts import mean_part, proportion, unguarded
from mithridate.studies.units.adversarial import Adversarial, Transferred, Within
from mithridate.studies.units.data import Data

SURE = "of probability above a half, over all classes together"
COLUMNS: dict[str, dict[str, Any]] = {
    "precision": {"title": "Precision", "unit": "share", "better": "up", "note": SURE},
    "recall": {"title": "Recall", "unit": "share", "better": "up", "note": SURE},
    "auc": {"title": "AUC", "better": "up", "note": "of (image, class) pairs"},
    "loss": {"title": "Loss", "better": "down", "note": "mean cross-entropy, nats"},
}
SHARES = ("accuracy", "accuracy_left", "success")
BEFORE, AFTER = "before", "after"


class Classification(Measure):
    """What a model's probabilities are worth on the images of an attack, before it and after.

    Zhong et al. 2020, figures 3 and 4. Cells share the adversarial images of the measure `evasion`.
    """

    settings = Settings
    columns: ClassVar = {
        **{name: Evasion.columns[name] for name in SHARES},
        **{
            f"{name}_{when}": {**column, "title": f"{column['title']} {when}"}
            for when in (BEFORE, AFTER)
            for name, column in COLUMNS.items()
        },
    }
    views: ClassVar = [{"kind": "table"}]

    def unit(self, settings: Settings) -> Unit[Any]:
        """The measurement, over the adversarial images that `evasion` has."""
        evasion = Evasion().unit(settings)
        return Scored(
            model=settings.subject(),
            adversarial=evasion.adversarial,
            data=settings.data_unit,
            **settings.place,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored(Unit[Mapping[str, Any]]):
    """The images of `adversarial`, clean and attacked, as `model` reads them."""

    kind: ClassVar = "classification"

    model: Unit[Classifier]
    adversarial: Adversarial | Transferred | Within
    data: Data

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Shares and means, each with its interval."""
        model, attacked, test = (
            unguarded(get(self.model)),
            get(self.adversarial),
            get(self.data).test,
        )
        table = attacked.table
        every = measured(table, attacked.queries, attacked.gradients, test.classes)
        values: dict[str, Any] = {name: every[name] for name in SHARES}
        x, labels = test.batch(attacked.rows)
        for when, images in ((BEFORE, x), (AFTER, attacked.adversarials)):
            with torch.no_grad(), model.frozen():
                found = scores(model.logits(images.to(model.device)), labels)
            values |= {
                f"precision_{when}": proportion(found.precision),
                f"recall_{when}": proportion(found.recall),
                f"auc_{when}": mean_part(found.auc),
                f"loss_{when}": mean_part(found.loss),
            }
        clean = torch.tensor(table["clean"].to_pylist())
        return row(values, [*chance_doubts(clean, labels, test.classes), *attacked.doubts], test)

    def work(self, sizes: Sizes) -> Work:
        """Two passes over the images."""
        source = self.adversarial
        while not isinstance(source, Adversarial):
            source = source.source
        return Work(forwards=2 * min(source.samples, sizes.test))
