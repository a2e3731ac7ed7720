"""The archive by hand-worked offers; what is said where pyribs is missing."""

from __future__ import annotations

import sys

import pytest
import torch

import mithridate as mi
from mithridate.errors import InputError
from mithridate.fooling import CPPN, Direct, GradientAscent, run_fooling
from mithridate.fooling.map_elites import Niches
from mithridate.testing.models import linear_model


def test_a_candidate_wins_every_class_it_is_best_at() -> None:
    pytest.importorskip("ribs")
    niches = Niches(3, (2,), (1, 1, 1))
    genes = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    images = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
    niches.offer(genes, images, torch.tensor([[0.6, 0.1, 0.3], [0.2, 0.5, 0.3]]))
    assert niches.genes.tolist() == [[0, 1], [2, 3], [0, 1]]
    assert niches.elites.images.flatten().tolist() == [0.25, 0.75, 0.25]
    held = niches.elites
    # The third ties with class 0 (the elder stays), wins class 1, loses class 2.
    niches.offer(genes[:1] + 7, images[:1], torch.tensor([[0.6, 0.9, 0.0]]))
    assert niches.genes.tolist() == [[0, 1], [7, 8], [0, 1]]
    assert niches.elites.confidence.tolist() == pytest.approx([0.6, 0.9, 0.3])
    assert held.confidence.tolist() == pytest.approx([0.6, 0.5, 0.3])  # handed out: not changed


def test_as_many_cells_as_classes() -> None:
    pytest.importorskip("ribs")
    niches = Niches(1000, (1,), (1, 1, 1))
    genes = torch.arange(1000.0)[:, None]
    niches.offer(genes, torch.zeros(1000, 1, 1, 1), torch.eye(1000) + 0.1)
    assert torch.equal(niches.genes, genes)


@pytest.mark.parametrize("method", [Direct(population=3), CPPN(population=3)])
def test_without_pyribs_one_line_says_what_to_install(monkeypatch, method) -> None:
    monkeypatch.setitem(sys.modules, "ribs.archives", None)
    with pytest.raises(InputError, match=r"need pyribs .*pip install 'mithridate\[fooling\]'"):
        run_fooling(method, linear_model(), rng=mi.rng(0))


def test_gradient_ascent_needs_no_pyribs(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ribs.archives", None)
    assert run_fooling(GradientAscent(steps=1), linear_model(), rng=mi.rng(0)).status == "done"
