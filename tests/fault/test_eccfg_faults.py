"""A working copy when the disk is full, or the power goes, at any single step of a pull.

The short form takes some of the steps; JLOGD_LONG=1 takes every one, and more seeds of what a power cut may leave.
"""

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from managerd.eccfg.client import Client
from managerd.eccfg.index import Metadata
from managerd.eccfg.pulling import Choice, Pulled, pull
from managerd.eccfg.working import Kind, WorkingCopy
from tests.support.config_server import ConfigServer
from tests.support.faulty_fs import FaultyFs
from tests.support.power_cut_fs import PowerCutFs

pytestmark = pytest.mark.fault
LONG = bool(os.environ.get("JLOGD_LONG"))

OLD: dict[str, bytes] = {"global/a": b"old\n", "web/default/dir/b": b"b\n", "web/web1/c": b"c\n"}
NEW: dict[str, bytes | None] = {
    "global/a": b"new\n",
    "web/default/dir/b": None,
    "web/default/dir": b"f\n",
    "new/x/y": b"y",
}
MINE = b"mine\n"


@pytest.fixture
def client() -> Iterator[Client]:
    """A manager at r2."""
    with ConfigServer() as server:  # type: ignore[abstract]
        server.add(OLD)
        server.add(NEW)
        with grpc.insecure_channel(server.address) as channel:
            yield Client(channel, server.address, None)


def working_copy(root: Path, client: Client) -> WorkingCopy:
    """At r1, with one local edit."""
    Metadata.create(root, "nowhere:1")
    copy = WorkingCopy.open(root)
    pull(copy, client, revision="r1")
    (root / "web/web1/c").write_bytes(MINE)
    return copy


def check_between(root: Path) -> None:
    """Every file is the old or the new one, whole; the local edit is there; status works."""
    allowed = {path: {content, NEW.get(path)} for path, content in OLD.items()}
    allowed |= {path: {content, *allowed.get(path, set())} for path, content in NEW.items()}
    allowed["web/web1/c"] = {MINE}
    copy = WorkingCopy.open(root)
    copy.changes()
    for path in copy.files.scan().files:
        assert (root / path).read_bytes() in allowed[path], path
    assert (root / "web/web1/c").read_bytes() == MINE


def check_finished(root: Path, client: Client) -> None:
    """The next pull ends where an undisturbed one does."""
    copy = WorkingCopy.open(root)
    pulled = pull(copy, client)
    assert pulled.conflicts == []
    found = {path: (root / path).read_bytes() for path in copy.files.scan().files}
    assert found == {"global/a": b"new\n", "web/default/dir": b"f\n", "new/x/y": b"y", "web/web1/c": MINE}
    copy = WorkingCopy.open(root)
    assert copy.index.revision == 2
    assert copy.index.conflicts == {}
    assert [(each.path, each.kind) for each in copy.changes()] == [("web/web1/c", Kind.MODIFIED)]


def steps_of(root: Path, client: Client) -> int:
    fs = FaultyFs()
    working_copy(root, client)
    pull(WorkingCopy.open(root, fs=fs), client)
    return fs.operations


@pytest.mark.parametrize("torn", [0.0, 0.5])
@pytest.mark.parametrize("sticky", [False, True])
def test_a_full_disk(tmp_path: Path, client: Client, torn: float, *, sticky: bool) -> None:
    """The pull fails with the disk's word; what is there is whole; with room again the next one finishes."""
    steps = steps_of(tmp_path / "first", client)
    assert steps > 30
    for at in range(1, steps + 1, 1 if LONG else 3):
        root = tmp_path / f"copy{at}"
        working_copy(root, client)
        fs = FaultyFs(at, error=errno.ENOSPC, torn=torn, sticky=sticky)
        with pytest.raises(OSError, match="No space left"):
            pull(WorkingCopy.open(root, fs=fs), client)
        check_between(root)
        check_finished(root, client)
        shutil.rmtree(root)


class Cut(BaseException):
    """As the power: nothing catches it."""


class EndingFs(PowerCutFs):
    """The power goes before the N-th change."""

    def __init__(self, side: Path, at: int) -> None:
        super().__init__(side)
        self.left = at

    def _before(self, call: Callable[..., Any], *words: Any, **more: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise Cut
        return call(*words, **more)

    def create(self, path: Path, mode: int = 0o640) -> Any:
        return self._before(super().create, path, mode)

    def sync_dir(self, path: Path) -> None:
        self._before(super().sync_dir, path)

    def sync_all(self, path: Path) -> None:
        self._before(super().sync_all, path)

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        self._before(super().rename, source, target, sync=sync)

    def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        self._before(super().unlink, path, missing_ok=missing_ok)


def test_a_power_cut(tmp_path: Path, client: Client) -> None:
    """Before any step of a pull: what was never synced may be gone or torn, and the next pull finishes all the same."""
    seeds = random.Random(7)
    for at in range(1, 500, 1 if LONG else 3):
        for _ in range(5 if LONG else 1):
            root, side = tmp_path / "copy", tmp_path / "side"
            working_copy(root, client)
            fs = EndingFs(side, at)
            finished = False
            try:
                done: Pulled = pull(WorkingCopy.open(root, fs=fs), client, Choice.REFUSE)
                finished = done.conflicts == []
            except Cut:
                pass
            undone = fs.cut(seeds.randrange(1 << 30))
            try:
                check_between(root)
                check_finished(root, client)
            except Exception as error:
                raise AssertionError(f"cut before step {at}, undone: {undone}") from error
            shutil.rmtree(root)
            shutil.rmtree(side, ignore_errors=True)
        if finished:
            assert at > 30
            return
    raise AssertionError("a pull of four files takes 500 steps")
