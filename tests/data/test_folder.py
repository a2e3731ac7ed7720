import shutil

import numpy as np
import pytest

from mithridate.data import FileStore, load_data
from mithridate.data.folder import load_folder
from mithridate.errors import DataError


def fill(png, folder, count, start=0, size=(4, 3)):
    folder.mkdir(parents=True)
    for i in range(count):
        image = np.full(size, start + i, np.uint8)
        (folder / f"{i:03d}.png").write_bytes(png(image))


def levels(data):
    return data.raw(range(len(data)))[:, 0, 0, 0].tolist()


def test_train_and_test_folders(tmp_path, png):
    for split, start in (("train", 0), ("test", 100)):
        fill(png, tmp_path / split / "dog", 2, start + 50)
        fill(png, tmp_path / split / "cat", 3, start)
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    train, test = load_data(str(tmp_path))
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 0, 1, 1]
    assert levels(train) == [0, 1, 2, 50, 51]
    assert levels(test) == [100, 101, 102, 150, 151]
    assert train.name == f"{tmp_path.name}/train"
    streamed = load_folder(tmp_path, memory_limit=0)
    assert isinstance(streamed[0]._store, FileStore)
    assert [s.fingerprint() for s in streamed] == [train.fingerprint(), test.fingerprint()]


def test_fixed_split_and_numeric_order(tmp_path, png):
    for name, count in (("10", 5), ("2", 11), ("1", 4)):
        fill(png, tmp_path / name, count, int(name) * 20)
    train, test = load_folder(tmp_path)
    assert train.class_names == ("1", "2", "10")
    assert test.labels.tolist() == [1, 1, 2]
    assert levels(test) == [44, 49, 204]
    assert (len(train), len(set(levels(train)) & set(levels(test)))) == (17, 0)


@pytest.mark.parametrize("split", [True, False])
def test_a_file_names_classes_of_which_there_are_no_images(tmp_path, png, split):
    (tmp_path / "classes.txt").write_text("\n".join(["cat", "dog ", "10 owl", "eel", ""]))
    folders = [tmp_path / "train", tmp_path / "test"] if split else [tmp_path]
    for folder in folders:
        fill(png, folder / "eel", 5)
        fill(png, folder / "10 owl", 5)
    train, test = load_folder(tmp_path)
    assert train.class_names == test.class_names == ("cat", "dog", "10 owl", "eel")
    assert train.labels.unique().tolist() == test.labels.unique().tolist() == [2, 3]
    fill(png, folders[-1] / "ant", 5)
    with pytest.raises(DataError, match=r"ant: classes.txt names no such class"):
        load_folder(tmp_path)


def test_faults(tmp_path, png):
    root = tmp_path / "set"
    root.mkdir()

    def one_line(says):
        with pytest.raises(DataError, match=says) as caught:
            load_folder(root)
        assert "\n" not in str(caught.value)

    one_line("has no class folders")
    fill(png, root / "a", 5)
    one_line("has one class alone, a: a classifier has two or more")
    (root / "b").mkdir()
    shutil.rmtree(root / "a")
    fill(png, root / "a", 4)
    one_line("b is a class without images that are read")
    (root / "b").rmdir()
    fill(png, root / "b", 4)
    one_line("fewer than 5 images in every class")
    fill(png, root / "valid" / "a", 2)
    one_line("has valid/ but no train/: add it, or leave valid/ out")
    shutil.rmtree(root / "valid")
    fill(png, root / "train" / "a", 2)
    one_line("has train/ but no test/")
    fill(png, root / "test" / "c", 2)
    one_line(r"classes that train/ lacks \(c\)")
    fill(png, root / "train" / "c", 2)
    load_folder(root)
    broken = root / "train" / "c" / "001.png"
    broken.write_bytes(broken.read_bytes()[:-28])
    one_line("c/001.png cannot be decoded")
    broken.unlink()
    broken.mkdir()
    one_line("c/001.png cannot be read")
    broken.rmdir()
    broken.write_bytes(png(np.zeros((9, 9), np.uint8)))
    one_line("c/001.png is 1x9x9, the images before it 1x4x3")
    broken.unlink()
    fill(png, root / "validation" / "c", 1, size=(9, 9))
    for file in (root / "test" / "c").iterdir():
        file.write_bytes(png(np.zeros((9, 9), np.uint8)))
    one_line(r"train images are \(1, 4, 3\), test images \(1, 9, 9\)")
