"""`python -m benchmarks.zoo build|score --data mnist [cifar10 digits] [--models 200]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.zoo import build, score
from mithridate.defenses.inspect import ensemble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("build", "look", "calibrate", "score"))
    parser.add_argument("--data", nargs="+", default=["mnist"])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--images", type=int, nargs="+", default=[100])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("zoo"))
    given = parser.parse_args()
    for data in given.data:
        if given.verb == "build":
            models = range(given.first, given.models)
            build.build_all(given.folder, data, models, given.workers)
        if given.verb == "look":
            for count in given.images:
                score.look_all(
                    given.folder, data, count, given.workers, range(given.first, given.models)
                )
    shipped = Path(ensemble.__file__).with_name(ensemble.FILE)
    if given.verb == "score":
        print("\n".join(score.report(given.folder, given.data, given.images, shipped)))
    if given.verb == "calibrate":
        made = score.ship(given.folder, given.data, given.images, shipped)
        for draws, own in made.items():
            print(f"{draws} draws: {own['slope']}, {own['bias']}, alarm from {own['threshold']}")


if __name__ == "__main__":
    main()
