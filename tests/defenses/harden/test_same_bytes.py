"""Hardened training gives the same bytes: again, resumed, in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.harden import AdversarialTraining
from mithridate.errors import CheckpointError
from mithridate.networks.checkpoint import fingerprint
from mithridate.rng import rng


def noise(n: int = 50, classes: int = 3) -> ImageSet:
    x = torch.randint(256, (n, 1, 8, 8), generator=rng(0)).byte()
    return ImageSet(x, torch.arange(n) % classes, [str(c) for c in range(classes)], name="noise")


def small() -> nn.Sequential:
    """Batch normalisation, dropout and a convolution: everything that has state or chance."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(256, 3),
    )


WAY = AdversarialTraining(eps=0.1, steps=2)
HOW: dict[str, Any] = {"epochs": 3, "batch_size": 16, "schedule": "onecycle"}


def trained(seed: int = 1, **more: Any) -> Classifier:
    return WAY.train(small(), noise(), rng=rng(seed), **HOW, **more)


def test_seed_decides() -> None:
    assert fingerprint(trained()) == fingerprint(trained()) != fingerprint(trained(2))


@pytest.mark.parametrize("after", [4, 6])  # 4 batches an epoch
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, after: int) -> None:
    class Stop(Exception):
        """Stands for a kill."""

    def stop(done: int, total: int, text: str) -> None:
        if done > after:
            raise Stop

    path = tmp_path / "run"
    with pytest.raises(Stop):
        trained(checkpoint=path, progress=stop)
    seen: list[int] = []
    resumed = trained(checkpoint=path, progress=lambda done, total, text: seen.append(done))
    assert seen == list(range(5, 13))
    whole = trained()
    assert fingerprint(resumed) == fingerprint(whole)
    assert resumed.info == whole.info


SCRIPT = """
import torch
from test_same_bytes import fingerprint, trained
torch.rand(7)  # another global state
print(fingerprint(trained()))
"""


def test_another_process_gives_the_same_bytes() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == fingerprint(trained())


def test_a_checkpoint_of_another_way_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def plain() -> Classifier:
        return mi.fit(small(), noise(), rng=rng(1), checkpoint=path, **HOW)

    plain()
    with pytest.raises(CheckpointError, match=r"differs in hardening\)"):
        trained(checkpoint=path)
    path.unlink()
    trained(checkpoint=path)
    with pytest.raises(CheckpointError, match=r"differs in hardening\)"):
        plain()
    other = AdversarialTraining(eps=0.2, steps=2)
    with pytest.raises(CheckpointError, match=r"differs in hardening\)"):
        other.train(small(), noise(), rng=rng(1), checkpoint=path, **HOW)
