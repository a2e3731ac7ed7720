"""`mithridate`: the verbs, and what becomes of their errors."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from typer.main import get_command

import mithridate
from mithridate.cli import (
    attack,
    audit,
    cache,
    defend,
    demo,
    doctor,
    fool,
    generator,
    look,
    options,
    poison,
    repair,
    report,
    run,
    sanitize,
    train,
)
from mithridate.errors import InputError, MithridateError

USAGE, FAILED = 2, 4

app = typer.Typer(
    name="mithridate",
    help="How an image classifier can be fooled, whether it was poisoned, what really helps.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command()(demo.demo)
app.command()(train.train)
app.command()(poison.poison)
app.command()(sanitize.sanitize)
app.command()(generator.generator)
app.command()(attack.attack)
app.command()(fool.fool)
app.command()(audit.audit)
app.command()(defend.defend)
app.command()(repair.repair)
app.command()(run.run)
app.command()(report.report)
app.add_typer(cache.app)
app.command("list")(look.list_)
app.command()(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mithridate {mithridate.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, no_args_is_help=False)
def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="And exit.")
    ] = False,
) -> int:
    if context.invoked_subcommand is None:
        print(context.get_help())
        return USAGE
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code (docs/reference/cli.md).

    >>> main(["--version"])
    mithridate 0.1.0
    0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options.remember(words)
    _tell_warnings()
    stopped: list[int] = []
    with _stoppable(stopped):
        try:
            code = _run(words)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read our output has seen enough
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            return 128 + signal.SIGPIPE
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except Exception as error:
            return _explain(error)
    if code == 128 + signal.SIGINT:
        print("mithridate: interrupted", file=sys.stderr)
        return 128 + stopped[0] if stopped else code
    return code


def _run(words: list[str]) -> int:
    for word, value in zip(words, [*words[1:], None], strict=False):
        if word == "--out=" or (word == "--out" and value == ""):
            raise InputError("--out is empty: name a folder or a file")
    try:
        code = get_command(app).main(words, prog_name="mithridate", standalone_mode=False)
    except SystemExit as leaving:  # typer leaves so where a pipe closed
        return leaving.code if isinstance(leaving.code, int) and leaving.code > 1 else FAILED
    except typer.Abort:
        return 128 + signal.SIGINT
    return code if isinstance(code, int) else 0


class _Remarks(logging.Handler):
    """Warnings of the library as remarks on standard error; crashes are told elsewhere."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            print(f"mithridate: {record.getMessage()}", file=sys.stderr, flush=True)


def _tell_warnings() -> None:
    log = logging.getLogger("mithridate")
    if not any(isinstance(handler, _Remarks) for handler in log.handlers):
        log.addHandler(_Remarks())


@contextmanager
def _stoppable(stopped: list[int]) -> Iterator[None]:
    """A polite kill ends a run as Ctrl-C does: what was finished is kept."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _explain(error: Exception) -> int:
    """One line on standard error, and the exit code."""
    if os.environ.get("MITHRIDATE_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    usage: Any = getattr(error, "format_message", None)
    if isinstance(error, MithridateError):
        text, code = str(error), error.exit_code
    elif usage is not None:  # a usage error of typer's
        text, code = f"{usage()}{_where(error)}", USAGE
    elif isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        text, code = f"{place}{error.strerror or error}; choose another place or make room", FAILED
    else:
        text = f"{type(error).__name__}: {error}; MITHRIDATE_DEBUG=1 shows where"
        code = FAILED
    print(f"mithridate: error: {' '.join(text.split())}", file=sys.stderr)
    return code


def _where(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return "" if context is None else f" (see {context.command_path} --help)"
