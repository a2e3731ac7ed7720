"""A training run that is stopped goes on to the same bytes; a foreign checkpoint is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mithridate.data import ImageSet
from mithridate.errors import CheckpointError, RunError
from mithridate.networks.checkpoint import fingerprint, load, save
from mithridate.rng import rng
from mithridate.training import fit


def noise(n: int = 50, classes: int = 3, channels: int = 1, size: int = 8) -> ImageSet:
    x = torch.randint(256, (n, channels, size, size), generator=rng(0)).byte()
    return ImageSet(x, torch.arange(n) % classes, [str(c) for c in range(classes)], name="noise")


def small(channels: int = 1, size: int = 8) -> nn.Module:
    """Batch normalisation, dropout and convolutions: everything that has state or chance."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(4 * size * size, 3),
    )


class Stop(Exception):
    """Stands for a kill."""


def stop_after(batches: int, kind: type[BaseException] = Stop) -> Any:
    def progress(done: int, total: int, text: str) -> None:
        if done > batches:
            raise kind

    return progress


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("after", [0, 2, 9, 13])  # 4 batches an epoch
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, optimizer: str, after: int) -> None:
    data = noise(50, channels=3)
    how: dict[str, Any] = {
        "epochs": 4,
        "optimizer": optimizer,
        "batch_size": 14,
        "schedule": "onecycle",
        "validation": data,
        "lr": 0.01,
    }
    whole = fit(small(3), data, rng=rng(1), **how)
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        fit(small(3), data, rng=rng(1), checkpoint=path, progress=stop_after(after), **how)
    seen: list[int] = []
    resumed = fit(
        small(3), data, rng=rng(1), checkpoint=path, progress=lambda d, t, s: seen.append(d), **how
    )
    assert seen[0] == after // 4 * 4 + 1  # finished epochs are not repeated
    assert fingerprint(resumed) == fingerprint(whole)
    assert resumed.info == whole.info
    again = fit(small(3), data, rng=rng(1), checkpoint=path, **how)
    assert fingerprint(again) == fingerprint(whole)


def test_ctrl_c_leaves_the_last_epoch_and_the_global_state(tmp_path: Path) -> None:
    net, path = small(), tmp_path / "run.safetensors"
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        fit(
            net,
            noise(),
            epochs=3,
            rng=rng(0),
            batch_size=10,
            checkpoint=path,
            progress=stop_after(7, KeyboardInterrupt),
        )
    assert torch.equal(state, torch.get_rng_state())
    assert os.listdir(tmp_path) == [path.name]
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert len(json.loads(header["__metadata__"]["mithridate"])["state"]["losses"]) == 1


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    fit(small(), noise(), epochs=1, rng=rng(0), checkpoint=path)
    for words, how in {
        "lr": {"lr": 0.5},
        "seed, start": {"rng": rng(1)},
        "epochs": {"epochs": 2},
        "data": {"data": noise(51)},
    }.items():
        arguments: dict[str, Any] = {"data": noise(), "epochs": 1, "rng": rng(0), **how}
        with pytest.raises(CheckpointError, match=f"differs in {words}\\)"):
            fit(small(), checkpoint=path, **arguments)
    rounded = tmp_path / "rounded"
    fit(small(), noise(), epochs=1, rng=rng(0), checkpoint=rounded, autocast=True)
    for there, autocast in ((path, True), (rounded, False)):  # named only where it is used
        with pytest.raises(CheckpointError, match=r"differs in autocast\)"):
            fit(small(), noise(), epochs=1, rng=rng(0), checkpoint=there, autocast=autocast)
    with pytest.raises(CheckpointError, match="checkpoint of a training run"):
        load(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="damaged"):
        fit(small(), noise(), epochs=1, rng=rng(0), checkpoint=path)
    save(fit(small(), noise(), epochs=1, rng=rng(0)), path)
    with pytest.raises(CheckpointError, match="not the checkpoint of a training run"):
        fit(small(), noise(), epochs=1, rng=rng(0), checkpoint=path)


def test_a_checkpoint_that_cannot_be_written_shows_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    calls: list[int] = []
    with pytest.raises(RunError, match="cannot write"):
        fit(
            small(),
            noise(),
            epochs=1,
            rng=rng(0),
            checkpoint=tmp_path / "file" / "run",
            progress=lambda d, t, s: calls.append(d),
        )
    assert not calls
