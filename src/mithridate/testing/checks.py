"""What all suites check: what a component tells of itself, and what it leaves alone."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable

from mithridate.classifier import Classifier
from mithridate.component import About, Component, settings
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError
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
    dated = re.search(r"\b(19|20)\d\d|^MITRE ATLAS", about.paper)
    assert dated, f"a paper has a year, got {about.paper!r}"
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


def model_state(model: Classifier) -> list[object]:
    """Everything about a model that who borrows it may not leave changed.

    >>> from mithridate.testing.models import linear_model
    >>> model = linear_model()
    >>> before = model_state(model)
    >>> _ = model.module.eval()
    >>> model_state(model) == before
    False
    """
    module = model.module
    return [
        digest(module.state_dict()),
        [each.training for each in module.modules()],
        [(p.requires_grad, p.grad is None, p.data_ptr()) for p in module.parameters()],
        [
            len(each._forward_hooks) + len(each._forward_pre_hooks) + len(each._backward_hooks)
            for each in module.modules()
        ],
        dict(model.info),
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
            return isinstance(call, ast.Call) and not call.args and all(map(_plain, call.keywords))
    return False


def _plain(keyword: ast.keyword) -> bool:
    try:
        ast.literal_eval(keyword.value)
    except ValueError:
        return False
    return True
