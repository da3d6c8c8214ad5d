"""Brings a revision here: objects from any manager that has them, ids and signature checked, the view laid out.

Every failure becomes an answer for ``decide``: what may go away by itself is *pending*, what a person must act on is
*refused*. Blocks; belongs to the configurer's thread.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Final

from jlogd.attach.events import Brought, NotBrought
from jlogd.attach.inbox import Session
from jlogd.attach.messages import Target
from jlogd.confrepo.model import CommitId
from jlogd.confrepo.replica import LocalChangesError, Replica
from jlogd.runtime.errors import DamageError, JlogdError, RefusedError, StorageError, UnavailableError

log = logging.getLogger(__name__)

FETCH_S: Final = 300.0  # one manager may take so long for all that a node reads; then another one is asked


def bring(replica: Replica, target: Target, sessions: Mapping[str, Session]) -> Brought | NotBrought:
    """Have ``target`` whole, verified and laid out."""
    try:
        return _bring(replica, target, sessions)
    except LocalChangesError as error:
        return NotBrought(str(error), "refused")
    except RefusedError as error:
        return NotBrought(str(error), "refused", final=True)
    except JlogdError as error:
        return NotBrought(str(error))
    except Exception as error:  # a revision that we cannot digest must not end the daemon, again and again
        log.exception("configuration: r%d", target.revision)
        return NotBrought(f"internal: {error!r}", "refused", final=True)


def _bring(replica: Replica, target: Target, sessions: Mapping[str, Session]) -> Brought:
    _unwrap(replica, target)
    fetch(replica, target.id, sessions)
    warning = replica.check(target.id, target.revision)
    if warning:
        log.warning("configuration: r%d: %s", target.revision, warning)
    try:
        replica.prepare(target.id, target.revision)
    except DamageError as error:  # an object that counted as here is not
        log.warning("configuration: %s: fetching again", error)
        replica.doubt()
        fetch(replica, target.id, sessions)
        replica.prepare(target.id, target.revision)
    return Brought(warning)


def _unwrap(replica: Replica, target: Target) -> None:
    """Take what came with the target; where that is not enough it is fetched. StorageError."""
    gift = target.gift
    if gift is None or replica.has(target.id) or gift.have not in replica.have():
        return
    try:
        objects = replica.receive(target.id, [gift.pack], [gift.have])
    except DamageError as error:
        log.warning("configuration: what came with r%d does not do: %s", target.revision, error)
    else:
        size = len(gift.pack)
        log.info("configuration: fetched %s: %d objects, %d bytes, with the target", target.id[:8], objects, size)


def fetch(replica: Replica, commit_id: CommitId, sessions: Mapping[str, Session]) -> None:
    """Have the objects; from whoever announced the revision, else from anybody. UnavailableError, StorageError."""
    if replica.has(commit_id):
        return
    problems = []
    order = sorted(sessions.items(), key=lambda item: item[1].target is None or item[1].target.id != commit_id)
    for manager, session in order:
        try:
            _fetch_from(replica, commit_id, session)
        except StorageError:
            raise
        except JlogdError as error:
            problems.append(f"{manager}: {error}")
        else:
            return
    raise UnavailableError("not fetched: " + ("; ".join(problems) or "no manager is attached"))


def _fetch_from(replica: Replica, commit_id: CommitId, session: Session) -> None:
    """Damage here is met by asking for more and more: what is new, everything, everything into an empty store."""
    have = replica.have()
    try:
        _receive(replica, commit_id, session, have)
    except DamageError as error:
        log.warning("configuration: %s: fetching everything", error)
        replica.doubt()
    else:
        return
    try:
        _receive(replica, commit_id, session, [])
    except DamageError as error:
        log.warning("configuration: %s: fetching everything into an empty store", error)
        replica.begin_anew()
        _receive(replica, commit_id, session, [])


def _receive(replica: Replica, commit_id: CommitId, session: Session, have: list[CommitId]) -> None:
    count = 0

    def counted(pieces: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal count
        for piece in pieces:
            count += len(piece)
            yield piece

    with _closing(session.talk.fetch(commit_id, have, FETCH_S)) as pieces:
        objects = replica.receive(commit_id, counted(pieces), have)
    log.info("configuration: fetched %s: %d objects, %d bytes", commit_id[:8], objects, count)


@contextlib.contextmanager
def _closing(pieces: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """A session has one fetch at a time: one that is given up must end."""
    try:
        yield pieces
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
