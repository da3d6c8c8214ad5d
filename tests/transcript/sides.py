"""The two sides of a transcript's world: what a node and a manager have on their disks, in memory."""

import copy
import hashlib
from dataclasses import dataclass, field, replace

from jlogd.forward import events as ne
from jlogd.forward.messages import JournalOffer, NodeHello, ReplicaEnd, SourcePosition
from jlogd.journal.model import Offset, Term
from managerd.ingest import events as me
from managerd.ingest.session import ManagerSession

RECORDS = 10  # in each frame
FRAME_BYTES = 100  # on the wire


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its offsets, who wrote it, text that no other frame has, where its one source stands behind it."""

    first: int
    end: int
    term: tuple[int, int]
    text: str
    position: int = 0


def chain(frames: list[Frame], start: bytes = bytes(16)) -> bytes:
    """The chain after ``frames``."""
    for frame in frames:
        start = hashlib.sha256(start + f"{frame.first} {frame.end} {frame.text}".encode()).digest()[:16]
    return start


@dataclass(slots=True)
class NodeJournal:
    """Every frame ever written; those below ``first`` are not kept any more."""

    journal_id: bytes
    first: int = 0
    frames: list[Frame] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    opened: tuple[int, int] = (1, 1)
    position: int = 0  # in its one source
    asks: bool = False  # it is new and waits for positions

    @property
    def end(self) -> int:
        return self.frames[-1].end if self.frames else 0

    def write(self, writer: str) -> None:
        """Append one frame in the open term."""
        if not self.terms or (self.terms[-1].counter, self.terms[-1].nonce) != self.opened:
            self.terms.append(Term(*self.opened, Offset(self.end)))
        text, self.position = f"{writer}/{self.position}", self.position + RECORDS
        self.frames.append(Frame(self.end, self.end + RECORDS, self.opened, text, self.position))

    def chain_at(self, offset: int) -> bytes | None:
        """Known at borders that are kept."""
        if offset < self.first or offset > self.end or offset % RECORDS:
            return None
        return chain([frame for frame in self.frames if frame.end <= offset])

    def frame_at(self, offset: int) -> Frame:
        """The frame at ``offset``; a gap where it is not kept."""
        if offset < self.first:
            return Frame(offset, self.first, self.frames[0].term, f"gap {offset}-{self.first}")
        return next(frame for frame in self.frames if frame.first <= offset < frame.end)


@dataclass(slots=True)
class Checkpoint:
    """One subscriber of one journal."""

    checkpoint: int = 0
    origin: int = 0
    acknowledged: bool = False


@dataclass(slots=True)
class NodeSide:
    """A node's disk and who it says it is."""

    key: str
    name: str
    host: str
    machine_id: str
    instance: str
    subcluster: str = "default"
    journals: dict[str, NodeJournal] = field(default_factory=dict)
    checkpoints: dict[tuple[str, str], Checkpoint] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)

    def checkpoint(self, journal: str, subscriber: str) -> Checkpoint:
        """Made at the oldest kept offset when it is not there."""
        first = self.journals[journal].first
        return self.checkpoints.setdefault((journal, subscriber), Checkpoint(first, first))

    def offers(self, subscriber: str) -> tuple[ne.LocalJournal, ...]:
        """The journals, by name."""
        offers = []
        for name, journal in sorted(self.journals.items()):
            known = self.checkpoint(name, subscriber)
            facts = JournalOffer(
                name,
                journal.journal_id,
                Offset(journal.first),
                Offset(journal.end),
                Offset(known.checkpoint),
                journal.asks,
            )
            offers.append(ne.LocalJournal(facts, Offset(known.origin), known.acknowledged))
        return tuple(offers)

    def locate(self, place: ne.Place) -> ne.Located:
        """What the journal knows about an offset."""
        journal = self.journals[sorted(self.journals)[place.journal]]
        offset = min(place.offset, journal.end)
        border = offset if offset < journal.first else offset - offset % RECORDS
        found = journal.chain_at(border)
        return ne.Located(
            place.journal,
            place.offset,
            Offset(border),
            Offset(journal.first),
            Offset(journal.end),
            (found,) if found is not None else (),
            tuple(journal.terms),
        )


@dataclass(slots=True)
class Incarnation:
    """One replica: its base and its frames; ``durable`` of them are on the disk."""

    journal_id: bytes
    first: int
    base_chain: bytes
    base_terms: list[Term]
    frames: list[Frame] = field(default_factory=list)
    durable: int = 0

    @property
    def append_end(self) -> int:
        return self.frames[-1].end if self.frames else self.first

    @property
    def durable_frames(self) -> list[Frame]:
        return self.frames[: self.durable]

    @property
    def end(self) -> int:
        return self.durable_frames[-1].end if self.durable else self.first

    def replica_end(self) -> ReplicaEnd:
        """As Welcome tells it."""
        terms = list(self.base_terms)
        for frame in self.durable_frames:
            if not terms or (terms[-1].counter, terms[-1].nonce) != frame.term:
                terms.append(Term(*frame.term, Offset(frame.first)))
        return ReplicaEnd(True, Offset(self.end), chain(self.durable_frames, self.base_chain), tuple(terms))


@dataclass(slots=True)
class ManagerSide:
    """A manager's disk, and the sessions that live in its memory."""

    name: str
    subscriber: str
    epoch: int
    window: int
    protocol: int = 1
    archive: dict[tuple[str, str], list[Incarnation]] = field(default_factory=dict)
    live: dict[str, tuple[ManagerSession, NodeHello, str]] = field(default_factory=dict)  # node → session, hello, key
    superseded: dict[str, set[bytes]] = field(default_factory=dict)
    words: tuple[str, ...] = ("sources",)  # what it can do; none: an older version

    def commit(self) -> None:
        """Everything appended is on the disk."""
        for line in self.archive.values():
            for incarnation in line:
                incarnation.durable = len(incarnation.frames)

    def forget(self) -> None:
        """Killed: what was not committed is gone, and so is every session."""
        for line in self.archive.values():
            for incarnation in line:
                del incarnation.frames[incarnation.durable :]
        self.live.clear()
        self.superseded.clear()

    def find(self, effect: me.FindReplicas) -> tuple[ReplicaEnd, ...]:
        """Where the newest incarnation of each journal ends."""
        ends = []
        for offer in effect.journals:
            line = self.archive.get((effect.node, offer.journal), [])
            same = bool(line) and line[-1].journal_id == offer.journal_id
            end = line[-1].replica_end() if same else ReplicaEnd(present=False)
            ends.append(replace(end, sources=_given(line, offer)) if offer.wants_sources and self.words else end)
        return tuple(ends)

    def main_line(self, node: str, journal: str) -> list[Frame]:
        """Durable frames of the newest branch on top of what it has in common with older ones."""
        below: list[Frame] = []
        line = self.archive.get((node, journal), [])
        for incarnation in (one for one in line if one.journal_id == line[-1].journal_id):
            below = [frame for frame in below if frame.end <= incarnation.first] + incarnation.durable_frames
        return below


def _given(line: list[Incarnation], offer: JournalOffer) -> tuple[SourcePosition, ...]:
    """Where the newest other journal of that name stands."""
    known = [one.durable_frames[-1] for one in line if one.durable and one.journal_id != offer.journal_id]
    return (SourcePosition(b"/log", 1, known[-1].position, b"", b""),) if known else ()


def snapshot(side: NodeSide | ManagerSide) -> NodeSide | ManagerSide:
    """A copy of what is on the disk."""
    if isinstance(side, NodeSide):
        return copy.deepcopy(side)
    live, side.live = side.live, {}
    try:
        copied = copy.deepcopy(side)
    finally:
        side.live = live
    copied.forget()
    return copied
