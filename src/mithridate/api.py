"""`mi.attack`, `mi.audit`, `mi.defend` and `mi.inspect`: the verbs, for what is in memory.

A study is made as the command line makes it (`studies/presets.py`) and run in this process, so
the record and the page are the same. What a caller holds is named for it (`units/held.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mithridate import component
from mithridate.classifier import Classifier, as_classifier
from mithridate.component import Component
from mithridate.data import ImageSet
from mithridate.data.gather import image_sets
from mithridate.defenses.inspect import Inspector, Verdict, judge, train_controls
from mithridate.defenses.inspect.base import Halves
from mithridate.defenses.inspect.ensemble import inspector_for
from mithridate.errors import InputError, RunError, unknown
from mithridate.models.open import in_order_of, open_model
from mithridate.reports.folder import parts
from mithridate.reports.result import Result
from mithridate.rng import Random, as_generator, child, rng
from mithridate.studies import presets
from mithridate.studies.conduct import conduct, forget, the_store, why_nothing
from mithridate.studies.engine.perform import maker_of
from mithridate.studies.engine.plan import place, plan_of
from mithridate.studies.engine.settle import threads_kept
from mithridate.studies.engine.spec import Spec
from mithridate.studies.parts import usual_epochs
from mithridate.studies.subject import Opening
from mithridate.studies.units.data import Data
from mithridate.studies.units.held import hold_model, hold_sets, holding

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""
AnyModel = Classifier | nn.Module | str | Path
Chosen = str | Component | Mapping[str, Any]
"""A component: its name, itself, or a table with its name and settings."""


def attack(
    model: AnyModel,
    data: object,
    attacks: Chosen | type[Component] | Sequence[Chosen | type[Component]] = "all",
    *,
    eps: float | Sequence[float] | None = None,
    goal: Literal["untargeted", "targeted"] | None = None,
    target: int | str | None = None,
    defense: Chosen | Sequence[Chosen] = (),
    through: AnyModel | None = None,
    quantize: int | None = None,
    samples: int = 1000,
    seed: int = 0,
    errors: Literal["raise", "record"] = "raise",
    keep: bool = False,
    progress: Progress | None = None,
    opening: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Result:
    """Attack a model, and certify what is left of its accuracy: `mithridate attack` for Python.

    Settings that are not given are the usual ones for grey or colour images.

    Args:
        model: a `Classifier`; a bare module (logits of images in [0, 1]); or a file, a folder or
            an id, as `mi.load` opens it.
        data: a name (as `mi.load_data` has it), an `ImageSet`, (images, labels), a torch Dataset
            or DataLoader; or a pair (training, test) of such. Without training images an attack
            that needs some is refused.
        attacks: "all", or names, attacks, or classes of attacks.
        eps: of every attack that has one. Several give a row for each, also of an attack that
            brings one of its own, and share their work as `attacks.eps_curve` says: accuracy left
            never rises with eps, and a row's cost is all that it took so far. With `through`, and
            behind a guard, each is attacked by itself. Of attacks of which none has an eps, a
            minimal one runs once, and its distances serve for each eps, also for one.
        goal: "untargeted", or "targeted": to `target`, else to another class at random. A target
            by itself means "targeted".
        target: a class, by name or number.
        defense: transforms, detectors and guards in front of the model, in order.
        through: what the attacker looks at: by default all of it; "undefended", or another model.
        quantize: bits of the image files that must hold the result, as `run_attack` has it.
        samples: test images to attack, drawn by the seed.
        seed: of every random choice.
        errors: "record" keeps an attack that crashed as a row that says so.
        keep: leave all that was made in the cache, for studies.
        progress: called with (done, total, what).
        opening: of a file, what it does not say: settings of `mi.load`.
        settings: further settings of the attacks, each for those that have it.

    Raises:
        InputError: an unusable model, data or setting, or an attack by name that is refused.
        NothingAssessedError: a model about which nothing can be said.
        RunError: an attack crashed; the others are kept in the cache, for the next call.

    >>> from mithridate.networks import create
    >>> net = create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    >>> attack(net, "digits", "fgsm", eps=0.1, samples=20).table()[0]["accuracy_n"]
    20
    """
    every = attacks == "all"
    tables = _tables(attacks, "attacks")
    if not tables:
        raise InputError('no attack is named: give one, or "all"')
    _deal([("attacks", table) for table in tables], settings, eps)
    if target is not None and goal == "untargeted":
        raise InputError("a target goes with goal='targeted': leave one out")
    with _taken(model, data, opening) as taken:
        spec = presets.attack(
            taken.model,
            taken.data,
            tables,
            **taken.facts,
            defenses=[table for one in _listed(defense) for table in _tables(one, "defenses")],
            quantize=quantize,
            samples=_plain(samples),
            goal=goal or ("untargeted" if target is None else "targeted"),
            target=None
            if target is None
            else presets.class_of(str(target), taken.test.class_names),
            through=None if through is None else taken.another(through),
            seed=_seed(seed),
            device=taken.device,
            threads=torch.get_num_threads(),
        )
        presets.checked(taken.model, taken.data, varied=False, device=taken.device, **taken.facts)
        words = ", ".join(str(table["name"]) for table in tables)
        call = f"mithridate.attack({taken.model!r}, {taken.data!r}, {words!r})"
        strict = _strict(errors, "failed" if every else "refused")
        return _run(spec, "attacks", call, strict=strict, keep=keep, progress=progress)


def defend(
    model: AnyModel,
    data: object,
    defenses: Chosen | type[Component] | Sequence[Chosen | type[Component]] = "all",
    *,
    attacks: Chosen | type[Component] | Sequence[Chosen | type[Component]] = (),
    eps: float | None = None,
    samples: int = 1000,
    slow_samples: int = 100,
    epochs: int | None = None,
    seed: int = 0,
    errors: Literal["raise", "record"] = "raise",
    keep: bool = False,
    progress: Progress | None = None,
    opening: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Result:
    """Find out which defence really helps: `mithridate defend` for Python.

    Each stands before attackers who ignore it and who know it, and is ranked by the worst.

    Args:
        model, data: as `attack` takes them. A hardener, and a detector that is fitted, learn
            from the training images alone.
        defenses: hardeners, transforms, detectors and guards, each by itself: "all", or names,
            defences, or classes of such. "all" leaves out what the model or the data cannot have.
            By name or class it has the usual settings for such images; an object has its own.
        attacks: as `attack` has them; by default five, of every access.
        eps: of every attack and hardener that has one.
        samples: test images of an attack.
        slow_samples: of one that makes a thousand passes an image or more, AutoAttack among them.
        epochs: of a hardener; 20 below 10,000 training images, else 5.
        seed, errors, keep, progress, opening: as of `attack`.
        settings: further settings of the attacks and defences, each for those that have it.

    Raises:
        InputError, NothingAssessedError, RunError: as `attack`.

    >>> from mithridate.networks import create
    >>> net = create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    >>> few = {"attacks": "fgsm", "samples": 20}
    >>> [row["protection"] for row in defend(net, "digits", "bit-depth", **few).table()]
    ['none', 'bit-depth', 'none', 'bit-depth', 'bit-depth']
    """
    with _taken(model, data, opening) as taken:
        suspect, test = presets.checked(
            taken.model, taken.data, varied=False, device=taken.device, **taken.facts
        )
        tables = _tables(defenses, "defenses")
        names = [str(table.get("name")) for table in tables]
        kinds, _ = presets.defenses_of(
            names,
            suspect,
            test.image_shape,
            train=taken.train is not None,
        )
        every = presets.ALL in names
        if every:
            tables = [table for table in tables if table["name"] != presets.ALL]
            tables += [{"name": name} for name in kinds if name not in names]
        against = _tables(attacks or [*presets.attacks_on(suspect)], "attacks")
        each = [(kinds[str(table["name"])], table) for table in tables]
        _deal([*each, *(("attacks", table) for table in against)], settings, eps)
        spec = presets.defend(
            taken.model,
            taken.data,
            tables,
            image_shape=test.image_shape,
            **taken.facts,
            attacks=against,
            samples=_plain(samples),
            slow_samples=_plain(slow_samples),
            epochs=usual_epochs(len(taken.train or ())) if epochs is None else _plain(epochs),
            seed=_seed(seed),
            device=taken.device,
            threads=torch.get_num_threads(),
        )
        call = f"mithridate.defend({taken.model!r}, {taken.data!r})"
        main = next(name for name in spec.matrix if name != "clean")
        strict = _strict(errors, "failed" if every else "refused")
        return _run(spec, main, call, strict=strict, keep=keep, progress=progress)


def audit(
    model: AnyModel,
    data: object,
    reference: AnyModel | Sequence[AnyModel] = (),
    *,
    inspector: Chosen | None = None,
    controls: int | None = None,
    control_epochs: int | None = None,
    attack_images: int = 500,
    noise_queries: int | None = None,
    seed: int = 0,
    errors: Literal["raise", "record"] = "raise",
    keep: bool = False,
    progress: Progress | None = None,
    opening: Mapping[str, Any] | None = None,
) -> Result:
    """Judge whether a model carries a backdoor: `mithridate audit` for Python.

    Args:
        model, data: as `attack` takes them. Of one set without training images, one half of each
            class trains the clean models and the other is judged on.
        reference: clean models that the caller trusts, of the model's architecture.
        inspector: by name, or itself; by default "ensemble" where it is calibrated for such images,
            and "bias-maps" where it is not, there are references, or controls are asked for.
        controls: clean models in all, 8 by default; what the references leave missing is trained
            here. The ensemble needs none.
        control_epochs: of these; as many as the suspect had, by default.
        attack_images: test images that each evasion attack gets; 0 leaves evasion out.
        noise_queries: noise images of the black-box comparison, per model; 0 leaves it out. By
            default 100,000 where there are clean models to compare with.
        seed, errors, keep, progress, opening: as of `attack`.

    Raises:
        InputError, NothingAssessedError, RunError: as `attack`.
    """
    listed = [] if inspector is None else _tables(inspector, "inspectors")
    if len(listed) > 1:
        raise InputError("an audit has one inspector: mi.inspect takes several")
    table = listed[0] if listed else None
    with _taken(model, data, opening, halve=True) as taken:
        references = [taken.another(one) for one in _listed(reference)]
        facts = {**taken.facts, "references": references, "device": taken.device}
        presets.checked(taken.model, taken.data, **facts)
        spec = presets.audit(
            taken.model,
            taken.data,
            **facts,
            inspector=table,
            controls=None if controls is None else _plain(controls),
            control_epochs=_plain(control_epochs),
            attack_images=_plain(attack_images),
            noise_queries=_plain(noise_queries),
            seed=_seed(seed),
            threads=torch.get_num_threads(),
        )
        call = f"mithridate.audit({taken.model!r}, {taken.data!r})"
        strict = _strict(errors, "failed")
        return _run(spec, "verdict", call, strict=strict, keep=keep, progress=progress)


def inspect(
    model: AnyModel,
    data: object,
    reference: AnyModel | Sequence[AnyModel] = (),
    *,
    inspectors: Chosen | Sequence[Chosen] | None = None,
    rng: Random = 0,
    progress: Progress | None = None,
) -> Verdict:
    """A verdict alone, in memory: `judge` for models and data as people have them.

    Args:
        model, data: as `attack` takes them. Clean models that are missing are trained on the
            training images, else on half of the one set.
        reference: clean models of the model's architecture.
        inspectors: names, or themselves; by default the ensemble where it is calibrated for such
            images, and bias maps where it is not, or beside references.
        rng: a seed or a generator.

    Raises:
        InputError, NothingAssessedError, RunError: as `judge`.
    """
    generator = as_generator(rng)
    with _taken(model, data, None, held=False) as taken:
        if inspectors is None:
            beside = bool(_listed(reference))
            inspectors = "bias-maps" if beside else inspector_for(taken.test)[0]
        chosen: list[Inspector] = [
            component.create("inspectors", str(table.pop("name")), table)
            for one in _listed(inspectors)
            for table in _tables(one, "inspectors")
        ]
        clean = [taken.opened(one) for one in _listed(reference)]
        missing = max(one.controls for one in chosen) - len(clean)
        if taken.train is not None and missing > 0:
            epochs = max((one.control_epochs for one in chosen if one.control_epochs), default=None)
            clean += train_controls(
                taken.suspect, taken.train, missing, epochs=epochs, rng=generator, progress=progress
            )
        suspect, test = taken.suspect, taken.test
        return judge(chosen, suspect, test, reference=clean, rng=generator, progress=progress)


class _Taken:
    """A model and data as a study names them.

    Attributes:
        model, data: their names.
        test, train: the sets.
        suspect: the model opened, where it is in memory.
        facts: `network` and `opening` of presets.
        device: of the study.
    """

    model: str
    data: str
    test: ImageSet
    train: ImageSet | None
    suspect: Classifier

    def __init__(
        self,
        model: AnyModel,
        data: object,
        opening: Mapping[str, Any] | None,
        *,
        halve: bool,
        held: bool,
    ) -> None:
        self.how = dict(opening or {})
        self.device = place("auto").type
        own = isinstance(self.how.get("network"), nn.Module)
        files = isinstance(model, str | Path) and not own
        if isinstance(data, str | Path):
            self.data = str(data)
            self.train, self.test = Data.named(self.data).loaded
            if files and held:
                self.model, self.facts = str(model), _facts(self.how)
                return
            self.suspect = self.opened(model)
        else:
            self._take_sets(model, data, halve=halve)
            if held:
                self.data = hold_sets(self.train, self.test)
        if held:
            self.facts = _facts({})
            self.device = self.suspect.device.type
            self.model = hold_model(self.suspect, self.test)

    def _take_sets(self, model: AnyModel, data: object, *, halve: bool) -> None:
        *before, self.test = image_sets(data)
        self.suspect = self.opened(model)
        self.test = _named_as(self.test, self.suspect)
        self.train = _named_as(before[0], self.suspect) if before else None
        if halve and self.train is None:
            halves = Halves.split(self.test, child(rng(0), "controls"))
            self.train = self.test.subset(torch.cat(halves.search))
            self.test = self.test.subset(torch.cat(halves.confirm))

    def opened(self, model: AnyModel) -> Classifier:
        """A model as a classifier of the data's classes, in their order."""
        names, shape = self.test.class_names, self.test.image_shape
        if isinstance(model, str | Path):
            model = open_model(model, **{"image_shape": shape, "device": self.device, **self.how})
        else:
            known = None if all(name.isdecimal() for name in names) else names
            model = as_classifier(model, self.test.batch(range(min(2, len(self.test))))[0], known)
        return in_order_of(model, names)

    def another(self, model: AnyModel) -> str:
        """The name of a further model: a reference, or what an attacker looks at."""
        if isinstance(model, str | Path):
            return str(model)
        return hold_model(self.opened(model), self.test)


@contextmanager
def _taken(
    model: AnyModel,
    data: object,
    opening: Mapping[str, Any] | None,
    *,
    halve: bool = False,
    held: bool = True,
) -> Iterator[_Taken]:
    """The model and the data; nothing of them is held after it."""
    with holding():
        try:
            yield _Taken(model, data, opening, halve=halve, held=held)
        finally:
            maker_of(the_store().root.absolute()).kept.clear()


def _facts(how: dict[str, Any]) -> dict[str, Any]:
    """Settings of `open_model` as presets take them."""
    own, network = dict(how), how.get("network")
    own.pop("network", None)
    settings = own.pop("settings", {})
    if network is not None:
        network = {"name": network, **settings}
    for key in ("mean", "std"):
        if isinstance(own.get(key), int | float):
            own[key] = (own[key],)
    if isinstance(own.get("classes"), list | tuple):
        own["classes"] = ",".join(own["classes"])
    for key in own:
        if key not in Opening.model_fields:
            raise unknown("setting of opening", key, [*Opening.model_fields, "network", "settings"])
    return {"network": network, "opening": own}


def _named_as(data: ImageSet, model: Classifier) -> ImageSet:
    """The set with the model's names in place of numbers, which say nothing."""
    plain = all(name.isdecimal() for name in data.class_names)
    own = model.classes - (model.rejected is not None)
    if not plain or data.classes > own:
        return data
    return data.renamed(model.class_names[:own])


def _run(
    spec: Spec,
    main: str,
    call: str,
    *,
    strict: str | None,
    keep: bool,
    progress: Progress | None,
) -> Result:
    """Run a verb's study here.

    Args:
        main: the matrix without which there is no result.
        strict: raise where a cell of it "failed", or "refused" as well; None for neither.
    """
    plan = plan_of(spec)
    if strict == "refused" and plan.refused:
        cell, reason = plan.refused[0]
        raise InputError(f"{', '.join(map(str, cell.labels.values()))}: {reason}")

    @contextmanager
    def stage(name: str) -> Iterator[Callable[..., None]]:
        def tell(done: int, total: int, what: str, left: float | None = None) -> None:
            if progress is not None:
                progress(done, total, what)

        yield tell

    with threads_kept():
        result = conduct(plan, command=call, stage=stage, keep=keep, workers=1)
    error = why_nothing(result, main)
    if error is not None:
        raise error
    if result.ran.interrupted:
        raise KeyboardInterrupt
    records = result.records
    for row in records.cells:
        bad = [word for word in ("failed", "refused") if row["status"].startswith(word)]
        if bad and strict in ("refused", *bad):
            about = ", ".join(map(str, row["axes"].values())) or row["matrix"]
            kind = RunError if bad == ["failed"] else InputError
            raise kind(f"{about} {row['status']}; errors='record' keeps the others")
    study, cells, timings = parts(records.study, records.cells, records.timings)
    whole = Result(study, cells, timings, records.images, dict(records.pictures))
    if not keep:
        forget(result)
    return whole


def _strict(errors: str, word: str) -> str | None:
    """The status from which on a cell raises; None where all are recorded."""
    if errors not in ("raise", "record"):
        raise unknown("way to treat errors", errors, ("raise", "record"))
    return word if errors == "raise" else None


def _listed(values: Any) -> list[Any]:
    """One or several of a kind, as a list."""
    return list(values) if isinstance(values, list | tuple) else [values]


def _tables(chosen: Any, kind: str) -> list[dict[str, Any]]:
    """Components as tables of a name and the settings that were given.

    Raises:
        InputError: no such component, or one that a study cannot name.
    """
    tables: list[dict[str, Any]] = []
    for one in _listed(chosen):
        if isinstance(one, str):
            every = component.in_order(kind) if kind == "attacks" else ["all"]
            names = [part.strip() for part in one.split(",")]
            tables += [{"name": n} for name in names for n in (every if name == "all" else [name])]
        elif isinstance(one, Mapping):
            tables.append({key: _plain(value) for key, value in one.items()})
        elif isinstance(one, Component) or (isinstance(one, type) and issubclass(one, Component)):
            table = {"name": component.name_of(one)}
            own = one if isinstance(one, type) else type(one)
            if table["name"] == own.__name__:
                raise InputError(
                    f"{own.__name__} has no name by which a study can find it: register it under "
                    f"an entry point of mithridate.{kind}, or use run_attack, or its wrap"
                )
            tables.append(table if isinstance(one, type) else table | component.values(one))
        else:
            raise InputError(
                f"one of the {kind} is its name, itself, or a table with its name, "
                f"got {type(one).__name__}"
            )
    for table in tables:
        if kind != "defenses":  # whose kind is found by the name, where the chain is made
            component.path_of(kind, str(table.get("name")))
    return list({repr(table): table for table in tables}.values())


def _deal(
    tables: Sequence[tuple[str, dict[str, Any]]],
    settings: Mapping[str, Any],
    eps: float | Sequence[float] | None,
) -> None:
    """Give each component, with its kind, the settings that it has.

    Raises:
        InputError: a setting that none of them has.
    """
    known = [component.settings(component.find(kind, str(table["name"]))) for kind, table in tables]
    for key, value in (settings if eps is None else {"eps": eps, **settings}).items():
        value = _plain(value)
        having = [table for (_, table), own in zip(tables, known, strict=True) if key in own]
        if key == "eps" and not having:  # minimal attacks: a row for each
            value, having = value if isinstance(value, list) else [value], [t for _, t in tables]
        curve = key == "eps" and isinstance(value, list)
        if not having:
            raise unknown("setting", key, {name for own in known for name in own})
        for table in having:
            if key not in table or (curve and not isinstance(table[key], list)):
                table[key] = value


def _plain(value: Any) -> Any:
    """A number of numpy's or torch's as Python's own, several as a list; a norm by its name."""
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0:
        return [_plain(one) for one in value]
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _seed(seed: Random) -> int:
    """A seed, or a generator's."""
    return as_generator(seed).initial_seed()
