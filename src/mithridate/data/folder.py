"""Folders of image files: ROOT/train/CLASS and ROOT/test/CLASS, or ROOT/CLASS."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mithridate.data.decode import Fit, decode
from mithridate.data.image_set import ImageSet, train_and_test
from mithridate.data.parquet import SPLITS
from mithridate.data.store import Store, build_store
from mithridate.errors import DataError

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""Endings of the formats that `decode` reads."""

SILENT = {"thumbs.db", "desktop.ini"}
"""What systems leave in folders; hidden files likewise."""

CLASSES = "classes.txt"
"""In ROOT, where a model knows more classes than there are folders: their names, one a line."""

TEST_EVERY = 5
"""Without a test folder, each class's 5th, 10th, ... image in name order is a test image."""

Files = list[tuple[Path, int]]

log = logging.getLogger(__name__)


def load_folder(
    root: Path | str,
    *,
    name: str | None = None,
    memory_limit: int | None = None,
    fit: Fit = Fit(),  # noqa: B008
) -> tuple[ImageSet, ImageSet]:
    """Train and test set from folders of image files, one folder per class.

    Classes are numbered in the order of their folder names, by value where all are whole
    numbers; or as ROOT/classes.txt lists them, one name a line: then a class needs no folder.
    ROOT/CLASS/* without a train folder is split: of each class every fifth file in name order
    goes to the test set, the same in every run. Files that are no such images are left out, and
    the log says how many of which ending.

    Args:
        root: holds train/ and test/ (or validation/, valid/, val/), or the class folders.
        name: of the set, the folder's by default.
        memory_limit: bytes of decoded pixels per split above which they lie in a scratch
            file; by default MEMORY_SHARE of the available memory.
        fit: size and mode to bring them to.

    Raises:
        DataError: no images, an empty class, a damaged image; names the file or folder.
        RunError: the scratch file cannot be written.

    >>> load_folder("nowhere")
    Traceback (most recent call last):
    ...
    mithridate.errors.DataError: nowhere is no folder: check the path
    """
    root = Path(root)
    name = name or root.resolve().name
    splits, classes = _files(root)
    if len(classes) < 2:
        raise DataError(f"{root} has one class alone, {classes[0]}: a classifier has two or more")
    _tell_skipped(root, splits)
    parts: dict[str, tuple[Store, list[int]]] = {}
    for split, files in splits.items():
        store = build_store(
            decode(((_bytes(path), str(path)) for path, _ in files), fit),
            len(files),
            memory_limit=memory_limit,
            what=f"{root} ({split})",
        )
        parts[split] = store, [label for _, label in files]
    return train_and_test(root, parts, classes, name)


def _files(root: Path) -> tuple[dict[str, Files], list[str]]:
    if not root.is_dir():
        raise DataError(f"{root} is no folder: check the path")
    test = next((root / word for word in SPLITS["test"] if (root / word).is_dir()), None)
    if not (root / "train").is_dir():
        if test and any(path.is_dir() for path in test.iterdir()):
            raise DataError(
                f"{root} has {test.name}/ but no train/: add it, or leave {test.name}/ out"
            )
        classes = _classes(root, _listed(root))
        parts: dict[str, Files] = {"train": [], "test": []}
        for label, files in _inside(root, classes):
            for at, file in enumerate(files, 1):
                parts["train" if at % TEST_EVERY else "test"].append((file, label))
        if not parts["test"]:
            raise DataError(
                f"{root} has fewer than {TEST_EVERY} images in every class, too few to split: "
                "make train/ and test/ folders"
            )
        return parts, classes
    if test is None:
        raise DataError(f"{root} has train/ but no test/: add it, or leave the train/ level out")
    listed = _listed(root)
    classes = _classes(root / "train", listed)
    foreign = sorted(set(_classes(test, listed)) - set(classes))
    if foreign:
        raise DataError(f"{test} has classes that train/ lacks ({', '.join(foreign)}): add them")
    return {
        "train": [(file, c) for c, files in _inside(root / "train", classes) for file in files],
        "test": [(file, c) for c, files in _inside(test, classes) for file in files],
    }, classes


def _listed(root: Path) -> list[str]:
    """The names in classes.txt; none where there is no such file."""
    place = root / CLASSES
    text = _bytes(place).decode(errors="replace") if place.exists() else ""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _inside(folder: Path, classes: Sequence[str]) -> list[tuple[int, list[Path]]]:
    """Label and images of each class that has a folder."""
    return [(k, _images(folder / c)) for k, c in enumerate(classes) if (folder / c).is_dir()]


def _classes(folder: Path, listed: list[str]) -> list[str]:
    """All classes in order: those listed, else the folders."""
    names = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not names:
        raise DataError(f"{folder} has no class folders: give CLASS/*.png inside, or Parquet files")
    if listed:
        foreign = sorted(set(names) - set(listed))
        if foreign:
            raise DataError(
                f"{folder / foreign[0]}: {CLASSES} names no such class; rename the folder or add it"
            )
        return listed
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def _images(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise DataError(
            f"{folder} is a class without images that are read ({' '.join(SUFFIXES)}): fill or "
            "remove it"
        )
    return files


def _tell_skipped(root: Path, splits: dict[str, Files]) -> None:
    """Log what lies in the class folders and was left out."""
    read = {path for files in splits.values() for path, _ in files}
    endings = Counter(
        path.suffix.lower() or "no ending"
        for folder in {path.parent for path in read}
        for path in folder.rglob("*")
        if path.is_file()
        and path not in read
        and not path.name.startswith(".")
        and path.name.lower() not in SILENT
    )
    if endings:
        parts = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
        log.warning("%s: %d files left out (%s)", root, endings.total(), parts)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): replace or remove it") from None
