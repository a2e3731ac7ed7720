"""What is worth knowing of a component before it runs: a literal table per kind."""

from __future__ import annotations

from typing import NamedTuple


class About(NamedTuple):
    """What is worth knowing of an attack.

    Attributes:
        norms: in which it measures distance, its default first; none for a patch.
        access: what it sees of the model: "gradient", "score", "label", or several.
        kind: "bounded" (within eps), "minimal" (the smallest change) or "universal" (one change
            for all images).
        paper: authors and year.
    """

    norms: tuple[str, ...]
    access: tuple[str, ...]
    kind: str
    paper: str


class AboutTrigger(NamedTuple):
    """What is worth knowing of a trigger.

    Attributes:
        place: "fixed" (the same pixels of every image), "random" or "everywhere".
        paper: authors and year.
    """

    place: str
    paper: str


class AboutPoison(NamedTuple):
    """What is worth knowing of a poison.

    Attributes:
        labels: "changed", or "kept": every poisoned image has its true label.
        trigger: which it stamps, or "none" and what it does instead.
        needs: "surrogate" (a model of the attacker's own), "generator" (of images) or "".
        paper: authors and year.
    """

    labels: str
    trigger: str
    needs: str
    paper: str


class AboutDefense(NamedTuple):
    """What is worth knowing of a sanitizer or a hardener.

    Attributes:
        paper: authors and year.
    """

    paper: str


Known = About | AboutTrigger | AboutPoison | AboutDefense

_L2, _LINF, _BOTH, _ANY = ("l2",), ("linf",), ("l2", "linf"), ("l2", "l1", "linf")
_EPS, _GRADIENT = ("linf", "l2"), ("gradient",)
ABOUT: dict[str, About] = {
    "fgsm": About(("linf", "l2", "l1"), _GRADIENT, "bounded", "Goodfellow et al. 2015"),
    "iterative-fgsm": About(("linf", "l2", "l1"), _GRADIENT, "bounded", "Kurakin et al. 2017"),
    "pgd": About(("linf", "l2", "l1"), _GRADIENT, "bounded", "Madry et al. 2018"),
    "apgd": About(_EPS, _GRADIENT, "bounded", "Croce and Hein 2020"),
    "autoattack": About(_EPS, ("gradient", "score"), "bounded", "Croce and Hein 2020"),
    "deepfool": About(_BOTH, _GRADIENT, "minimal", "Moosavi-Dezfooli et al. 2016"),
    "dynamic-deepfool": About(_BOTH, _GRADIENT, "minimal", "Moosavi-Dezfooli et al. 2016, varied"),
    "fab": About(_ANY, _GRADIENT, "minimal", "Croce and Hein 2020b"),
    "ddn": About(_L2, _GRADIENT, "minimal", "Rony et al. 2019"),
    "lbfgs": About(_L2, _GRADIENT, "minimal", "Szegedy et al. 2014"),
    "carlini-wagner": About(_L2, _GRADIENT, "minimal", "Carlini and Wagner 2017"),
    "carlini-wagner-linf": About(_LINF, _GRADIENT, "minimal", "Carlini and Wagner 2017"),
    "carlini-wagner-l0": About(("l0",), _GRADIENT, "minimal", "Carlini and Wagner 2017"),
    "jsma": About(("l0",), _GRADIENT, "minimal", "Papernot et al. 2016"),
    "adversarial-patch": About((), _GRADIENT, "universal", "Brown et al. 2017"),
    "square": About(_EPS, ("score",), "bounded", "Andriushchenko et al. 2020"),
    "one-pixel": About(("l0",), ("score",), "minimal", "Su et al. 2019"),
    "hopskipjump": About(_BOTH, ("label",), "minimal", "Chen et al. 2020"),
    "boundary": About(_L2, ("label",), "minimal", "Brendel et al. 2018"),
}
"""Attack -> what it is, in the order in which `mithridate attack --attack all` runs them."""

TRIGGERS: dict[str, AboutTrigger] = {
    "single-pixel": AboutTrigger("fixed", "Gu et al. 2017"),
    "patch": AboutTrigger("fixed", "Gu et al. 2017, Borji 2020"),
    "inserted-image": AboutTrigger("fixed", "Gu et al. 2017"),
    "random-location": AboutTrigger("random", "Borji 2020"),
    "corner-pattern": AboutTrigger("fixed", "Turner et al. 2019"),
    "multiply": AboutTrigger("everywhere", "Borji 2020"),
    "blend": AboutTrigger("everywhere", "Chen et al. 2017, Borji 2020"),
    "sinusoid": AboutTrigger("everywhere", "Barni et al. 2019"),
    "warp": AboutTrigger("everywhere", "Nguyen and Tran 2021"),
}

POISONS: dict[str, AboutPoison] = {
    "badnets": AboutPoison("changed", "any", "", "Gu et al. 2017"),
    "wanet": AboutPoison("changed", "warp", "", "Nguyen and Tran 2021"),
    "stamped-only": AboutPoison(
        "kept", "any", "", "Turner et al. 2019, baseline; Barni et al. 2019"
    ),
    "clean-label": AboutPoison("kept", "any", "surrogate", "Turner et al. 2019"),
    "clean-label-gan": AboutPoison("kept", "any", "generator", "Turner et al. 2019"),
    "feature-collision": AboutPoison("kept", "none: one image", "surrogate", "Shafahi et al. 2018"),
    "adversarial-poisons": AboutPoison(
        "kept", "none: accuracy falls", "surrogate", "Fowl et al. 2021"
    ),
}

FACTS: dict[str, tuple[type[Known], dict[str, Known]]] = {
    "attacks": (About, {**ABOUT}),
    "triggers": (AboutTrigger, {**TRIGGERS}),
    "poisons": (AboutPoison, {**POISONS}),
    "hardeners": (AboutDefense, {"adversarial-training": AboutDefense("Madry et al. 2018")}),
    "sanitizers": (
        AboutDefense,
        {
            "activation-clustering": AboutDefense("Chen et al. 2018"),
            "spectral-signatures": AboutDefense("Tran et al. 2018"),
            "outliers": AboutDefense("Turner et al. 2019"),
        },
    ),
}
"""Kind -> what its facts are, and component -> facts; other kinds have none."""
