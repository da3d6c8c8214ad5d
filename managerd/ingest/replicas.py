"""What a session asks the archive; ``find`` and ``begin`` run in the writer's thread, ``give_back`` in any."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jlogd.forward.messages import (
    CHAIN_LENGTH,
    SOURCES_BYTES_MAX,
    JournalOffer,
    ProtocolError,
    ReplicaEnd,
    SourcePosition,
    check_source,
    terms_max,
)
from jlogd.journal import Base, Offset, SourceKey, SourceState, committed_sources
from jlogd.runtime.errors import DamageError, FormatError, StorageError
from managerd.archive import Archive, Replica
from managerd.archive.layout import begun_incarnations, log_dir
from managerd.ingest.events import NewIncarnation

log = logging.getLogger(__name__)

INCARNATIONS_MAX = 32  # looked through for positions; each costs a walk over its last segment


def find(
    archive: Archive, node: str, offers: Sequence[JournalOffer]
) -> tuple[tuple[ReplicaEnd, ...], list[Replica | None]]:
    """Where the newest incarnation of each journal id ends; absent when there is none. JlogdError."""
    ends = []
    replicas = []
    for offer in offers:
        replica = archive.current(node, offer.journal, offer.journal_id)
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
        replica = archive.begin(node, offer.journal, offer.journal_id, first=resume.first, base=base)
        if replica.number > 1:
            log.warning(
                "node %s, journal %s: incarnation %04d begins at offset %d beside older ones; see `managerd logs ls`",
                node, offer.journal, replica.number, resume.first,
            )  # fmt: skip
        by_index[new.journal] = replica
    ready = [replica for replica in by_index.values() if replica is not None]
    return ready, tuple(replica.journal.end for replica in ready)


def give_back(
    data: Path, node: str, offers: Sequence[JournalOffer], ends: Sequence[ReplicaEnd]
) -> tuple[ReplicaEnd, ...]:
    """``ends`` with the positions for each journal that wants them. Reads files only. JlogdError."""
    left = SOURCES_BYTES_MAX
    answer = []
    for offer, end in zip(offers, ends, strict=True):
        if not offer.wants_sources:
            answer.append(end)
            continue
        known = known_sources(data, node, offer)
        kept, left = _within(known, left)
        answer.append(replace(end, sources=kept))
        log.info("node %s, journal %s: new there; gave back %d positions", node, offer.journal, len(kept))
        if len(kept) < len(known):
            log.warning(
                "node %s, journal %s: %d positions of older generations did not fit into one message",
                node, offer.journal, len(known) - len(kept),
            )  # fmt: skip
    return tuple(answer)


def known_sources(data: Path, node: str, offer: JournalOffer) -> list[SourcePosition]:
    """Where older journals of this name stand, the newest generations first. The newest that knows a path counts.

    The offered journal's own incarnations say nothing: the node never heard of what they hold,
    so that becomes a branch beside the main line. JlogdError.
    """
    found: dict[bytes, dict[int, SourceState]] = {}
    log_path = log_dir(data, node, offer.journal)
    try:
        begun = begun_incarnations(log_path)
    except OSError as error:
        raise StorageError(f"{log_path}: cannot be read: {error}") from error
    others = [one for one in begun if one.journal_id != offer.journal_id]
    for incarnation in reversed(others[-INCARNATIONS_MAX:]):
        try:
            sources = committed_sources(incarnation.path)
        except OSError as error:
            raise StorageError(f"{incarnation.path}: cannot be read: {error}") from error
        except (DamageError, FormatError) as error:
            log.error("%s: cannot tell its positions: %s", incarnation.path, error)  # noqa: TRY400 - one line
            continue
        newer = set(found)
        for (path, generation), state in sources.items():
            if path not in newer:
                found.setdefault(path, {})[generation] = state
    ranked = sorted(
        (rank, path, generation)
        for path, generations in found.items()
        for rank, generation in enumerate(sorted(generations, reverse=True))
    )
    positions = (_position((path, generation), found[path][generation]) for _, path, generation in ranked)
    return [one for one in positions if one is not None]


def _position(key: SourceKey, state: SourceState) -> SourcePosition | None:
    """None for what no tailer wrote: the node would refuse it."""
    position = SourcePosition(*key, state.position, state.state, state.ladder)
    try:
        check_source(position)
    except ProtocolError:
        return None
    return position


def _within(known: Sequence[SourcePosition], bytes_max: int) -> tuple[tuple[SourcePosition, ...], int]:
    """As many, from the front, as fit; what is left of ``bytes_max``."""
    kept = []
    for one in known:
        if one.length > bytes_max:
            break
        bytes_max -= one.length
        kept.append(one)
    return tuple(kept), bytes_max
