"""Data sets on the Hugging Face hub: the local cache first, then the network."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mithridate.data.parquet import find, pick
from mithridate.errors import DataError, InputError

_ID = re.compile(r"(?:hf:)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def fetch(spec: str) -> Path:
    """A local folder with the Parquet files of a hub data set; nothing else is fetched.

    What lies in the local cache is used without asking the network whether the hub has
    something newer: name a revision (a commit, for certainty) to say which one is meant.

    Args:
        spec: "org/name" or "org/name@revision", with or without "hf:".

    Raises:
        InputError: not of that form.
        DataError: no such set or revision, no network, or no Parquet files of the layout.

    >>> fetch("mnist")
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: a hub data set is hf:org/name or hf:org/name@revision, \
got 'mnist'
    """
    match = _ID.fullmatch(spec)
    if match is None:
        raise InputError(f"a hub data set is hf:org/name or hf:org/name@revision, got {spec!r}")
    repo, revision = match["repo"], match["revision"]
    return _cached(repo, revision) or _download(repo, revision)


def _cached(repo: str, revision: str | None) -> Path | None:
    """The cached snapshot, where there is one with all its files."""
    try:
        folder = Path(
            snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True)
        )
        find(folder)
    except (LocalEntryNotFoundError, DataError):
        return None
    return folder


def _download(repo: str, revision: str | None) -> Path:
    where = f"hub data set {repo}" + (f"@{revision}" if revision else "")
    try:
        listed = HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
        files = [file for part in pick(listed, where).values() for file in part]
        folder = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=files
        )
        return Path(folder)
    except DataError:
        raise
    except RevisionNotFoundError:
        raise DataError(f"{where} has no such revision: leave @... out for the newest") from None
    except RepositoryNotFoundError:
        raise DataError(f"{where} is not on the hub, or private: check its name") from None
    except Exception as error:  # the client's transport errors share no base across versions
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise DataError(
            f"{where} is not in the local cache and cannot be fetched ({reason}): connect to the "
            "network, or give the path of a local folder"
        ) from None
