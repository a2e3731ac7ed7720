"""What all suites check: what a component tells of itself, and what it leaves alone."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About, Component, settings
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect import Verdict
from mithridate.errors import InputError
from mithridate.goals import Goal
from mithridate.networks.storage import digest


def check_facts(component: Component) -> None:
    """Assert that `about`, `version`, `usual` and `cost` are there and make sense.

    `about` has to be a literal on the component's own class, as it is also read where the class
    is not imported.

    >>> from mithridate.poisons.triggers import Multiply
    >>> check_facts(Multiply())
    """
    cls = type(component)
    about = cls.about
    assert isinstance(about, About), "about is an About"
    assert re.search(r"\b(19|20)\d\d|ATLAS", about.paper), f"no year in {about.paper!r}"
    for field in dataclasses.fields(about):
        value, plural = getattr(about, field.name), isinstance(field.default, tuple)
        assert isinstance(value, tuple if plural else str), f"about.{field.name} is {value!r}"
        assert all(isinstance(word, str) for word in value), f"about.{field.name} is {value!r}"
    assert all(re.fullmatch(r"AML\.[TM]\d{4}(\.\d{3})?", each) for each in about.atlas)
    assert all(re.fullmatch(r"\d{3}", each) for each in about.nist)
    assert _literal(cls), "about is no literal on the class"
    assert isinstance(cls.version, int), "version is a whole number"
    assert cls.version >= 1, "version counts from 1"
    work = component.cost(Sizes(train=1000, test=100, classes=10))
    assert isinstance(work, Work), "cost returns a Work"
    assert all(isinstance(amount, int) and amount >= 0 for amount in work), f"cost is {work}"
    for image_shape in ((1, 28, 28), (3, 32, 32)):
        assert set(cls.usual(image_shape)) <= set(settings(cls)), "usual names other settings"


@contextmanager
def untouched(**things: Classifier | ImageSet | Goal | Tensor | None) -> Iterator[None]:
    """Assert that what is lent inside, and the global random state, are afterwards as before.

    Of a model that is its weights, where they lie, modes, gradients, hooks and `info`.

    >>> x = torch.zeros(2)
    >>> with untouched(input=x):
    ...     _ = x.add_(1)
    Traceback (most recent call last):
    ...
    AssertionError: the input was changed...
    """
    before, random = {name: _state(thing) for name, thing in things.items()}, torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), random), "the global random state was changed"
    for name, thing in things.items():
        assert _state(thing) == before[name], f"the {name} was changed"


def _state(thing: Any) -> object:
    if isinstance(thing, Tensor):
        return digest({"": thing})
    if isinstance(thing, Goal):
        return [digest({"": classes}) for classes in thing.classes()]
    if isinstance(thing, ImageSet):
        return thing.fingerprint()
    if thing is None:
        return None
    modules, weights = list(thing.module.modules()), list(thing.module.parameters())
    return [
        digest(thing.module.state_dict()),
        [each.training for each in modules],
        [(p.requires_grad, p.stride(), p.data_ptr()) for p in weights],
        [None if p.grad is None else digest({"": p.grad}) for p in weights],
        [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in modules
        ],
        repr(thing.info),
    ]


def refusal(call: Callable[[], object]) -> str:
    """The one line with which a call is refused; fails where it is not.

    >>> from mithridate.norms import Norm
    >>> refusal(lambda: Norm.named("l3"))[:18]
    "no norm named 'l3'"
    """
    try:
        call()
    except InputError as error:
        text = str(error)
        assert "\n" not in text, f"more than one line: {text}"
        return text
    raise AssertionError("nothing was refused")


def _literal(cls: type[Component]) -> bool:
    """Whether `about` can be read from the source; true where there is none to read."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # typed in by hand
        return True
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(each, ast.Name) and each.id == "about" for each in targets):
            call = getattr(node, "value", None)
            if not isinstance(call, ast.Call) or call.args:
                return False
            try:
                return [ast.literal_eval(keyword.value) for keyword in call.keywords] != []
            except ValueError:
                return False
    return False


def a_verdict(**values: Any) -> Verdict:
    """An alarm without evidence, for tests of what comes after one; `values` are its fields.

    >>> a_verdict(target=3).suspicious, a_verdict(suspicious=None).target
    (True, None)
    """
    nothing = ("p_value", "target", "source", "region", "trigger", "recovered_asr")
    empty = ("null_values", "ranking", "doubts", "evidence")
    usual: dict[str, Any] = {
        "suspicious": True,
        "alpha": 0.05,
        "headline": "",
        "null": "",
        "statistic": 0.0,
        **dict.fromkeys(nothing),
        **dict.fromkeys(empty, ()),
    }
    return Verdict(**usual | values)
