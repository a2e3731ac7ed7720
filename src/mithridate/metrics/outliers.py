"""How far the largest entry of a table of pairs lies above the rest, robustly."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment

LEAST = 0.05
"""Median absolute deviations below it count as that: entries that are all alike tell nothing."""

FORMS = ("pair", "target", "all")
"""What `forms` gives."""


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


def standard(table: torch.Tensor) -> torch.Tensor:
    """A table less its median, in deviations: 1.4826 median absolute ones, `LEAST` at least.

    >>> [round(float(value), 3) for value in standard(torch.tensor([0.0, 1.0, 2.0, 4.0]))]
    [-0.674, 0.0, 0.674, 2.023]
    """
    values = table[~table.isnan()]
    if len(values) == 0:
        return table
    middle = values.median()
    return (table - middle) / (1.4826 * (values - middle).abs().median()).clamp(min=LEAST)


def forms(table: torch.Tensor) -> dict[str, float]:
    """How much a table of pairs (K, K) tells of a backdoor of each form; 0 of an empty one.

    `pair` is the largest entry (one to one), `target` the largest mean of a column (all to one),
    `all` the mean over the assignment of columns to rows whose sum is largest, less the fifth of
    the rows that have least (all to all): a trigger need not be found for every class.

    >>> table = torch.tensor([[torch.nan, 5.0, 1.0], [0.0, torch.nan, 5.0], [5.0, 1.0, torch.nan]])
    >>> forms(table)
    {'pair': 5.0, 'target': 3.0, 'all': 5.0}
    """
    there = ~table.isnan()
    if not bool(there.any()):
        return dict.fromkeys(FORMS, 0.0)
    columns = table.nanmean(0)
    chosen = assigned(table)
    kept = chosen.sort(descending=True).values[: max(1, len(chosen) - len(table) // 5)]
    return {
        "pair": float(table[there].max()),
        "target": float(columns[~columns.isnan()].max()),
        "all": float(kept.mean()),
    }


def assigned(table: torch.Tensor) -> torch.Tensor:
    """The entries of the assignment of columns to rows whose sum is largest."""
    values = table[~table.isnan()]
    least = float(values.min()) - 1e3 * (1 + float(values.max() - values.min()))
    rows, columns = linear_sum_assignment(table.nan_to_num(least).numpy(), maximize=True)
    chosen = table[torch.from_numpy(rows), torch.from_numpy(columns)]
    return chosen[~chosen.isnan()]


def filled(table: torch.Tensor) -> torch.Tensor:
    """A table of pairs (K, K) where what was not looked at tells as little as what tells least.

    >>> filled(torch.tensor([[torch.nan, 3.0], [torch.nan, torch.nan]])).tolist()
    [[nan, 3.0], [3.0, nan]]
    """
    least = float(table.nan_to_num(torch.inf).min())
    own = torch.eye(len(table), dtype=torch.bool)
    return table.nan_to_num(least).masked_fill(own, torch.nan)


def pointed_at(table: torch.Tensor, form: str) -> tuple[int, int]:
    """The (row, column) that a table of pairs points to by one of its `forms`.

    >>> table = torch.tensor([[torch.nan, 3.0, 0.0], [0.0, torch.nan, 2.0], [0.2, 0.9, torch.nan]])
    >>> pointed_at(table, "pair"), pointed_at(-table, "target")
    ((0, 1), (1, 0))
    """
    there = table.nan_to_num(-torch.inf)
    if form == "target":
        best = int(table.nanmean(0).nan_to_num(-torch.inf).argmax())
        return int(there[:, best].argmax()), best
    row, column = divmod(int(there.argmax()), table.shape[1])
    return row, column


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
