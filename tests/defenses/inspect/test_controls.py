"""Clean models that nothing of the suspect reaches."""

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.defenses.inspect import train_control
from mithridate.errors import InputError
from mithridate.studies.units.model import shapes_of


class Scaled(nn.Module):
    """Takes pixels in [0, 255], returns probabilities; a constant, and by choice a bare weight."""

    def __init__(self, mean: float = 100.0, bare: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.bare = nn.Parameter(torch.ones(1)) if bare else 1.0
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert 200 < x.max() <= 255 or not x.any()
        return self.linear((x - self.mean).flatten(1) / 255 * self.bare).softmax(1)


def classifier(module: nn.Module) -> mi.Classifier:
    return mi.Classifier(module, classes=10, bounds=(0, 255), outputs="probabilities")


def test_a_control_is_trained_on_what_its_module_expects() -> None:
    train, test = mi.load_data("digits")
    control = train_control(classifier(Scaled()), train, epochs=10, rng=mi.rng(0))
    assert (control.input_range, control.outputs) == ((0, 255), "probabilities")
    assert float(control.module.mean) == 100
    right = mi.predict(control, test) == test.labels
    assert right.float().mean() > 0.7  # linear; 0.1 by chance


def test_a_weight_that_cannot_be_drawn_anew_is_refused() -> None:
    train, _ = mi.load_data("digits")
    with pytest.raises(InputError, match=r"'bare' belongs to a layer without reset_parameters"):
        train_control(classifier(Scaled(bare=True)), train, epochs=1, rng=mi.rng(0))


def test_controls_are_shared_by_one_architecture_alone() -> None:
    one, two = Scaled(), Scaled()
    assert shapes_of(classifier(one)) == shapes_of(classifier(two))
    assert shapes_of(classifier(one)) != shapes_of(classifier(Scaled(mean=50.0)))
    assert shapes_of(classifier(one), "a") != shapes_of(classifier(one), "b")
