from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mithridate.errors import InputError
from mithridate.reports import images, panels
from mithridate.reports.page import environment
from mithridate.reports.scatter import scatter


def pixels(picture):
    text = picture.uri.partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def one(arrays, names=()):
    (panel,) = panels.pictures("cell", arrays, list(names))
    return panel


def page(drawn):
    """The panels' markup, as XML: pictures closed, so that a parser can check the rest."""
    template = environment().get_template("pictures.html.j2")
    markup = template.render(panels=drawn)
    closed = "".join(
        part if k == 0 else "<img" + part.replace(">", "/>", 1)
        for k, part in enumerate(markup.split("<img"))
    )
    return ET.fromstring(f"<all>{closed}</all>")


def every(count, channels, side=4):
    r = np.random.default_rng(count + channels)
    maps = r.random((count, channels, side, side))
    pairs = r.random((count, count, channels, side, side))
    return {
        "examples_clean": maps[:2],
        "examples_changed": np.clip(maps[:2] + 0.1, 0, 1),
        "maps_suspect": maps,
        "maps_reference": maps * 0.5,
        "map_share_suspect": r.random(count),
        "map_share_reference": r.random(count),
        "pair_maps_suspect": pairs,
        "pair_maps_reference": pairs * 0.5,
        "difference": maps[0] - 0.5,
        "trigger": np.where(r.random((channels, side, side)) < 0.5, np.nan, 1.0),
        "confusion_clean": r.integers(0, 9, (count, count)),
        "confusion_stamped": r.integers(0, 9, (count, count)),
        "mean_images": maps,
        "mean_stamped": maps,
        "pair_scores": r.random((count, count)),
        "embedding": r.normal(size=(40, 2)),
        "embedding_label": r.integers(0, count, 40),
        "embedding_group": r.integers(0, 2, 40),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [2, 10, 100])
def test_every_array_is_drawn_for_any_number_of_classes(count, channels):
    arrays = every(count, channels)
    assert set(arrays) == {name for name in panels.DRAWN if not name.startswith("grid_")}
    drawn = panels.pictures("cell", arrays, [f"class {k} <&>" for k in range(count)])
    kinds = [panel.kind for panel in drawn]
    assert kinds == [
        "examples", "maps", "sheets", "heat", "heat", "counts", "embedding", "counts"
    ]  # fmt: skip
    root = page(drawn)
    pictures = [e for e in root.iter("img")]
    assert all(e.get("alt") for e in pictures)
    assert all(e.get("src").startswith("data:image/png;base64,") for e in pictures)
    assert drawn == panels.pictures("cell", arrays, [f"class {k} <&>" for k in range(count)])


def test_float32_and_half_named_classes_are_fine():
    arrays = {name: np.float32(array) for name, array in every(3, 1).items()}
    drawn = panels.pictures("", arrays, ["only"])
    assert [column.full for column in drawn[1].columns] == ["only", "1", "2"]


@pytest.mark.parametrize("name", sorted(every(3, 1)))
def test_each_array_alone_is_drawn_or_says_nothing(name):
    drawn = panels.pictures("cell", {name: every(3, 1)[name]}, [])
    assert len(drawn) == int(panels.DRAWN[name].alone)
    page(drawn)
    nothing = np.full_like(np.asarray(every(3, 1)[name], float), np.nan)
    if panels.DRAWN[name].alone:
        page(panels.pictures("cell", {name: nothing}, []))


def test_differences_are_enlarged_by_the_factor_that_is_told():
    clean = np.zeros((1, 1, 1, 3))
    changed = np.array([[[[0.15, 0.0, 0.03]]]])
    panel = one({"examples_clean": clean, "examples_changed": changed})
    assert [tile.label for tile in panel.columns[0].tiles] == ["clean", "changed", "difference × 5"]
    assert "enlarged 5 times" in panel.caption
    alpha = pixels(panel.columns[0].tiles[2].picture)[0, :, 3]
    assert alpha.tolist() == [round(255 * 0.15 * 5), 0, round(255 * 0.03 * 5)]
    assert (panel.bars[0].low, panel.bars[0].high) == ("−0.2", "+0.2")


@given(st.floats(1e-6, 2))
def test_enlargement_is_the_largest_round_factor_that_fits(top):
    factor = panels.enlargement(np.array([0.0, -top]))
    assert factor == 1 or factor * top <= 1 + 1e-5
    assert factor * top * 2.5 > 1 - 1e-5 or factor == 1
    assert f"{factor:.0e}"[0] in "125"


def test_no_change_and_no_finite_change_are_not_enlarged():
    assert panels.enlargement(None) == panels.enlargement(np.zeros(3)) == 1
    assert panels.enlargement(np.array([np.nan])) == 1


def test_maps_of_both_models_share_one_scale_and_keep_their_shares():
    suspect = np.array([[[[0.0, 0.5]]], [[[np.nan, np.nan]]]])
    reference = np.array([[[[1.0, 0.25]]], [[[0.0, 0.0]]]])
    shares = {"map_share_suspect": np.array([0.25, 0.0]), "map_share_reference": np.array([1, 0])}
    panel = one({"maps_suspect": suspect, "maps_reference": reference, **shares}, ["a", "b"])
    first, second = panel.columns
    assert pixels(first.tiles[0].picture).tolist() == [[0, 128]]
    assert pixels(first.tiles[1].picture).tolist() == [[255, 64]]
    assert second.tiles[0].picture is None
    notes = [tile.note.replace("\u00a0", " ") for tile in first.tiles]
    assert notes == ["25.0 %", "100 %", ""]
    assert [tile.label for tile in first.tiles] == ["suspect", "reference", "difference"]


def test_of_many_classes_those_that_differ_most_are_shown():
    suspect = np.zeros((30, 1, 2, 2))
    suspect[[7, 29]] = 1
    panel = one({"maps_suspect": suspect, "maps_reference": np.zeros_like(suspect)})
    shown = [column.name for column in panel.columns]
    assert len(shown) == 24
    assert {"7", "29"} <= set(shown)
    assert shown == sorted(shown, key=int)
    assert "24 of 30 classes are shown" in panel.caption
    pairs = np.zeros((30, 30, 1, 2, 2))
    other = pairs.copy()
    other[28, 29] = 1
    panel = one({"pair_maps_suspect": pairs, "pair_maps_reference": other})
    assert {"28", "29"} <= set(panel.parts[0].names)


def test_a_sheet_holds_every_pair_at_its_place():
    maps = np.zeros((3, 3, 1, 2, 4))
    maps[1, 2] = 1
    maps[0, 0] = np.nan
    whole = panels.sheet(maps)[0]
    assert whole.shape == (9, 15)
    for row in range(3):
        for column in range(3):
            block = whole[3 * row : 3 * row + 2, 5 * column : 5 * column + 4]
            np.testing.assert_array_equal(block, maps[row, column, 0])
    assert np.isnan(whole[2::3]).all()
    assert np.isnan(whole[:, 4::5]).all()


def test_confusion_counts_stand_by_true_and_predicted_class():
    counts = np.array([[8.0, 2.0], [0.0, 0.0]])
    panel = one({"confusion_clean": counts}, ["cat", "dog"])
    (part,) = panel.parts
    cells = part.grid.cells
    assert [[c.text for c in row] for row in cells] == [["8", "2"], ["0", "0"]]
    assert [[c.kind for c in row] for row in cells] == [["right", "wrong"], ["none", "none"]]
    assert cells[0][0].shade == 80
    assert cells[0][1].shade == pytest.approx(100 * 0.2**0.5, abs=0.05)
    assert cells[0][1].title.startswith("true cat, predicted dog: 20.0")


def test_a_large_confusion_is_one_picture_and_names_the_worst():
    counts = np.eye(30) * 3
    counts[4, 9] = 1
    picture, caption = panels.counts_picture(counts, [f"c{k}" for k in range(30)])
    got = pixels(picture)
    assert got.shape == (30, 30, 4)
    assert tuple(got[4, 9]) == (*images.ABOVE, 128)
    assert tuple(got[0, 0]) == (*images.BELOW, 255)
    assert got[9, 4, 3] == 0
    assert caption.replace("\u00a0", " ") == "Most confused: c4 as c9 25.0 %."


def test_triggers_are_pixels_or_signed_and_clear_where_they_leave_the_image():
    panel = one({"trigger": np.array([[[np.nan, 1.0]]])})
    (tile,) = panel.columns[0].tiles
    assert tile.clear
    assert pixels(tile.picture)[0, :, 3].tolist() == [0, 255]
    assert panel.bars[0].kind == "grey"
    panel = one({"trigger": np.array([[[-0.5, 0.25]]])})
    assert panel.bars[0].kind == "signed"
    assert not panel.columns[0].tiles[0].clear
    assert tuple(pixels(panel.columns[0].tiles[0].picture)[0, 0]) == (*images.BELOW, 255)


def marks(drawn, style):
    return sum(path.count("M") for name, path in drawn.marks if style in name)


def test_every_point_of_an_embedding_is_one_mark():
    r = np.random.default_rng(0)
    points, labels, group = r.normal(size=(50, 2)), r.integers(0, 10, 50), np.arange(50) >= 30
    points[0] = np.nan
    drawn, caption = scatter(points, labels, group, [str(k) for k in range(10)])
    assert (marks(drawn, "dots"), marks(drawn, "crosses")) == (29, 20)
    assert "29 clean and 20 stamped images" in drawn.title
    assert "of 49 images" not in caption
    drawn, caption = scatter(r.normal(size=(9000, 2)), np.zeros(9000), np.zeros(9000), ["a"])
    assert marks(drawn, "dots") == 4000
    assert "4,000 of 9,000 images are drawn" in caption


def test_embeddings_keep_both_axes_on_one_scale():
    points = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    drawn, _ = scatter(points, np.zeros(3), np.zeros(3), ["a"])
    ((_, path),) = drawn.marks
    (x0, y0), (x1, y1), (x2, y2) = (
        map(float, mark.removesuffix("h0").split()) for mark in path.split("M")[1:]
    )
    assert (x1 - x0, y1 - y0) == (376, 0)
    assert (x2 - x0, y0 - y2) == (0, 188)
    assert scatter(np.full((2, 2), np.nan), np.zeros(2), np.zeros(2), [])[0] is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"trigge": np.zeros((1, 2, 2))}, "did you mean 'trigger'"),
        ({"trigger": np.zeros((2, 2))}, "should be C x H x W"),
        ({"trigger": np.zeros((2, 2, 2))}, "should be C x H x W"),
        ({"maps_suspect": np.zeros((3, 1, 2, 2)), "map_share_suspect": np.zeros(2)}, "got 2"),
        ({"embedding": np.zeros((4, 3))}, "N x 2"),
    ],
)
def test_what_cannot_be_drawn_is_named(arrays, message):
    with pytest.raises(InputError, match=message):
        panels.pictures("cell", arrays, [])
