"""Distances of bias maps as cells, against maps computed directly."""

from __future__ import annotations

import math

import pytest
import torch

from mithridate.defenses.inspect import map_distances
from mithridate.networks.storage import read_tensors
from mithridate.studies.measures.bias_maps import BiasMapsMeasure, by_target, classes_of, grid
from mithridate.studies.units.inspected import pairs


def listed(values):
    return [float(v) if math.isfinite(v) else None for v in values.tolist()]


@pytest.mark.parametrize("reference", ["parent", "other"])
def test_distances_of_algorithm_one(lab, unit_of, poison, reference):
    unit = unit_of(BiasMapsMeasure, poison=poison, samples=6, steps=2, reference=reference)
    found = lab.values(unit)
    suspect, against, clean = map(lab.open, (unit.suspect, unit.reference, unit.clean))
    distances = map_distances(suspect, against)
    assert found["distances"] == listed(distances)
    apart = map_distances(clean, against)
    assert found["clean_distances"] == listed(apart)
    assert found["largest"] == distances.nan_to_num(0).max().item()
    assert found["clean_largest"] == apart.nan_to_num(0).max().item()
    order = sorted(range(10), key=lambda k: -distances.nan_to_num(-1)[k].item())
    assert found["target_rank"] == 1 + order.index(9)
    assert found["source_rank"] == 1 + order.index(8)
    assert found["first"] == (order[0] in (8, 9))
    # a distance is the Euclidean one of the mean images
    gap = (suspect.mean[3] - against.mean[3]).norm().item()
    assert distances[3].item() == pytest.approx(gap, rel=1e-5, nan_ok=True)


def test_distances_of_algorithm_two_are_means_over_the_sources(lab, unit_of, poison):
    unit = unit_of(BiasMapsMeasure, poison=poison, algorithm=2, samples=3, steps=1)
    found = lab.values(unit)
    suspect, parent = lab.open(unit.suspect), lab.open(unit.reference)
    each = map_distances(suspect, parent)
    for target in range(10):
        sources = [each[i].item() for i, (_, t) in enumerate(pairs(10)) if t == target]
        known = [value for value in sources if math.isfinite(value)]
        if known:
            mean = sum(known) / len(known)
            assert found["distances"][target] == pytest.approx(mean, rel=1e-5)
        else:
            assert found["distances"][target] is None
    shown, _ = read_tensors(lab.make(unit).folder / "pictures.safetensors")
    for name, maps in (("suspect", suspect), ("reference", parent)):
        drawn = shown[f"pair_maps_{name}"]
        assert drawn.shape == (10, 10, 1, 8, 8)
        assert drawn.diagonal().isnan().all()
        at = pairs(10).index((8, 9))
        assert torch.equal(drawn[8, 9].nan_to_num(5), maps.mean[at].nan_to_num(5))
        assert torch.equal(grid(maps).nan_to_num(5), drawn.nan_to_num(5))


def test_without_a_poison_there_is_no_truth(lab, unit_of):
    found = lab.values(unit_of(BiasMapsMeasure, samples=3, steps=1, probe="noise"))
    assert found["target"] is None
    assert "first" not in found
    assert found["distances"] == [0.0 if d is not None else None for d in found["distances"]]


def test_pairs_by_hand():
    # three classes: (0,1) (0,2) (1,0) (1,2) (2,0) (2,1)
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, math.nan])
    assert by_target(values).tolist() == [4.0, 1.0, 3.0]
    assert [classes_of(k * (k - 1)) for k in (2, 3, 10, 43)] == [2, 3, 10, 43]


def test_settings_share_models_and_maps(unit_of, poison):
    """The clean models: the suspect's own parent, and others that no seed of a suspect is."""
    one, two = (unit_of(BiasMapsMeasure, poison=poison, probe=p) for p in ("data", "noise"))
    assert one.suspect.model == two.suspect.model
    parent, other = (
        unit_of(BiasMapsMeasure, poison=poison, reference=r) for r in ("parent", "other")
    )
    assert parent.suspect == other.suspect
    assert parent.clean == other.reference
    clean = unit_of(BiasMapsMeasure).suspect.model
    assert (parent.suspect.model.stream, parent.reference.model) == (("poisoned",), clean)
    streams = [one.model.stream for one in (parent.clean, other.reference, other.clean)]
    assert streams == [("control", "0"), ("control", "0"), ("control", "1")]
