"""Anyone's module, wrapped as it is: what plain torch makes of it is what the classifier says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.errors import InputError
from mithridate.goals import Untargeted

CLASSES, HIDDEN = 3, 5


class Logits:
    """What transformers and torchvision return: an object with `.logits`."""

    def __init__(self, logits: Tensor, features: Tensor) -> None:
        self.logits, self.hidden_states = logits, features


RETURNS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "tensor": lambda z, f: z,
    "tuple": lambda z, f: (z, f),
    "list of one": lambda z, f: [z],
    "nested": lambda z, f: (f, {"out": z}),
    "dict": lambda z, f: {"features": f, "logits": z},
    ".logits": Logits,
    "N x K x 1 x 1": lambda z, f: z[:, :, None, None],
    "squeezed": lambda z, f: z.squeeze(),
}
FORMATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class Plan:
    """Of a module: how it flattens, writes into its input, returns, computes; its logits' scale."""

    channels: int
    flatten: str
    in_place: bool
    returns: str
    numbers: torch.dtype
    unused_head: str
    inference: bool
    scale: float = 1.0


class Own(nn.Module):
    """A small network as people write them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        if plan.unused_head == "first":
            self.projection = nn.Linear(HIDDEN, CLASSES)
        self.conv = nn.Conv2d(plan.channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(4 * 6 * 6, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)
        if plan.unused_head == "last":
            self.projection = nn.Linear(HIDDEN, 7)

    def penultimate(self, x: Tensor) -> Tensor:
        if self.plan.in_place:
            x -= 0.5
        x = torch.relu(self.norm(self.conv(x)))
        x = x.view(x.size(0), -1) if self.plan.flatten == "view" else x.flatten(1)
        return torch.relu_(self.hidden(x))

    def forward(self, x: Tensor) -> object:
        features = self.penultimate(x)
        return RETURNS[self.plan.returns](self.plan.scale * self.head(features), features)


def built(plan: Plan, seed: int) -> Own:
    with torch.random.fork_rng(), torch.inference_mode(plan.inference):
        torch.manual_seed(seed)
        return Own(plan).eval().to(plan.numbers)


plans = st.builds(
    Plan,
    channels=st.sampled_from([1, 3]),
    flatten=st.sampled_from(["view", "flatten"]),
    in_place=st.booleans(),
    returns=st.sampled_from(list(RETURNS)),
    numbers=st.sampled_from(FORMATS),
    unused_head=st.sampled_from(["none", "first", "last"]),
    inference=st.booleans(),
    scale=st.sampled_from([1.0, 1000.0]),
)


@given(plans, st.integers(1, 5), st.integers(0, 99), st.booleans(), st.booleans())
@settings(max_examples=80)
def test_a_module_is_answered_for_as_plain_torch_does(
    plan: Plan, n: int, seed: int, channels_last: bool, stored_last: bool
) -> None:
    module = built(plan, seed)
    x = torch.rand((n, plan.channels, 6, 6), generator=mi.rng(seed))
    before = x.clone()
    with torch.no_grad():
        features = module.penultimate(x.clone().to(plan.numbers))
        logits = plan.scale * module.head(features).float()
    if stored_last:
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    exact = plan.numbers in (torch.float32, torch.float64)
    close = {"rtol": 1e-4, "atol": 1e-5} if exact else {"rtol": 0.1, "atol": 0.05}

    model = Classifier(module, classes=CLASSES, channels_last=channels_last, compute_batch=2)
    answer = model.logits(x)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer / plan.scale, logits / plan.scale, **close)
    torch.testing.assert_close(model.features(x), features.float(), **close)
    assert model.last_linear() is module.head

    gradient, _ = model.gradient(x, Untargeted([0] * n))
    leaf = before.clone().requires_grad_()
    reference = built(plan, seed).requires_grad_(False) if not plan.inference else None
    if reference is not None and exact:
        z = reference.head(reference.penultimate(leaf.clone().to(plan.numbers))).float()
        loss = Untargeted([0] * n).loss(plan.scale * z).sum()
        expected = torch.autograd.grad(loss, leaf)[0]
        close = {"rtol": 1e-3, "atol": 1e-5} if plan.scale == 1 else {"rtol": 0.05, "atol": 0.05}
        torch.testing.assert_close(gradient, expected, **close)
    assert gradient.shape == x.shape
    assert torch.equal(x, before), "the caller's images were written into"
    assert next(module.parameters()).is_inference() == plan.inference


@given(plans, st.sampled_from(["fgsm", "pgd", "apgd", "square"]))
@settings(max_examples=20)
def test_large_logits_are_no_defence(plan: Plan, name: str) -> None:
    """Times 1,000 the predictions are the same, and what fools one fools the other."""
    attack = mi.registry.create(
        "attacks", name, {"eps": 0.1} | ({"queries": 50} if name == "square" else {})
    )
    x = torch.rand((12, plan.channels, 6, 6), generator=mi.rng(1))
    fooled = []
    for scale in (1.0, 1000.0):
        usual = {**vars(plan), "numbers": torch.float32, "inference": False, "scale": scale}
        model = Classifier(built(Plan(**usual), 0), classes=CLASSES)
        result = mi.run_attack(attack, model, x, Untargeted(model.labels(x)), rng=0)
        fooled.append(int(result.success.sum()))
    assert abs(fooled[0] - fooled[1]) <= 1


def own(**changes: object) -> Own:
    usual = Plan(1, "view", False, "tensor", torch.float32, "none", False)
    return built(Plan(**{**vars(usual), **changes}), 0)


def images(n: int = 12) -> Tensor:
    return torch.rand((n, 1, 6, 6), generator=mi.rng(1))


def test_the_fast_layout_gives_way_once() -> None:
    """A module that views is run twice at the first pass, and never again."""
    passes = []
    module = own()
    module.conv.register_forward_pre_hook(lambda *_: passes.append(1))
    model = Classifier(module, classes=CLASSES, channels_last=True)
    model.labels(images())
    model.labels(images())
    assert (len(passes), model.channels_last, model.cost.queries) == (3, False, 24)
    weight = module.conv.weight
    assert weight.is_contiguous()


def test_a_module_that_fails_in_every_layout_says_why_and_keeps_its_own() -> None:
    model = Classifier(own(), classes=CLASSES, channels_last=True)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        model.labels(torch.zeros(2, 1, 7, 7))
    assert model.channels_last
    assert model.cost.queries == 2


@pytest.mark.parametrize("name", ["hopskipjump", "boundary"])
def test_success_is_the_truth_where_forward_writes_into_its_input(name: str) -> None:
    """Every adversarial image and distance is checked on a twin that writes nowhere."""
    module, twin = own(in_place=True), own(in_place=True)
    x = images()
    y = twin(x.clone()).argmax(1)
    model = Classifier(module, classes=CLASSES)
    attack = mi.registry.create("attacks", name, {"budget": 200})
    result = mi.run_attack(attack, model, x, Untargeted(y), rng=mi.rng(0))
    predicted = twin(result.adversarials.clone()).argmax(1)
    assert torch.equal(result.success, predicted != y)
    assert float(result.linf.max()) <= 1


def test_an_own_module_is_trained() -> None:
    """`fit` and what it calls take the layout, and the range, that the module wants."""
    train, _ = mi.load_data("digits")
    few = train.subset(range(200))

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 8, 3), nn.Linear(8 * 36, 10)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x -= 0.5
            x = torch.relu(self.conv(x))
            return self.last(x.view(len(x), -1)), x

    model = mi.fit(Small(), few, epochs=15, rng=mi.rng(0), lr=3e-3)
    assert float((mi.predict(model, few) == few.labels).float().mean()) > 0.8


@pytest.mark.parametrize("outputs", ["sigmoid", "probabilities"])
@pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
def test_one_number_an_image(outputs: str, shape: tuple[int, ...]) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            z = self.head(x.flatten(1)).reshape(shape)
            return z.sigmoid() if outputs == "probabilities" else z

    module, x = One(), torch.rand((6, 1, 2, 2), generator=mi.rng(0))
    model = Classifier(module, classes=2, outputs=outputs)
    p = torch.sigmoid(module.head(x.flatten(1)))[:, 0]
    torch.testing.assert_close(model.scores(x)[:, 1], p)
    assert model.labels(x[:1]).tolist() == [int(p[0] > 0.5)]
    assert torch.equal(model.features(x), x.flatten(1))
    with pytest.raises(InputError, match='outputs="sigmoid"'):
        Classifier(module, classes=2).labels(x)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda z: (z, z), "2 of them are"),
        (lambda z: (z[:, :2], z.mean()), "none of them is"),
        (lambda z: "cat", "returns str"),
        (lambda z: z.t(), "number of classes"),
    ],
)
def test_what_cannot_be_taken_is_said_in_a_line(
    returned: Callable[[Tensor], object], words: str
) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> object:
            return returned(x.flatten(1))

    with pytest.raises(InputError, match=words) as caught:
        Classifier(Odd(), classes=4).labels(torch.rand(3, 1, 2, 2))
    assert "\n" not in str(caught.value)


def test_features_of_a_head_that_is_called_twice() -> None:
    """One row an image where one call makes the logits; one line where both do."""

    class Twice(nn.Module):
        def __init__(self, mixed: bool) -> None:
            super().__init__()
            self.mixed, self.head = mixed, nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            aside, z = self.head(x.flip(1)), self.head(x)
            return (aside + z) / 2 if self.mixed else z

    x = torch.rand((5, 1, 2, 2), generator=mi.rng(0))
    assert torch.equal(Classifier(Twice(False), classes=CLASSES).features(x), x.flatten(1))
    with pytest.raises(InputError, match="more than once a pass"):
        Classifier(Twice(True), classes=CLASSES).features(x)
    with pytest.raises(InputError, match=r"no nn\.Linear"):
        Classifier(nn.Flatten(), classes=4).features(x)


def test_classes_as_people_count_them() -> None:
    import numpy as np

    named = Classifier(nn.Flatten(), classes={1: "dog", 0: "cat"})
    assert named.class_names == ("cat", "dog")
    assert Classifier(nn.Flatten(), classes={"1": "dog", "0": "cat"}).class_names == ("cat", "dog")
    assert Classifier(nn.Flatten(), classes=np.int64(4)).classes == 4
    with pytest.raises(InputError, match="got float"):
        Classifier(nn.Flatten(), classes=4.0)


def test_a_caller_in_inference_mode_gets_gradients() -> None:
    model, x = Classifier(own(), classes=CLASSES), images(3)
    goal = Untargeted([0, 1, 2])
    expected, _ = model.gradient(x, goal)
    with torch.inference_mode():
        gradient, _ = model.gradient(images(3), goal)
        assert torch.equal(model.labels(x), model.labels(x))
    assert torch.equal(gradient, expected)
