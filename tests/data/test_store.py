import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mithridate.data import FileStore, TensorStore, store
from mithridate.errors import DataError, RunError

ONES = np.ones((3, 1, 2, 2), np.uint8)


def test_build_store_holds_to_the_limit_and_to_the_count():
    at_limit = store.build_store(iter([ONES]), 3, memory_limit=12)
    above = store.build_store(iter([ONES]), 3, memory_limit=11)
    assert isinstance(at_limit, TensorStore)
    assert isinstance(above, FileStore)
    for limit in (0, 100):
        for count in (2, 4):
            with pytest.raises(DataError, match=f"announces {count} images and holds 3"):
                store.build_store(iter([ONES]), count, memory_limit=limit)
        with pytest.raises(DataError, match="no images"):
            store.build_store(iter([]), 0, memory_limit=limit)


def test_default_limit_is_a_share_of_memory(monkeypatch):
    monkeypatch.setattr(store, "available_memory", lambda: 47)
    assert isinstance(store.build_store(iter([ONES]), 3), FileStore)
    monkeypatch.setattr(store, "available_memory", lambda: 48)
    assert isinstance(store.build_store(iter([ONES]), 3), TensorStore)


def test_the_container_limit_counts(monkeypatch):
    texts = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  5 kB\n"}
    monkeypatch.setattr(store, "_text", lambda path: texts.get(path, ""))
    assert store.available_memory() == 5 * 1024
    texts["/sys/fs/cgroup/memory.max"] = "77\n"
    assert store.available_memory() == 77
    texts.update({"/proc/meminfo": "", "/sys/fs/cgroup/memory.max": "max\n"})
    assert store.available_memory() == store.UNKNOWN_MEMORY


def test_cache_folder(monkeypatch):
    assert store.cache_folder() == Path(os.environ["MITHRIDATE_CACHE"])
    monkeypatch.delenv("MITHRIDATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert store.cache_folder() == Path("/x/mithridate")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.cache_folder() == Path.home() / ".cache" / "mithridate"


def test_scratch_files_leave_nothing_behind(tmp_path):
    kept = FileStore.spool([ONES])
    assert list((tmp_path / "cache").iterdir()) == []
    assert kept.read(torch.tensor([2])).sum() == 4


def test_a_cache_that_cannot_be_made_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path / "file" / "below"))
    assert len(FileStore.spool([ONES])) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(monkeypatch):
    full = Path("/dev/full").open("wb")  # noqa: SIM115 (the store closes it)
    monkeypatch.setattr(store, "_scratch", lambda: (full, "/cache"))
    with pytest.raises(RunError, match=r"under /cache .*No space left.* set MITHRIDATE_CACHE"):
        FileStore.spool([ONES])


PEAK = """
import re, sys
from pathlib import Path
import torch
from mithridate.data.parquet import load_parquet
torch.set_num_threads(1)
train, _ = load_parquet(sys.argv[1], memory_limit=int(sys.argv[2]))
for x, y in train.batches(64, rng=torch.Generator().manual_seed(0)):
    assert x.shape[1:] == (3, 128, 128)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in Linux's units")
def test_memory_does_not_grow_with_the_set(tmp_path, make, png):
    blob = png(np.zeros((128, 128, 3), np.uint8))

    def peak(count, limit):
        folder = tmp_path / str(count)
        make(folder / "train-0.parquet", [blob] * count, [0] * count, rows=500)
        make(folder / "test-0.parquet", [blob], [0])
        command = [sys.executable, "-c", PEAK, str(folder), str(limit)]
        # glibc keeps freed blocks to a varying degree; fixed, the peak is what was in use.
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return int(done.stdout) / 1024

    small, large, held = peak(250, 2**20), peak(2_000, 2**20), peak(2_000, 2**30)
    assert large - small < 15  # MiB; the larger set's pixels are 94, the smaller's 12
    assert held - large > 40  # the measure does see a set that lies in memory
