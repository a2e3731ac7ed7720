import numpy as np
import pytest
import torch
from sklearn import datasets

from mithridate.data import hub, load_data
from mithridate.errors import DataError, InputError


def test_unknown_names(tmp_path):
    with pytest.raises(InputError, match="no data set named 'mnits': did you mean 'mnist'"):
        load_data("mnits")
    with pytest.raises(DataError, match="does not exist"):
        load_data(str(tmp_path / "none"))
    with pytest.raises(InputError, match="name or path, got an empty one"):
        load_data("")  # no other word for the folder one stands in
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        load_data(str(tmp_path / "file"))
    with pytest.raises(DataError, match="no class folders"):
        load_data(str(tmp_path))


def test_the_local_folder_comes_first(hub_folder, monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda spec: pytest.fail("asked the hub"))
    monkeypatch.setenv("MITHRIDATE_DATA", str(hub_folder.parent))
    hub_folder.rename(hub_folder.parent / "mnist")
    train, test = load_data("mnist")
    assert (train.name, test.name, len(train)) == ("mnist/train", "mnist/test", 7)
    (hub_folder.parent / "mnist" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="lacks train shard 00000"):
        load_data("mnist")


def test_then_the_hub(hub_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "fetch", lambda spec: asked.append(spec) or hub_folder)
    monkeypatch.delenv("MITHRIDATE_DATA", raising=False)
    assert load_data("cifar10")[0].name == "cifar10/train"
    assert load_data("hf:org/small@v1")[1].name == "org/small@v1/test"
    assert asked == ["uoft-cs/cifar10", "hf:org/small@v1"]


def test_no_network_says_what_to_set(monkeypatch):
    def fetch(spec):
        raise DataError("no network")

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.setenv("MITHRIDATE_DATA", "/nowhere")
    with pytest.raises(DataError, match="no network; or set MITHRIDATE_DATA to a folder with mni"):
        load_data("mnist")


def test_digits_are_the_source_split_by_class():
    train, test = load_data("digits")
    source = datasets.load_digits()
    assert (len(train), len(test), train.image_shape) == (1437, 360, (1, 8, 8))
    assert train.class_names == tuple("0123456789")
    total = np.bincount(source.target)
    share = test.labels.bincount().numpy() / total
    assert np.all(np.abs(share * total - total / 5) < 1)  # stratified to less than one image
    # Together they are the source, each image once.
    images = torch.cat([train.raw(slice(None)), test.raw(slice(None))])[:, 0].numpy()
    labels = np.concatenate([train.labels, test.labels])
    rows = {(label, image.tobytes()) for label, image in zip(labels, images, strict=True)}
    scaled = np.rint(source.images * 255 / 16).astype(np.uint8)
    assert rows == {(c, image.tobytes()) for c, image in zip(source.target, scaled, strict=True)}
    assert (images.min(), images.max()) == (0, 255)
    assert load_data("digits")[0].fingerprint() == train.fingerprint()
