"""What every inspector must keep to. Subclass the suite, say how to make yours."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod

import torch

from mithridate.classifier import Classifier
from mithridate.cost import Sizes
from mithridate.data.image_set import ImageSet
from mithridate.defenses.inspect.base import PICTURES, Evidence, Inspector
from mithridate.defenses.inspect.judge import CleanSide, calibrate, judge
from mithridate.errors import InputError
from mithridate.networks.storage import digest
from mithridate.rng import rng
from mithridate.testing.models import linear_model

CLASSES = 3


class InspectorConformance(ABC):
    """Contract tests of an `Inspector`, beside four linear models that are alike but for a seed.

    >>> class TestMine(InspectorConformance):
    ...     def make(self):
    ...         from mithridate.defenses.inspect import WhiteNoise
    ...         return WhiteNoise(queries=200)
    >>> TestMine().test_clean_model_raises_no_alarm()
    """

    image_shape = (1, 8, 8)

    @abstractmethod
    def make(self) -> Inspector:
        """An inspector with settings that make it quick."""

    def model(self, seed: int = 0) -> Classifier:
        """A clean model; those of all seeds are draws of one population."""
        return linear_model(self.image_shape, classes=CLASSES, seed=seed)

    def clean(self) -> list[Classifier]:
        """The clean models of the seeds 1 to 4."""
        return [self.model(seed) for seed in range(1, 5)]

    def data(self) -> ImageSet:
        """Eight images of noise for each class."""
        labels = torch.arange(CLASSES).repeat(8)
        x = torch.rand(len(labels), *self.image_shape, generator=rng(0))
        return ImageSet.from_float(x, labels, [str(k) for k in range(CLASSES)], name="noise")

    def side(self, clean: list[Classifier] | None = None) -> CleanSide:
        """The clean models, calibrated for a new inspector."""
        return calibrate([self.make()], clean or self.clean(), self.data(), rng=rng(1))

    def evidence(self, model: Classifier | None = None, seed: int = 1) -> Evidence:
        """What a new inspector proposes beside one clean model."""
        reference = self.model(1)
        return self.make().compare(
            model or self.model(), self.data(), reference=reference, rng=rng(seed)
        )

    def test_facts_stand_on_the_class(self) -> None:
        inspector = self.make()
        assert inspector.about.paper
        assert inspector.statistic
        assert set(inspector.about.access) <= {"gradient", "score", "label"}
        assert inspector.version >= 1
        work = inspector.cost(Sizes(train=100, test=100, classes=CLASSES))
        assert work.forwards + work.gradients + work.trained > 0

    def test_a_bare_module_will_do_also_where_gradients_are_off(self) -> None:
        bare = self.model().module
        with torch.inference_mode():
            off = self.make().compare(bare, self.data(), reference=self.model(1), rng=1)
        assert off.statistic == self.evidence(Classifier(bare, classes=CLASSES)).statistic

    def test_evidence_is_what_reports_can_show(self) -> None:
        evidence = self.evidence()
        assert isinstance(evidence.statistic, float)
        assert math.isfinite(evidence.statistic)
        for label in (evidence.source, evidence.target):
            assert label is None or 0 <= label < CLASSES
        if evidence.ranking:
            assert sorted(label for label, _ in evidence.ranking) == list(range(CLASSES))
        channels, height, width = self.image_shape
        sizes = {"K": CLASSES, "C": channels, "H": height, "W": width}
        for name, tensor in evidence.pictures.items():
            assert name in PICTURES, f"no report draws {name}"
            assert tuple(tensor.shape) == tuple(sizes[letter] for letter in PICTURES[name])
            assert tensor.device.type == "cpu"
        assert evidence.cost.queries > 0

    def test_trigger_can_be_stamped(self) -> None:
        evidence = self.evidence()
        if evidence.mask is not None:
            assert evidence.mask.dtype == torch.bool
            assert evidence.mask.shape == self.image_shape[1:]
        if evidence.trigger is not None:
            assert tuple(evidence.trigger.shape) == self.image_shape
            shown = evidence.trigger[~evidence.trigger.isnan()]
            assert bool(((shown >= 0) & (shown <= 1)).all())

    def test_model_and_data_untouched(self) -> None:
        model, data, side = self.model(), self.data(), self.side()
        model.module.train()
        models = [model, *side.models]
        before = [digest(m.module.state_dict()) for m in models]
        images = data.fingerprint()
        judge([self.make()], model, data, reference=side, rng=rng(1))
        assert [digest(m.module.state_dict()) for m in models] == before
        assert data.fingerprint() == images
        assert all(module.training for module in model.module.modules())
        for one in models:
            assert all(p.requires_grad and p.grad is None for p in one.module.parameters())
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in one.module.modules())

    def test_global_random_state_untouched(self) -> None:
        model, data, reference = self.model(), self.data(), self.model(1)
        before = torch.get_rng_state()
        self.make().compare(model, data, reference=reference, rng=rng(1))
        assert torch.equal(torch.get_rng_state(), before)

    def test_same_seed_same_evidence(self) -> None:
        used = rng(5)
        torch.rand(3, generator=used)
        first = self.evidence(seed=5)
        second = self.make().compare(
            self.model(), self.data(), reference=self.model(1), rng=used
        )  # which numbers the caller drew does not matter
        assert first.statistic == second.statistic
        assert (first.source, first.target) == (second.source, second.target)
        for name, tensor in first.pictures.items():
            assert torch.equal(tensor.nan_to_num(), second.pictures[name].nan_to_num())

    def test_suspect_is_scored_as_the_clean_models_were(self) -> None:
        """A clean model held out has the statistic that it has as a suspect beside the others."""
        first, *others = self.clean()
        null = self.side([first, *others]).parts[0].null_values
        verdict = judge([self.make()], first, self.data(), reference=self.side(others), rng=rng(1))
        assert math.isclose(verdict.statistic, null[0], rel_tol=1e-5, abs_tol=1e-6)

    def test_clean_model_raises_no_alarm(self) -> None:
        verdict = judge([self.make()], self.model(), self.data(), reference=self.side(), rng=rng(1))
        assert verdict.suspicious is False, str(verdict)
        assert verdict.region is None
        assert verdict.trigger is None
        assert verdict.recovered_asr is None

    def test_clean_side_can_be_kept(self) -> None:
        side = self.side()
        values = json.loads(json.dumps(side.values()))
        again = CleanSide.of(side.models, values, side.tensors())
        one, two = (
            judge([self.make()], self.model(), self.data(), reference=s, rng=rng(1))
            for s in (side, again)
        )
        assert one.p_value == two.p_value
        assert one.statistic == two.statistic

    def test_refuses_other_classes(self) -> None:
        other = linear_model(self.image_shape, classes=CLASSES + 1)
        for model, reference in ((other, self.clean()), (self.model(), [other])):
            message = "nothing"
            try:
                judge([self.make()], model, self.data(), reference=reference, rng=rng(0))
            except InputError as error:
                message = str(error)
            assert f"{CLASSES + 1} classes and the data {CLASSES}" in message
