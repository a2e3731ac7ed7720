import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mithridate.data import FileStore, ImageSet, TensorStore, some_of_each
from mithridate.errors import InputError

NAMES = ["a", "b", "c"]
shapes = st.tuples(*[st.integers(1, n) for n in (9, 3, 5, 6)])
pixel_arrays = hnp.arrays(np.uint8, shapes)


def small(count: int = 7) -> ImageSet:
    pixels = torch.arange(count * 6, dtype=torch.uint8).reshape(count, 1, 2, 3)
    return ImageSet(pixels, torch.arange(count) % 3, NAMES, "small")


@given(pixel_arrays)
def test_float_and_back_is_exact(pixels):
    labels = [0] * len(pixels)
    data = ImageSet(pixels, labels, NAMES)
    x, y = data.batch(range(len(pixels)))
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert np.array_equal(x.numpy(), pixels.astype(np.float32) / np.float32(255))
    if not 0 < pixels.max() <= 1:  # the loaders' check takes such images for divided twice
        again = ImageSet.from_float(x, labels, NAMES)
        assert np.array_equal(again.raw(slice(None)).numpy(), pixels)
        assert again.fingerprint() == data.fingerprint()


def test_every_level_survives_rounding():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x, _ = ImageSet(levels, [0], NAMES).batch([0])
    assert torch.equal(ImageSet.from_float(x, [0], NAMES).raw([0]), levels)


@given(pixel_arrays, st.data())
def test_a_file_store_reads_what_a_tensor_store_reads(pixels, data):
    held = TensorStore(torch.from_numpy(pixels))
    cut = data.draw(st.integers(1, len(pixels)))
    spooled = FileStore.spool([part for part in (pixels[:cut], pixels[cut:]) if len(part)])
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(pixels) - 1))), dtype=torch.long)
    assert len(spooled) == len(held)
    assert spooled.image_shape == held.image_shape
    assert torch.equal(spooled.read(rows), held.read(rows))


@given(pixel_arrays, st.data())
def test_subset_and_changes_match_plain_indexing(pixels, data):
    count = len(pixels)
    base = ImageSet(pixels, np.arange(count) % 3, NAMES)
    before = base.fingerprint()
    row = st.integers(0, count - 1)
    changed = data.draw(st.lists(row, unique=True))
    new = data.draw(hnp.arrays(np.uint8, (len(changed), *pixels.shape[1:])))
    kept = data.draw(st.lists(row, min_size=1))
    other = base.with_changes(changed, new, [2] * len(changed))
    nested = other.subset(kept).subset(slice(None, None, -1))

    expected, labels = pixels.copy(), np.arange(count) % 3
    expected[changed], labels[changed] = new, 2
    assert np.array_equal(other.raw(range(count)).numpy(), expected)
    assert np.array_equal(nested.raw(range(len(kept))).numpy(), expected[kept][::-1])
    assert np.array_equal(nested.labels.numpy(), labels[kept][::-1])
    assert base.fingerprint() == before


def test_properties_and_rows():
    data = small()
    assert (len(data), data.classes, data.class_names) == (7, 3, ("a", "b", "c"))
    assert data.image_shape == (1, 2, 3)
    want = data.raw(slice(None))[[1, 3]]
    mask = torch.zeros(7, dtype=torch.bool)
    mask[[1, 3]] = True
    for rows in (
        [1, 3],
        (1, 3),
        range(1, 5, 2),
        slice(1, 5, 2),
        torch.tensor([1, 3]),
        torch.tensor([1, 3], dtype=torch.int32),
        np.array([1, 3]),
        mask,
        mask.tolist(),
    ):
        assert torch.equal(data.raw(rows), want)
    assert data.raw(range(5, 2, -1)).shape[0] == 3
    for none in ([], range(3, 0), slice(0, 0), torch.zeros(7, dtype=torch.bool)):
        x, y = data.batch(none)
        assert x.shape == (0, 1, 2, 3)
        assert y.shape == (0,)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([7], "row 7"),
        (range(5, 9), "rows 0..6"),
        ([-1], "row -1"),
        ([0.5], "whole numbers"),
        (3, "whole numbers"),
        ([[1, 2]], "whole numbers"),
        ([True, False], "length 7, got 2"),
        ("abc", "numbers"),
    ],
)
def test_bad_rows(rows, says):
    with pytest.raises(InputError, match=says):
        small().batch(rows)


def test_batches_in_order_and_shuffled():
    data = small()
    seen = list(data.batches(3))
    assert [len(y) for _, y in seen] == [3, 3, 1]
    assert torch.equal(torch.cat([x for x, _ in seen]), data.batch(range(7))[0])
    assert [len(y) for _, y in data.batches(3, drop_last=True)] == [3, 3]

    def order(seed):
        rng = torch.Generator().manual_seed(seed)
        return torch.cat([x for x, _ in data.batches(3, rng=rng)])[:, 0, 0, 0]

    assert torch.equal(order(1), order(1))
    assert not torch.equal(order(1), order(2))
    assert torch.equal(order(1).sort().values, data.batch(range(7))[0][:, 0, 0, 0])
    for wrong in (0, -1):
        with pytest.raises(InputError, match="batch size"):
            data.batches(wrong)
    with pytest.raises(InputError, match="drop_last"):
        data.batches(8, drop_last=True)


def test_one_image():
    data = ImageSet(np.full((1, 1, 1, 1), 51, np.uint8), [0], ["only"])
    x, y = data.batch(range(1))
    assert (x.item(), y.item(), len(list(data.batches(128)))) == (pytest.approx(0.2), 0, 1)
    assert len(data.subset([0])) == 1


def test_of_class():
    data = small()
    assert torch.equal(data.of_class(1), torch.tensor([1, 4]))
    with pytest.raises(InputError, match="no image of class 2 \\(c\\)"):
        data.subset([0, 1]).of_class(2)
    for wrong in (3, -1, True, 1.0):
        with pytest.raises(InputError, match=r"are 0\.\.2"):
            data.of_class(wrong)


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        (range(1, 11), 10, "labels run 1..10 for 10 classes: subtract 1"),
        ([0] * 9 + [12], 10, r"labels run 0..12 for 10 classes: labels are 0..9"),
        ([0.0] * 10, 10, "integers"),
        ([-1] * 10, 10, "start at 0"),
        ([0] * 9, 10, "10 images and 9 labels"),
        ([[0]] * 10, 10, "shape"),
        (["0"] * 10, 10, "numbers"),
        ([True] * 10, 10, "integers"),
    ],
)
def test_bad_labels(labels, names, says):
    labels = list(labels)
    with pytest.raises(InputError, match=says):
        ImageSet(np.zeros((10, 1, 2, 2), np.uint8), labels, [str(i) for i in range(names)])


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((2, 8, 8), np.uint8, "add a channel axis"),
        ((2, 64), np.uint8, "reshape"),
        ((2, 32, 32, 3), np.uint8, "channels-last"),
        ((2, 28, 28, 1), np.uint8, "channels-last"),
        ((0, 1, 8, 8), np.uint8, "at least one image"),
        ((2, 0, 8, 8), np.uint8, "at least one channel"),
        ((2, 1, 8, 8), np.float32, "from_float"),
        ((2, 1, 8, 8), np.int64, r"x.byte\(\)"),
    ],
)
def test_bad_images(shape, dtype, says):
    with pytest.raises(InputError, match=says):
        ImageSet(np.zeros(shape, dtype), [0] * shape[0], NAMES)


def test_other_bad_input():
    with pytest.raises(InputError, match="got list"):
        ImageSet([[1]], [0], NAMES)
    pixels = np.zeros((1, 1, 2, 2), np.uint8)
    for names, says in (("ab", "sequence"), ([], "got none"), (["a", "a"], "twice"), ([1], "seq")):
        with pytest.raises(InputError, match=says):
            ImageSet(pixels, [0], names)
    with pytest.raises(InputError, match="divide by 255"):
        ImageSet.from_float(torch.full((1, 1, 2, 2), 200.0), [0], NAMES)
    with pytest.raises(InputError, match="at least one row"):
        small().subset([])
    data, one = small(), torch.zeros(1, 1, 2, 3)
    for rows, images, labels, says in (
        ([1, 1], torch.zeros(2, 1, 2, 3), None, "distinct"),
        ([1], torch.zeros(1, 1, 3, 3), None, "have shape"),
        ([1, 2], one, None, "have shape"),
        ([1], one + 7, None, "divide by 255"),
        ([1], one, [3], "labels run 3..3"),
        ([1], one, [1, 2], "one label per row"),
    ):
        with pytest.raises(InputError, match=says):
            data.with_changes(rows, images, labels)


def test_read_only_arrays_and_float_changes():
    pixels = np.zeros((2, 1, 2, 2), np.uint8)
    labels = np.array([0, 1])
    pixels.flags.writeable = labels.flags.writeable = False
    data = ImageSet(pixels, labels, NAMES)
    bright = data.with_changes([1], np.full((1, 1, 2, 2), 0.5, np.float32), name="bright")
    assert bright.raw([0, 1]).flatten(1).tolist() == [[0] * 4, [128] * 4]
    assert (bright.name, data.name) == ("bright", "images")
    assert bright.labels.tolist() == [0, 1]


def test_fingerprint_tells_sets_apart():
    data = small()
    same = small().subset(range(7), name="other name")
    others = [
        data.subset(range(6)),
        data.subset([1, 0, 2, 3, 4, 5, 6]),
        data.with_changes([0], torch.full((1, 1, 2, 3), 9).byte()),
        data.with_changes([0], data.raw([0]), [1]),
        ImageSet(data.raw(range(7)), data.labels, ["a", "b", "d"]),
        ImageSet(data.raw(range(7)).reshape(7, 1, 3, 2), data.labels, NAMES),
    ]
    assert same.fingerprint() == data.fingerprint()
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 7


def test_some_of_each_class_are_random_and_a_part_of_more():
    labels = torch.arange(60) % 3
    data = ImageSet(torch.arange(60).byte().reshape(60, 1, 1, 1), labels, ["a", "b", "c"])
    few, more = (some_of_each(data, counts) for counts in ([3, 0, 20], [9, 1, 20]))
    assert torch.bincount(few.labels, minlength=3).tolist() == [3, 0, 20]
    first, second = (set(one.raw(slice(None)).flatten().tolist()) for one in (few, more))
    assert first < second
    assert all(row % 3 != 1 for row in first)
    zeros = few.raw(few.of_class(0)).flatten().tolist()
    assert zeros != [0, 3, 6]  # not merely the first


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ([1, 2], "one count a class: 3, got 2"),
        ([1, 2, 5], "asks for 5 images of class c: it has 2"),
        ([1, -1, 1], "per_class must be at least 0"),
        ([0, 0, 0], "keeps no image"),
    ],
)
def test_counts_that_the_set_does_not_have(counts, says):
    data = ImageSet(torch.zeros(6, 1, 1, 1).byte(), [0, 1, 2] * 2, ["a", "b", "c"])
    with pytest.raises(InputError, match=says):
        some_of_each(data, counts)
