"""What a session asks the archive; runs in the writer's thread."""

from collections.abc import Sequence

from jlogd.forward.messages import CHAIN_LENGTH, JournalOffer, ReplicaEnd, terms_max
from jlogd.journal import Base, Offset
from managerd.archive import Archive, Replica
from managerd.ingest.events import NewIncarnation


def find(
    archive: Archive, node: str, offers: Sequence[JournalOffer]
) -> tuple[tuple[ReplicaEnd, ...], list[Replica | None]]:
    """Where the newest incarnation of each journal ends; absent when it has another journal id. JlogdError."""
    ends = []
    replicas = []
    for offer in offers:
        replica = archive.current(node, offer.journal)
        if replica is not None and replica.journal_id != offer.journal_id:
            replica = None  # the journal was made anew: a new incarnation will begin beside this one
        replicas.append(replica)
        if replica is None:
            ends.append(ReplicaEnd(present=False))
        else:
            tip = replica.journal.tip()
            terms = tuple(tip.terms[-terms_max(len(offers)) :])
            ends.append(ReplicaEnd(True, tip.end, tip.chain, terms))
    return tuple(ends), replicas


def begin(
    archive: Archive, node: str, news: Sequence[NewIncarnation], found: Sequence[Replica | None]
) -> tuple[list[Replica], tuple[Offset, ...]]:
    """Make the new incarnations durably; every replica of the session, by journal index, and its end. JlogdError."""
    by_index = dict(enumerate(found))
    for new in news:
        resume, offer = new.resume, new.offer
        base = Base(resume.first, resume.chain or bytes(CHAIN_LENGTH), list(resume.terms))
        by_index[new.journal] = archive.begin(node, offer.journal, offer.journal_id, first=resume.first, base=base)
    ready = [replica for replica in by_index.values() if replica is not None]
    return ready, tuple(replica.journal.end for replica in ready)
