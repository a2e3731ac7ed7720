"""What every component is, and the one table of names.

A component is a class whose dataclass fields are its hyper-parameters, each declared once; all
else that is known of it stands on the class too. The command line, specs, records and the
reference read both from here.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

from mithridate.cost import Sizes, Work
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
        "apgd": "mithridate.attacks.apgd:APGD",
        "autoattack": "mithridate.attacks.autoattack:AutoAttack",
        "lagrangian-pgd": "mithridate.attacks.lagrangian_pgd:LagrangianPGD",
        "deepfool": "mithridate.attacks.deepfool:DeepFool",
        "dynamic-deepfool": "mithridate.attacks.deepfool:DynamicDeepFool",
        "fab": "mithridate.attacks.fab:FAB",
        "nearest": "mithridate.attacks.nearest:Nearest",
        "ddn": "mithridate.attacks.ddn:DDN",
        "alma": "mithridate.attacks.alma:ALMA",
        "fmn": "mithridate.attacks.fmn:FMN",
        "pdpgd": "mithridate.attacks.pdpgd:PDPGD",
        "sigma-zero": "mithridate.attacks.sigma_zero:SigmaZero",
        "lbfgs": "mithridate.attacks.lbfgs:LBFGS",
        "carlini-wagner": "mithridate.attacks.carlini_wagner:CarliniWagner",
        "carlini-wagner-linf": "mithridate.attacks.carlini_wagner:CarliniWagnerLinf",
        "carlini-wagner-l0": "mithridate.attacks.carlini_wagner:CarliniWagnerL0",
        "jsma": "mithridate.attacks.jsma:JSMA",
        "adversarial-patch": "mithridate.attacks.adversarial_patch:AdversarialPatch",
        "square": "mithridate.attacks.square:Square",
        "one-pixel": "mithridate.attacks.one_pixel:OnePixel",
        "hopskipjump": "mithridate.attacks.hopskipjump:HopSkipJump",
        "boundary": "mithridate.attacks.boundary:Boundary",
    },
    "fooling": {
        "direct": "mithridate.fooling.direct:Direct",
        "cppn": "mithridate.fooling.cppn:CPPN",
        "gradient": "mithridate.fooling.ascent:GradientAscent",
    },
    "corruptions": {
        "gaussian-noise": "mithridate.corruptions.noise:GaussianNoise",
        "shot-noise": "mithridate.corruptions.noise:ShotNoise",
        "impulse-noise": "mithridate.corruptions.noise:ImpulseNoise",
        "defocus-blur": "mithridate.corruptions.blur:DefocusBlur",
        "glass-blur": "mithridate.corruptions.blur:GlassBlur",
        "motion-blur": "mithridate.corruptions.blur:MotionBlur",
        "zoom-blur": "mithridate.corruptions.blur:ZoomBlur",
        "snow": "mithridate.corruptions.weather:Snow",
        "frost": "mithridate.corruptions.weather:Frost",
        "fog": "mithridate.corruptions.weather:Fog",
        "brightness": "mithridate.corruptions.weather:Brightness",
        "contrast": "mithridate.corruptions.digital:Contrast",
        "elastic-transform": "mithridate.corruptions.digital:ElasticTransform",
        "pixelate": "mithridate.corruptions.digital:Pixelate",
        "jpeg-compression": "mithridate.corruptions.digital:JPEGCompression",
    },
    "triggers": {
        "single-pixel": "mithridate.poisons.triggers:SinglePixel",
        "patch": "mithridate.poisons.triggers:Patch",
        "inserted-image": "mithridate.poisons.triggers:InsertedImage",
        "random-location": "mithridate.poisons.triggers:RandomLocation",
        "corner-pattern": "mithridate.poisons.triggers:CornerPattern",
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
    "sanitizers": {
        "activation-clustering": (
            "mithridate.defenses.sanitize.activation_clustering:ActivationClustering"
        ),
        "spectral-signatures": (
            "mithridate.defenses.sanitize.spectral_signatures:SpectralSignatures"
        ),
        "spectre": "mithridate.defenses.sanitize.spectre:Spectre",
        "outliers": "mithridate.defenses.sanitize.outliers:Outliers",
        "early-loss": "mithridate.defenses.sanitize.early_loss:EarlyLoss",
    },
    "hardeners": {
        "adversarial-training": (
            "mithridate.defenses.harden.adversarial_training:AdversarialTraining"
        ),
        "fast-adversarial-training": (
            "mithridate.defenses.harden.single_step:FastAdversarialTraining"
        ),
        "n-fgsm": "mithridate.defenses.harden.single_step:NFGSM",
        "trades": "mithridate.defenses.harden.trades:Trades",
        "free-adversarial-training": "mithridate.defenses.harden.free:FreeAdversarialTraining",
        "defensive-distillation": "mithridate.defenses.harden.distillation:DefensiveDistillation",
        "reject-fooling": "mithridate.defenses.harden.reject_fooling:RejectFooling",
    },
    "repairers": {
        "unlearning": "mithridate.defenses.repair.unlearning:Unlearning",
        "fine-tuning": "mithridate.defenses.repair.fine_tuning:FineTuning",
        "fine-pruning": "mithridate.defenses.repair.fine_pruning:FinePruning",
        "clp": "mithridate.defenses.repair.clp:CLP",
        "anp": "mithridate.defenses.repair.anp:ANP",
        "ft-sam": "mithridate.defenses.repair.ft_sam:FTSAM",
        "i-bau": "mithridate.defenses.repair.i_bau:IBAU",
    },
    "transforms": {
        "spatial-smoothing": "mithridate.defenses.transform.spatial_smoothing:SpatialSmoothing",
        "bit-depth": "mithridate.defenses.transform.bit_depth:BitDepth",
        "jpeg": "mithridate.defenses.transform.jpeg:JPEG",
        "low-pass": "mithridate.defenses.transform.low_pass:LowPass",
        "pca": "mithridate.defenses.transform.pca:PCA",
        "soft-threshold": "mithridate.defenses.transform.soft_threshold:SoftThreshold",
        "total-variation": "mithridate.defenses.transform.total_variation:TotalVariation",
        "resize-and-pad": "mithridate.defenses.transform.resize_and_pad:ResizeAndPad",
        "defense-gan": "mithridate.defenses.transform.defense_gan:DefenseGAN",
        "magnet": "mithridate.defenses.transform.magnet:MagNet",
    },
    "detectors": {
        "feature-squeezing": "mithridate.defenses.detect.feature_squeezing:FeatureSqueezing",
        "input-detector": "mithridate.defenses.detect.input_detector:InputDetector",
        "mahalanobis": "mithridate.defenses.detect.mahalanobis:Mahalanobis",
        "magnet-detector": "mithridate.defenses.detect.magnet_detector:MagNetDetector",
        "defense-gan-detector": (
            "mithridate.defenses.detect.defense_gan_detector:DefenseGANDetector"
        ),
    },
    "guards": {
        "query-guard": "mithridate.defenses.guard.query_guard:QueryGuard",
        "blacklight": "mithridate.defenses.guard.blacklight:Blacklight",
        "piha": "mithridate.defenses.guard.piha:PIHA",
    },
    "inspectors": {
        "bias-maps": "mithridate.defenses.inspect.bias_maps:BiasMaps",
        "change-scan": "mithridate.defenses.inspect.change_scan:ChangeScan",
        "ensemble": "mithridate.defenses.inspect.ensemble:Ensemble",
        "neural-cleanse": "mithridate.defenses.inspect.neural_cleanse:NeuralCleanse",
        "patch-scan": "mithridate.defenses.inspect.patch_scan:PatchScan",
        "universal-perturbation": "mithridate.defenses.inspect.universal:UniversalPerturbation",
        "white-noise": "mithridate.defenses.inspect.white_noise:WhiteNoise",
        "maximum-margin": "mithridate.defenses.inspect.maximum_margin:MaximumMargin",
        "batchnorm-noise": "mithridate.defenses.inspect.batchnorm_noise:BatchNormNoise",
    },
    "measures": {
        "accuracy": "mithridate.studies.measures.accuracy:Accuracy",
        "corruptions": "mithridate.studies.measures.corruptions:Corruptions",
        "evasion": "mithridate.studies.measures.evasion:Evasion",
        "classification": "mithridate.studies.measures.classification:Classification",
        "backdoor": "mithridate.studies.measures.backdoor:Backdoor",
        "poisoning": "mithridate.studies.measures.poisoning:Poisoning",
        "activations": "mithridate.studies.measures.activations:Activations",
        "mending": "mithridate.studies.measures.mending:Mending",
        "targeted": "mithridate.studies.measures.targeted:TargetedPoison",
        "inspection": "mithridate.studies.measures.inspection:Inspection",
        "bias-maps": "mithridate.studies.measures.bias_maps:BiasMapsMeasure",
        "white-noise": "mithridate.studies.measures.white_noise:WhiteNoiseMeasure",
    },
}
"""Kind -> name -> "module:class"; attacks in the order in which `--attack all` runs them."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What is worth knowing of a component before it runs; what does not apply is empty.

    It stands on the class as a literal, so that it can be read where the class is not imported.

    Attributes:
        paper: authors and year, with the section or equation where one is meant.
        kind: of an attack, "bounded" (within eps), "minimal" (the smallest change) or
            "universal" (one change for all images).
        norms: in which an attack measures distance, its default first.
        access: what it sees of the model: "gradient", "score", "label", or several.
        needs: besides the model and the images: "surrogate", "generator", "training images",
            "clean images", "clean models".
        place: of a trigger: "fixed" (the same pixels of every image), "random" or "everywhere".
        labels: of a poison: "changed", or "kept" (every poisoned image has its true label).
        trigger: which a poison stamps, or "none" and what it does instead.
        atlas: ids of MITRE ATLAS 5.6.0.
        nist: ids of NIST AI 100-2e2025, without their prefix NISTAML.
    """

    paper: str
    kind: str = ""
    norms: tuple[str, ...] = ()
    access: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    place: str = ""
    labels: str = ""
    trigger: str = ""
    atlas: tuple[str, ...] = ()
    nist: tuple[str, ...] = ()


class Component:
    """What every component has beside its hyper-parameters.

    Attributes:
        about: what is worth knowing of it.
        version: raised where its results change; part of the key of all that it makes.
    """

    about: ClassVar[About]
    version: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A subclass's `__post_init__` finds settings that are as its fields declare them."""
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("__post_init__")
        if own is not None:

            @functools.wraps(own)
            def checked(self: Component) -> None:
                _as_declared(self)
                own(self)

            cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Numbers of NumPy become Python's, "linf" the norm, 10.0 the whole number 10.

        Raises:
            InputError: a setting that its field cannot hold.
        """
        _as_declared(self)

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """The settings that are usual for images (C, H, W), where they are not the defaults."""
        return {}

    def cost(self, sizes: Sizes) -> Work:
        """What it will ask of a model, about; for a plan's estimate."""
        return Work()


@cache
def hints(cls: type[Any]) -> dict[str, Any]:
    """Annotations of a class, with their metadata; none where only a type checker can read them."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError:
        return {}


def _as_declared(component: Component) -> None:
    cls: Any = type(component)
    declared = hints(cls)
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        value = getattr(component, field.name, None)
        wanted = parse(value, declared.get(field.name), field.name)
        if wanted is not value:
            object.__setattr__(component, field.name, wanted)


def names(kind: str) -> list[str]:
    """The names of a kind, ours and third parties', sorted.

    >>> names("guards")
    ['blacklight', 'piha', 'query-guard']
    """
    return sorted(_table(kind))


def in_order(kind: str) -> list[str]:
    """The same in the order of the table, third parties' last."""
    return list(_table(kind))


@cache
def points(kind: str) -> tuple[EntryPoint, ...]:
    """What other packages add; looked up once, as it reads the metadata of all of them."""
    return tuple(entry_points(group=f"mithridate.{kind}"))


def _table(kind: str) -> dict[str, str]:
    """Name -> "module:class", ours first and before others' of the same name."""
    if kind not in TABLES:
        raise unknown("kind", kind, TABLES)
    others = sorted((point.name, point.value) for point in points(kind))
    return TABLES[kind] | {name: path for name, path in others if name not in TABLES[kind]}


def path_of(kind: str, name: str) -> str:
    """Where the class of that name is: "module:class".

    Raises:
        InputError: no such kind or name; the message suggests the nearest.

    >>> path_of("attacks", "pgd")
    'mithridate.attacks.pgd:PGD'
    """
    table = _table(kind)
    if not isinstance(name, str):
        raise InputError(f"one of the {kind} is given by its name here, got {type(name).__name__}")
    if name not in table:
        raise unknown(kind.removesuffix("s"), name, table)
    return table[name]


def find(kind: str, name: str) -> type[Any]:
    """The class behind a name.

    Raises:
        InputError: as `path_of`.

    >>> find("attacks", "pgd").__name__
    'PGD'
    """
    module, _, attribute = path_of(kind, name).partition(":")
    return typing.cast(type[Any], getattr(importlib.import_module(module), attribute))


def name_of(component: object) -> str:
    """The registered name of a component or its class; its class name where it has none.

    >>> name_of(find("attacks", "pgd"))
    'pgd'
    """
    cls = component if isinstance(component, type) else type(component)
    path = f"{cls.__module__}:{cls.__qualname__}"
    fitting = (name for kind in TABLES for name, target in _table(kind).items() if target == path)
    return next(fitting, cls.__name__)


def settings(cls: type[Any]) -> dict[str, Any]:
    """Field name -> default (`dataclasses.MISSING` where it must be given).

    A field whose metadata say `text=False` (images, say) is left out: only Python can give it.

    >>> settings(find("attacks", "pgd"))["restarts"]
    1
    """
    out: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.init and field.metadata.get("text", True):
            make = field.default_factory
            out[field.name] = field.default if make is dataclasses.MISSING else make()
    return out


def values(component: object) -> dict[str, Any]:
    """The settings that a component has, as JSON holds them; images among them are left out.

    >>> values(create("attacks", "fgsm", {"eps": 0.1}))
    {'eps': 0.1, 'norm': 'linf'}
    """
    own = {name: getattr(component, name) for name in settings(type(component))}
    plain = bool | int | float | str | None
    return {name: v if isinstance(v, plain) else str(v) for name, v in own.items()}


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


@dataclass(frozen=True)
class Choice:
    """A component by name, with its settings: what specs hold and keys are made of.

    Attributes:
        kind: of the table, such as "attacks".
        settings: those given; the others are at their defaults.

    >>> Choice("attacks", "fgsm", {"eps": 0.1}).make().eps
    0.1
    """

    kind: str
    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, table: Mapping[str, Any]) -> Choice:
        """What a table with a name and settings means.

        Raises:
            InputError: it has no name.

        >>> Choice.of("attacks", {"name": "fgsm", "eps": 0.1}).settings
        {'eps': 0.1}
        """
        if "name" not in table:
            known = ", ".join(names(kind))
            raise InputError(f"no name among the {kind}' settings: give one of {known}")
        rest = {key: value for key, value in table.items() if key != "name"}
        return cls(kind, str(table["name"]), rest)

    def make(self) -> Any:
        """The component.

        Raises:
            InputError: as `create`.
        """
        return create(self.kind, self.name, self.settings)

    def versions(self) -> dict[str, int]:
        """Of the component and of those that it holds, such as a poison's trigger.

        >>> settings = {"trigger": "multiply", "target": 1, "count": 2}
        >>> Choice("poisons", "badnets", settings).versions()
        {'BadNets': 1, 'Multiply': 1}
        """
        cls = find(self.kind, self.name)
        if not dataclasses.is_dataclass(cls):  # a network, which holds no other component
            return {cls.__name__: getattr(cls, "version", 1)}
        return {type(one).__name__: one.version for one in held(self.make())}


def held(component: object) -> Iterator[Component]:
    """A component, and every component among its fields."""
    if isinstance(component, Component):
        yield component
        if dataclasses.is_dataclass(component):
            for field in dataclasses.fields(component):
                yield from held(getattr(component, field.name))


def parse(value: Any, hint: Any, where: str) -> Any:
    """Read a string as `hint` (bool, int, float, str, optional, literal, or a type with `named`).

    Numbers of NumPy and of one-element tensors become Python's, and 10.0 the whole number 10.

    >>> parse("8/255", float, "pgd.eps") == 8 / 255, parse(10.0, int, "pgd.steps")
    (True, 10)

    Raises:
        InputError: a word that is no such thing, or a fraction where a whole number is wanted.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return parse(value, arguments[0], where)
    if not isinstance(value, str):
        return _as_number(value, hint, where)
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


def _as_number(value: Any, hint: Any, where: str) -> Any:
    """A number as the hint wants it; anything else as it is."""
    among = typing.get_args(hint) or (hint,)
    options = {
        (*typing.get_args(one), one)[0] if hasattr(one, "__metadata__") else one for one in among
    }
    if getattr(value, "ndim", None) == 0 and options & {int, float, bool}:
        value = value.item()
    if isinstance(value, float) and int in options and float not in options:
        if not value.is_integer():
            raise InputError(f"{where} is a whole number, got {value:g}")
        return int(value)
    return value


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
