"""The how-to pages about models of one's own, typed as they are printed, in an empty folder."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import mithridate as mi
from mithridate.cli.main import main

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
OWN, ONNX, HF = "open-your-own-model", "attack-an-onnx-file", "attack-a-hugging-face-model"


def page(name: str) -> str:
    return (HOW_TO / f"{name}.md").read_text("utf-8")


def commands(name: str) -> list[str]:
    """The lines of its console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", page(name), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def write_files(name: str) -> None:
    """Its Python blocks that begin with the name of a file."""
    for code, file in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", page(name), re.DOTALL):
        Path(file).write_text(code)


def type_in(line: str) -> int:
    """Do what a line says; its exit status."""
    words = shlex.split(line)
    if words[0] == "mithridate":
        return main([*words[1:], "--quiet"])
    python, *words = words
    assert python == "python"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if words[0] == "-c":
            exec(words[1], {})
        else:
            runpy.run_path(words[0])
    return 0


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder in which the first command of the first page, that trains and saves, was typed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("how-to"))
        patch.syspath_prepend(".")
        patch.setenv("MITHRIDATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        sys.modules.pop("net", None)  # another test's
        write_files(OWN)
        type_in(commands(OWN)[0])
        yield
        sys.modules.pop("net", None)


def accuracies() -> tuple[float, float]:
    """Before and after the attack of the report that was written last."""
    lines = Path("mithridate-attack/cells.jsonl").read_text().splitlines()
    cells = [json.loads(line) for line in lines]
    before, after = (
        cell["values"][key]["value"]
        for cell, key in zip(cells, ("accuracy", "accuracy_left"), strict=True)
    )
    return before, after


def plain_accuracy() -> float:
    """Of weights.pt on the test images, by plain torch."""
    trained = runpy.run_path("net.py")["trained"]
    _, test = mi.load_data("digits")
    x, y = test.batch(range(len(test)))
    return float((trained().eval()(x).argmax(1) == y).float().mean())


def test_every_form_of_an_own_network_gives_the_same_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = re.findall(r"\| `(mithridate attack .*?)` \|", page(OWN))
    answers, refused = {}, []
    for line in rows:
        status = type_in(line)
        if status == 0:
            answers[line] = accuracies()
        else:
            assert status == 2
            refused.append(capsys.readouterr().err.partition("convert it: ")[2].strip())
    assert len(answers) == 6
    before, after = answers[rows[0]]
    assert before == pytest.approx(plain_accuracy())
    assert before > 0.9 > 0.1 > after
    assert set(answers.values()) == {(before, after)}
    _, attack, *converted, again = commands(OWN)
    assert attack == rows[0]
    assert refused == converted
    assert [type_in(line) for line in [*converted, again]] == [0, 0, 0, 0]
    assert accuracies() == (before, after)


@pytest.mark.parametrize("name", [ONNX, HF])
def test_the_page_works_as_printed(name: str) -> None:
    needs = {ONNX: ["onnxruntime", "onnx", "onnxscript"], HF: ["transformers"]}[name]
    for package in needs:
        pytest.importorskip(package, reason=f"{package} is not installed")
    write_files(name)
    for line in commands(name):
        assert type_in(line) == 0, line
    before, after = accuracies()
    assert before > 0.8 > 0.5 > after
