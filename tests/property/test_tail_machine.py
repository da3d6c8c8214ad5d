"""A followed path against a model: whatever happens to the file, each byte is delivered once, in order.

The writer appends (cut anywhere), files are rotated by rename or copytruncate (the
writer pauses), compressed and deleted, the tailer polls, restarts, and crashes with
what was not committed lost. Each generation's text must equal what was written.
"""

import gzip
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.tail.harness import Follow

KEEP_MAX = 6


class TailMachine(RuleBasedStateMachine):
    """Files on disk, a tailer, and the list of generations as written."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tail-machine-"))
        self.log = self.folder / "app.log"
        self.follow = Follow(self.log, max_line=100)
        self.running = True
        self.written: list[bytes] = [b""]  # generations as the writers made them, the last one is the path's
        self.siblings: list[Path] = []  # oldest first
        self.counter = 0
        self.tick = 1_700_000_000_000_000_000
        self.log.touch()

    @initialize(dated=st.booleans(), header=st.booleans())
    def begin(self, dated: bool, header: bool) -> None:
        """Numbered or dated names; with or without a header that all generations share."""
        self.dated, self.header = dated, b"# the same header everywhere\n" if header else b""
        self.write_header()
        self.poll()

    def write(self, content: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(content)
        self.written[-1] += content
        self.touch(self.log)

    def touch(self, path: Path) -> None:
        """Modification times tell the order of writes, as they do when these are not microseconds apart."""
        self.tick += 1
        os.utime(path, ns=(self.tick, self.tick))

    @rule(lines=st.integers(0, 5), cut=st.integers(0, 300), long=st.booleans())
    def append(self, lines: int, cut: int, long: bool) -> None:
        """Lines that never repeat; ``cut`` may end the last one early, or be longer than a record may be."""
        text = b""
        for _ in range(lines):
            self.counter += 1
            text += b"line %06d%s\n" % (self.counter, b"+" * 250 if long else b"")
        self.counter += 1
        self.write(text + (b"%06d begun " % self.counter + b"." * cut if cut else b""))

    def next_name(self) -> Path:
        if self.dated:
            self.counter += 1
            return self.folder / f"app.log-20260101-{self.counter:06d}"
        for number in range(len(self.siblings)):  # oldest first: move each one up
            old = self.siblings[number]
            new = self.folder / f"app.log.{len(self.siblings) - number + 1}{'.gz' if old.suffix == '.gz' else ''}"
            old.rename(new)
            self.siblings[number] = new
        return self.folder / "app.log.1"

    def rotated(self, name: Path) -> None:
        self.siblings.append(name)
        self.written.append(b"")
        self.write_header()

    def write_header(self) -> None:
        """The same first line in each generation, and with the same write something of its own."""
        if self.header:
            self.counter += 1
            self.write(self.header + b"# run %06d\n" % self.counter)

    @precondition(lambda self: len(self.siblings) < KEEP_MAX and self.written[-1])
    @rule()
    def rename(self) -> None:
        name = self.next_name()
        self.log.rename(name)
        self.rotated(name)

    @precondition(lambda self: len(self.siblings) < KEEP_MAX and self.written[-1])
    @rule(looked=st.booleans())
    def copytruncate(self, looked: bool) -> None:
        """With a look between copy and truncation, or without."""
        name = self.next_name()
        shutil.copyfile(self.log, name)
        self.touch(name)
        if looked and self.running:
            self.poll()
        os.truncate(self.log, 0)
        self.rotated(name)

    @precondition(lambda self: any(one.suffix != ".gz" for one in self.siblings))
    @rule(which=st.integers(0, KEEP_MAX))
    def compress(self, which: int) -> None:
        """Of one whose lines have all been written: nobody writes to a rotated file here."""
        plain = [index for index, one in enumerate(self.siblings) if one.suffix != ".gz"]
        index = plain[which % len(plain)]
        old = self.siblings[index]
        new = old.with_name(old.name + ".gz")
        new.write_bytes(gzip.compress(old.read_bytes(), 1))
        os.utime(new, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
        old.unlink()
        self.siblings[index] = new

    @precondition(lambda self: self.siblings)
    @rule()
    def delete_oldest(self) -> None:
        """Only what was delivered: what goes unread is lost, that is not what is tested here."""
        number = len(self.written) - 1 - len(self.siblings)
        if self.delivered().startswith(b"".join(self.written[: number + 1])) and self.running:
            self.settle()
            self.siblings.pop(0).unlink()

    @precondition(lambda self: self.running)
    @rule()
    def poll(self) -> None:
        self.follow.poll()
        self.follow.clock.advance(0.1)

    @precondition(lambda self: self.running)
    @rule(seconds=st.sampled_from([1.0, 8.0]))
    def settle(self, seconds: float = 8.0) -> None:
        self.follow.settle(seconds)

    @precondition(lambda self: self.running)
    @rule()
    def stop(self) -> None:
        self.follow.stop()
        self.running = False

    @precondition(lambda self: self.running)
    @rule(budget=st.sampled_from([1, 1 << 20]))
    def crash(self, budget: int) -> None:
        """What this poll gave was not committed."""
        self.follow.tailer.poll(budget)
        self.follow.stop()
        self.running = False

    @precondition(lambda self: not self.running)
    @rule()
    def start(self) -> None:
        self.follow.start()
        self.running = True
        self.follow.poll()

    def delivered(self) -> bytes:
        return self.follow.journal.all_text()

    @invariant()
    def nothing_twice_nothing_skipped(self) -> None:
        """What was delivered so far is, generation by generation, the beginning of what was written."""
        texts = [text for _, text in sorted(self.follow.journal.text().items())]
        wanted = [text for text in self.written if text]
        for text in texts:
            while wanted and not wanted[0].startswith(text):
                wanted.pop(0)  # only a begun line so far, which waits
            assert wanted, text
            wanted.pop(0)
        assert self.follow.journal.gaps() == []

    def teardown(self) -> None:
        """In the end all is there, but for a line that is still being written."""
        try:
            if not self.running:
                self.start()
            self.follow.settle(20)
            texts = [text for _, text in sorted(self.follow.journal.text().items())]
            wanted = [*self.written[:-1], self.written[-1][: self.written[-1].rfind(b"\n") + 1]]
            last = self.written[-1][len(wanted[-1]) :]
            if texts and len(last) > 100:  # a begun line gives its pieces early
                assert texts[-1].startswith(wanted[-1])
                texts[-1] = texts[-1][: len(wanted[-1])]
            assert [text for text in texts if text] == [text for text in wanted if text]
            self.follow.stop()
        finally:
            shutil.rmtree(self.folder)


TestTailMachine = TailMachine.TestCase
TestTailMachine.settings = settings(
    max_examples=int(os.environ.get("JLOGD_TAIL_EXAMPLES", "150")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
