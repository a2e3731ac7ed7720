from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mithridate.errors import InputError
from mithridate.metrics import distances


def test_hand_worked_colour_pixel() -> None:
    a = torch.zeros(2, 3, 2, 2)
    b = a.clone()
    b[0, :, 0, 0] = torch.tensor([0.5, 0.25, 0.0])
    found = distances(a, b)
    assert found.l0.tolist() == [2, 0]
    assert found.pixels.tolist() == [1, 0]
    assert found.l2[0].item() == pytest.approx(math.sqrt(0.25 + 0.0625))
    assert found.linf.tolist() == [0.5, 0]
    assert found.l2_by_channel[0].item() == pytest.approx(0.75)
    assert found.linf_by_channel.tolist() == [0.75, 0]


def test_against_numpy_loops() -> None:
    a, b = torch.rand(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    delta = (a - b).numpy().astype(np.float64)
    found = distances(a, b)
    for i, image in enumerate(delta):
        assert found.l2[i].item() == pytest.approx(np.linalg.norm(image.ravel()))
        assert found.linf[i].item() == pytest.approx(np.abs(image).max())
        per_channel = [np.linalg.norm(channel) for channel in image]
        assert found.l2_by_channel[i].item() == pytest.approx(sum(per_channel))
        largest = [np.abs(channel).max() for channel in image]
        assert found.linf_by_channel[i].item() == pytest.approx(sum(largest))
    assert found.means()["l2"] == pytest.approx(found.l2.mean().item())


def test_grey_images_give_the_plain_norm_both_ways() -> None:
    a, b = torch.rand(2, 4, 1, 5, 5, generator=torch.Generator())
    found = distances(a, b)
    assert torch.equal(found.l2, found.l2_by_channel)
    assert torch.equal(found.linf, found.linf_by_channel)


def test_empty_and_wrong_input() -> None:
    none = torch.zeros(0, 3, 2, 2)
    assert distances(none, none).l2_by_channel.shape == (0,)
    with pytest.raises(InputError, match="one shape"):
        distances(torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2))
    with pytest.raises(InputError, match="float"):
        distances(none.byte(), none.byte())
