"""What people give in Python is taken, or refused in one line; nothing ends in a traceback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SubsetRandomSampler, TensorDataset

import mithridate as mi
from mithridate.data.gather import image_sets
from mithridate.errors import InputError

TRAIN, TEST = mi.load_data("digits")
FEW = TRAIN.subset(range(0, 1437, 12))
X, Y = TEST.batch(range(0, 360, 6))
NET = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
MODEL = mi.Classifier(NET, classes=10, image_shape=(1, 8, 8))
BADNETS = mi.poisons.BadNets(
    trigger=mi.triggers.Patch.named("c-top-right"), source=8, target=9, count=3
)
NOISE = mi.inspectors.WhiteNoise(queries=200)


class Pictures(Dataset):
    """As torchvision's sets: images of Pillow, labels, `.classes`."""

    classes = ("even", "odd")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.full((8, 6, 3), 10 * row, np.uint8)), row % 2


def fitted(data: object, rng: object = 0) -> mi.Classifier:
    return mi.fit(NET, data, epochs=1, rng=rng)


@pytest.mark.parametrize(
    ("call", "same"),
    [
        (lambda: mi.predict(NET, TEST), lambda: mi.predict(MODEL, TEST)),
        (lambda: mi.predict(NET, DataLoader(TensorDataset(X, Y))), lambda: MODEL.labels(X)),
        (lambda: MODEL(list(X.numpy())), lambda: MODEL.logits(X)),
        (lambda: mi.rng(np.int64(3)).initial_seed(), lambda: mi.rng(3).initial_seed()),
        (lambda: mi.Classifier(NET, classes=np.int64(10)).class_names, lambda: MODEL.class_names),
        (
            lambda: BADNETS.poison(TRAIN, rng=0).indices,
            lambda: BADNETS.poison(TRAIN, rng=mi.rng(0)).indices,
        ),
        (
            lambda: NOISE.compare(MODEL, TEST, reference=MODEL, rng=0).statistic,
            lambda: NOISE.compare(MODEL, TEST, reference=MODEL, rng=mi.rng(0)).statistic,
        ),
        (
            lambda: fitted(DataLoader(TensorDataset(*FEW.batch(range(120))), shuffle=True))(X),
            lambda: fitted(FEW, mi.rng(0))(X),
        ),
    ],
)
def test_taken_as_if_it_were_ours(call, same) -> None:
    mine, ours = call(), same()
    assert torch.equal(mine, ours) if isinstance(ours, torch.Tensor) else mine == ours


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mi.Classifier(NET, classes=10, bounds=None), "bounds are"),
        (
            lambda: mi.Classifier(NET, classes=10, compute_batch=-1),
            "compute_batch must be at least",
        ),
        (lambda: mi.Classifier(NET, classes=10, image_shape=8), "image_shape is"),
        (lambda: mi.Classifier(NET, classes=10, device="gpu"), "device 'gpu' cannot be used"),
        (lambda: mi.Classifier(NET, classes=10.0), "classes is how many"),
        (lambda: MODEL.labels(X.numpy()), "float tensor N x C x H x W"),
        (lambda: MODEL.labels((X * 255).byte()), "float tensor N x C x H x W"),
        (lambda: MODEL.labels(X[0]), "the model was built for"),
        (lambda: mi.transforms.SpatialSmoothing().wrap(NET), "wrap it, mi.Classifier"),
        (lambda: mi.guards.QueryGuard().wrap(NET), "wrap it, mi.Classifier"),
        (lambda: mi.save(NET, "x.safetensors"), "wrap it, mi.Classifier"),
        (lambda: mi.load(None), "opened by its name or path"),
        (lambda: mi.load("no.safetensors", device="gpu"), "no such"),
        (lambda: mi.load_data(3), "named by its name or path"),
        (lambda: mi.load_data(Path("no/such")), "does not exist"),
        (lambda: fitted("digits"), "the training set is an ImageSet"),
        (lambda: fitted(FEW, None), "a seed is an integer"),
        (lambda: mi.predict(nn.Linear(3, 2), TEST), "cannot take images of shape"),
        (lambda: mi.attack(3, TEST), "a model is a Classifier or a torch.nn.Module, got int"),
        (lambda: mi.attack(NET, 3), "got int"),
        (lambda: mi.attack(NET, TEST, 3), "got int"),
        (lambda: mi.attack(NET, TEST, []), "no attack"),
        (lambda: mi.attack(NET, TEST, "fgsn"), "did you mean 'fgsm'"),
        (lambda: mi.attack(NET, TEST, "fgsm", epss=1), "did you mean 'eps'"),
        (lambda: mi.attack(NET, TEST, "fgsm", eps="a"), "eps is a number"),
        (lambda: mi.attack(NET, TEST, "fgsm", target=12), "0 to 9"),
        (lambda: mi.attack(NET, TEST, "fgsm", goal="untargeted", target=1), "goal='targeted'"),
        (lambda: mi.attack(NET, (X * 2 - 1, Y)), "undo the normalisation"),
        (lambda: mi.attack(NET, (X, Y), "adversarial-patch"), "needs training images"),
        (lambda: mi.attack(NET, (X, Y), "boundary", target=1), "needs training images"),
        (
            lambda: mi.attack(NET, TEST, mi.attacks.PGD(eps=0.1, step_size=1, steps=1), size=1),
            "size",
        ),
        (lambda: mi.attack(NET, TEST, "fgsm", errors="ignore"), "no way to treat errors"),
        (lambda: mi.audit(NET, TEST, 3), "got int"),
        (lambda: mi.audit(NET, TEST, inspector="maps"), "no inspector named"),
        (lambda: mi.inspect(NET, TEST, inspectors="maps"), "no inspector named"),
    ],
)
def test_refused_in_one_line(call, words) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@pytest.mark.parametrize(
    "call", [lambda: MODEL.to("cuda"), lambda: mi.Classifier(NET, classes=10, device="cuda")]
)
def test_no_cuda_here(call) -> None:
    with pytest.raises(InputError, match="'cuda' cannot be used"):
        call()


def test_a_loader_gives_all_in_order_or_what_its_sampler_picks() -> None:
    data = TensorDataset(
        torch.arange(6)[:, None, None, None].expand(6, 1, 2, 2).byte(), torch.arange(6)
    )
    shuffled = DataLoader(data, batch_size=4, shuffle=True, drop_last=True)
    some = DataLoader(data, sampler=SubsetRandomSampler([4]))
    again = DataLoader(data, sampler=RandomSampler(data, replacement=True, num_samples=9))
    assert image_sets(shuffled)[0].labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert image_sets(some)[0].labels.tolist() == [4]
    assert len(image_sets(again)[0]) == 9


def test_pictures_and_names_of_a_data_set() -> None:
    (data,) = image_sets(torch.utils.data.Subset(Pictures(), [1, 2]), ["no", "yes"])
    assert (data.image_shape, data.class_names) == ((3, 8, 6), ("even", "odd"))
    assert data.raw([0]).unique().tolist() == [10]


def test_rows_as_mappings_and_floats_rounded() -> None:
    rows = [{"image": torch.full((1, 2, 2), 0.5), "label": k} for k in range(3)]
    (data,) = image_sets(DataLoader(rows, batch_size=2))  # type: ignore[arg-type]
    assert data.labels.tolist() == [0, 1, 2]
    assert data.raw([0]).unique().tolist() == [128]
