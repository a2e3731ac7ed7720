"""What an audit comes to, for gates and for a terminal."""

from __future__ import annotations

import pytest

from mithridate.reports import audit, parts, read


def whole(record):
    return audit.audit(record.study, record.cells, record.timings)


def test_the_summary_has_the_verdict_and_what_was_measured(presets, tmp_path):
    got = whole(read(presets.audit(tmp_path)))
    assert audit.summary(got) == {
        "suspicious": True,
        "probability": None,  # beside clean models there is a p-value
        "p_value": 1 / 43,
        "least_p_value": None,
        "backdoor": None,
        "source": 8,
        "target": 9,
        "source_name": "8",
        "target_name": "9",
        "region": [1, 21, 7, 27],
        "statistic": 6.31,
        "accuracy": 0.9904,
        "asr": 951 / 974,
        "robust_accuracy": None,  # one attack was not run
        "status": "complete",
    }
    assert audit.verdict_line(got) == (
        "Suspicious: 8 was poisoned into 9; p = 0.023 (alarm at 0.05); "
        "trigger in rows 1 to 6, columns 21 to 26"
    )
    rows = dict(audit.figures(got))
    assert rows["accuracy left by pgd"] == "1.2 % (95 % interval 0.6 to 2.6, 6 of 500)"
    assert rows["accuracy left by iterative-fgsm"] == "not measured"
    assert rows["success of the planted trigger"].startswith("99.6 %")
    assert rows["success of the recovered trigger"].endswith("951 of 974)")
    assert rows["doubt: few-controls"].startswith("Only 7 clean models")
    assert got.seconds == pytest.approx(14.4)


def test_an_audit_that_was_cut_short_has_no_verdict(presets):
    cells, _ = presets.audit_parts(suspicious=False)
    cells = [c for c in cells if c["matrix"] != "evasion"]
    idle = [c | {"status": "not run", "values": {}} for c in cells]
    head = presets.head("audit", "mnist", status="incomplete")
    head["matrices"] = [
        {"name": name, "title": "", "measure": "", "axes": {}}
        for name in {c["matrix"] for c in cells}
    ]
    study, lines, timings = parts(head, idle)
    got = audit.audit(study, lines, timings)
    assert audit.verdict_line(got) == "No verdict: the audit was cut short"
    values = audit.summary(got)
    assert values.pop("status") == "incomplete"
    assert set(values.values()) == {None}
    assert audit.figures(got) == [
        ("clean accuracy", "not measured"),
        ("doubt: few-controls", "Only 7 clean models: the smallest p-value is 0.023."),
    ]
    study, lines, timings = parts(head, cells)
    assert audit.audit(study, lines, timings).accuracy.k == 9904
