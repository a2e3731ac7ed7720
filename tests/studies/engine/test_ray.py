"""A real Ray cluster of three nodes on this machine, one of them killed in the middle."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest
from toy_units import Broken, Large, Total, gather, products

from mithridate.errors import InputError, RunError
from mithridate.studies.engine import ray_session, ray_workers
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.workers import InProcess

os.environ.update(ray_session.LOCAL)  # before the import: it reads them
try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    ray = None
finally:
    for name in ray_session.LOCAL:
        del os.environ[name]

needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed: pip install -e '.[ray]'")
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "memory": 2**31}


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes with one CPU each, on the loopback address, with a token."""
    for name, value in {**ray_session.LOCAL, "RAY_AUTH_MODE": "token"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    ray_session.reread()
    before = children()
    place = {"include_dashboard": False, "node_ip_address": "127.0.0.1"}
    nodes = Cluster()
    try:
        for _ in range(3):
            nodes.add_node(**SMALL, **place)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    assert none_but(before)


def children():
    """Every process of this session that Ray started."""
    pids = set()
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = stat.read_bytes()
        except OSError:
            continue
        if b"ray::" in words or b"site-packages/ray/" in words:
            pids.add(int(stat.parent.name))
    return pids


def none_but(before, seconds=10):
    """Whether all other children end soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and children() - before:
        time.sleep(0.1)
    return not children() - before


def units(log):
    """Two layers: eight totals, and four that add two of them each."""
    fields = {"seconds": 0.4, "log": str(log)}
    first = [Total(plus=i, **fields) for i in range(8)]
    pairs = zip(first[::2], first[1::2], strict=True)
    return first, [Total(of=pair, **fields) for pair in pairs]


def sweep(store, seconds=20):
    """What the next run does first: a killed node's workers die late, and leave their drafts."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(store.drafts.glob("*")):
        store.sweep()
        time.sleep(0.1)


@needs_ray
def test_a_node_is_killed_in_the_middle(cluster, tmp_path):
    log = tmp_path / "log"
    first, second = units(log)
    victim = sorted(cluster.worker_nodes, key=str)[0]
    killed = []

    def kill():
        """Once a unit is being made on the victim."""
        busy = Store(tmp_path / "ray").busy().values()
        if not killed and any(on_node(owner.pid, victim) for owner in busy):
            cluster.remove_node(victim, allow_graceful=False)
            killed.append(True)

    with ray_workers.RayWorkers(cluster.address, tmp_path / "ray") as crew:
        assert crew.slots == 3
        outcomes = gather(crew, first, kill)
        assert killed
        outcomes |= gather(crew, second)
        bad = gather(crew, [Large(gpus=1), Broken(how="input")])
    assert {o.status for o in outcomes.values()} <= {"made", "found"}
    assert len(outcomes) == 12
    assert sorted(o.exit_code for o in bad.values()) == [2, 2]
    with InProcess(tmp_path / "here") as crew:
        gather(crew, [*first, *second])
    sweep(Store(tmp_path / "ray"))
    assert products(tmp_path / "ray") == products(tmp_path / "here")
    assert not Store(tmp_path / "ray").busy()


def on_node(pid, node):
    """Whether a worker process belongs to a node: its parent is the node's raylet."""
    raylets = {info.process.pid for info in node.all_processes["raylet"]}
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return parent in raylets


@needs_ray
def test_local_keeps_to_itself_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    before, environment, on_term = children(), dict(os.environ), signal.getsignal(signal.SIGTERM)
    unit = Total(plus=2)
    with ray_workers.RayWorkers("local", tmp_path) as crew:
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert not {place for place in listening(children() - before)} - {"127.0.0.1", "::1"}
        assert gather(crew, [unit])[unit.key].status == "made"
        crew.submit(Total(seconds=60))
        while not Store(tmp_path).busy():
            crew.wait(0.1)
        folder = Path(crew._session._folder)
    assert not Store(tmp_path).busy()
    assert not folder.exists()
    assert dict(os.environ) == environment
    assert signal.getsignal(signal.SIGTERM) == on_term
    assert none_but(before)


def listening(pids):
    """Addresses at which these processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    addresses = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and fields[9] in inodes:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                addresses.add(socket.inet_ntop(family, words).removeprefix("::ffff:"))
    assert addresses
    return addresses


@needs_ray
def test_addresses_that_lead_nowhere(tmp_path):
    with pytest.raises(InputError, match="no address of a Ray cluster: 'nonsense'"):
        ray_workers.RayWorkers("nonsense", tmp_path)
    with pytest.raises(RunError, match=r"cannot use the Ray cluster 127\.0\.0\.1:1"):
        ray_workers.RayWorkers("127.0.0.1:1", tmp_path)


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'mithridate\[ray\]'"):
        ray_workers.RayWorkers("local", tmp_path)


def test_other_code_on_a_node_is_refused(tmp_path):
    unit = Total()
    assert ray_workers.work(pickle.dumps(unit), str(tmp_path), []).status == "made"
    other = Total(plus=1)
    vars(other)["key"] = "0" * 64  # as if it was made by other code
    outcome = ray_workers.work(pickle.dumps(other), str(tmp_path), [])
    assert outcome.status == "failed"
    assert "install one version of mithridate" in outcome.error
    assert not Store(tmp_path).has("0" * 64)
