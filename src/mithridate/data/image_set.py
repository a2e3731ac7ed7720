"""Labelled images: uint8 in a store, float32 batches out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mithridate.data.decode import way_out
from mithridate.data.store import ChangedStore, Store, SubsetStore, TensorStore
from mithridate.data.valid import (
    Images,
    Labels,
    Rows,
    as_pixels,
    check_class_names,
    check_labels,
    rounded,
    row_numbers,
)
from mithridate.errors import DataError, InputError, check_number, check_whole
from mithridate.rng import as_generator, child


@final
class ImageSet:
    """Images with one label each, immutable by convention.

    Args:
        images: uint8 N x C x H x W (tensor or array, shared, not copied), or a Store.
        labels: N whole numbers in 0..len(class_names) - 1.
        class_names: one distinct name per class, in label order, or by number in a dict.
        name: what reports call the set.

    Raises:
        InputError: empty, wrong type, rank, layout or length, labels out of range.

    >>> data = ImageSet(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), [0, 1, 1], ["no", "yes"])
    >>> x, y = data.batch(range(2))
    >>> x.shape, x.dtype, y
    (torch.Size([2, 1, 2, 2]), torch.float32, tensor([0, 1]))
    """

    def __init__(
        self,
        images: Images | Store,
        labels: Labels,
        class_names: Sequence[str] | Mapping[Any, str],
        name: str = "images",
    ) -> None:
        self._store = images if isinstance(images, Store) else TensorStore(as_pixels(images))
        if len(self._store) == 0:
            raise InputError("an image set needs at least one image, got none")
        self._names = check_class_names(class_names)
        self._labels = check_labels(labels, len(self._names)).clone()
        if len(self._labels) != len(self._store):
            raise InputError(
                f"{len(self._store)} images and {len(self._labels)} labels: one label per image"
            )
        self.name = name

    @classmethod
    def from_float(
        cls,
        x: Tensor,
        labels: Labels,
        class_names: Sequence[str] | Mapping[Any, str],
        name: str = "images",
    ) -> ImageSet:
        """From float images in [0, 1], rounded to the nearest of 256 levels.

        Raises:
            InputError: as `check_images`, and as the constructor.

        >>> ImageSet.from_float(torch.full((1, 1, 1, 1), 0.5), [0], ["a"]).raw([0]).item()
        128
        """
        return cls(rounded(x), labels, class_names, name)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self._store.image_shape

    @property
    def classes(self) -> int:
        """How many classes there are names for."""
        return len(self._names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return self._names

    @property
    def labels(self) -> Tensor:
        """int64 (N,), not to be written to."""
        return self._labels

    def __len__(self) -> int:
        return len(self._store)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        return f"ImageSet({self.name!r}, {len(self)} images {shape}, {self.classes} classes)"

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, dict[str, int]]:
        """Image, label (one-hot) and {"id": row}: with `metadata` MAITE's `Dataset`.

        Raises:
            IndexError: no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self.name} has {len(self)} images, got row {row}")
        x, y = self.batch([row])
        return x[0], one_hot(y, self.classes)[0].float(), {"id": row}

    @property
    def metadata(self) -> dict[str, Any]:
        """Its name and classes, as MAITE has them."""
        return {"id": self.name, "index2label": dict(enumerate(self._names))}

    def raw(self, rows: Rows) -> Tensor:
        """The stored pixels, uint8 (n, C, H, W), a copy.

        Raises:
            InputError: rows that are no row numbers or not in the set.

        >>> ImageSet(torch.full((2, 1, 1, 1), 7).byte(), [0, 0], ["a"]).raw([1]).item()
        7
        """
        return self._store.read(self._index(rows))

    def batch(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Images and labels of some rows: float32 in [0, 1] (n, C, H, W), int64 (n,).

        Args:
            rows: a range, a slice, row numbers, or a bool mask of length N.

        Raises:
            InputError: rows that are no row numbers or not in the set.

        >>> ImageSet(torch.full((2, 1, 1, 1), 255).byte(), [0, 0], ["a"]).batch([1])[0].item()
        1.0
        """
        index = self._index(rows)
        return self._store.read(index).float().div_(255), self._labels[index]

    def batches(
        self, size: int, *, rng: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Once through the set, in order, or shuffled where an rng is given.

        Args:
            size: images per batch; the last may be smaller.
            rng: shuffles; drawn from once, now.
            drop_last: leave a smaller last batch out.

        Raises:
            InputError: size below 1, or drop_last with a size larger than the set.

        >>> data = ImageSet(torch.zeros(5, 1, 1, 1).byte(), [0] * 5, ["a"])
        >>> [len(y) for _, y in data.batches(2)]
        [2, 2, 1]
        """
        check_number("batch size", size, low=1)
        if drop_last and size > len(self):
            raise InputError(
                f"batches of {size} with drop_last leave nothing of {len(self)} images: "
                "take a smaller batch size"
            )
        order = torch.arange(len(self))
        if rng is not None:
            order = torch.randperm(len(self), generator=rng, device=rng.device).cpu()
        stop = len(self) - len(self) % size if drop_last else len(self)
        return (self.batch(order[at : at + size]) for at in range(0, stop, size))

    def of_class(self, c: int) -> Tensor:
        """Row numbers of a class, ascending, int64.

        Raises:
            InputError: no such class, or no image of it.

        >>> ImageSet(torch.zeros(3, 1, 1, 1).byte(), [1, 0, 1], ["a", "b"]).of_class(1)
        tensor([0, 2])
        """
        if isinstance(c, bool) or not isinstance(c, int) or not 0 <= c < self.classes:
            raise InputError(f"classes of {self.name} are 0..{self.classes - 1}, got {c!r}")
        rows = (self._labels == c).nonzero()[:, 0]
        if len(rows) == 0:
            raise InputError(
                f"{self.name} has no image of class {c} ({self._names[c]}): take another class"
            )
        return rows

    def subset(self, rows: Rows, name: str | None = None) -> ImageSet:
        """Some rows, in the order given, as a set of their own; pixels are shared.

        Raises:
            InputError: no rows, or rows not in the set.

        >>> len(ImageSet(torch.zeros(5, 1, 1, 1).byte(), [0] * 5, ["a"]).subset(range(0, 5, 2)))
        3
        """
        index = self._index(rows)
        if len(index) == 0:
            raise InputError(f"a subset of {self.name} needs at least one row, got none")
        store = SubsetStore(self._store, index)
        return ImageSet(store, self._labels[index], self._names, name or self.name)

    def with_changes(
        self,
        rows: Rows,
        images: Images,
        labels: Labels | None = None,
        name: str | None = None,
    ) -> ImageSet:
        """A new set in which some rows are replaced; this one stays as it is.

        Args:
            rows: distinct rows, n of them.
            images: uint8, or float in [0, 1] (rounded), (n, C, H, W).
            labels: n new labels; kept where None.
            name: of the new set; kept where None.

        Raises:
            InputError: repeated rows, or images or labels that do not fit.

        >>> data = ImageSet(torch.zeros(2, 1, 1, 1).byte(), [0, 0], ["a", "b"])
        >>> data.with_changes([1], torch.ones(1, 1, 1, 1), [1]).batch([1])
        (tensor([[[[1.]]]]), tensor([1]))
        """
        index = self._index(rows)
        if len(set(index.tolist())) != len(index):
            raise InputError("rows to change are distinct, got some row twice")
        pixels = as_pixels(images, or_float=True)
        if tuple(pixels.shape) != (len(index), *self.image_shape):
            raise InputError(
                f"changes to {len(index)} rows of {self.name} have shape "
                f"{(len(index), *self.image_shape)}, got {tuple(pixels.shape)}"
            )
        after = self._labels.clone()
        if labels is not None:
            new = check_labels(labels, self.classes)
            if len(new) != len(index):
                raise InputError(f"{len(index)} rows and {len(new)} labels: one label per row")
            after[index] = new
        store = ChangedStore(self._store, index, pixels)
        return ImageSet(store, after, self._names, name or self.name)

    def renamed(self, class_names: Sequence[str]) -> ImageSet:
        """The same images, whose classes are called otherwise; there may be more of them.

        Raises:
            InputError: too few names, or one twice.

        >>> ImageSet(torch.zeros(1, 1, 1, 1).byte(), [0], ["0"]).renamed(["cat", "dog"]).classes
        2
        """
        return ImageSet(self._store, self._labels, class_names, self.name)

    def with_class(self, name: str, images: Images) -> ImageSet:
        """A new set with one class more, of which these are the images, after all others.

        Args:
            images: uint8, or float in [0, 1] (rounded), (n, C, H, W); n may be 0.

        Raises:
            InputError: a class of that name is there, or images of another shape.

        >>> data = ImageSet(torch.zeros(2, 1, 1, 1).byte(), [0, 0], ["a"])
        >>> data.with_class("b", torch.ones(1, 1, 1, 1)).batch([2])
        (tensor([[[[1.]]]]), tensor([1]))
        """
        pixels, count = as_pixels(images, or_float=True), len(self)
        if tuple(pixels.shape[1:]) != self.image_shape:
            raise InputError(f"images of {self.name} are {self.image_shape}, got {pixels.shape}")
        new = torch.arange(count, count + len(pixels))
        rows = torch.cat([torch.arange(count), torch.zeros_like(new)])
        labels = torch.cat([self._labels, torch.full_like(new, self.classes)])
        store = ChangedStore(SubsetStore(self._store, rows), new, pixels)
        return ImageSet(store, labels, [*self._names, name], self.name)

    def fingerprint(self) -> str:
        """sha256 over shape, class names, pixels and labels; the set's own name is left out.

        >>> data = ImageSet(torch.zeros(2, 1, 1, 1).byte(), [0, 0], ["a"])
        >>> data.fingerprint() == data.subset([1, 0], name="b").fingerprint()
        True
        """
        header = json.dumps([len(self), *self.image_shape, *self._names])
        digest = hashlib.sha256(header.encode())
        step = max(1, 2**22 // prod(self.image_shape))
        for at in range(0, len(self), step):
            digest.update(self.raw(slice(at, at + step)).numpy().tobytes())
        digest.update(self._labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def _index(self, rows: Rows) -> Tensor:
        return row_numbers(rows, len(self), self.name)


def train_and_test(
    where: object, parts: Mapping[str, tuple[Store, Labels]], classes: Sequence[str], name: str
) -> tuple[ImageSet, ImageSet]:
    """The sets of a source's "train" and "test" part, in this order.

    Raises:
        DataError: a part that is no image set, or images of two shapes; names `where`.
    """
    sets = []
    for split, (store, labels) in parts.items():
        try:
            sets.append(ImageSet(store, labels, classes, f"{name}/{split}"))
        except InputError as error:
            raise DataError(f"{where} ({split}): {error}") from None
    train, test = sets
    if train.image_shape != test.image_shape:
        raise DataError(
            f"{where}: train images are {train.image_shape}, test images {test.image_shape}: "
            f"{way_out(train.image_shape, test.image_shape)}"
        )
    return train, test


def some_rows(data: ImageSet, count: int, rng: torch.Generator) -> Tensor:
    """At most `count` random rows, ascending; the same for a seed.

    Raises:
        InputError: count below 1.

    >>> from mithridate.rng import rng
    >>> data = ImageSet(torch.zeros(5, 1, 2, 2).byte(), [0, 1, 0, 1, 0], ["a", "b"])
    >>> some_rows(data, 9, rng(0))
    tensor([0, 1, 2, 3, 4])
    """
    if count < 1:
        raise InputError(f"samples is at least 1, got {count}")
    order = torch.randperm(len(data), generator=child(rng, "rows"))
    return order[:count].sort().values


def some_of_each(data: ImageSet, counts: Sequence[int]) -> ImageSet:
    """So many images of each class, at random but always the same, in their order.

    Those of a smaller count are among those of a larger one.

    Args:
        counts: one a class, 0 for none.

    Raises:
        InputError: not one count a class, one above what there is, or none above 0.

    >>> data = ImageSet(torch.zeros(5, 1, 1, 1).byte(), [0, 1, 0, 1, 0], ["a", "b"])
    >>> some_of_each(data, [1, 2]).labels.sort().values
    tensor([0, 1, 1])
    """
    there = torch.bincount(data.labels, minlength=data.classes).tolist()
    if len(counts) != len(there):
        raise InputError(f"per_class has one count a class: {len(there)}, got {len(counts)}")
    for name, count, most in zip(data.class_names, counts, there, strict=True):
        check_whole("per_class", count, low=0)
        if count > most:
            raise InputError(f"per_class asks for {count} images of class {name}: it has {most}")
    stream = child(as_generator(0), "per-class")
    order = torch.randperm(len(data), generator=stream)
    labels = data.labels[order]
    rows = [order[labels == k][:count] for k, count in enumerate(counts)]
    kept = torch.cat(rows).sort().values
    if len(kept) == 0:
        raise InputError("per_class keeps no image: raise a count")
    return data.subset(kept)
