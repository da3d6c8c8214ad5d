"""What the node's journals know when a session asks: offers, and answers to ``LookUp``."""

from dataclasses import dataclass

from jlogd.forward.events import LocalJournal, Located, Place
from jlogd.forward.messages import JournalOffer, terms_max
from jlogd.forward.positions import Awaited
from jlogd.journal import Journal, Offset, Reader, Subscriber
from jlogd.journal.frame import gap_chain


@dataclass(frozen=True, slots=True)
class Source:
    """One journal as one subscriber sees it; its place in the list is its index in the session.

    ``awaited``: it is new, and asks for the positions of its sources.
    """

    name: str
    journal: Journal
    subscriber: Subscriber
    awaited: Awaited | None = None


def offer(source: Source) -> LocalJournal:
    """The journal as it is now."""
    tip, subscriber = source.journal.tip(), source.subscriber
    wants = source.awaited is not None and source.awaited.pending
    facts = JournalOffer(source.name, source.journal.id, tip.first, tip.end, subscriber.checkpoint, wants)
    return LocalJournal(facts, subscriber.origin, subscriber.acknowledged)


def locate(source: Source, place: Place, journals: int) -> Located:
    """Answer one question; ``journals``: how many the session has. FormatError, OSError."""
    with source.journal.reader() as reader:
        tip = source.journal.tip()
        first = reader.first
        border, chain = _border(reader, min(place.offset, tip.end), first, tip.end)
    chains: tuple[bytes, ...] = ()
    if chain is not None:
        # A replica that got a gap up to here, because the frame was damaged once, ends with the gap's chain.
        salt = int.from_bytes(source.journal.id[:4], "little")
        chains = (chain, gap_chain(salt, border))
    terms = tuple(tip.terms[-terms_max(journals) :])
    return Located(place.journal, place.offset, border, first, tip.end, chains, terms)


def _border(reader: Reader, offset: Offset, first: Offset, end: Offset) -> tuple[Offset, bytes | None]:
    if offset < first:
        return offset, None
    found = reader.chain_at(offset)
    if found is not None:
        return offset, found[1]
    view = next(reader.frames(offset), None)
    border = Offset(view.header.first_offset) if view is not None else end
    found = reader.chain_at(border) if border != offset else None
    return border, found[1] if found else None
