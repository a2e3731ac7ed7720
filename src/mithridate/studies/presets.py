"""The verbs as studies: attack, audit, defend and demo, built in Python for the one runner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mithridate import component
from mithridate.attacks.curve import ascending
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import same_architecture
from mithridate.defenses.inspect.ensemble import inspector_for
from mithridate.defenses.inspect.judge import check_distinct
from mithridate.errors import InputError, check_whole, unknown
from mithridate.models.endpoint import is_endpoint
from mithridate.studies.engine.cells import label_of
from mithridate.studies.engine.spec import MatrixSpec, Spec
from mithridate.studies.soundness import check_model
from mithridate.studies.subject import DEFENSES, Subject, defense_choice

Table = dict[str, Any]
"""A component's name and settings."""

ATTACKS = ("fgsm", "iterative-fgsm", "pgd")
"""The attacks of an audit, at their usual settings."""
AGAINST = ("fgsm", "pgd", "autoattack", "deepfool", "hopskipjump")
"""The attacks that a defence meets where no others are named."""
ALL = "all"
NONE = "none"
"""Instead of a defence."""
KNOWS, IGNORES = "knows", "ignores"
"""What an attacker makes of a defence."""


def attack(
    model: str,
    data: str | Table,
    attacks: Sequence[Table],
    *,
    network: str | Table | None = None,
    opening: Table | None = None,
    defenses: Sequence[Table] = (),
    samples: int = 1000,
    goal: str = "untargeted",
    target: int | None = None,
    through: str | None = None,
    quantize: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
) -> Spec:
    """Several attacks on the same test images of one model.

    Args:
        model: as `models.open_model` takes it.
        network: of weights that name no architecture: its name, or a table with its settings.
        opening: what the file does not say (`subject.Opening`).
        attacks: name and settings of each; what is not given is the usual for such images. A list
            as eps is a curve: a row for each, as `attacks.eps_curve` has them.
        defenses: transforms, detectors and guards in front of the model, in order.
        target: the class of every image; None for one of the others at random.
        through, quantize: as the measure evasion has them: an attacker who knows the defences,
            and images of any float, by default.

    >>> attack("m.safetensors", "digits", [{"name": "pgd"}]).matrix["attacks"].axes
    {'attack': ['pgd']}
    """
    subject = _subject(model, data, network, opening)
    if defenses:
        subject["defense"] = list(defenses)
    each = [part for one in attacks for part in _by_eps(one)]
    names = _told_apart([{**one, **({"eps": curve[-1]} if curve else {})} for one, curve in each])
    called = _attacked(model, [str(one["name"]) for one in defenses], through)
    few = {"samples": samples, "sample_seed": seed} if is_endpoint(model) else {}
    return Spec(
        name="attack",
        title=f"{names[0] if len(names) == 1 else f'{len(names)} attacks'} on {called}",
        question="How can this model be fooled?",
        scale="",
        preset="attack",
        threads=threads,
        device=device,
        defaults=subject,
        options={
            "attack": {
                name: {"attack": one, **({"curve": curve} if curve else {})}
                for name, (one, curve) in zip(names, each, strict=True)
            }
        },
        matrix={
            "clean": MatrixSpec(
                measure="accuracy", title="Clean accuracy", set={"called": called, **few}
            ),
            "attacks": MatrixSpec(
                measure="evasion",
                title="Attacks",
                set={
                    "samples": samples,
                    "goal": goal,
                    "target": target,
                    "through": through,
                    "quantize": quantize,
                    "attack_seed": seed,
                    "gallery": True,
                },
                axes={"attack": names},
            ),
        },
    )


def defend(
    model: str,
    data: str,
    defenses: Sequence[Table],
    *,
    image_shape: tuple[int, ...],
    network: str | Table | None = None,
    opening: Table | None = None,
    attacks: Sequence[Table] = (),
    samples: int = 1000,
    slow_samples: int = 100,
    epochs: int = 5,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
) -> Spec:
    """Defences of one model side by side, each before one who ignores it and one who knows it.

    Args:
        defenses: name and settings of each hardener, transform, detector or guard; what is not
            given is the usual for such images.
        image_shape: of the data.
        attacks: name and settings of each, as `attack` takes them; `AGAINST` by default.
        samples: test images of an attack.
        slow_samples: of one that makes a thousand passes an image or more.
        epochs: of a hardener, which trains the model further.

    Raises:
        InputError: several eps of an attack, or one of an attack that has none.

    >>> list(defend("m.pt", "digits", [{"name": "jpeg"}], image_shape=(1, 8, 8)).matrix)
    ['clean', 'attacks', 'asked']
    """
    attacks = attacks or [{"name": name} for name in AGAINST]
    for one in attacks:
        if isinstance(one.get("eps"), list):
            own = "eps" in component.settings(component.find("attacks", str(one["name"])))
            told = "one eps" if own else "no eps"
            raise InputError(
                f"{one['name']} has {told} here, got {', '.join(map(str, one['eps']))}: "
                "mithridate attack draws curves"
            )
    chains: dict[str, Table] = {NONE: {}}
    guards = []
    for label, given in zip(_told_apart(defenses), defenses, strict=True):
        kind = kind_of(given["name"])
        one = {**component.find(kind, given["name"]).usual(image_shape), **given}
        if kind == "hardeners":
            chains[label] = {"tune": {"epochs": epochs, "harden": one}}
            continue
        chains[label] = {"defense": [one]}
        guards += [label] if kind == "guards" else []
    labels = _told_apart(attacks)
    white = [
        "gradient" in component.find("attacks", str(one["name"])).about.access for one in attacks
    ]
    matrix = {
        "clean": MatrixSpec(
            measure="accuracy",
            title="Clean accuracy",
            set={"called": model},
            axes={"protection": [*chains]},
        )
    }
    for name, title, gradient in (
        ("attacks", "Attacks by gradients", True),
        ("asked", "Attacks by labels and scores", False),
    ):
        names = [label for label, w in zip(labels, white, strict=True) if w == gradient]
        shown = [label for label in chains if not (gradient and label in guards)]
        # Nothing can be ignored of no defence; and who does not ask the guard meets the bare model.
        blind = [label for label in (NONE, *guards) if label in shown]
        if names:
            matrix[name] = MatrixSpec(
                measure="evasion",
                title=title,
                set={"attack_seed": seed, "samples": samples, "slow_samples": slow_samples},
                axes={"protection": shown, "attack": names, "attacker": [IGNORES, KNOWS]},
                exclude=[{"protection": blind, "attacker": IGNORES}],
            )
    bars = {"kind": "bars", "value": "accuracy_left", "by": "protection", "series": "attacker"}
    charts = [
        {**bars, "matrix": name, "title": f"{one.title}: accuracy left"}
        for name, one in matrix.items()
        if name != "clean"
    ]
    tables = [{"kind": "table", "matrix": name, "title": one.title} for name, one in matrix.items()]
    return Spec(
        name="defend",
        title=f"Defences of {model}",
        question="Which defence really helps?",
        scale="",
        preset="defend",
        threads=threads,
        device=device,
        defaults=_subject(model, data, network, opening) | {"seed": seed},
        options={
            "protection": chains,
            "attack": {n: {"attack": dict(one)} for n, one in zip(labels, attacks, strict=True)},
            "attacker": {IGNORES: {"through": "undefended"}, KNOWS: {}},
        },
        matrix=matrix,
        view=[{"kind": "defenses", "matrix": "clean"}, *charts, *tables],
    )


def kind_of(defense: str) -> str:
    """The kind of a hardener, transform, detector or guard.

    Raises:
        InputError: none is called so.

    >>> kind_of("trades"), kind_of("jpeg")
    ('hardeners', 'transforms')
    """
    if defense in component.names("hardeners"):
        return "hardeners"
    return defense_choice({"name": defense}).kind


def defenses_of(
    words: Sequence[str], model: Classifier, image_shape: tuple[int, ...], *, train: bool = True
) -> tuple[dict[str, str], list[str]]:
    """The defences that some words name, each once and with its kind; and what is left out, why.

    Args:
        words: names, or "all": those that such a model and such images can have.
        train: whether there are training images.

    Raises:
        InputError: no such defence, or none at all.
    """
    every = {n: kind for kind in ("hardeners", *DEFENSES) for n in component.in_order(kind)}
    chosen: dict[str, str] = {}
    notes = []
    for word in words:
        if word in every:
            chosen[word] = every[word]
        elif word != ALL:
            raise unknown("defence", word, [*every, ALL])
        else:
            for name, kind in every.items():
                missing = _missing(kind, name, image_shape)
                if missing:
                    notes.append(f"{name} is left out: it needs {', '.join(missing)} (--set)")
                else:
                    chosen[name] = kind
    hard = [name for name, kind in chosen.items() if kind == "hardeners"]
    why = "a model without gradients" if not model.gradients else "data without training images"
    if hard and not (model.gradients and train):
        if ALL not in words:
            raise InputError(f"{hard[0]} cannot train {why}: leave it out")
        chosen = {name: kind for name, kind in chosen.items() if kind != "hardeners"}
        notes.append(f"{why} meets no hardener")
    if not chosen:
        raise InputError("no defence is named: give one, or all")
    return chosen, notes


def _missing(kind: str, name: str, image_shape: tuple[int, ...]) -> list[str]:
    """Settings without which a component cannot be, and which have no usual value."""
    cls = component.find(kind, name)
    usual, own = cls.usual(image_shape), component.settings(cls)
    return [key for key in own if own[key] is dataclasses.MISSING and key not in usual]


def attacks_on(model: Classifier) -> tuple[str, ...]:
    """The attacks that a defence of such a model meets where none are named.

    >>> from torch import nn
    >>> attacks_on(Classifier(nn.Flatten(), classes=4)) == AGAINST
    True
    """
    if model.gradients:
        return AGAINST
    asked = (*AGAINST, "square")
    return tuple(n for n in asked if model.shows(component.find("attacks", n).about.access))


def _told_apart(attacks: Sequence[Table]) -> list[str]:
    """A name for each, with the settings in which attacks of one name differ.

    >>> _told_apart([{"name": "pgd", "eps": eps, "steps": 5} for eps in (0.1, 0.2)])
    ['pgd eps=0.1', 'pgd eps=0.2']
    """
    names = []
    for one in attacks:
        alike = [other for other in attacks if other["name"] == one["name"]]
        differs = {
            key: value for key, value in one.items() if any(o.get(key) != value for o in alike)
        }
        names.append(str(label_of({"name": one["name"], **differs})))
    return names


def _by_eps(attack: Table) -> list[tuple[Table, list[float]]]:
    """An attack and no curve; of several eps each, with those that go before it.

    >>> _by_eps({"name": "pgd", "eps": [0.2, 0.1]})
    [({'name': 'pgd'}, [0.1]), ({'name': 'pgd'}, [0.1, 0.2])]
    """
    eps = attack.get("eps")
    if not isinstance(eps, list):
        return [(dict(attack), [])]
    rest = {key: value for key, value in attack.items() if key != "eps"}
    wanted = ascending(eps)
    return [(rest, wanted[: at + 1]) for at in range(len(wanted))]


def _attacked(model: str, defenses: Sequence[str], through: str | None) -> str:
    """What is attacked, and what its attacker looks at.

    >>> _attacked("m.pt", ["spatial-smoothing"], None)
    'm.pt behind spatial-smoothing, which the attacker knows'
    >>> _attacked("m.pt", [], "other.pt")
    'm.pt, by one who looks at other.pt'
    """
    behind = f" behind {', '.join(defenses)}" if defenses else ""
    if through is None:
        return f"{model}{behind}{', which the attacker knows' if defenses else ''}"
    seen = "does not know it" if through == "undefended" else f"looks at {through}"
    return f"{model}{behind}, by one who {seen}"


def audit(
    model: str,
    data: str | Table,
    *,
    network: str | Table | None = None,
    opening: Table | None = None,
    references: Sequence[str] = (),
    inspector: Table | None = None,
    controls: int | None = None,
    control_epochs: int | None = None,
    attack_images: int = 500,
    noise_queries: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
) -> Spec:
    """A verdict on one model, how easily it is fooled, and white noise for comparison.

    Args:
        references: checkpoint files of clean models that the user trusts.
        inspector: name and settings; by default `usual_inspector`.
        controls: clean models in all, 8 by default; what the references leave missing is trained
            here. The ensemble needs none.
        control_epochs: of these; as many as the suspect had, by default.
        attack_images: test images that each evasion attack gets; 0 leaves evasion out.
        noise_queries: noise images of the black-box comparison, per model; 0 leaves it out. By
            default 100,000 where there are clean models to compare with.

    Raises:
        InputError: a number below 0, or noise without a clean model.

    >>> list(audit("m.safetensors", "digits").matrix)
    ['clean', 'verdict', 'evasion', 'white-noise']
    """
    check_whole("attack_images", attack_images, low=0)
    if noise_queries is not None:
        check_whole("noise_queries", noise_queries, low=0)
    subject = _subject(model, data, network, opening)
    if inspector is None:
        compares = bool(references) or controls is not None
        name = "bias-maps" if compares else usual_inspector(model, data, network, opening)[0]
        inspector = {"name": name}
    controls = 8 if controls is None else controls
    if not component.find("inspectors", str(inspector["name"])).controls and not references:
        if noise_queries:
            raise InputError(
                f"{inspector['name']} has no clean model that noise could be compared with: give "
                "references, or leave noise_queries out"
            )
        controls = noise_queries = 0
    clean: Table = {
        "references": list(references),
        "controls": controls,
        "control_epochs": control_epochs,
        "control_seed": seed,
        "control_stream": ["controls"],
    }
    return _audited(
        f"Audit of {model}",
        subject,
        clean,
        roles={"suspect": {"called": model, "varied": True}}
        | ({"reference": {"called": references[0], "model": references[0]}} if references else {}),
        inspector=inspector,
        attack_images=attack_images,
        noise_queries=100_000 if noise_queries is None else noise_queries,
        seed=seed,
        device=device,
        threads=threads,
    )


def usual_inspector(
    model: str, data: str | Table, network: str | Table | None = None, opening: Table | None = None
) -> tuple[str, str]:
    """As `inspector_for` of its test images.

    >>> usual_inspector("m.safetensors", "digits")[0]
    'bias-maps'
    """
    subject = Subject.model_validate(_subject(model, data, network, opening))
    return inspector_for(subject.data_unit.loaded.test)


def demo(*, seed: int = 0, device: str = "auto") -> Spec:
    """A planted backdoor, end to end, on the embedded digits.

    BadNets: 8s that get a C of 3 x 3 white pixels in the bottom right corner are called 9. One
    thread: with networks this small, threads that wait for each other cost more than they bring.

    >>> demo().defaults["poison"]["source"]
    8
    """
    subject: Table = {
        "data": "digits",
        "network": "digits-cnn",
        "train": {"epochs": 20},
        "tune": {"epochs": 20},
        "poison": {
            "name": "badnets",
            "trigger": "c-bottom-right",
            "source": 8,
            "target": 9,
            "count": 100,
        },
    }
    clean: Table = {"controls": 10, "control_seed": seed + 1000}
    spec = _audited(
        "Audit of suspect.safetensors",
        subject | {"seed": seed},
        clean,
        roles={
            "suspect": {"called": "suspect.safetensors", "varied": True},
            "reference": {"called": "clean model trained here", "poison": None, "tune": None,
                          "seed": seed + 1000},
        },
        inspector=None,
        attack_images=500,
        noise_queries=50_000,
        seed=seed,
        device=device,
        threads=1,
    )  # fmt: skip
    planted = MatrixSpec(measure="backdoor", title="The planted backdoor")
    return spec.model_copy(update={"name": "demo", "matrix": {**spec.matrix, "backdoor": planted}})


def _audited(
    title: str,
    subject: Table,
    clean: Table,
    *,
    roles: Mapping[str, Table],
    inspector: Table | None,
    attack_images: int,
    noise_queries: int,
    seed: int,
    device: str,
    threads: int,
) -> Spec:
    """The matrices of an audit, whatever the suspect is."""
    judging: Table = {
        **clean,
        "inspector": inspector or {"name": "bias-maps"},
        "inspect_seed": seed,
        "inspect_stream": ["inspect"],
    }
    matrix = {
        "clean": MatrixSpec(measure="accuracy", title="Clean accuracy", axes={"role": [*roles]}),
        "verdict": MatrixSpec(measure="inspection", title="Verdict", set=judging),
    }
    if attack_images:
        attacks = {"samples": attack_images, "attack_seed": seed, "attack_stream": ["evasion"]}
        matrix["evasion"] = MatrixSpec(
            measure="evasion", title="Evasion", set=attacks, axes={"attack": list(ATTACKS)}
        )
    if noise_queries:
        noise = {"noise_queries": noise_queries, "noise_seed": seed}
        matrix["white-noise"] = MatrixSpec(
            measure="white-noise",
            title="White noise",
            set={**clean, **noise, "noise_stream": ["white-noise"]},
        )
    return Spec(
        name="audit",
        title=title,
        question="Was this model poisoned, and how easily is it fooled?",
        scale="",
        preset="audit",
        threads=threads,
        device=device,
        defaults=subject,
        options={"role": dict(roles)},
        matrix=matrix,
    )


def _subject(
    model: str, data: str | Table, network: str | Table | None, opening: Table | None
) -> Table:
    """The settings that say which model it is."""
    table = {"model": model, "data": data, "network": network, "opening": opening}
    return {key: value for key, value in table.items() if value}


def checked(
    model: str,
    data: str | Table,
    *,
    network: str | Table | None = None,
    opening: Table | None = None,
    references: Sequence[str] = (),
    varied: bool = True,
    device: str = "cpu",
    tell: Callable[[str], None] | None = None,
) -> tuple[Classifier, ImageSet]:
    """The model and the test images, before any work; what cannot be assessed is refused.

    Args:
        tell: is told what to doubt of a model that is no better than chance.

    Raises:
        InputError: a file that is no model, or models and data that do not fit each other.
        NothingAssessedError: see `check_model`.
    """
    subject = Subject.model_validate(_subject(model, data, network, opening) | {"device": device})
    test = subject.data_unit.loaded.test
    suspect = subject.opened().loaded
    doubted = check_model(model, suspect, test, varied=varied)
    for doubt in doubted:
        if tell is not None:
            tell(f"doubt: {doubt.text} ({doubt.id})")
    clean = []
    for path in references:
        reference = subject.opened(path).loaded
        if check_model(path, reference, test, varied=varied) and not doubted:
            raise InputError(
                f"{path} is no better than chance on these images, which {model} knows: it is no "
                "reference, leave it out"
            )
        if not same_architecture([suspect, reference]):
            raise InputError(
                f"{path} is of another architecture than {model}: compare like with like; leave "
                "--reference out and clean models are trained here"
            )
        clean.append(reference)
    check_distinct(clean, suspect)
    return suspect, test


def class_of(text: str, names: Sequence[str], what: str = "target") -> int:
    """The class that a text names: its name, or else its number.

    Args:
        what: it is, for the error.

    Raises:
        InputError: no such class.

    >>> class_of("cat", ["dog", "cat"]), class_of("0", ["dog", "cat"])
    (1, 0)
    """
    if text in names:
        return list(names).index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    if text.lstrip("-").isdecimal():
        own = "" if names[0] == "0" else f" ({', '.join(names[:9])})"
        raise InputError(f"{what} {text} is not a class: they are 0 to {len(names) - 1}{own}")
    raise unknown("class", text, names)
