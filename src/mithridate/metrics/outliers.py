"""How far the largest entry of a table of pairs lies above the rest, robustly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment

LEAST = 0.05
"""Median absolute deviations below it count as that: entries that are all alike tell nothing."""

BESIDE = ("above", "excess", "above-target", "unlike", "line", "line-target")
"""What `beside` gives."""


def outlier(table: torch.Tensor) -> float:
    """The largest entry above the median, in median absolute deviations.

    Args:
        table: any shape; NaN where there is no entry.

    >>> outlier(torch.tensor([1.0, 2.0, 3.0, 13.0, torch.nan]))
    10.5
    """
    values = table[~table.isnan()]
    if len(values) == 0:
        return 0.0
    middle = values.quantile(0.5)
    spread = (values - middle).abs().quantile(0.5).clamp(min=LEAST)
    return float((values.max() - middle) / spread)


def column(table: torch.Tensor) -> float:
    """The same of the columns' medians: a target that most sources lead to.

    >>> table = torch.tensor([[torch.nan, 1.0, 9.0], [0.0, torch.nan, 9.0], [0.0, 1.0, torch.nan]])
    >>> column(table)
    8.0
    """
    return outlier(table.nanquantile(0.5, dim=0))


def standing_out(table: torch.Tensor) -> tuple[int, int]:
    """The most suspect (row, column): the largest entry, or that of a column that stands out more.

    >>> table = torch.tensor([[torch.nan, 3.0, 0.0], [0.0, torch.nan, 0.1], [0.2, 2.9, torch.nan]])
    >>> standing_out(table)
    (0, 1)
    """
    there = table.nan_to_num(-torch.inf)
    if column(table) > outlier(table):
        best = int(table.nanquantile(0.5, dim=0).nan_to_num(-torch.inf).argmax())
        return int(there[:, best].argmax()), best
    row, best = divmod(int(there.argmax()), table.shape[1])
    return row, best


def permutation(table: torch.Tensor) -> float:
    """The same of a whole permutation: every class leads to another one.

    The mean entry of the assignment of columns to rows whose sum is largest, above the median of
    all, in median absolute deviations.

    >>> table = torch.tensor([[torch.nan, 5.0, 1.0], [0.0, torch.nan, 5.0], [5.0, 1.0, torch.nan]])
    >>> permutation(table)
    1.0
    """
    values = table[~table.isnan()]
    if len(values) == 0:
        return 0.0
    middle = values.quantile(0.5)
    spread = (values - middle).abs().quantile(0.5).clamp(min=LEAST)
    least = float(values.min()) - 1e3 * float(spread)
    rows, columns = linear_sum_assignment(table.nan_to_num(least).numpy(), maximize=True)
    chosen = table[torch.from_numpy(rows), torch.from_numpy(columns)]
    return float((chosen[~chosen.isnan()].mean() - middle) / spread)


def together(tables: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tables of one shape, each less its mean and in its deviations, averaged where they have one.

    >>> one = torch.tensor([[torch.nan, 1.0], [3.0, torch.nan]])
    >>> [round(float(value), 3) for value in together([one, 10 * one]).flatten()]
    [nan, -0.707, 0.707, nan]
    """
    standard = []
    for table in tables:
        values = table[~table.isnan()]
        spread = values.std() if len(values) > 1 else torch.tensor(1.0)
        standard.append((table - values.mean()) / spread.clamp(min=LEAST))
    mean: torch.Tensor = torch.stack(standard).nanmean(0)
    return mean


def beside(table: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """What a table of pairs has that another model's has not.

    `above` is the largest entry of the difference, `excess` the same above its median,
    `above-target` the largest of its columns' medians; `unlike` how far their correlation is from
    1; `line` and `line-target` are `outlier` and `column` of what is left of the table where its
    line over the other's is taken away.

    >>> other = torch.tensor([[torch.nan, 1.0, 2.0], [2.0, torch.nan, 3.0], [3.0, 1.0, torch.nan]])
    >>> found = beside(other + 1, other)
    >>> found["above"], round(found["unlike"], 4), round(found["line"], 4)
    (1.0, 0.0, 0.0)
    """
    there = ~table.isnan() & ~other.isnan()
    if int(there.sum()) < 3:
        return dict.fromkeys(BESIDE, 0.0)
    more = torch.where(there, table - other, torch.nan)
    x, y = other[there], table[there]
    spread = x.var(unbiased=False)
    slope = ((x - x.mean()) * (y - y.mean())).mean() / spread.clamp(min=1e-9)
    rest = torch.where(there, table - slope.clamp(min=0) * other, torch.nan)
    both = (spread * y.var(unbiased=False)).sqrt().clamp(min=1e-9)
    alike = float(((x - x.mean()) * (y - y.mean())).mean() / both)
    targets = more.nanquantile(0.5, dim=0)
    return {
        "above": float(more[there].max()),
        "excess": float(more[there].max() - more[there].quantile(0.5)),
        "above-target": float(targets[~targets.isnan()].max()),
        "unlike": 1 - alike,
        "line": outlier(rest),
        "line-target": column(rest),
    }


def unexplained(table: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """A table less the straight line through it over the entries of another, (K, K).

    A line that would rise is taken as flat: what lies farther apart is no nearer.

    >>> table = torch.tensor([[torch.nan, -2.0], [-4.0, torch.nan]])
    >>> by = torch.tensor([[torch.nan, 1.0], [2.0, torch.nan]])
    >>> unexplained(table, by).nan_to_num(-1.0).tolist()
    [[-1.0, 0.0], [0.0, -1.0]]
    """
    there = ~table.isnan() & ~by.isnan()
    y, x = table[there], by[there]
    if len(x) < 2 or float(x.var(unbiased=False)) == 0:
        return table - y.mean()
    slope = (((x - x.mean()) * (y - y.mean())).mean() / x.var(unbiased=False)).clamp(max=0)
    return table - y.mean() - slope * (by - x.mean())
