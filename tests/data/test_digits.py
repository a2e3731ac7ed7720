import numpy as np
import torch
from sklearn import datasets

from mithridate.data import load_data


def test_counts_split_and_values():
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
