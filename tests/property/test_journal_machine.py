"""A journal against a model of lists and dicts: append, commit, crash, power cut, recover, roll, retain, subscribe."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jlogd.journal import Gap, GapKind, Journal, JournalOptions, Offset, Reader, Run
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import ConflictError
from tests.support.journals import abandon
from tests.support.power_cut_fs import PowerCutFs

RECORD = st.binary(max_size=60)
LINE = st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"."))
NAMES = st.sampled_from(["alpha", "beta"])


class JournalMachine(RuleBasedStateMachine):
    """The model: what is committed, what is pending, positions of sources, checkpoints."""

    @initialize(codec=st.sampled_from(["zstd", "none"]), segment_bytes=st.sampled_from([600, 3000, 1 << 20]))
    def begin(self, codec: str, segment_bytes: int) -> None:
        """A fresh journal with small segments, so that rolling happens."""
        self.root = Path(tempfile.mkdtemp())
        self.options = JournalOptions(segment_bytes=segment_bytes, codec=codec)  # type: ignore[arg-type]
        self.clock = ManualClock()
        self.fs = PowerCutFs(self.root / "side")
        self.committed: list[bytes | None] = []  # None: a gap
        self.pending: list[bytes | None] = []
        self.positions: dict[int, int] = {}
        self.pending_positions: dict[int, int] = {}
        self.checkpoints: dict[str, int] = {}
        self.terms: set[tuple[int, int]] = set()
        self.reopen()

    def reopen(self) -> None:
        """Open as a new process would."""
        self.journal = Journal.open(self.root / "j", options=self.options, fs=self.fs, clock=self.clock)

    @rule(records=st.lists(RECORD, min_size=1, max_size=5))
    def append(self, records: list[bytes]) -> None:
        """Opaque records."""
        assert self.journal.append_many(records) == len(self.committed) + len(self.pending)
        self.pending += records

    @rule(lines=st.lists(LINE, min_size=1, max_size=5), source=st.integers(1, 3))
    def append_lines(self, lines: list[bytes], source: int) -> None:
        """A block of lines with its position."""
        block = b"".join(line + b"\n" for line in lines)
        position = self.pending_positions.get(source, self.positions.get(source, 0)) + len(block)
        run = Run(b"/log/%d" % source, 1, len(lines), len(block), position, state=b"s%d" % position)
        self.journal.append_lines(block, [run])
        self.pending += lines
        self.pending_positions[source] = position

    @rule(source=st.integers(1, 3), position=st.integers(0, 99))
    def note(self, source: int, position: int) -> None:
        """A position without lines."""
        self.journal.note_sources([Run(b"/log/%d" % source, 1, 0, 0, position)])
        self.pending_positions[source] = position

    @rule()
    def gap(self) -> None:
        """A source gap takes one offset."""
        self.journal.append_gap(Gap(GapKind.SOURCE, 5, 9, "vanished", source=b"/log/1", generation=1))
        self.pending.append(None)

    @rule()
    def commit(self) -> None:
        """Everything pending becomes durable."""
        self.journal.commit()
        self.committed += self.pending
        self.positions |= self.pending_positions
        self.pending, self.pending_positions = [], {}

    @rule(seconds=st.sampled_from([0.1, 2.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        """Old segments roll."""
        self.clock.advance(seconds)

    @rule(seed=st.integers(0, 1 << 30), power=st.booleans())
    def crash(self, seed: int, power: bool) -> None:
        """A kill -9 keeps a prefix of what was pending; a power cut too, and never less than what was committed."""
        abandon(self.journal)
        if power:
            self.fs.cut(seed)
            self.fs = PowerCutFs(self.root / "side")
        self.reopen()
        kept = self.journal.end - len(self.committed)
        assert 0 <= kept <= len(self.pending)
        assert not self.journal.recovery.damage
        self.committed += self.pending[:kept]
        self.pending, self.pending_positions = [], {}
        self.positions = {int(source[5:]): known.position for (source, _), known in self.journal.sources.items()}

    @rule()
    def close_and_open(self) -> None:
        """A clean stop commits."""
        self.journal.close()
        self.committed += self.pending
        self.positions |= self.pending_positions
        self.pending, self.pending_positions = [], {}
        self.reopen()

    @rule(name=NAMES, at_end=st.booleans())
    def subscribe(self, name: str, at_end: bool) -> None:
        """A subscriber begins at the oldest kept offset or at the end; a second of that name is a conflict."""
        at = "end" if at_end else "begin"
        try:
            subscriber = self.journal.add_subscriber(name, at)  # type: ignore[arg-type]
        except ConflictError:
            assert name in self.checkpoints
        else:
            assert name not in self.checkpoints
            self.checkpoints[name] = subscriber.checkpoint

    @precondition(lambda self: self.checkpoints)
    @rule(name=NAMES, share=st.floats(0, 1))
    def advance(self, name: str, share: float) -> None:
        """Acknowledge, then let segments go."""
        if name in self.checkpoints:
            offset = Offset(max(self.checkpoints[name], int(self.journal.end * share)))
            self.journal.subscriber(name).advance(offset)
            self.checkpoints[name] = offset
            self.journal.retain()

    @rule(name=NAMES)
    def unsubscribe(self, name: str) -> None:
        """Forget a subscriber."""
        self.journal.remove_subscriber(name)
        self.checkpoints.pop(name, None)

    @invariant()
    def readers_see_what_is_committed(self) -> None:
        """All that is kept reads back; the kept part begins at or below every checkpoint; positions agree."""
        journal = self.journal
        assert journal.end == len(self.committed)
        assert journal.append_end == len(self.committed) + len(self.pending)
        for checkpoint in self.checkpoints.values():
            assert journal.first <= checkpoint
        assert {s.name: s.checkpoint for s in journal.subscribers()} == self.checkpoints
        expected = [(offset, record or b"", record is None) for offset, record in enumerate(self.committed)][
            journal.first :
        ]
        with journal.reader() as inside, Reader.open(journal.path) as outside:
            for reader in (inside, outside):
                assert [(e.offset, e.record, e.gap is not None) for e in reader.read()] == expected
                assert not reader.damage
        known = {int(source[5:]): state.position for (source, _), state in journal.sources.items()}
        assert known == self.positions

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "journal"):
            abandon(self.journal)
            shutil.rmtree(self.root)


JournalMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestJournalMachine = JournalMachine.TestCase
