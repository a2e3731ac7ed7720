"""Progress where nobody watches a bar, and the plan in a line."""

from __future__ import annotations

import time

import pytest

from mithridate.cli import publish, screen
from mithridate.studies.engine.plan import Estimate


@pytest.mark.parametrize(("left", "soon"), [(None, ", about"), (90.0, ", about 1 min 30 s left")])
def test_a_line_now_and_then_by_the_clock_and_not_by_steps(monkeypatch, capsys, left, soon):
    monkeypatch.setattr(screen, "TOLD_EVERY", 0.05)
    with screen.Screen().stage("training") as report:
        report(3, 10, "epoch 1/2", left=left)
        time.sleep(0.5)  # one long step
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert lines[0].startswith("mithridate: training: epoch 1/2, 3 of 10; ")
    assert "so far" in lines[0]
    assert soon in lines[0]
    with screen.Screen(quiet=True).stage("training") as report:
        report(3, 10, "")
        time.sleep(0.2)
    assert not capsys.readouterr().err


def test_the_plan_in_a_line():
    units = {"control": (8, 0), "look": (0, 8)}
    line = publish.plan_line(Estimate(9, units, 1200, 0, 50_000, 200.0, 2**31, 0))
    assert line == (
        "plan: about 3 min 20 s on one worker, 2.0 GiB; 1,200 images forward, 50,000 trained on; "
        "units: 8 control"
    )
