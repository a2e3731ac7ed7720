"""`mithridate doctor MODEL`: what it recommends, stated to a verb, gives what it promised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import mithridate as mi
from mithridate.data.export import export_set

OWN = """
import mithridate as mi
from torch import nn

class Wrapped(nn.Module):
    def __init__(self, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.net = mi.load({model!r}).module.eval()
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))

def ranged(): return Wrapped(lambda x: x / 255)
def signed(): return Wrapped(lambda x: (x + 1) / 2)
def normal(): return Wrapped(lambda x: x * 0.3081 + 0.1307)
def surer(): return Wrapped(after=lambda z: z.log_softmax(1))
def likely(): return Wrapped(after=lambda z: z.softmax(1))
def ordered(): return Wrapped(after=lambda z: z[:, [3, 1, 2, 0, 4, 5, 6, 7, 9, 8]])
def big(): return Wrapped(lambda x: nn.functional.avg_pool2d(x, 2))
def blue_first(): return Wrapped(lambda x: x[:, 2:])

class Grey(Wrapped):
    def forward(self, x):
        assert x.shape[1] == 1
        return self.net(x)
"""


@pytest.fixture
def own(tmp_path: Path, models: Path) -> Path:
    """Models of the digits, each with a convention of its own."""
    place = tmp_path / "own.py"
    place.write_text(OWN.format(model=str(models / "clean.safetensors")))
    return place


def coloured(folder: Path) -> Path:
    """Thirty of each digit in red, another one in blue."""
    _, test = mi.load_data("digits")
    rows = torch.cat([test.of_class(label)[:30] for label in range(10)])
    red = test.raw(rows)[:, 0]
    blue = red[torch.randperm(len(red), generator=torch.Generator().manual_seed(0))]
    for number, (r, b, label) in enumerate(zip(red, blue, test.labels[rows], strict=True)):
        for part in ("train", "test"):
            inside = folder / part / str(int(label))
            inside.mkdir(parents=True, exist_ok=True)
            pixels = torch.stack([r, torch.zeros_like(r), b], 2).numpy()
            Image.fromarray(pixels).save(inside / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("ranged", "digits", {"input-range": "0,255"}),
        ("signed", "digits", {"input-range": "-1,1"}),
        ("normal", "digits", {"mean": "0.1307", "std": "0.3081"}),
        ("likely", "digits", {"outputs": "probabilities"}),
        ("big", "digits", {"resize": "16"}),
        ("blue_first", "coloured", {"channels": "bgr"}),
        ("Grey", "grey", {"mode": "L"}),
    ],
)
def test_what_it_names_gives_what_it_says(
    call, own: Path, tmp_path: Path, name: str, data: str, options: dict[str, str]
) -> None:
    if data == "coloured":
        data = str(coloured(tmp_path / "data"))
    if data == "grey":
        train, test = mi.load_data("digits", mode="RGB")
        export_set(tmp_path / "data", train, test)
        data = str(tmp_path / "data")
    model = (f"{own}:{name}", "--trust-code", "--data", data, "--quiet")
    done = call("doctor", *model, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["options"] == options
    best = found["best"]["accuracy"]
    assert best["value"] > 0.85
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    done = call("doctor", *model)
    assert done.last.partition("% with ")[2].startswith(" ".join(words)) or "outputs" in options
    attack = ("--attack", "fgsm", "--samples", 20, "--set", "eps=0.1", "--out", tmp_path / "out")
    done = call("attack", *model, *words, *attack, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["clean_accuracy"]["k"] == best["k"]
    assert result["doubts"] == []
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    recorded = json.dumps(study["spec"]["defaults"])
    assert all(key.replace("-", "_") in recorded for key in options)
    again = call("doctor", *model, *words)  # with the option given, there is nothing better
    assert "with" not in again.last, again.last


def test_outputs_that_were_stated_wrongly_are_measured_rightly(call, own: Path) -> None:
    words = (f"{own}:surer", "--trust-code", "--data", "digits")
    done = call("doctor", *words, "--outputs", "probabilities", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["options"]["outputs"] == "logits"
    assert told["best"]["accuracy"]["value"] > 0.9
    assert told["given"]["accuracy"] is None
    assert "numbers below 0" in told["given"]["problem"]


def test_a_permutation_is_shown_and_can_be_stated(call, own: Path, tmp_path: Path) -> None:
    model = (f"{own}:ordered", "--trust-code", "--data", "digits", "--quiet")
    done = call("doctor", *model)
    assert "nothing tried does better" in done.last
    stated = done.out.partition("--classes ")[2].split()[0]
    assert stated == "3,1,2,0,4,5,6,7,9,8"
    attack = ("--attack", "fgsm", "--samples", 20, "--out", tmp_path / "out", "--json")
    done = call("attack", *model, "--classes", stated, *attack)
    assert json.loads(done.out)["clean_accuracy"]["value"] > 0.85


def test_near_and_below_chance_are_said_first(call, own: Path, tmp_path: Path) -> None:
    attack = ("--attack", "fgsm", "--samples", 20, "--out", tmp_path / "out")
    near = (f"{own}:ranged", "--trust-code", "--data", "digits", "--quiet")
    done = call("attack", *near, *attack)
    first = done.err.splitlines()[0]
    assert "near-chance" in first
    assert "mithridate doctor" in first
    assert done.out.index("near-chance") < done.out.index("fgsm  ")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("near-chance") < page.index("fgsm</th>" if "fgsm</th>" in page else "fgsm<")
    done = call("fool", *near, "--method", "gradient", "--set", "steps=2")
    assert "near-chance" in done.err
    turned = tmp_path / "turned.py"
    turned.write_text(own.read_text() + "def turned(): return Wrapped(after=lambda z: -z)\n")
    done = call("attack", f"{turned}:turned", *near[1:], *attack, "--json")
    assert [doubt["id"] for doubt in json.loads(done.out)["doubts"]] == ["below-chance"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("m.safetensors",), "add --data"),
        (("m.safetensors", "--data", "digits"), "no such file"),
        (("m.safetensors", "--data", "digits", "--set", "eps=1"), "only network.KEY"),
        (("m.safetensors", "--data", "digits", "--input-range", "255"), "LOW,HIGH"),
        (("m.safetensors", "--data", "digits", "--mean", "grey"), "mean"),
    ],
)
def test_mistakes_are_one_line(call, words: tuple[str, ...], message: str) -> None:
    done = call("doctor", *words)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
