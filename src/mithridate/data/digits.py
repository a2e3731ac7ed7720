"""The 8x8 digits embedded in scikit-learn: real handwriting, no download."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits as _embedded

from mithridate.data.image_set import ImageSet


def load_digits() -> tuple[ImageSet, ImageSet]:
    """1,437 training and 360 test images, 1 x 8 x 8, ten classes.

    The 17 grey levels 0..16 become 0..255, rounded. The split is fixed and stratified without
    a seed: sorted by class, every fifth image is a test image. Neighbours in the file come
    from the same writers, so the split measures new images and not new writers.

    >>> train, test = load_digits()
    >>> len(train), len(test), train.image_shape
    (1437, 360, (1, 8, 8))
    """
    source = _embedded()
    pixels = np.rint(source.images * (255 / 16)).astype(np.uint8)
    order = np.argsort(source.target, kind="stable")
    test = np.zeros(len(order), bool)
    test[order[::5]] = True
    images = torch.from_numpy(pixels)[:, None]
    labels = torch.from_numpy(source.target.astype(np.int64))
    names = [str(name) for name in range(10)]
    rows = torch.from_numpy(test)
    return (
        ImageSet(images[~rows], labels[~rows], names, "digits/train"),
        ImageSet(images[rows], labels[rows], names, "digits/test"),
    )
