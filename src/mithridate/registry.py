"""Names of components. One literal table per kind, imported on use; entry points add more.

A component is a class whose dataclass fields are its hyper-parameters: the command line and
the records read and write them from here, so each is declared once.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
import typing
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mithridate.about import ABOUT as ABOUT
from mithridate.about import FACTS, Known
from mithridate.about import About as About
from mithridate.errors import InputError, unknown

TABLES: dict[str, dict[str, str]] = {
    "networks": {
        "borji-cnn": "mithridate.networks.borji_cnn:BorjiCNN",
        "digits-cnn": "mithridate.networks.digits_cnn:DigitsCNN",
        "mnist-cnn": "mithridate.networks.mnist_cnn:MnistCNN",
        "cifar-cnn": "mithridate.networks.cifar_cnn:CifarCNN",
        "resnet18": "mithridate.networks.resnet:ResNet18",
        "mobilenetv2": "mithridate.networks.mobilenet:MobileNetV2",
        "densenet121": "mithridate.networks.densenet:DenseNet121",
    },
    "attacks": {
        "fgsm": "mithridate.attacks.fast_gradient:FGSM",
        "iterative-fgsm": "mithridate.attacks.fast_gradient:IterativeFGSM",
        "pgd": "mithridate.attacks.pgd:PGD",
        "deepfool": "mithridate.attacks.deepfool:DeepFool",
        "dynamic-deepfool": "mithridate.attacks.dynamic_deepfool:DynamicDeepFool",
        "ddn": "mithridate.attacks.ddn:DDN",
        "carlini-wagner": "mithridate.attacks.carlini_wagner:CarliniWagner",
        "carlini-wagner-l0": "mithridate.attacks.carlini_wagner_l0:CarliniWagnerL0",
        "carlini-wagner-linf": "mithridate.attacks.carlini_wagner_linf:CarliniWagnerLinf",
        "lbfgs": "mithridate.attacks.lbfgs:LBFGS",
        "jsma": "mithridate.attacks.jsma:JSMA",
        "apgd": "mithridate.attacks.apgd:APGD",
        "square": "mithridate.attacks.square:Square",
        "fab": "mithridate.attacks.fab:FAB",
        "autoattack": "mithridate.attacks.autoattack:AutoAttack",
        "hopskipjump": "mithridate.attacks.hopskipjump:HopSkipJump",
        "boundary": "mithridate.attacks.boundary:Boundary",
        "one-pixel": "mithridate.attacks.one_pixel:OnePixel",
        "adversarial-patch": "mithridate.attacks.adversarial_patch:AdversarialPatch",
    },
    "fooling": {
        "direct": "mithridate.fooling.direct:Direct",
        "cppn": "mithridate.fooling.cppn:CPPN",
        "gradient": "mithridate.fooling.ascent:GradientAscent",
    },
    "triggers": {
        "single-pixel": "mithridate.poisons.triggers:SinglePixel",
        "patch": "mithridate.poisons.patches:Patch",
        "inserted-image": "mithridate.poisons.triggers:InsertedImage",
        "random-location": "mithridate.poisons.patches:RandomLocation",
        "corner-pattern": "mithridate.poisons.patches:CornerPattern",
        "multiply": "mithridate.poisons.triggers:Multiply",
        "blend": "mithridate.poisons.triggers:Blend",
        "sinusoid": "mithridate.poisons.triggers:Sinusoid",
        "warp": "mithridate.poisons.triggers:Warp",
    },
    "poisons": {
        "badnets": "mithridate.poisons.badnets:BadNets",
        "stamped-only": "mithridate.poisons.clean_label:StampedOnly",
        "clean-label": "mithridate.poisons.clean_label:CleanLabel",
        "clean-label-gan": "mithridate.poisons.clean_label_gan:CleanLabelGAN",
        "adversarial-poisons": "mithridate.poisons.adversarial:AdversarialPoisons",
        "feature-collision": "mithridate.poisons.feature_collision:FeatureCollision",
        "wanet": "mithridate.poisons.wanet:WaNet",
    },
    "hardeners": {
        "adversarial-training": (
            "mithridate.defenses.harden.adversarial_training:AdversarialTraining"
        ),
    },
    "sanitizers": {
        "activation-clustering": (
            "mithridate.defenses.sanitize.activation_clustering:ActivationClustering"
        ),
        "spectral-signatures": (
            "mithridate.defenses.sanitize.spectral_signatures:SpectralSignatures"
        ),
        "outliers": "mithridate.defenses.sanitize.outliers:Outliers",
    },
    "inspectors": {
        "bias-maps": "mithridate.defenses.inspect.bias_maps:BiasMaps",
        "white-noise": "mithridate.defenses.inspect.white_noise:WhiteNoise",
    },
    "units": {
        "data": "mithridate.studies.kinds.data:DataKind",
        "model": "mithridate.studies.kinds.model:ModelKind",
        "model-file": "mithridate.studies.kinds.model:ModelFileKind",
        "poisoned": "mithridate.studies.kinds.poisoned:PoisonedKind",
        "crafted": "mithridate.studies.kinds.crafted:CraftedKind",
        "sift": "mithridate.studies.kinds.sifting:SiftKind",
        "maps": "mithridate.studies.kinds.maps:MapsKind",
        "calibration": "mithridate.studies.kinds.calibration:CalibrationKind",
        "adversarial": "mithridate.studies.kinds.adversarial:AdversarialKind",
        "evasion": "mithridate.studies.measures.evasion:EvasionKind",
        "backdoor": "mithridate.studies.measures.backdoor:BackdoorKind",
        "poisoning": "mithridate.studies.measures.poisoning:PoisoningKind",
        "kills": "mithridate.studies.measures.kills:KillsKind",
        "inspection": "mithridate.studies.measures.inspection:InspectionKind",
        "bias-maps": "mithridate.studies.measures.bias_maps:BiasMapsKind",
        "audit": "mithridate.studies.measures.audit:AuditKind",
    },
    "measures": {
        "evasion": "mithridate.studies.measures.evasion:Evasion",
        "backdoor": "mithridate.studies.measures.backdoor:Backdoor",
        "poisoning": "mithridate.studies.measures.poisoning:Poisoning",
        "kills": "mithridate.studies.measures.kills:Kills",
        "inspection": "mithridate.studies.measures.inspection:Inspection",
        "bias-maps": "mithridate.studies.measures.bias_maps:BiasMapsMeasure",
        "audit": "mithridate.studies.measures.audit:AuditMeasure",
    },
}
"""Kind -> name -> "module:class"."""


def about(name: str) -> About | None:
    """What is known of an attack; a third party's may carry an `about` of its own.

    >>> about("square").access
    ('score',)
    """
    found = facts("attacks", name)
    return found if isinstance(found, About) else None


def facts(kind: str, name: str) -> Known | None:
    """What is known of a component of any kind; a third party's may carry an `about` of its own.

    >>> facts("poisons", "clean-label").needs
    'surrogate'
    """
    shape, known = FACTS.get(kind, (None, {}))
    if shape is None or name in known or name not in names(kind):
        return known.get(name)
    found = getattr(find(kind, name), "about", None)
    return found if isinstance(found, shape) else None


def names(kind: str) -> list[str]:
    """The registered names of a kind, ours and third parties', sorted.

    >>> names("inspectors")
    ['bias-maps', 'white-noise']
    """
    if kind not in TABLES:
        raise unknown("kind", kind, TABLES)
    found = set(TABLES[kind])
    found.update(point.name for point in _points(kind))
    return sorted(found)


@cache
def _points(kind: str) -> tuple[EntryPoint, ...]:
    """What other packages add; looked up once, as it reads the metadata of all of them."""
    return tuple(entry_points(group=f"mithridate.{kind}"))


def find(kind: str, name: str) -> type[Any]:
    """The class behind a name.

    Raises:
        InputError: no such kind or name; the message suggests the nearest.

    >>> find("attacks", "pgd").__name__
    'PGD'
    """
    if kind not in TABLES:
        raise unknown("kind", kind, TABLES)
    if name in TABLES[kind]:
        module, _, attribute = TABLES[kind][name].partition(":")
        return typing.cast(type[Any], getattr(importlib.import_module(module), attribute))
    for point in _points(kind):
        if point.name == name:
            return typing.cast(type[Any], point.load())
    raise unknown(kind.removesuffix("s"), name, names(kind))


def name_of(component: object) -> str:
    """The registered name of a component or its class; its class name where it has none.

    >>> name_of(find("attacks", "pgd"))
    'pgd'
    """
    cls = component if isinstance(component, type) else type(component)
    path = f"{cls.__module__}:{cls.__qualname__}"
    for table in TABLES.values():
        for name, target in table.items():
            if target == path:
                return name
    return cls.__name__


def settings(cls: type[Any]) -> dict[str, Any]:
    """Field name -> default (`dataclasses.MISSING` where it must be given).

    A field whose metadata say `text=False` (images, say) is left out: only Python can give it.

    >>> settings(find("attacks", "pgd"))["restarts"]
    1
    """
    out: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.init and field.metadata.get("text", True):
            made = field.default_factory
            out[field.name] = field.default if made is dataclasses.MISSING else made()
    return out


def create(kind: str, name: str, values: Mapping[str, Any] | None = None) -> Any:
    """Build a component; strings among `values` are read as the field's type.

    Raises:
        InputError: unknown name or setting, missing setting, or a value of the wrong type.

    >>> create("attacks", "fgsm", {"eps": "0.3"}).eps
    0.3
    """
    cls = find(kind, name)
    known = settings(cls)
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for key, value in (values or {}).items():
        field = key.replace("-", "_")
        if field not in known:
            raise unknown(f"setting of {name}", key, known)
        given[field] = parse(value, hints[field], f"{name}.{field}")
    missing = [k for k, v in known.items() if v is dataclasses.MISSING and k not in given]
    if missing:
        raise InputError(f"{name} needs {', '.join(missing)}: give --set {missing[0]}=VALUE")
    return cls(**given)


def parse(value: Any, hint: Any, where: str) -> Any:
    """Read a string as `hint` (bool, int, float, str, optional, literal, or a type with `named`).

    >>> parse("8/255", float, "pgd.eps") == 8 / 255
    True
    """
    if not isinstance(value, str):
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value.lower() in ("none", "") and type(None) in arguments:
            return None
        for option in (a for a in arguments if a is not type(None)):
            try:
                return parse(value, option, where)
            except InputError as error:
                last = error
        raise last
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise InputError(f"{where} is one of {', '.join(map(str, arguments))}, got {value!r}")
    if hasattr(hint, "named"):
        return hint.named(value)
    return _parse_scalar(value, hint, where)


def _parse_scalar(value: str, hint: Any, where: str) -> Any:
    if hint is bool:
        lowered = value.lower()
        if lowered in ("true", "yes", "1", "false", "no", "0"):
            return lowered in ("true", "yes", "1")
        raise InputError(f"{where} is true or false, got {value!r}")
    try:
        if hint is int:
            return int(value)
        if hint is float:
            top, slash, bottom = value.partition("/")
            return float(top) / float(bottom) if slash else float(value)
    except (ValueError, ZeroDivisionError):
        kind = "a whole number" if hint is int else "a number"
        raise InputError(f"{where} is {kind}, got {value!r}") from None
    return value
