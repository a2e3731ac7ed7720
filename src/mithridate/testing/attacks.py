"""What every attack must keep. Subclass, give the attack, inherit the tests."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from mithridate import component
from mithridate import rng as random
from mithridate.attacks.base import Attack, BoundedAttack, Context, MinimalAttack
from mithridate.attacks.run import AttackResult, run_attack
from mithridate.classifier import Classifier
from mithridate.cost import Sizes
from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.goals import Goal, Targeted, Untargeted
from mithridate.norms import Norm
from mithridate.testing.checks import check_facts, untouched
from mithridate.testing.models import linear_model

_ELSEWHERE = """
import importlib, sys
module, name = sys.argv[1:]
suite = getattr(importlib.import_module(module), name)()
print(suite.digest())
"""


class AttackConformance(ABC):
    """Contract tests of an attack, run by pytest as methods of a subclass.

    Override `attack`, and where the defaults do not fit `model`, `images` and `universal`.
    The subclass is named `Test...`, takes no constructor arguments, and `importable` says where
    another process finds it; None leaves that test out.

    >>> from mithridate.attacks import FGSM
    >>> class TestFGSM(AttackConformance):
    ...     def attack(self):
    ...         return FGSM(eps=0.3)
    >>> TestFGSM().test_bounds_and_budget()
    """

    universal = False
    """One change is sought for all images together, so that a row depends on its batch."""
    importable: str | None = None
    """Module that holds the subclass, for the test of another process."""
    goals: tuple[str, ...] = ("untargeted", "targeted")
    """Which goals the attack can serve."""

    @abstractmethod
    def attack(self) -> Attack:
        """The attack under test, strong enough to fool some of `images`."""

    def model(self) -> Classifier:
        """A model, made anew at each call."""
        return linear_model((1, 4, 4), classes=4)

    def images(self) -> Tensor:
        """Images (N, C, H, W) for `model`, at least 8 of them."""
        return torch.rand((12, 1, 4, 4), generator=random.rng(1))

    def goal(self, kind: str, model: Classifier, x: Tensor) -> Goal:
        """Goals that no row has reached yet."""
        labels = model.labels(x)
        return Untargeted(labels) if kind == "untargeted" else Targeted((labels + 1) % 4)

    def run(
        self, kind: str = "untargeted", *, batch_size: int = 1024, seed: int = 0, rows: int = -1
    ) -> AttackResult:
        """One run on the first `rows` images (-1: all)."""
        model = self.model()
        x = self.images() if rows < 0 else self.images()[:rows]
        goal = self.goal(kind, model, x)
        return run_attack(
            self.attack(), model, x, goal, batch_size=batch_size, rng=random.rng(seed)
        )

    def digest(self) -> str:
        """Fingerprint of the bytes that a fixed seed gives."""
        return hashlib.sha256(self.run(seed=3).adversarials.numpy().tobytes()).hexdigest()

    def test_about_fits_the_class(self) -> None:
        check_facts(self.attack())
        cls = type(self.attack())
        about, fields = cls.about, component.settings(cls)
        assert about.kind in ("bounded", "minimal", "universal")
        assert (about.kind == "bounded") == issubclass(cls, BoundedAttack)
        assert about.kind == "minimal" or not issubclass(cls, MinimalAttack)
        assert about.access, "about does not say what is seen of the model"
        assert set(about.access) <= {"gradient", "score", "label"}
        assert set(about.norms) <= {"l0", "l1", "l2", "linf"}
        if "norm" in fields:
            assert str(fields["norm"]) == about.norms[0], "the default norm comes first"
            usual = cls.usual((1, 8, 8))
            for norm in about.norms:
                attack = cls(**{**usual, "norm": Norm.named(norm)})
                assert component.values(attack)["norm"] == norm
            for norm in {"l0", "l1", "l2", "linf"} - set(about.norms):
                try:
                    cls(**{**usual, "norm": Norm.named(norm)})
                except InputError:
                    continue
                raise AssertionError(f"it takes {norm}, which about does not have")

    def test_sees_no_more_than_about_says(self) -> None:
        model, x, access = self.model(), self.images(), self.attack().about.access
        if "gradient" in access:
            return
        closed = {"gradient", "logits", "module"} | (
            {"scores", "log_scores"} if access == ("label",) else set()
        )
        goal = self.goal("untargeted", model, x)
        narrow = cast(Classifier, _Narrow(model, closed))
        out = self.attack().perturb(narrow, x, goal, rng=random.rng(0))
        assert out.shape == x.shape

    def test_usual_settings_make_one(self) -> None:
        cls = type(self.attack())
        for image_shape in ((1, 28, 28), (3, 32, 32)):
            assert isinstance(cls(**cls.usual(image_shape)), cls)

    def test_asks_no_more_than_its_cost(self) -> None:
        model, x = self.model(), self.images()
        work = self.attack().cost(Sizes(test=len(x), classes=model.classes))
        if not work.forwards + work.gradients:
            return
        for kind in self.goals:
            result = self.run(kind)
            assert result.gradients <= work.gradients
            assert result.queries <= work.forwards + work.gradients + 2 * len(x)

    def test_prepared_it_still_passes(self) -> None:
        model, x = self.model(), self.images()
        labels = model.labels(x)
        names = [str(k) for k in range(model.classes)]
        train = ImageSet.from_float(x, labels, names, name="train")
        for kind in self.goals:
            # One change for all images has one target.
            target = int(labels[0]) if self.universal and kind == "targeted" else None
            context = Context(
                model=model,
                train=train,
                classes=model.classes,
                goal=kind,
                target=target,
                rng=random.rng(0),
            )
            attack, remarks = self.attack().prepare(context)
            assert type(attack) is type(self.attack())
            assert all(isinstance(text, str) for pair in remarks.items() for text in pair)
            assert attack.prepare(context) == (attack, {}), "prepared twice, it takes more"
            goal = self.goal(kind, model, x)
            if target is not None:
                goal = Targeted(torch.full_like(labels, target))
            result = run_attack(attack, model, x, goal, rng=random.rng(0))
            assert result.status == "done"
            fooled = result.success & ~goal.reached(labels)
            assert bool(fooled.any()), f"{kind}: prepared, it fools no image"

    def test_bounds_and_budget(self) -> None:
        attack, result = self.attack(), self.run()
        assert result.status == "done"
        assert bool(((result.adversarials >= 0) & (result.adversarials <= 1)).all())
        if isinstance(attack, BoundedAttack):
            size = attack.norm.distance(result.adversarials, self.images())
            assert bool((size <= attack.eps * (1 + 1e-5) + 1e-6).all())

    def test_success_is_what_prediction_says(self) -> None:
        model, x = self.model(), self.images()
        for kind in self.goals:
            result = self.run(kind)
            reached = self.goal(kind, model, x).reached(model.labels(result.adversarials))
            assert torch.equal(result.success, reached)
            assert bool(result.success.any()), f"{kind}: no image fooled"

    def test_input_goal_and_model_untouched(self) -> None:
        for training in (True, False):
            model, x = self.model(), self.images()
            goal = self.goal("untargeted", model, x)
            model.module.train(training)
            for parameter in model.module.parameters():
                parameter.grad = torch.ones_like(parameter)
            attack = self.attack()
            with untouched(input=x, goal=goal, model=model):
                attack.perturb(model, x, goal, rng=random.rng(0))

    def test_empty_batch(self) -> None:
        result = self.run(rows=0)
        assert (len(result), result.status) == (0, "done")
        assert result.adversarials.shape == self.images()[:0].shape

    def test_one_image(self) -> None:
        assert self.run(rows=1).adversarials.shape == self.images()[:1].shape

    def test_batch_size_does_not_matter(self) -> None:
        if self.universal:
            return
        whole = self.run().adversarials
        for size in (1, 5):
            parts = self.run(batch_size=size).adversarials
            torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)

    def test_neighbours_do_not_matter(self) -> None:
        if self.universal:
            return
        model, x, outcomes = self.model(), self.images(), []
        half = len(x) // 2
        for images in (x, torch.cat([x[:half], 1 - x[half:]]), x[:half]):
            goal = self.goal("untargeted", model, images)
            r = run_attack(self.attack(), model, images, goal, rng=random.rng(0))
            outcomes.append(r.adversarials[:half])
        for other in outcomes[1:]:
            torch.testing.assert_close(other, outcomes[0], rtol=0, atol=1e-5)

    def test_same_seed_same_bytes(self) -> None:
        assert self.digest() == self.digest()

    def test_same_bytes_in_another_process(self) -> None:
        if self.importable is None:
            return
        command = [sys.executable, "-c", _ELSEWHERE, self.importable, type(self).__name__]
        other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        assert other.stdout.strip() == self.digest()

    def test_already_adversarial_rows_are_kept(self) -> None:
        model, x = self.model(), self.images()
        wrong: dict[str, Callable[[Tensor], Goal]] = {
            "untargeted": lambda y: Untargeted((y + 1) % model.classes),
            "targeted": Targeted,
        }
        for kind in self.goals:
            out = self.attack().perturb(model, x, wrong[kind](model.labels(x)), rng=random.rng(0))
            assert torch.equal(out, x), f"{kind}: a row that had reached its goal was moved"


class _Narrow:
    """A model without some of the ways into it."""

    def __init__(self, model: Classifier, closed: set[str]) -> None:
        self._model, self._closed = model, closed

    def __getattr__(self, name: str) -> Any:
        assert name not in self._closed, f"it asks for {name}, which its about does not say"
        return getattr(self._model, name)
