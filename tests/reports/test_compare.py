from __future__ import annotations

import pytest

from mithridate.errors import InputError
from mithridate.metrics import mcnemar, paired_difference, pairs
from mithridate.reports import compare
from mithridate.reports.compare import context
from mithridate.reports.folder import read


@pytest.fixture
def other(studies, tmp_path):
    return studies.make(
        tmp_path / "other", change=0.1, environment={"torch": "3"}, spec={"seed": 1}
    )


def entry(page, cell, value, column):
    table = page["tables"][0]
    row = next(r for r in table.rows if r.name == cell and r.lead[-1].text == value)
    return row.entries[[h.key for h in table.heads].index(column)]


def test_the_paired_tests_are_those_of_metrics(folder, other):
    first, second = read(folder), read(other)
    page = context(first, second)
    cell = "evasion/0012"
    flags = [
        run.images([cell])["success"].to_numpy(zero_copy_only=False) for run in (first, second)
    ]
    table = pairs(flags[1], flags[0])
    expected = paired_difference(table)
    assert entry(page, cell, "success", "difference").raw[""] == pytest.approx(expected.value)
    shown = entry(page, cell, "success", "interval")
    assert (shown.raw["low"], shown.raw["high"]) == (expected.low, expected.high)
    assert shown.small == ("paired, n = 200",)
    assert entry(page, cell, "success", "mcnemar").raw[""] == mcnemar(table)
    p, holm = (entry(page, cell, "success", key).raw[""] for key in ("mcnemar", "holm"))
    assert p <= holm <= 1


def test_what_was_not_the_same_images_is_unpaired(folder, other):
    page = context(read(folder), read(other))
    table = page["tables"][1]  # no image of the backdoors was recorded
    asr = next(row for row in table.rows if row.lead[-1].text == "attack success")
    assert asr.entries[2].text == "equal"
    assert asr.entries[3].small == ("unpaired",)
    assert asr.entries[4].text == "–"


def test_equal_runs_say_so(folder):
    page = context(read(folder), read(folder))
    assert page["headline"].startswith("Both runs say the same")
    assert page["settings"] == page["environment"] == []


def test_settings_and_cells_that_differ_are_listed(studies, folder, tmp_path):
    cells = studies.evasion(0)[0][:5]
    extra = cells[0] | {"id": "evasion/9999", "axes": {**cells[0]["axes"], "seed": 77}}
    from mithridate.reports.folder import write

    write(tmp_path / "b", studies.study() | {"spec": {"seed": 9}}, [*cells, extra])
    page = context(read(folder), read(tmp_path / "b"))
    assert ("seed", "0", "9") in page["settings"]
    (_, (first, _)), (_, (second, names)) = page["only"]
    assert (first, second) == (24, 1)
    assert "seed 77" in names[0]


def test_the_page_goes_into_the_second_folder_or_out(folder, other, tmp_path):
    path = compare(folder, other)
    assert path == other / "compare.html"
    again = compare(folder, other, tmp_path / "x.html")
    assert again.read_bytes() == path.read_bytes()
    assert "torch" in path.read_text()


def test_runs_without_a_common_cell_are_refused(studies, folder, tmp_path):
    with pytest.raises(InputError, match="share no cell"):
        compare(folder, studies.many(tmp_path / "grid", 9))
    with pytest.raises(InputError, match=r"has no study\.json"):
        compare(folder, tmp_path)
