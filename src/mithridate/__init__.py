"""Mithridate: how a classifier can be fooled, whether it was poisoned, and what really helps.

The public names are those of `__all__`. They are imported on use: `import mithridate` alone
loads no torch.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any, Protocol

__version__ = "0.1.0"

_PLACES = {
    "attacks": "mithridate.attacks",
    "corruptions": "mithridate.corruptions",
    "detectors": "mithridate.defenses.detect",
    "errors": "mithridate.errors",
    "fooling": "mithridate.fooling",
    "guards": "mithridate.defenses.guard",
    "inspectors": "mithridate.defenses.inspect",
    "metrics": "mithridate.metrics",
    "networks": "mithridate.networks",
    "poisons": "mithridate.poisons",
    "registry": "mithridate.component",
    "repairers": "mithridate.defenses.repair",
    "rng": "mithridate.rng",
    "hardeners": "mithridate.defenses.harden",
    "sanitizers": "mithridate.defenses.sanitize",
    "transforms": "mithridate.defenses.transform",
    "triggers": "mithridate.poisons.triggers",
    "AttackResult": "mithridate.attacks:AttackResult",
    "Classifier": "mithridate.classifier:Classifier",
    "ImageSet": "mithridate.data:ImageSet",
    "L0": "mithridate.norms:L0",
    "L1": "mithridate.norms:L1",
    "L2": "mithridate.norms:L2",
    "LINF": "mithridate.norms:LINF",
    "Result": "mithridate.reports.result:Result",
    "SourceToTarget": "mithridate.goals:SourceToTarget",
    "Targeted": "mithridate.goals:Targeted",
    "Untargeted": "mithridate.goals:Untargeted",
    "Verdict": "mithridate.defenses.inspect:Verdict",
    "attack": "mithridate.api:attack",
    "audit": "mithridate.api:audit",
    "corrupt": "mithridate.corruptions:corrupt",
    "defend": "mithridate.api:defend",
    "fit": "mithridate.training:fit",
    "inspect": "mithridate.api:inspect",
    "load": "mithridate.models:open_model",
    "load_data": "mithridate.data:load_data",
    "predict": "mithridate.training:predict",
    "run_attack": "mithridate.attacks:run_attack",
    "save": "mithridate.networks.checkpoint:save",
}
"""Public name -> module, or "module:attribute"."""

__all__ = [
    "L0",
    "L1",
    "L2",
    "LINF",
    "AttackResult",
    "Classifier",
    "ImageSet",
    "Result",
    "SourceToTarget",
    "Targeted",
    "Untargeted",
    "Verdict",
    "__version__",
    "attack",
    "attacks",
    "audit",
    "corrupt",
    "corruptions",
    "defend",
    "detectors",
    "errors",
    "fit",
    "fooling",
    "guards",
    "hardeners",
    "inspect",
    "inspectors",
    "load",
    "load_data",
    "metrics",
    "networks",
    "poisons",
    "predict",
    "registry",
    "repairers",
    "rng",
    "run_attack",
    "sanitizers",
    "save",
    "transforms",
    "triggers",
]

if TYPE_CHECKING:
    import torch

    from mithridate import attacks, corruptions, errors, fooling, metrics, networks, poisons
    from mithridate import component as registry
    from mithridate.api import attack, audit, defend, inspect
    from mithridate.attacks import AttackResult, run_attack
    from mithridate.classifier import Classifier
    from mithridate.corruptions import corrupt
    from mithridate.data import ImageSet, load_data
    from mithridate.defenses import detect as detectors
    from mithridate.defenses import guard as guards
    from mithridate.defenses import harden as hardeners
    from mithridate.defenses import inspect as inspectors
    from mithridate.defenses import repair as repairers
    from mithridate.defenses import sanitize as sanitizers
    from mithridate.defenses import transform as transforms
    from mithridate.defenses.inspect import Verdict
    from mithridate.goals import SourceToTarget, Targeted, Untargeted
    from mithridate.models import open_model as load
    from mithridate.networks.checkpoint import save
    from mithridate.norms import L0, L1, L2, LINF
    from mithridate.poisons import triggers
    from mithridate.reports.result import Result
    from mithridate.training import fit, predict

    class _Rng(Protocol):
        """What `mithridate.rng` is at once: the module, and its function of the same name."""

        def __call__(self, seed: int) -> torch.Generator: ...
        def rng(self, seed: int) -> torch.Generator: ...
        def child(
            self,
            parent: torch.Generator | int,
            *names: str | int,
            device: torch.device | str = "cpu",
            rows: torch.Tensor | None = None,
        ) -> torch.Generator: ...

    rng: _Rng


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'mithridate' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value: Any = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


class _RngModule(types.ModuleType):
    """The module `mithridate.rng`, which answers `mithridate.rng(0)` as well."""

    def __call__(self, seed: int) -> torch.Generator:
        generator: torch.Generator = self.rng(seed)
        return generator


class _Package(types.ModuleType):
    """Lets one name be a module and a function: importing `mithridate.rng` sets it here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "rng" and type(value) is types.ModuleType:
            value.__class__ = _RngModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
