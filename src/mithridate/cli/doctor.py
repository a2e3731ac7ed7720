"""`mithridate doctor`: what this installation has; with a MODEL, which conventions it follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.fool import may_read
from mithridate.cli.options import (
    Device,
    Seed,
    Settings,
    blocks,
    opening,
    opens,
    pairs,
    place,
    sets,
    shows,
)
from mithridate.cli.screen import Screen
from mithridate.errors import DataError, InputError

if TYPE_CHECKING:
    from mithridate.models.doctor import Diagnosis, Trial

SHOWN = 12
"""Hypotheses in the table; all are in the JSON."""


@blocks(how=opens, data=may_read, screen=shows)
def doctor(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model to examine on --data.")
    ] = None,
    data: Any = None,
    how: Any = None,
    settings: Settings = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Test images.")] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Say what this installation has; with MODEL and --data, which conventions the model follows.

    Its clean accuracy is measured under each: the range of pixels, normalisation, order of
    channels and classes, size and mode of the images. Nothing is applied; the last line names the
    options that state the best.
    """
    if model is None:
        from mithridate.cli.look import installation

        return installation(screen, device)
    if data is None:
        raise InputError("a model is examined on images: add --data")
    values = pairs(settings)
    facts = opening(how, values)
    if values:
        raise InputError(f"--set {next(iter(values))}: only network.KEY is a setting here")

    from mithridate.classifier import Classifier
    from mithridate.data.decode import Fit
    from mithridate.models.doctor import Hypothesis, diagnose, taken_for
    from mithridate.models.factory import Shape
    from mithridate.models.open import open_for

    name, told = (data, {}) if isinstance(data, str) else (data["name"], data)
    fit = Fit.of(told.get("resize"), told.get("mode"))
    try:
        _, test = sets(name)
    except DataError:  # of several sizes or modes: as they are brought to one
        if fit == Fit():
            raise
        (_, test), fit = sets(data), Fit()
    pixels = ("input_range", "mean", "std", "channels")
    stated = {key: how[key] for key in pixels if how.get(key) is not None}
    plain = {key: value for key, value in facts["opening"].items() if key not in pixels}
    own = plain.pop("classes", "data")
    named = own != "data"
    network = dict(facts["network"] or {})

    def opened(shape: Shape, **opening: Any) -> Classifier:
        return open_for(
            model,
            () if named else test.class_names,
            classes=own,
            image_shape=shape,
            network=network.get("name"),
            settings={key: value for key, value in network.items() if key != "name"},
            device=place(device),
            **opening,
        )

    def opener(shape: Shape) -> Classifier:
        try:
            return opened(shape, **plain)
        except InputError:
            if plain.get("outputs") != "probabilities":
                raise
            rest = {key: value for key, value in plain.items() if key != "outputs"}
            return taken_for(opened(shape, **rest), "probabilities")  # as it is stated

    given = Hypothesis(
        name="as given",
        pixels=stated,
        fit=fit,
        classes=None if how["classes"] != "data" else "data",
    )
    with screen.stage("examining") as progress:
        result = diagnose(
            opener,
            test,
            given=given,
            stated=named,
            samples=samples,
            progress=progress,
        )
    kept = {"outputs": plain.get("outputs"), "classes": own if named else None}
    _show(result, model, test.name, {key: value for key, value in kept.items() if value}, screen)
    return 0


def _show(result: Diagnosis, model: str, data: str, kept: dict[str, str], screen: Screen) -> None:
    """The table, the evidence, and the advice."""
    from mithridate.studies.parts import proportion

    def row(trial: Trial) -> dict[str, Any]:
        return {
            "name": trial.hypothesis.name,
            "options": trial.hypothesis.options(),
            "accuracy": proportion(trial.accuracy),
            "problem": trial.problem,
        }

    words = _words({**kept, **result.options})
    order = None
    if result.order is not None:
        order = {"classes": list(result.order[0]), "accuracy": proportion(result.order[1])}
    screen.data(
        {
            "model": model,
            "data": data,
            "given": row(result.given),
            "trials": [row(trial) for trial in result.trials],
            "best": row(result.best),
            "options": {**kept, **result.options},
            "outputs": result.outputs,
            "order": order,
            "notes": list(result.notes),
        }
    )
    measured = [trial for trial in result.trials if trial.accuracy is not None]
    screen.table(
        ("clean accuracy %", "images", "hypothesis", "stated by"),
        [_cells(trial) for trial in (result.given, *measured[:SHOWN])],
    )
    for note in result.notes:
        screen.say(note)
    if result.order is not None:
        names, share = result.order
        screen.say(
            f"evidence only: a permutation of the classes would give {_percent(share.value)} "
            f"({share.n} images that it was not fitted to): --classes {','.join(names)}"
        )
    screen.say(_advice(result, words))


def _words(options: dict[str, str]) -> str:
    return " ".join(f"--{key} {value}" for key, value in options.items())


def _cells(trial: Trial) -> tuple[str, ...]:
    share = trial.accuracy
    stated = _words(trial.hypothesis.options()) or "nothing"
    if share is None:
        return "–", "–", trial.hypothesis.name, stated
    value = f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return value, str(share.n), trial.hypothesis.name, stated


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _advice(result: Diagnosis, words: str) -> str:
    """The best line, beside what was given."""
    given, best = result.given.accuracy, result.best.accuracy
    before = "not measured" if given is None else _percent(given.value)
    if best is None:
        return "Nothing tried could be measured"
    stated = f"{_percent(best.value)} with {words or 'no option stated'}"
    if result.best.doubts:
        return f"Nothing tried does better than chance: {stated} at best ({before} as given)"
    if result.best is not result.given:
        alike = [t for t in result.trials if t.accuracy == best and t is not result.best]
        if alike:
            stated += f", as many as with {len(alike)} other(s) above: the accuracy does not tell"
        return f"{stated} ({before} as given)"
    if result.options != result.given.hypothesis.options():
        return f"{before} as given, which {words} states in full"
    return f"{before} as given: nothing tried does better"
