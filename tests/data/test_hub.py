import shutil

import pytest
from huggingface_hub import constants, errors

from mithridate.data import hub
from mithridate.errors import DataError, InputError


class Hub:
    """Stands in for the client: a cache folder and a remote one."""

    def __init__(self, cache, remote=None, fails=None):
        self.cache, self.remote, self.fails = cache, remote, fails
        self.fetched = None

    def snapshot_download(
        self, repo, *, repo_type, revision, allow_patterns=None, local_files_only=False
    ):
        assert repo_type == "dataset"
        if local_files_only:
            if not self.cache.exists():
                raise errors.LocalEntryNotFoundError("nothing cached")
            return str(self.cache)
        self.fetched = allow_patterns
        self.cache.mkdir(exist_ok=True)
        for name in allow_patterns:
            shutil.copy(self.remote / name, self.cache / name)
        return str(self.cache)

    def list_repo_files(self, repo, *, repo_type, revision):
        assert repo_type == "dataset"
        if self.fails:
            raise self.fails
        return [path.name for path in self.remote.iterdir()]


@pytest.fixture
def install(monkeypatch):
    def done(fake):
        monkeypatch.setattr(hub, "snapshot_download", fake.snapshot_download)
        monkeypatch.setattr(hub, "HfApi", lambda: fake)
        return fake

    return done


def test_the_cache_comes_first(hub_folder, install):
    install(Hub(hub_folder, fails=AssertionError("asked the network")))
    assert hub.fetch("hf:org/name@main") == hub_folder


def test_only_parquet_is_fetched(hub_folder, tmp_path, install):
    (hub_folder / "run_me.py").write_text("raise SystemExit")
    (hub_folder / "extra-0.parquet").write_text("")
    fake = install(Hub(tmp_path / "fetched", hub_folder))
    folder = hub.fetch("org/name")
    assert (
        sorted(path.name for path in folder.iterdir())
        == sorted(fake.fetched)
        == [
            "test-00000-of-00001.parquet",
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet",
        ]
    )


def test_half_a_cache_is_completed(hub_folder, tmp_path, install):
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(hub_folder / "train-00000-of-00002.parquet", half)
    install(Hub(half, hub_folder))
    assert len(list(hub.fetch("org/name").iterdir())) == 3


@pytest.mark.parametrize("spec", ["hf:", "hf:mnist", "hf:a/b/c", "hf:a/b@", "hf:../b c"])
def test_bad_ids(spec):
    with pytest.raises(InputError, match="hf:org/name"):
        hub.fetch(spec)


class TransportError(Exception):
    """Stands in for the HTTP library's errors, which change with the client's version."""


def refusal(kind):
    return kind.__new__(kind, "401 Client Error\nrequest id")  # skips the response it asks for


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TransportError("no route\nto host"), r"cannot be fetched \(no route\)"),
        (ConnectionError(), r"cannot be fetched \(ConnectionError\)"),
        (errors.OfflineModeIsEnabled("offline"), r"cannot be fetched \(offline\)"),
        (refusal(errors.RepositoryNotFoundError), "is not on the hub"),
        (refusal(errors.RevisionNotFoundError), "no such revision"),
    ],
)
def test_network_faults_are_one_line(tmp_path, install, error, says):
    install(Hub(tmp_path / "none", fails=error))
    with pytest.raises(DataError, match=f"^hub data set org/name@v1 .*{says}") as caught:
        hub.fetch("hf:org/name@v1")
    assert "\n" not in str(caught.value)


def test_a_set_in_another_layout(tmp_path, install):
    remote = tmp_path / "remote"
    remote.mkdir()
    (remote / "README.md").write_text("")
    install(Hub(tmp_path / "none", remote))
    with pytest.raises(DataError, match=r"hub data set org/name has no train-\*\.parquet"):
        hub.fetch("org/name")


def test_the_real_client_without_a_network(hub_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="not in the local cache and cannot be fetched"):
        hub.fetch("hf:org/name")
    cached = tmp_path / "hub" / "datasets--org--name"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(hub_folder, cached / "snapshots" / commit)
    for spec in ("hf:org/name", f"hf:org/name@{commit}"):
        assert hub.fetch(spec) == cached / "snapshots" / commit
    with pytest.raises(DataError, match="org/name@other is not in the local cache"):
        hub.fetch("hf:org/name@other")
