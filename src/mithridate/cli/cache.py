"""`mithridate cache`: what finished work is kept, whether it is whole, and making room."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import Device, Seed, blocks, shows
from mithridate.errors import InputError, RunError, unknown

if TYPE_CHECKING:
    from mithridate.studies.engine.entry import Kept
    from mithridate.studies.engine.store import Store

DAY = 86_400.0
UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

app = typer.Typer(
    name="cache",
    help="The finished work that studies share: list, verify, trim.",
    rich_markup_mode=None,
)


@app.command("list")
@blocks(screen=shows)
def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="Every unit of this kind.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Sum up what is kept, by kind; of one kind, every unit, the last used first."""
    store = _store()
    kinds: dict[str, list[Kept]] = {}
    for unit in store.entries():
        kinds.setdefault(unit.kind, []).append(unit)
    if kind is not None and kind not in kinds:
        raise unknown("kind in the cache", kind, kinds)
    if kind is not None:
        entries = [_unit(unit) for unit in sorted(kinds[kind], key=lambda unit: -unit.used)]
        rows = [(t["unit"][:12], *_shared(t), _brief(t["spec"])) for t in entries]
        screen.table(("unit", "size", "made in", "last used", kind), rows)
    else:
        entries = [_sum(name, units) for name, units in sorted(kinds.items())]
        rows = [(t["kind"], str(t["units"]), *_shared(t)) for t in entries]
        screen.table(("kind", "units", "size", "made in", "last used"), rows)
    every = [unit for units in kinds.values() for unit in units]
    total = sum(unit.bytes for unit in every)
    screen.data({"cache": str(store.root), "units" if kind else "kinds": entries, "bytes": total})
    screen.say(f"{_count(len(every))}, {sized(total)}, in {store.root}")
    return 0


@app.command()
@blocks(screen=shows)
def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged; it is made again.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Hash everything that is kept, and name what is damaged."""
    from mithridate.studies.engine.entry import Damaged

    store = _store()
    units, damaged = list(store.entries()), []
    with screen.stage("hashing") as tell:
        for done, unit in enumerate(units):
            tell(done, len(units), unit.kind)
            try:
                store.check(unit.key)
            except Damaged as error:
                if store.folder(unit.key).exists():  # not trimmed meanwhile
                    damaged.append({"unit": unit.key, "reason": error.reason})
    swept = store.sweep() if repair else 0
    for one in damaged if repair else ():
        store.discard(one["unit"])
    screen.data(
        {
            "cache": str(store.root),
            "units": len(units),
            "damaged": damaged,
            "removed": len(damaged) if repair else 0,
            "swept": swept,
        }
    )
    screen.table(("damaged unit", "why"), [(one["unit"], one["reason"]) for one in damaged])
    if damaged and not repair:
        raise RunError(
            f"{len(damaged)} of {_count(len(units))} damaged: `mithridate cache verify --repair` "
            "removes them, and the next run makes them again"
        )
    sound = f"{_count(len(units) - len(damaged))} sound, in {store.root}"
    screen.say(f"{sound}; {_count(len(damaged))} removed" if damaged else sound)
    return 0


@app.command()
@blocks(screen=shows)
def trim(
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Not used for so long."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="BYTES", help="Until no more is kept: 5GB, 500MB."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Remove finished work, what was not used for longest first, and what dead runs left."""
    if older_than is None and to is None:
        raise InputError("cache trim: say what to remove, by --older-than DAYS or --to BYTES")
    limit = None if to is None else parse_bytes(to)
    store = _store()
    if busy := store.busy():
        owner = next(iter(busy.values()))
        raise RunError(
            f"a run is working with the cache (process {owner.pid} on {owner.host}), and may need "
            "what would be removed: trim when it has ended"
        )
    swept, units = store.sweep(), list(store.entries())
    before = None if older_than is None else time.time() - older_than * DAY
    away = chosen(units, before, limit)
    for unit in away:
        store.discard(unit.key)
    freed, total = (sum(unit.bytes for unit in some) for some in (away, units))
    screen.data(
        {
            "cache": str(store.root),
            "removed": len(away),
            "freed": freed,
            "units": len(units) - len(away),
            "bytes": total - freed,
            "swept": swept,
        }
    )
    screen.say(
        f"{_count(len(away))} removed, {sized(freed)} freed; {_count(len(units) - len(away))} "
        f"left, {sized(total - freed)}, in {store.root}"
    )
    return 0


def chosen(units: Iterable[Kept], before: float | None, limit: int | None) -> list[Kept]:
    """What to remove, the longest unused first.

    Args:
        before: a time; what was used later stays, unless `limit` asks for more.
        limit: bytes that may stay.
    """
    old = sorted(units, key=lambda unit: (unit.used, unit.key))
    left, away = sum(unit.bytes for unit in old), []
    for unit in old:
        stale = before is not None and unit.used < before
        if stale or (limit is not None and left > limit):
            away.append(unit)
            left -= unit.bytes
    return away


def parse_bytes(text: str) -> int:
    """A size in bytes; K, M, G and T are thousands, Ki to Ti 1024s, B may follow.

    Raises:
        InputError: not a size.

    >>> parse_bytes("5GB"), parse_bytes("1.5 KiB"), parse_bytes("0")
    (5000000000, 1536, 0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise InputError(f"--to takes a size such as 5GB or 500MB, got {text!r}")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** UNITS[match[2]])


def sized(count: float) -> str:
    """Bytes, in words that `parse_bytes` takes.

    >>> sized(999), sized(1_500_000), sized(0)
    ('999 B', '1.5 MB', '0 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if count < 999.5 else f"{count:.0f} TB"


def _store() -> Store:
    from mithridate.data.store import cache_folder
    from mithridate.studies.engine.store import Store

    return Store(cache_folder() / "store")


def _count(units: int) -> str:
    return "1 unit" if units == 1 else f"{units:,} units"


def _sum(kind: str, units: list[Kept]) -> dict[str, Any]:
    return {
        "kind": kind,
        "units": len(units),
        "bytes": sum(unit.bytes for unit in units),
        "seconds": sum(unit.seconds or 0.0 for unit in units),
        "used": max(unit.used for unit in units),
    }


def _unit(unit: Kept) -> dict[str, Any]:
    about = {"unit": unit.key, "kind": unit.kind, "spec": unit.spec}
    return {**about, "bytes": unit.bytes, "seconds": unit.seconds, "used": unit.used}


def _shared(entry: dict[str, Any]) -> tuple[str, str, str]:
    seconds = entry["seconds"]
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["used"]))
    return sized(entry["bytes"]), "-" if seconds is None else f"{seconds:,.1f} s", used


def _brief(spec: dict[str, Any]) -> str:
    text = ", ".join(f"{key}={value}" for key, value in spec.items())
    return text if len(text) <= 60 else f"{text[:57]}..."
