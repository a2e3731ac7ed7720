"""Separation of activations, where it is known beforehand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples

from mithridate.errors import InputError
from mithridate.networks.storage import read_tensors
from mithridate.studies.measures.activations import Activations, apart

POISON = {"name": "badnets", "trigger": "c-top-right", "source": 8, "target": 9, "count": 100}


@pytest.mark.parametrize("gap", [0.0, 50.0])
def test_numbers_are_those_of_clusters_whose_gap_is_known(gap):
    random = np.random.default_rng(0)
    group = torch.arange(2).repeat_interleave(100).repeat(2)
    labels = torch.arange(2).repeat_interleave(200)
    features = random.normal(size=(400, 5)).astype(np.float32)
    features[:, 0] += gap * group.numpy() * labels.numpy()  # the second class alone is parted
    found = apart(features, labels, group)
    own = [silhouette_samples(features[labels == k], group[labels == k]).mean() for k in range(2)]
    assert found["silhouettes"] == pytest.approx(own, abs=1e-6)
    assert found["silhouette"] == pytest.approx(np.mean(own), abs=1e-6)
    assert found["probe"]["n"] == 200  # half of the images
    assert found["probes"][0] == pytest.approx(0.5, abs=0.15)
    if gap:
        assert found["probes"][1] == 1
        assert found["silhouettes"][1] > 0.9
    else:
        assert found["probes"][1] == pytest.approx(0.5, abs=0.15)
        assert abs(found["silhouette"]) < 0.02


def test_a_backdoored_model_parts_stamped_images_from_clean_ones(lab, unit_of):
    unit = unit_of(Activations, poison=POISON, train={"epochs": 6}, images=12)
    found = lab.values(unit)
    shown, _ = read_tensors(lab.make(unit).folder / "pictures.safetensors")
    assert shown["embedding"].shape == (len(shown["embedding_label"]), 2)
    assert torch.bincount(shown["embedding_label"].long()).tolist() == [12] * 8 + [24, 12]
    stamped = shown["embedding_group"] == 1
    assert set(shown["embedding_label"][stamped].tolist()) == {8}
    assert [value is None for value in found["silhouettes"]] == [k != 8 for k in range(9)] + [True]
    assert found["silhouette"] == found["silhouettes"][8] > found["silhouette_clean_model"]
    assert found["probe"]["n"] == 12


def test_without_a_poison_or_with_a_defence_in_front_it_is_refused(unit_of):
    with pytest.raises(InputError, match="needs a poison"):
        unit_of(Activations)
    with pytest.raises(InputError, match="leave defense out"):
        unit_of(Activations, poison=POISON, defense=["spatial-smoothing"])
