"""Defences: what training and prediction cost over the bare passes, and how far training gets.

    python -m benchmarks.defences training [--network borji-cnn] [--images 512]
    python -m benchmarks.defences prediction [--network borji-cnn] [--images 512]
    python -m benchmarks.defences passes [--network resnet18] [--images 5120] [--device cuda]
    python -m benchmarks.defences mnist OUT.safetensors [--epochs 30] [--steps 10]
    python -m benchmarks.defences cifar10 OUT.safetensors [--way n-fgsm] [--device cuda]
    python -m benchmarks.defences measure MODEL.safetensors [--images 1000] [--attack pgd,apgd,...]

`training` prints PGD-40's epoch over the 40 passes to the input and the one to the weights that it
needs, in one run, and one of N-FGSM over one of PGD-7; beside ART's trainer where that is
installed. `prediction` prints what a model behind each transform and detector takes over the model
alone, and Defense-GAN over the passes through the generator that it makes; nothing has learned,
which changes no arithmetic. `passes` prints images a second of N-FGSM and PGD-10 on CIFAR-10 in
bfloat16, and of the bare passes that they need, channels-last. `mnist` trains a network by PGD at
eps 0.3, `cifar10` one for 8/255 or a plain one, `measure` attacks either.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mithridate as mi
from benchmarks.timing import bare_passes, ratio, side_by_side
from mithridate import component
from mithridate.data import ImageSet
from mithridate.defenses.detect.base import Detector, FittedDetector
from mithridate.defenses.transform.base import LearnedTransform
from mithridate.metrics import wilson
from mithridate.networks.wgan import WGAN
from mithridate.training import predict

EPS = 0.3
EPS_CIFAR = 8 / 255


def training(given: argparse.Namespace) -> None:
    """Seconds of an epoch, and ratios of the same turn."""
    train, _ = mi.load_data("mnist")
    data = train.subset(range(given.images))
    net = mi.networks.create(given.network, image_shape=train.image_shape, classes=10)
    ours = mi.hardeners

    def epoch(way: mi.hardeners.Hardener) -> None:
        way.train(net, data, epochs=1, rng=mi.rng(0))

    def bare(passes: int) -> None:
        bare_passes(net, data.batch(range(len(data)))[0], passes)
        bare_training(net, data)

    tasks = {
        "bare PGD-40": lambda: bare(40),
        "PGD-40": lambda: epoch(ours.AdversarialTraining(eps=EPS, steps=40, canary=0)),
        "PGD-7": lambda: epoch(ours.AdversarialTraining(eps=EPS, steps=7, canary=0)),
        "N-FGSM": lambda: epoch(ours.NFGSM(eps=EPS, canary=0)),
        "TRADES-10": lambda: epoch(ours.Trades(eps=EPS, canary=0)),
        "free, 8 replays": lambda: epoch(ours.FreeAdversarialTraining(eps=EPS, canary=0)),
        **art(net, data),
    }
    seconds = side_by_side(tasks, repeats=given.repeats)
    print(f"{given.network}, {len(data)} images, {torch.get_num_threads()} threads")
    for name, values in seconds.items():
        against = ratio(values, seconds["bare PGD-40"])
        print(f"  {name:16} {min(values):8.2f} s  {against:5.2f} x the bare passes of PGD-40")
    print(f"  N-FGSM over PGD-7: {ratio(seconds['N-FGSM'], seconds['PGD-7']):.2f}")


def bare_training(net: nn.Module, data: ImageSet) -> None:
    """An epoch of plain steps by hand, in the default layout."""
    optimizer = torch.optim.Adam(net.parameters())
    for x, y in data.batches(128):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def art(net: nn.Module, data: ImageSet) -> dict[str, object]:
    """ART's trainer with the same 40 steps, where it is installed."""
    try:
        from art.attacks.evasion import ProjectedGradientDescent
        from art.defences.trainer import AdversarialTrainer
        from art.estimators.classification import PyTorchClassifier
    except Exception:
        return {}
    model = PyTorchClassifier(
        net,
        nn.CrossEntropyLoss(),
        data.image_shape,
        data.classes,
        optimizer=torch.optim.Adam(net.parameters()),
        clip_values=(0, 1),
    )
    attack = ProjectedGradientDescent(
        model, eps=EPS, eps_step=EPS / 16, max_iter=40, batch_size=128, verbose=False
    )
    x, y = (part.numpy() for part in data.batch(range(len(data))))
    trainer = AdversarialTrainer(model, attack, ratio=1.0)
    return {"ART PGD-40": lambda: trainer.fit(x, y, batch_size=128, nb_epochs=1)}


def prediction(given: argparse.Namespace) -> None:
    """Seconds to label the images, and ratios of the same turn."""
    _, test = mi.load_data("mnist")
    x, shape = test.batch(range(given.images))[0], test.image_shape
    net = mi.networks.create(given.network, image_shape=shape, classes=10)
    model = mi.Classifier(net, classes=10, image_shape=shape)
    protected = {"no defence": model}
    for kind in ("transforms", "detectors"):
        for name in component.in_order(kind):
            cls = component.find(kind, name)
            if "generator" in cls.about.needs:
                continue
            link = component.create(kind, name, cls.usual(shape))
            if isinstance(link, LearnedTransform):
                link = replace(link, learned=link.build(shape).eval())
            elif isinstance(link, Detector):
                link = FittedDetector(link, link.scorer(model, shape))
            protected[name] = link.wrap(model)
    seconds = side_by_side(
        {name: partial(one.labels, x) for name, one in protected.items()}, repeats=given.repeats
    )
    print(f"{given.network}, {len(x)} images, {torch.get_num_threads()} threads")
    for name, values in seconds.items():
        print(f"  {name:18} {min(values):7.3f} s  {ratio(values, seconds['no defence']):6.2f} x")
    gan, few = WGAN(shape), x[: given.codes]
    defense = mi.transforms.DefenseGAN(generator=gan, steps=given.steps)
    seconds = side_by_side(
        {"ours": partial(defense.codes, few), "bare": partial(_searched, gan, few, defense)},
        repeats=given.repeats,
    )
    against = ratio(seconds["ours"], seconds["bare"])
    print(f"  defense-gan, {len(few)} images, {defense.steps} steps, {defense.restarts} restarts:")
    print(f"  {min(seconds['ours']):7.2f} s  {against:.2f} x the passes through the generator")


def _searched(gan: WGAN, x: Tensor, defense: mi.transforms.DefenseGAN) -> None:
    """As many passes to the codes as the search makes, in batches of 128, and nothing else."""
    codes = torch.randn(len(x) * defense.restarts, gan.latent)
    for _ in range(defense.steps):
        for part in codes.split(128):
            leaf = part.requires_grad_()
            torch.autograd.grad(gan.generate(leaf).sum(), leaf)


def passes(given: argparse.Namespace) -> None:
    """Images a second of an epoch of training, and of as many bare passes."""
    train, _ = mi.load_data("cifar10")
    data = train.subset(range(given.images))
    net = mi.networks.create(given.network, image_shape=train.image_shape, classes=10)
    x, y = (part.to(given.device) for part in data.batch(range(len(data))))
    ways = {
        "plain": (0, mi.fit),
        "N-FGSM": (1, mi.hardeners.NFGSM(eps=EPS_CIFAR, canary=0).train),
        "PGD-10": (10, mi.hardeners.AdversarialTraining(eps=EPS_CIFAR, steps=10, canary=0).train),
    }
    model = mi.Classifier(
        net, classes=10, image_shape=x.shape[1:], device=given.device, channels_last=True
    )
    tasks = {}
    for name, (count, way) in ways.items():
        settings = {"epochs": 1, "batch_size": given.batch, "autocast": True, "rng": mi.rng(0)}
        settings |= {"optimizer": "sgd", "lr": 0.1}
        tasks[name] = partial(way, model, data, **settings)
        tasks[f"{name}, bare"] = partial(_bare, model.module, x, y, count, given.batch)
    seconds = side_by_side(tasks, repeats=given.repeats)
    print(f"{given.network}, {len(data)} images in batches of {given.batch}, bfloat16")
    for name in ways:
        own, bare = seconds[name], seconds[f"{name}, bare"]
        print(
            f"  {name:8}{len(data) / min(own):9,.0f} images/s, bare "
            f"{len(data) / min(bare):9,.0f}: {ratio(own, bare):5.2f} x the time"
        )


def _bare(module: nn.Module, x: Tensor, y: Tensor, passes: int, batch: int) -> None:
    """`passes` to the input and one to the weights for each batch, in bfloat16, by hand."""
    net = deepcopy(module).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for part, label in zip(x.split(batch), y.split(batch), strict=True):
        part = part.to(memory_format=torch.channels_last)
        net.eval().requires_grad_(False)
        with torch.autocast(x.device.type, torch.bfloat16):
            for _ in range(passes):
                leaf = part.detach().requires_grad_()
                torch.autograd.grad(F.cross_entropy(net(leaf), label), leaf)
            net.train().requires_grad_(True)
            loss = F.cross_entropy(net(part), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def mnist(given: argparse.Namespace) -> None:
    """Train at a little more than eps, so that the surface of the ball of eps is inside."""
    train, _ = mi.load_data("mnist")
    net = mi.networks.create(given.network, image_shape=train.image_shape, classes=10)
    way = mi.hardeners.AdversarialTraining(
        eps=given.eps, steps=given.steps, ramp=given.ramp, average=0.998, canary=500
    )
    _train(given, way.train, net, train)


def cifar10(given: argparse.Namespace) -> None:
    """Train for changes of 8/255 (stochastic gradient descent, an average of the weights)."""
    train, _ = mi.load_data("cifar10")
    train = train.subset(range(given.images or len(train)))
    net = mi.networks.create(given.network, image_shape=train.image_shape, classes=10)
    shared = {"eps": EPS_CIFAR, "ramp": 0, "average": 0.998, "canary": 500}
    ways = {
        "plain": mi.fit,
        "n-fgsm": mi.hardeners.NFGSM(**shared).train,
        "pgd-10": mi.hardeners.AdversarialTraining(steps=10, **shared).train,
    }
    more = {"optimizer": "sgd", "weight_decay": 5e-4, "batch_size": given.batch}
    _train(given, ways[given.way], net, train, device=given.device, **more)


def _train(
    given: argparse.Namespace,
    way: Callable[..., mi.Classifier],
    net: nn.Module | mi.Classifier,
    data: ImageSet,
    **more: object,
) -> None:
    """Train, keep, and say how long it took and what the canary said."""
    began = time.perf_counter()

    def tell(done: int, total: int, text: str) -> None:
        if done % max(1, total // (2 * given.epochs)) == 0:
            print(f"{time.perf_counter() - began:6.0f} s  {done}/{total} {text}", flush=True)

    model = way(
        net,
        data,
        epochs=given.epochs,
        rng=mi.rng(given.seed),
        lr=given.lr,
        schedule="onecycle",
        autocast=not given.float32,
        progress=tell,
        checkpoint=f"{given.out}.run",
        **more,
    )
    mi.save(model, given.out)
    training = model.info["training"]
    print(f"{(time.perf_counter() - began) / 60:.1f} min, canary {training.get('scores')}")
    print(f"kept epoch {training.get('kept_epoch')}, doubts {training.get('doubts')}")


def measure(given: argparse.Namespace) -> None:
    """Accuracy before and after each attack; an image counts where it withstood all so far."""
    model = mi.load(given.model, device=given.device)
    assert model.image_shape is not None
    colour = model.image_shape[0] == 3
    _, test = mi.load_data("cifar10" if colour else "mnist")
    eps = EPS_CIFAR if colour else EPS
    pgd = {"step_size": eps / 4, "steps": 50} if colour else {"step_size": 0.01, "steps": 100}
    right = predict(model, test) == test.labels
    print(f"clean {wilson(int(right.sum()), len(right))} of {len(right)}")
    attacks = {
        "pgd": mi.attacks.PGD(eps=eps, restarts=10, **pgd),
        "apgd": mi.attacks.APGD(eps=eps, steps=100),
        "square": mi.attacks.Square(eps=eps, queries=5000),
        "autoattack": mi.attacks.AutoAttack(eps=eps),
    }
    x, y = test.batch(range(given.images))
    left = torch.arange(given.images)
    for name in given.attack.split(","):
        result = mi.run_attack(
            attacks[name], model, x[left], mi.Untargeted(y[left]), rng=mi.rng(given.seed)
        )
        left = left[result.predicted.cpu() == y[left]]
        print(f"{name}: {wilson(len(left), given.images)} left", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    for run in (training, prediction):
        verb = verbs.add_parser(run.__name__)
        verb.add_argument("--network", default="borji-cnn")
        verb.add_argument("--images", type=int, default=512)
        verb.add_argument("--repeats", type=int, default=3)
        verb.set_defaults(run=run)
    verb.add_argument("--codes", type=int, default=16, help="images of Defense-GAN")
    verb.add_argument("--steps", type=int, default=50, help="of its searches")
    verb = verbs.add_parser("passes")
    verb.add_argument("--network", default="resnet18")
    verb.add_argument("--images", type=int, default=5120)
    verb.add_argument("--batch", type=int, default=256)
    verb.add_argument("--repeats", type=int, default=3)
    verb.add_argument("--device", default="cpu")
    verb.set_defaults(run=passes)
    verb = verbs.add_parser("cifar10")
    verb.add_argument("out")
    verb.add_argument("--network", default="resnet18")
    verb.add_argument("--images", type=int, help="the first so many; default: all")
    verb.add_argument("--way", default="n-fgsm", choices=("plain", "n-fgsm", "pgd-10"))
    verb.add_argument("--epochs", type=int, default=30)
    verb.add_argument("--batch", type=int, default=256)
    verb.add_argument("--lr", type=float, default=0.3)
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--device", default="cpu")
    verb.add_argument("--float32", action="store_true")
    verb.set_defaults(run=cifar10)
    verb = verbs.add_parser("mnist")
    verb.add_argument("out")
    verb.add_argument("--network", default="borji-cnn")
    verb.add_argument("--epochs", type=int, default=30)
    verb.add_argument("--steps", type=int, default=10)
    verb.add_argument("--eps", type=float, default=0.31)
    verb.add_argument("--lr", type=float, default=2e-3)
    verb.add_argument("--ramp", type=float, default=0.4)
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--float32", action="store_true")
    verb.set_defaults(run=mnist)
    verb = verbs.add_parser("measure")
    verb.add_argument("model")
    verb.add_argument("--images", type=int, default=1000)
    verb.add_argument("--attack", default="pgd,apgd,square,autoattack")
    verb.add_argument("--device", default="cpu")
    verb.add_argument("--seed", type=int, default=0)
    verb.set_defaults(run=measure)
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
