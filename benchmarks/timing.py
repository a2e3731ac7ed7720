"""Timing that two measurements can be compared by: turn by turn in one process, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


def clock() -> float:
    """Seconds, after the device has finished what was queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def side_by_side(
    tasks: Mapping[str, Callable[[], object]], *, repeats: int = 5, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each task, one list per name: a turn runs every task once.

    Turns interleave, so that a slow spell of the machine falls on all tasks alike; every other
    turn runs backwards, so that none always follows the same one.

    >>> sorted(side_by_side({"a": lambda: 1, "b": lambda: 2}, repeats=2))
    ['a', 'b']
    """
    for _ in range(warm_up):
        for task in tasks.values():
            task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats):
        order = list(tasks) if turn % 2 == 0 else list(tasks)[::-1]
        for name in order:
            began = clock()
            tasks[name]()
            seconds[name].append(clock() - began)
    return seconds


def ratio(top: Sequence[float], bottom: Sequence[float]) -> float:
    """Median over turns of top / bottom: each pair ran in the same turn.

    >>> ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(top, bottom, strict=True))


def bare_passes(module: nn.Module, x: Tensor, passes: int = 1, *, batch: int = 128) -> int:
    """The floor: `passes` forward+backward passes to the input over x, and nothing else.

    Default memory layout, no gradient on parameters, batches of `batch`, as measured for peers.

    Returns:
        Images differentiated.
    """
    wanted = [(p, p.requires_grad) for p in module.parameters()]
    training = module.training
    module.eval().requires_grad_(False)
    try:
        for _ in range(passes):
            for part in x.split(batch):
                leaf = part.detach().requires_grad_()
                torch.autograd.grad(module(leaf).logsumexp(1).sum(), leaf)
    finally:
        module.train(training)
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
    return passes * len(x)
