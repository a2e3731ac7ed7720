"""The training loop: its steps are the textbook's, it repeats itself, and refuses clearly."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.harden.reject_fooling import with_rejection
from mithridate.defenses.inspect import train_controls
from mithridate.defenses.transform import JPEG
from mithridate.errors import CheckpointError, InputError, RunError
from mithridate.networks.base import create, initialise
from mithridate.networks.checkpoint import fingerprint, load, save
from mithridate.poisons.targeted import retrain_last
from mithridate.rng import child, rng
from mithridate.training import Recipe, crop_flip, fit, lay_out, predict, takes_channels_last


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


# Its steps


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_full_batch_step_is_the_textbook_step(optimizer: str) -> None:
    data, seed = noise(12), 4
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    trained = fit(net, data, epochs=1, rng=rng(seed), optimizer=optimizer, lr=0.1, batch_size=12)
    initialise(net, child(rng(seed), "init"))
    x, y = data.batch(range(12))
    error = net(x).softmax(1) - nn.functional.one_hot(y, 3)
    gradient = error.T @ x.flatten(1) / 12
    # Adam's first step is lr * g / (|g| + 1e-8): bias correction cancels both decays
    step = gradient if optimizer == "sgd" else gradient / (gradient.abs() + 1e-8)
    expected = net[1].weight - 0.1 * step
    assert torch.allclose(trained.module[1].weight, expected, atol=1e-5)


def test_the_loss_in_the_record_is_the_mean_over_images() -> None:
    data = noise(10)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model = fit(net, data, epochs=1, rng=rng(0), lr=1e-12, batch_size=4)
    x, y = data.batch(range(10))
    expected = nn.functional.cross_entropy(model.logits(x), y).item()
    assert model.info["training"]["loss"] == pytest.approx(expected, rel=1e-5)


# What it leaves alone


def test_arguments_and_global_state_stay() -> None:
    net = small()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    generator = rng(3)
    states = torch.get_rng_state(), generator.get_state()
    fit(net, noise(), epochs=2, rng=generator)
    assert torch.equal(states[0], torch.get_rng_state())
    assert torch.equal(states[1], generator.get_state())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training


def test_a_module_starts_anew_and_a_classifier_goes_on() -> None:
    data = noise()
    a, b = small(), small()
    from_a, from_b = (fit(net, data, epochs=1, rng=rng(1)) for net in (a, b))
    assert fingerprint(from_a) == fingerprint(from_b)
    start = fingerprint(from_a)
    tuned = fit(from_a, data, epochs=1, rng=rng(1), lr=1e-12)
    gap = (tuned.module[5].weight - from_a.module[5].weight).abs().max().item()
    assert gap < 1e-6
    assert fingerprint(from_a) == start
    assert tuned.info["parent"] == from_a.info
    anew = fit(from_a, data, epochs=1, rng=rng(1), fresh=True)
    assert fingerprint(anew) == start
    kept = fit(a, data, epochs=1, rng=rng(1), fresh=False, lr=1e-12)
    assert (kept.module[5].weight - a[5].weight).abs().max().item() < 1e-6


def test_bounds_and_probabilities_are_kept_when_tuning() -> None:
    class Halved(nn.Module):
        """Sees images from -1 to 1 and ends in a softmax."""

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(64, 3)
            self.seen = (0.0, 0.0)

        def forward(self, x: Tensor) -> Tensor:
            self.seen = (x.min().item(), x.max().item())
            out: Tensor = self.last(x.flatten(1)).softmax(1)
            return out

    old = Classifier(Halved(), classes=3, bounds=(-1, 1), outputs="probabilities")
    model = fit(old, noise(90), epochs=5, rng=rng(0))
    assert model.input_range == (-1, 1)
    assert model.outputs == "probabilities"
    assert model.module.seen == (-1.0, 1.0)
    assert model.info["training"]["losses"][-1] < model.info["training"]["losses"][0]


# Autocast


def test_autocast_rounds_while_training_and_leaves_no_trace(bfloat16: None) -> None:
    data, seen = noise(), set[torch.dtype]()

    def trained(**more: Any) -> Classifier:
        return fit(net, data, epochs=2, rng=rng(1), **more)

    net = small()
    net[5].register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    plain = trained()
    assert seen == {torch.float32}
    assert fingerprint(trained(autocast=False)) == fingerprint(plain)
    seen.clear()
    rounded = trained(autocast=True, validation=data)
    assert seen == {torch.bfloat16, torch.float32}  # measured as the result will be
    assert {p.dtype for p in rounded.module.parameters()} == {torch.float32}
    assert fingerprint(rounded) != fingerprint(plain)
    assert not rounded.autocast
    assert rounded.info["training"]["autocast"] is True
    assert "autocast" not in plain.info["training"]


def test_a_processor_without_bfloat16_trains_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mithridate.training.multiplies_bfloat16", lambda device: False)
    asked, plain = (fit(small(), noise(), epochs=1, rng=rng(0), autocast=a) for a in (True, False))
    assert "autocast" not in asked.info["training"]
    assert fingerprint(asked) == fingerprint(plain)


def test_autocast_of_a_classifier_is_its_own_unless_said(bfloat16: None) -> None:
    old = Classifier(small(), classes=3, autocast=True)
    own, off = (fit(old, noise(), epochs=1, rng=rng(0), autocast=a) for a in (None, False))
    assert own.autocast is off.autocast is old.autocast is True
    assert own.info["training"]["autocast"] is True
    assert "autocast" not in off.info["training"]
    assert fingerprint(own) != fingerprint(off)


def test_it_trains_also_where_gradients_are_off() -> None:
    with torch.no_grad():
        one = fit(small(), noise(), epochs=1, rng=rng(0))
    with torch.inference_mode():
        two = fit(small(), noise(), epochs=1, rng=rng(0))
    assert (
        fingerprint(one)
        == fingerprint(two)
        == fingerprint(fit(small(), noise(), epochs=1, rng=rng(0)))
    )


# The same seed, the same bytes


def test_seed_decides() -> None:
    one, two, other = (fingerprint(fit(small(), noise(), epochs=2, rng=rng(s))) for s in (1, 1, 2))
    assert one == two != other


SCRIPT = """
import torch
from test_training import fingerprint, fit, noise, rng, small
torch.rand(7)  # another global state
print(fingerprint(fit(small(3), noise(channels=3), epochs=2, rng=rng(1))))
"""


def test_another_process_gives_the_same_bytes() -> None:
    here = fingerprint(fit(small(3), noise(channels=3), epochs=2, rng=rng(1)))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == here


# Settings


def test_progress_counts_every_batch_and_a_lone_last_image_is_left_out() -> None:
    seen: list[tuple[int, int, str]] = []
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))
    fit(
        net,
        noise(41),
        epochs=2,
        rng=rng(0),
        batch_size=10,
        progress=lambda d, t, s: seen.append((d, t, s)),
    )
    assert [d for d, _, _ in seen] == list(range(1, 9))
    assert {t for _, t, _ in seen} == {8}
    assert seen[-1][2].startswith("epoch 2/2, loss ")


def test_one_image_is_enough() -> None:
    model = fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), noise(1), epochs=1, rng=rng(0))
    assert math.isfinite(model.info["training"]["loss"])


def test_augmentation_is_for_colour_by_default() -> None:
    for channels, expected in ((1, "none"), (3, "crop-flip")):
        model = fit(small(channels), noise(channels=channels), epochs=1, rng=rng(0))
        assert model.info["training"]["augment"] == expected


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
        ({"optimizer": "adma"}, "did you mean 'adam'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"augment": "flip"}, "did you mean 'crop-flip'"),
        ({"network": nn.Flatten()}, "no parameters"),
        ({"network": 3}, "torch.nn.Module, got int"),
        ({"network": small(3)}, "does not take images \\(1, 8, 8\\)"),
        ({"network": nn.Conv2d(1, 3, 3)}, "gives \\(1, 3, 6, 6\\) for one image"),
        ({"data": noise(classes=4)}, "gives \\(1, 3\\) for one image, noise has 4 classes"),
        ({"data": (noise(), noise())}, "training set is an ImageSet, got tuple"),
        ({"validation": noise(size=9)}, "built for images \\(1, 8, 8\\), noise has \\(1, 9, 9\\)"),
        ({"validation": [1]}, "validation set is an ImageSet"),
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
    ],
)
def test_refusals(how: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"network": small(), "data": noise(), "epochs": 1, "rng": rng(0)}
    with pytest.raises(InputError, match=message) as caught:
        fit(**(arguments | how))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: fit(model, noise(), epochs=1, rng=rng(0)),
        lambda model: train_controls(model, noise(), 1, epochs=1, rng=rng(0)),
        lambda model: with_rejection(model, noise()),
        lambda model: retrain_last(model, noise()),
    ],
)
def test_no_copy_is_made_of_a_model_behind_a_defence(change: Any) -> None:
    """It would show attackers who know of the defence gradients of zero."""
    wrapped = JPEG().wrap(Classifier(small(), classes=3))
    with pytest.raises(InputError, match="wrap what comes out"):
        change(wrapped)


def test_image_shape_of_our_own_networks_is_compared() -> None:
    net = create("digits-cnn", image_shape=(1, 9, 9), classes=3)  # pools to the same sizes
    with pytest.raises(InputError, match="create the network with image_shape=\\(1, 8, 8\\)"):
        fit(net, noise(), epochs=1, rng=rng(0))


def test_a_loss_that_explodes_names_lr() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    said = r"loss became (nan|inf) in epoch \d: lower lr \(it is 1e\+38\)"
    with pytest.raises(RunError, match=said):
        fit(net, noise(), epochs=5, rng=rng(0), lr=1e38, optimizer="sgd")


def test_predict_takes_rows_and_batches() -> None:
    data = noise(23)
    model = fit(small(), data, epochs=1, rng=rng(0))
    whole = predict(model, data)
    assert torch.equal(whole, model.labels(data.batch(range(23))[0]))
    assert torch.equal(whole, predict(model, data, batch=5))
    assert torch.equal(whole[[3, 1, 20]], predict(model, data, rows=[3, 1, 20], batch=2))
    assert predict(model, data, rows=[]).shape == (0,)


# Augmentation, schedules, layout


@given(st.integers(0, 2**20), st.integers(1, 4))
def test_crop_flip_moves_whole_images(seed: int, pad: int) -> None:
    x = torch.rand(6, 2, 5, 7, generator=rng(seed)) + 0.1
    out = crop_flip(x, rng(seed), pad)
    wide = nn.functional.pad(x, (pad,) * 4)
    for image, moved in zip(wide, out, strict=True):
        candidates = [
            part if not flip else part.flip(2)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for flip in (False, True)
            for part in (image[:, top : top + 5, left : left + 7],)
        ]
        assert any(torch.equal(moved, c) for c in candidates)


def test_crop_flip_draws_every_place_evenly() -> None:
    x = torch.zeros(8000, 1, 9, 9)
    x[:, 0, 4, 4] = 1
    out = crop_flip(x, rng(0)).mean((0, 1))
    assert torch.allclose(out, torch.full((9, 9), 1 / 81), atol=5 * (1 / 81 / 8000) ** 0.5)


@pytest.mark.parametrize("total", [1, 2, 10, 1000])
def test_schedules(total: int) -> None:
    def rates(schedule: str) -> list[float]:
        recipe = Recipe(epochs=1, augment="none", seed=0, lr=2.0, schedule=schedule)
        return [recipe.rate(step, total) for step in range(total)]

    assert set(rates("constant")) == {2.0}
    assert rates("cosine")[0] == 2.0
    assert all(a > b for a, b in pairwise(rates("cosine")))
    cycle = rates("onecycle")
    assert all(0 < r <= 2.0 for r in cycle)
    peak = cycle.index(max(cycle))
    assert max(cycle) == pytest.approx(2.0, rel=0.1)
    assert peak <= 0.3 * total
    assert all(a > b for a, b in pairwise(cycle[peak + 1 :]))


def test_lay_out_covers_weights_of_one_channel_and_their_moments() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 1, 6, 6)).sum().backward()
    optimizer.step()
    before = [p.detach().clone() for p in net.parameters()]
    strides = [p.stride() for p in net.parameters()]
    lay_out(net, optimizer, torch.channels_last)
    first = next(net.parameters())
    assert first.stride() == optimizer.state[first]["exp_avg"].stride() == (9, 1, 3, 1)
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    lay_out(net, optimizer, torch.contiguous_format)
    assert [p.stride() for p in net.parameters()] == strides


# A run that is stopped


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


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, bfloat16: None) -> None:
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


def test_a_module_that_flattens_by_view_keeps_its_layout() -> None:
    """On a GPU others are trained channels-last in bfloat16."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 6 * 6, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).view(len(x), -1))

    assert not takes_channels_last(Classifier(Flat(), classes=10, image_shape=(1, 8, 8)))
