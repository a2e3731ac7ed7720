"""`python -m benchmarks.zoo build|score --data mnist [cifar10 digits] [--models 200]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.zoo import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("build",))
    parser.add_argument("--data", nargs="+", default=["mnist"])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("zoo"))
    given = parser.parse_args()
    for data in given.data:
        models = range(given.first, given.models)
        build.build_all(given.folder, data, models, given.workers)


if __name__ == "__main__":
    main()
