"""Settings: read, dealt to their owners, refused where nobody has them."""

from __future__ import annotations

import shlex

import pytest

from mithridate.cli import options
from mithridate.cli.screen import plain
from mithridate.errors import InputError


@pytest.mark.parametrize(
    "items", [["eps"], ["=3"], ["eps=1", "eps=2"], ["step-size=1", "step_size=1"]]
)
def test_bad_pairs(items) -> None:
    with pytest.raises(InputError, match="--set"):
        options.pairs(items)


def test_values_keep_their_equals_signs() -> None:
    assert options.pairs(["trigger=multiply:factor=3"]) == {"trigger": "multiply:factor=3"}


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'count'"):
        options.deal({"cuont": "3"}, {"poison": ["count", "target"], "training": ["lr"]})


OWNERS = {"training": ["lr"], "poison": ["eps", "count"], "harden": ["eps", "steps"]}


def test_a_setting_goes_to_the_one_that_has_it() -> None:
    given = {"lr": "1", "poison.eps": "2", "harden.eps": "3", "steps": "4", "poison.count": "5"}
    assert options.deal(given, OWNERS, shared=False) == {
        "training": {"lr": "1"},
        "poison": {"eps": "2", "count": "5"},
        "harden": {"eps": "3", "steps": "4"},
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"eps": "1"}, "of poison and of harden: give --set poison.eps=1 or --set harden.eps=1"),
        ({"eps": "1", "harden.eps": "2"}, "eps is a setting of poison and of harden"),
        (
            {"steps": "1", "harden.steps": "2"},
            "--set steps and --set harden.steps are both steps of harden",
        ),
        ({"harden.lr": "1"}, "no harden setting named 'lr'"),
        ({"harden.step": "1"}, "did you mean 'steps'"),
        ({"other.lr": "1"}, "no setting named 'other.lr' (known: count"),
    ],
)
def test_a_setting_without_one_owner_is_refused(given, said) -> None:
    with pytest.raises(InputError) as refused:
        options.deal(given, OWNERS, shared=False)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_dashes_in_a_components_name_are_underscores_in_a_key() -> None:
    owners = {"query-guard": ["budget"], "boundary": ["budget", "norm"]}
    given = options.pairs(["query-guard.budget=3", "boundary.budget=4", "norm=l2"])
    assert options.deal(given, owners) == {
        "query-guard": {"budget": "3"},
        "boundary": {"budget": "4", "norm": "l2"},
    }
    assert options.deal({"budget": "5"}, owners)["boundary"] == {"budget": "5"}


def test_the_command_survives_a_shell() -> None:
    words = ["audit", "my model.safetensors", "--set", "a=b;c", "--fail-on", "asr>0.1"]
    options.remember(words)
    assert shlex.split(options.command_line()) == ["mithridate", *words]


def test_cuda_where_there_is_none(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert str(options.place("auto")) == "cpu"
    with pytest.raises(InputError, match="--device cpu"):
        options.place("cuda")


def test_json_holds_no_nan() -> None:
    assert plain([float("inf"), (True, None), ...]) == [None, [True, None], "Ellipsis"]
