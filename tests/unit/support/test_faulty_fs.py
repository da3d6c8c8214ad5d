"""The fault injector fails exactly the operation it was asked to fail."""

import errno
from pathlib import Path

import pytest

from jlogd.runtime.fs import FileSystem
from tests.support.faulty_fs import FaultyFs


def replace_twice(fs: FileSystem, path: Path) -> None:
    fs.make_dirs(path.parent)
    fs.replace_bytes(path, b"one")
    fs.replace_bytes(path, b"two")


def test_counts_every_mutating_operation(tmp_path: Path) -> None:
    fs = FaultyFs()
    replace_twice(fs, tmp_path / "new" / "file")
    assert fs.log[:2] == ["make_dirs new", f"sync_dir {tmp_path.name}"]
    assert fs.log[2:8] == [
        "unlink .file.new",
        "create .file.new",
        "pwrite .file.new",
        "datasync .file.new",
        "rename file",
        "sync_dir new",
    ]
    assert fs.operations == len(fs.log) == 14


def test_each_operation_can_fail_and_replace_stays_atomic(tmp_path: Path) -> None:
    probe = FaultyFs()
    replace_twice(probe, tmp_path / "probe" / "file")
    for number in range(1, probe.operations + 1):
        path = tmp_path / str(number) / "file"
        fs = FaultyFs(number, error=errno.EIO, torn=0.5)
        with pytest.raises(OSError, match="Input/output") as failure:
            replace_twice(fs, path)
        assert failure.value.errno == errno.EIO
        assert fs.operations == number
        assert not path.exists() or path.read_bytes() in {b"one", b"two"}


def test_a_torn_write_leaves_its_first_part(tmp_path: Path) -> None:
    fs = FaultyFs(1, torn=0.5, only={"pwrite"})
    with fs.create(tmp_path / "file") as file:
        with pytest.raises(OSError, match="No space"):
            file.pwrite([b"abc", b"def"], 0)
        assert file.pread(10, 0) == b"abc"
        assert file.pwrite([b"whole"], 0) == 5  # not sticky


def test_sticky_stays_broken_until_healed(tmp_path: Path) -> None:
    fs = FaultyFs(1, sticky=True)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            fs.create(tmp_path / "file")
    fs.heal()
    fs.create(tmp_path / "file").close()
