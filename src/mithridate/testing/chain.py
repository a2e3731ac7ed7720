"""What every transform, detector, guard and repairer must keep. Subclass, give one, inherit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.attacks import FGSM, PGD, HopSkipJump, run_attack
from mithridate.classifier import Classifier, Guarded
from mithridate.data import ImageSet
from mithridate.defenses.detect.base import Detector, FittedDetector
from mithridate.defenses.guard.base import Guard
from mithridate.defenses.repair.base import Repairer
from mithridate.defenses.transform.base import Transform
from mithridate.errors import QueriesRefused
from mithridate.goals import Untargeted
from mithridate.networks.checkpoint import fingerprint
from mithridate.testing.checks import check_facts, refusal, untouched
from mithridate.testing.models import linear_model


class _Suite:
    """Images and a model that the suites share."""

    def model(self) -> Classifier:
        """A model, made anew at each call, with a linear last layer."""
        return linear_model((1, 8, 8), classes=4)

    def images(self) -> Tensor:
        """Images (N, C, H, W) for `model`, at least 8 of them."""
        return torch.rand((12, *(self.model().image_shape or (1, 8, 8))), generator=random.rng(1))

    def attack(self) -> PGD:
        """Strong enough to fool some of `images`."""
        return PGD(eps=0.1, steps=10, step_size=0.02)

    def knowing_is_no_handicap(self, wrapped: Classifier, bare: Classifier) -> None:
        """Who knows what is around the model fools it as often as who attacks the bare one."""
        x = self.images()
        goal = Untargeted(bare.labels(x))
        fooled = []
        for through in (None, bare):
            r = run_attack(
                self.attack(), wrapped, x, goal, through=through, rng=random.rng(0), batch_size=5
            )
            assert r.status == "done"
            if not wrapped.draws:
                reached = goal.avoiding(wrapped.rejected).reached(wrapped.labels(r.adversarials))
                assert torch.equal(r.success, reached)
            fooled.append(int(r.success.sum()))
        assert fooled[0] >= fooled[1]


class TransformConformance(_Suite, ABC):
    """Contract tests of a transform, run by pytest as methods of a subclass.

    >>> from mithridate.defenses.transform import SpatialSmoothing
    >>> class TestSmoothing(TransformConformance):
    ...     def transform(self):
    ...         return SpatialSmoothing()
    >>> TestSmoothing().test_range_shape_and_input_untouched()
    """

    @property
    def draws(self) -> bool:
        """Two calls with the same images differ."""
        return type(self.transform()).draws

    @abstractmethod
    def transform(self) -> Transform:
        """The transform under test, learned."""

    def test_facts_are_literals(self) -> None:
        check_facts(self.transform())

    def test_range_shape_and_input_untouched(self) -> None:
        x = self.images()
        for images in (x, x[:1], x[:0], torch.zeros_like(x), torch.ones_like(x)):
            transform = self.transform()
            with untouched(input=images):
                out = transform.transform(images)
            assert (out.shape, out.dtype) == (images.shape, images.dtype)
            assert bool(((out >= -1e-6) & (out <= 1 + 1e-6)).all()), "left [0, 1]"

    def test_each_image_by_itself(self) -> None:
        if self.draws:
            return
        x, transform = self.images(), self.transform()
        alone = torch.cat([transform.transform(row[None]) for row in x.flip(0)]).flip(0)
        torch.testing.assert_close(transform.transform(x), alone, rtol=0, atol=1e-5)

    def test_wrapped_is_transform_then_model(self) -> None:
        if self.draws:
            return
        model, x, transform = self.model(), self.images(), self.transform()
        wrapped, changed = transform.wrap(model), transform.transform(x)
        for one, two in (
            (wrapped.logits(x), model.logits(changed)),
            (wrapped.features(x), model.features(changed)),
            (transform.wrap(wrapped).logits(x), wrapped.logits(changed)),
        ):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)

    def test_wrapped_is_a_classifier_like_the_model(self) -> None:
        model, x = self.model(), self.images()
        for parameter in model.module.parameters():
            parameter.grad = torch.ones_like(parameter)
        transform = self.transform()
        with untouched(model=model):
            wrapped = transform.wrap(model)
            wrapped.labels(x)
            wrapped.gradient(x, Untargeted(torch.zeros(len(x), dtype=torch.int64)))
        for name in ("class_names", "image_shape", "compute_batch", "channels_last", "bounds"):
            assert getattr(wrapped, name) == getattr(model, name)
        assert (wrapped.cost.queries, wrapped.cost.gradients) == (2 * len(x), len(x))
        assert model.cost.queries == 0
        assert fingerprint(wrapped) != fingerprint(model)

    def test_who_knows_it_gets_its_values_and_a_gradient(self) -> None:
        x = self.images()
        wrapped = self.transform().wrap(self.model())
        view = wrapped.attacker()
        if not self.draws:
            torch.testing.assert_close(view.logits(x), wrapped.logits(x), rtol=1e-4, atol=1e-5)
        gradient, _ = view.gradient(x, Untargeted(torch.zeros(len(x), dtype=torch.int64)))
        assert bool(gradient.isfinite().all())
        assert bool((gradient != 0).flatten(1).any(1).all()), "an image has no gradient at all"

    def test_knowing_it_is_no_handicap(self) -> None:
        model = self.model()
        self.knowing_is_no_handicap(self.transform().wrap(model), model)


class DetectorConformance(_Suite, ABC):
    """Contract tests of a detector, run by pytest as methods of a subclass.

    >>> class TestMine(DetectorConformance):
    ...     def detector(self):
    ...         raise NotImplementedError
    >>> len(TestMine().clean())
    300
    """

    @abstractmethod
    def detector(self) -> Detector:
        """The detector under test; its `rate` is 0.05 or more."""

    def clean(self) -> ImageSet:
        """Images for `model` that nobody attacked."""
        x = torch.rand((300, 1, 8, 8), generator=random.rng(2))
        return ImageSet.from_float(x, torch.arange(300) % 4, ["0", "1", "2", "3"])

    def adversarial(self) -> Tensor | None:
        """Attacked images to learn from."""
        x = self.clean().batch(range(100))[0]
        model = self.model()
        goal = Untargeted(model.labels(x))
        return run_attack(FGSM(eps=0.2), model, x, goal, rng=random.rng(0)).adversarials

    def fitted(self, seed: int = 0) -> FittedDetector:
        """The detector, fitted."""
        return self.detector().fit(
            self.model(), self.clean(), self.adversarial(), rng=random.rng(seed)
        )

    def test_facts_are_literals(self) -> None:
        check_facts(self.detector())

    def test_fit_leaves_its_arguments_and_is_seeded(self) -> None:
        model, clean, adversarial = self.model(), self.clean(), self.adversarial()
        detector = self.detector()
        with untouched(model=model, set=clean, attacked=adversarial):
            one = detector.fit(model, clean, adversarial, rng=random.rng(3))
        two, x = self.fitted(3), self.images()
        assert torch.equal(one.score(x), two.score(x))
        assert one.threshold == two.threshold

    def test_scores_are_one_for_each_image_by_itself(self) -> None:
        fitted, x = self.fitted(), self.images()
        with untouched(input=x):
            scores = fitted.score(x)
        assert scores.shape == (len(x),)
        assert fitted.score(x[:0]).shape == (0,)
        alone = torch.cat([fitted.score(row[None]) for row in x])
        torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-5)

    def test_threshold_is_at_the_stated_rate(self) -> None:
        fitted, held = self.fitted(), torch.rand((100, 1, 8, 8), generator=random.rng(4))
        for rate in (0.01, 0.1, 0.5):
            above = fitted.score(held) > fitted.at_rate(held, rate).threshold
            assert int(above.sum()) <= rate * 101 - 1 + 1e-9
        text = refusal(lambda: fitted.at_rate(held, 0.005))
        assert "needs 200" in text, "100 images cannot set a rate of 1 in 200"

    def test_wrapped_rejects_what_scores_above(self) -> None:
        model, x = self.model(), self.images()
        fitted = self.fitted()
        # Between two scores, as passes in another layout round differently.
        middle = float(fitted.score(x).sort().values[len(x) // 2 - 1 : len(x) // 2 + 1].mean())
        fitted = FittedDetector(fitted.detector, fitted.scorer, middle)
        wrapped = fitted.wrap(model)
        assert (wrapped.rejected, wrapped.classes) == (model.classes, model.classes + 1)
        above = fitted.score(x) > fitted.threshold
        assert torch.equal(wrapped.labels(x).eq(model.classes), above)
        assert torch.equal(wrapped.labels(x)[~above], model.labels(x)[~above])
        torch.testing.assert_close(wrapped.logits(x)[:, :-1], model.logits(x))
        torch.testing.assert_close(wrapped.features(x), model.features(x))
        twice = fitted.wrap(wrapped)
        assert twice.classes == wrapped.classes
        assert torch.equal(twice.labels(x), wrapped.labels(x))

    def test_who_knows_it_gets_a_gradient_of_its_score(self) -> None:
        model, x = self.model(), self.images().requires_grad_()
        view = self.fitted().wrap(model).attacker()
        logits = view.logits(x)
        excess = logits[:, model.classes] - logits[:, : model.classes].amax(1)
        (gradient,) = torch.autograd.grad(excess.sum(), x)
        assert bool(gradient.isfinite().all())
        assert bool((gradient != 0).flatten(1).any(1).all()), "an image has no gradient at all"

    def test_rejected_is_never_fooled(self) -> None:
        model, x = self.model(), self.images()
        fitted = self.fitted()
        none = FittedDetector(fitted.detector, fitted.scorer, -1e6).wrap(model)
        goal = Untargeted((model.labels(x) + 1) % model.classes)
        r = run_attack(self.attack(), none, x, goal, rng=random.rng(0))
        assert bool(r.predicted.eq(model.classes).all())
        assert not bool(r.success.any())

    def test_knowing_it_is_no_handicap(self) -> None:
        model = self.model()
        self.knowing_is_no_handicap(self.fitted().wrap(model), model)


class GuardConformance(_Suite, ABC):
    """Contract tests of a guard, run by pytest as methods of a subclass.

    >>> from mithridate.defenses.guard import QueryGuard
    >>> class TestGuard(GuardConformance):
    ...     budget = 50
    ...     def guard(self):
    ...         return QueryGuard(budget=50)
    >>> TestGuard().test_answers_are_the_models_until_it_refuses()
    """

    budget: int | None = None
    """Images that it answers for at most; None where it counts something else."""

    @abstractmethod
    def guard(self) -> Guard:
        """The guard under test, which lets 10 different images pass."""

    def test_facts_are_literals(self) -> None:
        check_facts(self.guard())

    def test_answers_are_the_models_until_it_refuses(self) -> None:
        model, x = self.model(), self.images()[:10]
        oracle = self.guard().wrap(model)
        with untouched(query=x, model=model):
            assert torch.equal(oracle.labels(x[:6]), model.labels(x[:6]))
            assert torch.equal(oracle.scores(x[6:]), model.scores(x[6:]))
        assert not hasattr(oracle, "gradient")

    def test_each_query_is_seen_once_and_none_that_is_refused_is_answered(self) -> None:
        model, x = self.model(), self.images()
        seen: list[int] = []
        watch = self.guard().watcher()

        def spy(query: Tensor) -> None:
            seen.append(len(query))
            watch(query)

        oracle, answered = Guarded(model, spy), 0
        for size in [1, 3, 2, 5, 1, 4] * (1 + (self.budget or 0) // 16):
            try:
                oracle.labels(x[:size])
                answered += size
            except QueriesRefused:
                pass
            assert model.cost.queries == answered
        assert len(seen) == 6 * (1 + (self.budget or 0) // 16)
        assert self.budget is None or answered <= self.budget

    def test_every_stream_begins_anew(self) -> None:
        model, guard, x = self.model(), self.guard(), self.images()[:10]
        for _ in range(20):
            guard.wrap(model).labels(x)

    def test_an_attack_keeps_what_it_has_when_it_is_refused(self) -> None:
        model, x = self.model(), self.images()
        oracle = self.guard().wrap(model)
        goal = Untargeted(model.labels(x))
        r = run_attack(HopSkipJump(budget=60), oracle, x, goal, rng=random.rng(0))
        answered = r.queries - r.refused
        assert r.status in ("done", f"stopped: refused after {answered} queries")
        assert torch.equal(r.success, goal.reached(model.labels(r.adversarials)))
        assert r.row_queries is not None
        assert int(r.row_queries.max()) <= 60
        if self.budget is not None:
            assert answered <= self.budget


class RepairerConformance(_Suite, ABC):
    """Contract tests of a repairer, run by pytest as methods of a subclass.

    >>> class TestMine(RepairerConformance):
    ...     def repairer(self):
    ...         raise NotImplementedError
    >>> TestMine().verdict() is None
    True
    """

    @abstractmethod
    def repairer(self) -> Repairer:
        """The repairer under test."""

    def data(self) -> ImageSet:
        """Clean images of `model`, with labels."""
        x = torch.rand((40, 1, 8, 8), generator=random.rng(2))
        return ImageSet.from_float(x, self.model().labels(x), ["0", "1", "2", "3"])

    def verdict(self) -> Any:
        """What an inspection came to."""
        return None

    def mended(self, model: Classifier, seed: int = 0) -> Classifier:
        """The model, repaired."""
        return self.repairer().repair(model, self.data(), self.verdict(), rng=random.rng(seed))

    def test_facts_are_literals(self) -> None:
        check_facts(self.repairer())

    def test_arguments_are_left_as_they_were(self) -> None:
        model, data = self.model(), self.data()
        repairer, verdict = self.repairer(), self.verdict()
        with untouched(model=model, set=data):
            mended = repairer.repair(model, data, verdict, rng=random.rng(0))
        theirs = {p.data_ptr() for p in mended.module.parameters()}
        assert not theirs & {p.data_ptr() for p in model.module.parameters()}, "weights are shared"

    def test_mended_is_a_classifier_of_the_same_classes(self) -> None:
        model = self.model()
        mended = self.mended(model)
        assert mended.classes == model.classes
        assert mended.logits(self.images()).shape == model.logits(self.images()).shape

    def test_same_seed_same_bytes(self) -> None:
        one, two = (self.mended(self.model(), seed=5) for _ in range(2))
        assert fingerprint(one) == fingerprint(two)
