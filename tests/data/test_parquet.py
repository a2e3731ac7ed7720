import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mithridate.data import FileStore, load_data
from mithridate.data.parquet import load_parquet
from mithridate.errors import DataError

NAMES = ("zero", "one", "two")


def one_line(folder, says, **settings):
    with pytest.raises(DataError, match=says) as caught:
        load_parquet(folder, **settings)
    assert "\n" not in str(caught.value)


def test_shards_in_order(hub_folder, pixels):
    train, test = load_parquet(hub_folder)
    assert (len(train), len(test)) == (7, 3)
    assert (train.name, test.name) == ("small/train", "small/test")
    assert train.class_names == test.class_names == NAMES
    assert np.array_equal(train.raw(range(7))[:, 0].numpy(), pixels[:7])
    assert np.array_equal(test.raw(range(3))[:, 0].numpy(), pixels[7:])
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert test.labels.tolist() == [2, 1, 0]


def test_streaming_gives_the_same_batches(hub_folder):
    for held, streamed in zip(
        load_parquet(hub_folder), load_parquet(hub_folder, memory_limit=0), strict=True
    ):
        assert isinstance(streamed._store, FileStore)
        assert streamed.fingerprint() == held.fingerprint()
        orders = [torch.Generator().manual_seed(3) for _ in range(2)]
        pairs = zip(held.batches(2, rng=orders[0]), streamed.batches(2, rng=orders[1]), strict=True)
        assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


@settings(max_examples=20)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), *[st.integers(1, 5)] * 2, st.just(3))))
def test_round_trip(tmp_path_factory, make, png, images):
    folder = tmp_path_factory.mktemp("round")
    labels = [i % 3 for i in range(len(images))]
    blobs = [png(image) for image in images]
    make(folder / "data" / "train-x.parquet", blobs, labels)
    make(folder / "data" / "test.parquet", blobs[:1], labels[:1])
    train, _ = load_parquet(folder)
    assert np.array_equal(train.raw(range(len(images))).numpy(), images.transpose(0, 3, 1, 2))
    assert train.labels.tolist() == labels


def test_columns_by_type_and_names_by_number(tmp_path, make, png, pixels):
    blobs = [png(image) for image in pixels]
    for split, labels in (("train", [0, 1, 3]), ("test", [4, 0, 0])):
        make(
            tmp_path / f"{split}-0.parquet",
            blobs[:3],
            labels,
            names=None,
            columns=("picture", "label"),
        )
    train, test = load_parquet(tmp_path)
    assert train.class_names == test.class_names == ("0", "1", "2", "3", "4")
    assert load_data(str(tmp_path))[0].fingerprint() == train.fingerprint()


def test_validation_stands_in_for_test_and_configs_are_found(hub_folder):
    os.rename(
        hub_folder / "test-00000-of-00001.parquet",
        hub_folder / "validation-00000-of-00001.parquet",
    )
    assert len(load_parquet(hub_folder)[1]) == 3
    inner = hub_folder / "plain_text"
    inner.mkdir()
    for file in hub_folder.glob("*.parquet"):
        file.rename(inner / file.name)
    assert len(load_parquet(hub_folder)[0]) == 7
    (hub_folder / "other").mkdir()
    for file in inner.glob("*.parquet"):
        (hub_folder / "other" / file.name).write_bytes(file.read_bytes())
    one_line(hub_folder, r"several sets \(other, plain_text\)")


def test_missing_files(hub_folder):
    (hub_folder / "train-00001-of-00002.parquet").unlink()
    one_line(hub_folder, "lacks train shard 00001 of 2")
    (hub_folder / "train-00000-of-00002.parquet").unlink()
    one_line(hub_folder, "no train split: add train")
    for file in hub_folder.iterdir():
        file.unlink()
    one_line(hub_folder, r"has no train-\*\.parquet")


def test_shards_of_two_versions(hub_folder):
    shard = hub_folder / "train-00001-of-00002.parquet"
    shard.rename(hub_folder / "train-00001-of-00003.parquet")
    one_line(hub_folder, "mixes train shards")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_half_a_file(hub_folder, keep):
    shard = hub_folder / "train-00001-of-00002.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(len(whole) * keep)])
    one_line(hub_folder, "train-00001-of-00002.parquet is damaged or no Parquet file")


def test_damage_within_the_pages(tmp_path, make, png):
    noise = np.random.default_rng(1).integers(0, 256, (4, 40, 40), dtype=np.uint8)
    for split in ("train", "test"):
        make(tmp_path / f"{split}-0.parquet", [png(image) for image in noise], [0] * 4)
    file = tmp_path / "train-0.parquet"
    data = bytearray(file.read_bytes())
    data[4:3000] = bytes(2996)
    file.write_bytes(bytes(data))
    one_line(tmp_path, "train-0.parquet")


def test_wrong_columns(hub_folder, make, png, pixels):
    blobs = [png(pixels[0])]
    shard = hub_folder / "test-00000-of-00001.parquet"
    make(shard, blobs, [0], columns=("image", "kind"), names=None)
    one_line(hub_folder, "test-00000.* has no label column among 'image', 'kind'")
    one_line(hub_folder, "has no column 'nothing'", label_column="nothing")
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), shard)
    one_line(hub_folder, "has no image column among")
    one_line(hub_folder, "is no struct<bytes, path>", image_column="image")
    make(shard, blobs, [0.5])
    one_line(hub_folder, "labels are whole numbers")
    make(shard, blobs, ["zero"])
    one_line(hub_folder, "'label' is string")


def test_two_label_columns(tmp_path, png, pixels):
    image = pa.array([{"bytes": png(pixels[0]), "path": ""}])
    table = pa.table({"img": image, "coarse": [0], "fine": [1]})
    kinds = {
        "img": {"_type": "Image"},
        "coarse": {"_type": "ClassLabel", "names": ["x"]},
        "fine": {"_type": "ClassLabel", "names": ["a", "b"]},
    }
    told = json.dumps({"info": {"features": kinds}})
    for split in ("train", "test"):
        pq.write_table(
            table.replace_schema_metadata({"huggingface": told}), tmp_path / f"{split}-0.parquet"
        )
    one_line(tmp_path, r"several label columns \(coarse, fine\).*label_column=")
    assert load_parquet(tmp_path, label_column="fine")[0].class_names == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([1, 2, 3], r"\(test\): labels run 1..3 for 3 classes: subtract 1"),
        ([0, 0, -1], r"\(test\): labels start at 0"),
        ([0, None, 1], "rows without a label"),
    ],
)
def test_label_faults(hub_folder, make, png, pixels, labels, says):
    make(hub_folder / "test-00000-of-00001.parquet", [png(p) for p in pixels[:3]], labels)
    one_line(hub_folder, says)


def test_bad_rows(hub_folder, make, png, pixels):
    shard = hub_folder / "test-00000-of-00001.parquet"
    good = png(pixels[0])
    for blobs, says in (
        ([good, b"no image"], "test-00000-of-00001.parquet, row 1 cannot be decoded"),
        ([good, good[:-30]], "row 1 cannot be decoded"),
        ([good, None], "row 1 has no image bytes"),
        ([good, png(pixels[0][:2])], "row 1 is 1x2x4, the images before it 1x5x4"),
    ):
        make(shard, blobs, [0, 0])
        one_line(hub_folder, says)
        one_line(hub_folder, says, memory_limit=0)
    make(shard, [png(pixels[0][:2])], [0])
    one_line(hub_folder, r"train images are \(1, 5, 4\), test images \(1, 2, 4\)")
    make(shard, [], pa.array([], pa.int64()))
    one_line(hub_folder, r"\(test\) holds no images")


def test_splits_that_disagree_on_names(hub_folder, make, png, pixels):
    shard = hub_folder / "test-00000-of-00001.parquet"
    make(shard, [png(pixels[0])], [0], names=["one", "zero", "two"])
    one_line(hub_folder, "name their classes differently")


@pytest.mark.parametrize("text", ["{not json", "[1]", "[" * 100_000])
def test_unreadable_metadata_is_as_none(tmp_path, png, pixels, text):
    image = pa.array([{"bytes": png(pixels[0]), "path": ""}])
    table = pa.table({"image": image, "label": [1]})
    for split in ("train", "test"):
        pq.write_table(
            table.replace_schema_metadata({"huggingface": text}), tmp_path / f"{split}-0.parquet"
        )
    assert load_parquet(tmp_path)[0].class_names == ("0", "1")


@pytest.mark.parametrize("names", [5, "ab", {"0": "a"}, [], None])
def test_names_that_are_no_list_are_as_none(tmp_path, make, png, pixels, names):
    blobs = [png(image) for image in pixels[:2]]
    for split in ("train", "test"):
        make(tmp_path / f"{split}-0.parquet", blobs, [0, 1], names=names)
    assert load_parquet(tmp_path)[0].class_names == ("0", "1")


@pytest.mark.parametrize(("label", "says"), [(-1, "start at 0, got -1"), (10**9, "1000000000")])
def test_labels_without_names_make_no_billion_classes(tmp_path, make, png, pixels, label, says):
    for split in ("train", "test"):
        make(tmp_path / f"{split}-0.parquet", [png(pixels[0])], [label], names=None)
    with pytest.raises(DataError, match=says):
        load_parquet(tmp_path)


def test_damage_to_a_columns_name(hub_folder):
    file = next(hub_folder.glob("test-*"))
    file.write_bytes(file.read_bytes().replace(b"label", b"\xfa\x85bel"))
    with pytest.raises(DataError, match=r"test-.*is damaged"):
        load_parquet(hub_folder)


@pytest.fixture
def real() -> Path:
    root = os.environ.get("MITHRIDATE_DATA")
    if not root:
        pytest.skip("MITHRIDATE_DATA is unset")
    return Path(root)


def numbers(text):
    return [int(word) for word in text.split()]


@pytest.mark.data
def test_mnist(real):
    train, test = load_data("mnist")
    assert (len(train), len(test), train.image_shape) == (60_000, 10_000, (1, 28, 28))
    assert train.class_names == tuple("0123456789")
    # LeCun's counts per digit.
    assert train.labels.bincount().tolist() == numbers(
        "5923 6742 5958 6131 5842 5421 5918 6265 5851 5949"
    )
    assert test.labels.bincount().tolist() == numbers(
        "980 1135 1032 1010 982 892 958 1028 974 1009"
    )
    x, _ = train.batch(range(60_000))
    assert x.mean().item() == pytest.approx(0.1307, abs=5e-5)  # the published mean and deviation
    assert x.std().item() == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.data
def test_cifar10(real):
    train, test = load_data("cifar10")
    assert (len(train), len(test), train.image_shape) == (50_000, 10_000, (3, 32, 32))
    assert train.class_names[:4] == ("airplane", "automobile", "bird", "cat")
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    means = train.batch(range(0, 50_000, 5))[0].mean((0, 2, 3))
    assert torch.allclose(means, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01)
