"""Programs that write and rotate log files, as separate processes, and remember exactly what they wrote.

    python -m tests.support.writers '{"path": "DIR/a.log", "truth": "DIR/truth", "lines": 100000, "rotation": "gz"}'

The writer obeys its standard input: ``UNTIL N`` lets it write up to line N (exclusive), the end of the
input ends it. Between bursts it sleeps a random moment, so that readers meet every state of a file.

Truth directory: ``0001``, ``0002``, … hold the bytes of each generation (hard links of the very
files where the rotation keeps the inode, copies where it does not); ``state`` the writer's number
and generation; ``durable`` how many bytes of the live file a power cut must spare; ``written`` every
byte, before it was written; ``rotating`` is locked while names are in between.
A writer that was killed goes on from ``state`` and the file's end.
"""

import fcntl
import gzip
import json
import lzma
import os
import random
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support import lines

ROTATIONS = ("none", "rename", "copytruncate", "gz", "xz")


@dataclass(frozen=True, slots=True)
class Plan:
    """What one writer does. Sizes in bytes, times in seconds."""

    path: Path
    truth: Path
    lines: int
    seed: int = 1
    rotation: str = "rename"
    rotate_bytes: int = 1 << 20
    keep: int = 8  # old generations, beside the live file
    late: int = 0  # lines that still go to the renamed file, after the new one stands there
    burst: int = 500  # lines in one write(), at most
    pause_s: float = 0.002  # mean sleep between writes; 0: full speed
    longest: int = 1500  # longest body, bytes
    ragged: float = 0.0  # share of generations that end without a newline
    remember: bool = False  # keep ``written``: needed when the source itself loses bytes

    @property
    def name(self) -> str:
        """The writer's name, which begins each of its lines."""
        return self.path.stem


class Writer:
    """Writes ``plan``; the only process that touches its path and its rotated siblings."""

    def __init__(self, plan: Plan) -> None:
        """Go on where an earlier process was killed, or begin."""
        self.plan = plan
        self._pool = lines.bodies(plan.seed, longest=plan.longest)
        plan.truth.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(plan.truth / "rotating", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._state = plan.truth / "state"
        saved = json.loads(self._state.read_text()) if self._state.exists() else {}
        self.next, self.generation = saved.get("next", 0), saved.get("generation", 1)
        self._starts = saved.get("starts", 0) + 1
        self._rng = random.Random(f"{plan.seed} {plan.name} {self._starts}")
        self._fd = os.open(plan.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._fd).st_size
        self._written = _open_written(plan.truth / "written") if plan.remember else -1
        self._link()

    def _link(self) -> None:
        """Let the live generation's bytes stay when its name goes (copytruncate: the copy is linked instead)."""
        target = self.plan.truth / f"{self.generation:04d}"
        if self.plan.rotation != "copytruncate" and not target.exists():
            os.link(self.plan.path, target)

    # ------------------------------------------------------------------ writing

    def write(self, end: int) -> None:
        """Write up to line ``end`` in bursts; rotate when the file is large enough."""
        while self.next < end:
            count = min(self._rng.randint(1, self.plan.burst), end - self.next)
            self._append(self._fd, count)
            if self.plan.remember and self._rng.random() < 0.2:
                self.sync()
            if self._size >= self.plan.rotate_bytes and self.plan.rotation != "none":
                self.rotate(end)
            if self.plan.pause_s:
                time.sleep(self._rng.expovariate(1 / self.plan.pause_s))

    def _append(self, fd: int, count: int, *, newline: bool = True) -> None:
        text = lines.block(self.plan.name.encode(), self.next, self.next + count, self._pool)
        text = text if newline else text[:-1]
        if self._written >= 0:
            os.write(self._written, text)
        self.next += count
        if self.plan.remember:
            self._save()
        # Now and then a line arrives in two writes, as from a program that flushes by buffer size.
        cut = len(text) - self._rng.randrange(1, 20) if self._rng.random() < 0.3 else len(text)
        for part in (text[:cut], text[cut:]):
            if part:
                os.write(fd, part)
        self._size += len(text)

    def _save(self) -> None:
        beside = self._state.with_name("state.new")
        beside.write_text(json.dumps({"next": self.next, "generation": self.generation, "starts": self._starts}))
        os.replace(beside, self._state)

    def sync(self) -> None:
        """What a real program would fsync: from here on a power cut spares these bytes."""
        beside = self.plan.truth / "durable.new"
        beside.write_text(json.dumps({"generation": self.generation, "bytes": os.fstat(self._fd).st_size}))
        os.replace(beside, self.plan.truth / "durable")

    # ------------------------------------------------------------------ rotation

    def rotate(self, end: int) -> None:
        """Turn the live file into an old generation, the way of the plan; ``rotating`` is locked meanwhile."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            if self.next < end and self._rng.random() < self.plan.ragged:
                self._append(self._fd, 1, newline=False)
            if self.plan.rotation == "copytruncate":
                self._copy_and_truncate()
            else:
                self._rename_and_create(end)
            self.generation += 1
            self._size = os.fstat(self._fd).st_size
            self._link()
            self._save()
            self.sync()
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _old(self, number: int) -> Iterator[Path]:
        """The names that old generation ``number`` may have."""
        for ending in ("", ".gz", ".xz"):
            path = self.plan.path.with_name(f"{self.plan.path.name}.{number}{ending}")
            if path.exists():
                yield path

    def _shift(self) -> None:
        """``.1`` → ``.2`` and so on; compress what has waited one rotation (delaycompress)."""
        for number in range(self.plan.keep, 0, -1):
            for path in self._old(number):
                if number == self.plan.keep:
                    path.unlink()
                    continue
                if self.plan.rotation in ("gz", "xz") and path.suffix not in (".gz", ".xz"):
                    path = _compress(path, self.plan.rotation)  # noqa: PLW2901
                stem = re.sub(r"\.\d+(\.gz|\.xz)?$", "", path.name)
                ending = path.suffix if path.suffix in (".gz", ".xz") else ""
                path.rename(path.with_name(f"{stem}.{number + 1}{ending}"))

    def _rename_and_create(self, end: int) -> None:
        self._shift()
        self.plan.path.rename(self.plan.path.with_name(f"{self.plan.path.name}.1"))
        fresh = os.open(self.plan.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if self.plan.late and self.next < end and self._ends_with_newline():
            self._append(self._fd, min(self.plan.late, end - self.next))
        os.close(self._fd)
        self._fd = fresh

    def _ends_with_newline(self) -> bool:
        with (self.plan.truth / f"{self.generation:04d}").open("rb") as file:
            return self._size > 0 and os.pread(file.fileno(), 1, self._size - 1) == b"\n"

    def _copy_and_truncate(self) -> None:
        """As logrotate does: copy under the old generation's name, then cut the live file to nothing."""
        self._shift()
        old = self.plan.path.with_name(f"{self.plan.path.name}.1")
        shutil.copyfile(self.plan.path, old)
        os.link(old, self.plan.truth / f"{self.generation:04d}")
        os.truncate(self.plan.path, 0)

    def finish(self) -> None:
        """Keep the live generation's bytes as truth too."""
        self.sync()
        self._save()
        if self.plan.rotation == "copytruncate":
            shutil.copyfile(self.plan.path, self.plan.truth / f"{self.generation:04d}")


def _open_written(path: Path) -> int:
    """Append to ``path``; what a kill left without its end never reached the source, and gets a line of its own."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.write(fd, b"\n")
    return fd


def _compress(path: Path, kind: str) -> Path:
    """Write the compressed file beside, then remove the plain one: for a moment both are there."""
    target = path.with_name(f"{path.name}.{kind}")
    with path.open("rb") as plain:
        if kind == "gz":
            with gzip.open(target, "wb", compresslevel=1) as packed:
                shutil.copyfileobj(plain, packed, 1 << 18)
        else:
            with lzma.open(target, "wb", preset=0) as packed:
                shutil.copyfileobj(plain, packed, 1 << 18)
    path.unlink()
    return target


@contextmanager
def not_rotating(truth: Path) -> Iterator[None]:
    """Hold a writer off its rotation, so that it can be killed between two of them."""
    with (truth / "rotating").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _obey(writer: Writer) -> None:
    """Write as far as standard input allows; returns when it ends and everything allowed is written."""
    allowed, rest, ended = writer.next, b"", False
    while not ended or writer.next < allowed:
        wait = None if writer.next >= allowed else 0
        if not ended and select.select([sys.stdin.fileno()], [], [], wait)[0]:
            piece = os.read(sys.stdin.fileno(), 4096)
            ended = not piece
            *commands, rest = (rest + piece).split(b"\n")
            for command in commands:
                verb, _, argument = command.partition(b" ")
                if verb != b"UNTIL":
                    raise SystemExit(f"unknown command {command!r}")
                allowed = min(int(argument), writer.plan.lines)
        if writer.next < allowed:
            writer.write(min(allowed, writer.next + 20 * writer.plan.burst))


def arguments(plan: Plan) -> list[str]:
    """The command line of a plan."""
    return [sys.executable, "-m", "tests.support.writers", json.dumps(asdict(plan), default=str)]


def main() -> None:
    """Run one writer; its plan is the one argument, as JSON."""
    fields = json.loads(sys.argv[1])
    writer = Writer(Plan(**{**fields, "path": Path(fields["path"]), "truth": Path(fields["truth"])}))
    _obey(writer)
    writer.finish()


if __name__ == "__main__":
    main()
