"""What transforms and detectors leave to attacks that know them or not, and what they cost.

    python -m benchmarks.filters [--data mnist] [--network borji-cnn] [--images 100] [--eps 0.3]
                                 [--train 12000] [--epochs 2] [--model FILE] [--times-only]
                                 [--only NAME,...]

Each at its usual settings. "ignores" and "knows": the accuracy under PGD-40 and APGD-40 of who
ignores it and of who knows it; a rejected image counts as not fooled. "times" is the time of a
prediction over that of the bare model, in turns of one process. Defense-GAN's search is timed
over the passes of the generator that it needs, with an untrained generator.
"""

from __future__ import annotations

import argparse

import torch

import mithridate as mi
from benchmarks.timing import ratio, side_by_side
from mithridate.component import create, find, in_order
from mithridate.defenses.transform import LearnedTransform
from mithridate.networks.wgan import WGAN

GENERATOR = ("defense-gan", "defense-gan-detector")


def usual(kind: str, name: str, shape: tuple[int, int, int]) -> object:
    """The component at its usual settings."""
    return create(kind, name, find(kind, name).usual(shape))


def left(model: mi.Classifier, x: torch.Tensor, y: torch.Tensor, eps: float, through=None) -> float:
    """Accuracy under PGD and APGD, image by image the worse."""
    attacks = (
        mi.attacks.PGD(eps=eps, steps=40, step_size=eps / 20),
        mi.attacks.APGD(eps=eps, steps=40),
    )
    goal = mi.Untargeted(y)
    runs = [mi.run_attack(a, model, x, goal, rng=mi.rng(0), through=through) for a in attacks]
    return 1 - float((runs[0].success | runs[1].success).float().mean())


def search_ratio(shape: tuple[int, int, int], steps: int = 20, restarts: int = 10) -> float:
    """Time of a search over that of its generator's passes, all restarts of 25 images."""
    gan, x = WGAN(shape), torch.rand((25, *shape), generator=mi.rng(0))
    defense = mi.transforms.DefenseGAN(generator=gan, steps=steps, restarts=restarts)

    def bare() -> None:
        for _ in range(steps):
            z = torch.randn(25 * restarts, gan.latent).requires_grad_()
            torch.autograd.grad(gan.generate(z).square().sum(), z)
        with torch.no_grad():
            gan.generate(z)

    times = side_by_side({"ours": lambda: defense.transform(x), "bare": bare}, repeats=3)
    return ratio(times["ours"], times["bare"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--network", default="borji-cnn")
    parser.add_argument("--model")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--train", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--times-only", action="store_true")
    parser.add_argument("--only", default="", help="names, joined by commas")
    given = parser.parse_args()
    train, test = mi.load_data(given.data)
    shape = train.image_shape
    if given.model:
        model = mi.load(given.model)
    elif given.times_only:
        net = mi.networks.create(given.network, image_shape=shape, classes=train.classes)
        model = mi.Classifier(net, classes=train.classes, image_shape=shape)
    else:
        net = mi.networks.create(given.network, image_shape=shape, classes=train.classes)
        model = mi.fit(net, train, epochs=given.epochs, rng=mi.rng(0))
    learn = train.subset(range(min(given.train, len(train))))
    x, y = test.batch(range(min(given.images, len(test))))
    many, labels = test.batch(range(min(1000, len(test))))
    print(f"Defense-GAN's search, times its passes: {search_ratio(shape):.2f}", flush=True)
    print(f"{'':22}{'clean':>8}{'rejected':>10}{'ignores':>9}{'knows':>7}{'times':>7}")
    for kind in ("transforms", "detectors"):
        for name in in_order(kind):
            if name in GENERATOR or (given.only and name not in given.only.split(",")):
                continue
            link = usual(kind, name, shape)
            if isinstance(link, LearnedTransform):
                link = link.fit(learn, rng=mi.rng(0))
            elif kind == "detectors":
                link = link.fit(model, learn, rng=mi.rng(0))
            behind = link.wrap(model)
            times = side_by_side(
                {
                    "ours": lambda m=behind: m.labels(many[:256]),
                    "bare": lambda: model.labels(many[:256]),
                }
            )
            cost = ratio(times["ours"], times["bare"])
            if given.times_only:
                print(f"{name:22}{'':34}{cost:7.2f}", flush=True)
                continue
            answers = behind.labels(many)
            print(
                f"{name:22}{float((answers == labels).float().mean()):8.3f}"
                f"{float((answers == train.classes).float().mean()):10.3f}"
                f"{left(behind, x, y, given.eps, model):9.2f}{left(behind, x, y, given.eps):7.2f}"
                f"{cost:7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
