"""`mithridate train`: trains a network, poisoned and hardened on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import (
    Device,
    Epochs,
    OutFile,
    Seed,
    Surrogate,
    TrustCode,
    blocks,
    check_out,
    command_line,
    deal,
    opened,
    opening,
    opens,
    pairs,
    parsed,
    place,
    reads,
    sets,
    shows,
)
from mithridate.cli.poison import check_surrogate, numbered
from mithridate.cli.screen import share
from mithridate.errors import InputError

if TYPE_CHECKING:
    import torch

    from mithridate.classifier import Classifier
    from mithridate.data import ImageSet
    from mithridate.poisons import Poisoned

TRAINING = (
    "optimizer", "lr", "momentum", "weight_decay", "schedule", "batch_size", "augment", "autocast",
)  # fmt: skip
"""Settings of `training.fit` that `--set` reaches."""
TrainSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the network, training, poison or hardener; harden.KEY=VALUE says of "
        "which. May be repeated.",
    ),
]


@blocks(data=reads, screen=shows)
def train(
    data: Any,
    out: OutFile,
    network: Annotated[
        str | None,
        typer.Option(
            "--network", metavar="NAME", help="See mithridate list networks; or FILE.py:Class."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Train this one further.")
    ] = None,
    trust_code: TrustCode = False,
    poison: Annotated[
        str | None, typer.Option("--poison", metavar="NAME", help="See mithridate list poisons.")
    ] = None,
    harden: Annotated[
        str | None, typer.Option("--harden", metavar="NAME", help="See mithridate list hardeners.")
    ] = None,
    settings: TrainSettings = None,
    surrogate: Surrogate = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Train a network on a data set, poisoned and hardened on request."""
    from mithridate import component

    if network is None and start is None:
        raise InputError(
            "what to train: give --network NAME, or --from MODEL to train that one further"
        )
    values = pairs(settings)
    ours = start is None and ":" not in str(network)
    facts = {} if ours else opening(opens(network, trust_code), values)
    known = network if ours else None
    shares = _shares(values, network=known, poison=poison, harden=harden)
    way = None if harden is None else component.create("hardeners", harden, shares["harden"])
    clean, test = sets(data)
    shares["poison"] = numbered(shares["poison"], clean.class_names)
    attack = None if poison is None else component.create("poisons", poison, shares["poison"])
    check_surrogate(poison, attack, surrogate)
    check_out(out, start, surrogate)

    from typing import get_type_hints

    from mithridate.networks.checkpoint import save
    from mithridate.rng import child, rng
    from mithridate.studies.parts import usual_epochs
    from mithridate.training import fit

    where, random = place(device), rng(seed)
    model = _start(network, start, clean, facts or shares["network"], where)
    own = None
    if surrogate is not None:
        own = opened(surrogate, opening(opens(trust_code=trust_code), {}), where, clean)
    poisoned = None
    if attack is not None:
        aimed = attack.aim(test).to(where)
        poisoned = aimed.poison(clean, surrogate=own, rng=child(random, "poison"))
    kept = out.with_name(f"{out.name}.run")
    try:
        with screen.stage("training") as progress:
            do = fit if way is None else way.train
            trained = do(
                model,
                clean if poisoned is None else poisoned.images,
                epochs=epochs or usual_epochs(len(clean)),
                rng=child(random, "train"),
                device=where,
                checkpoint=kept,
                progress=progress,
                **parsed(shares["training"], get_type_hints(fit), "training"),
            )
    except KeyboardInterrupt:
        if kept.exists():
            screen.note(f"finished epochs are in {kept}; to go on: {command_line()}")
        raise
    if poisoned is not None:
        trained.info["poison"] = {"name": poison, "settings": shares["poison"], "seed": seed}
        if poisoned.surrogate is not None:
            trained.info["poison"]["surrogate"] = poisoned.surrogate
    save(trained, out)
    kept.unlink(missing_ok=True)
    result = _measured(trained, test, poisoned, random)
    screen.data(result | {"model": str(out)})
    screen.say(f"Clean accuracy: {share(result['accuracy'])}")
    for text in result["doubts"]:
        screen.say(f"doubt: {text}")
    if result["asr"] is not None:
        screen.say(f"Attack success: {share(result['asr'])}, {result['poisoned']} images poisoned")
    screen.say(f"Model: {out}")
    return 0


def _shares(values: dict[str, str], **names: str | None) -> dict[str, dict[str, str]]:
    """The settings of each component; a component that is not there has none to give."""
    from mithridate import component
    from mithridate.facts import settings

    kinds = {"network": "networks", "poison": "poisons", "harden": "hardeners"}
    own = {
        role: () if name is None else settings(component.find(kinds[role], name))
        for role, name in names.items()
    }
    for word in values:
        role = word.partition(".")[0]
        if role != word and names.get(role, "") is None:
            raise InputError(f"--set {word}: without --{role} NAME there is nothing to set")
    return deal(values, {"training": TRAINING, **own}, shared=False)


def _start(
    network: str | None,
    start: str | None,
    data: ImageSet,
    values: dict[str, Any],
    where: torch.device,
) -> Any:
    """The module to train from scratch, or the classifier to train further.

    Args:
        values: of a registered network its settings, else what `opening` tells.
    """
    import inspect

    from mithridate import component
    from mithridate.networks import create

    if start is not None:
        model = opened(start, values, where, data)
        if not model.gradients:
            raise InputError(f"{start} gives {model.gives}, and no weights to train further")
        return model
    assert network is not None
    if ":" in network:
        own = {key: value for key, value in values["network"].items() if key != "name"}
        return opened(network, {**values, "network": own}, where, data).module
    given = inspect.signature(component.find("networks", network), eval_str=True).parameters
    hints = {name: parameter.annotation for name, parameter in given.items()}
    own = parsed(values, hints, network)
    return create(network, image_shape=data.image_shape, classes=data.classes, **own)


def _measured(
    model: Classifier, test: ImageSet, poisoned: Poisoned | None, rng: torch.Generator
) -> dict[str, Any]:
    """Clean accuracy, and the attack success rate where there was an attack."""
    from mithridate.metrics import accuracy, attack_success_rate, chance_doubts
    from mithridate.poisons import poisoned_test
    from mithridate.studies.parts import proportion
    from mithridate.training import doubts_of, predict

    predicted = predict(model, test)
    clean = accuracy(predicted, test.labels)
    doubts = [*doubts_of(model), *chance_doubts(predicted, test.labels, test.classes)]
    texts = [f"{doubt.text} ({doubt.id})" for doubt in doubts]
    result: dict[str, Any] = {"accuracy": proportion(clean), "asr": None, "doubts": texts}
    if poisoned is None or poisoned.trigger is None:
        return result
    source, target = poisoned.source, poisoned.target
    stamped = poisoned_test(test, poisoned.trigger, source=source, target=target, rng=rng)
    wanted = (stamped.labels + 1) % test.classes if target is None else target
    rate = attack_success_rate(predict(model, stamped), wanted, labels=stamped.labels)
    return result | {"asr": proportion(rate), "poisoned": len(poisoned)}
