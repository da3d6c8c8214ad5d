"""Whether the manager still has the revision that a working copy is based on, and what to do when it has not.

It lacks that revision when it is behind, or when an older history was restored there. Which of the two it is only a
person can tell, so the message names both ways on.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from jlogd.runtime.errors import JlogdError, RefusedError
from managerd.eccfg.client import Client
from managerd.eccfg.index import Index
from managerd.eccfg.outcome import ID_DIGITS
from managerd.v1 import config_pb2 as pb


def strayed(client: Client, index: Index, head: pb.Revision | None = None) -> str:
    """What is wrong with the base, in one line; empty when the manager has it. ``head``: the manager's, when known."""
    if not index.id:
        return ""
    head = head if head is not None else client.status().head
    if head.id == index.id:
        return ""
    try:
        client.log(until=index.id, limit=1)
    except RefusedError:
        return _words(index, head)
    return ""


def _words(index: Index, head: pb.Revision) -> str:
    at = f"is at r{head.revision}" if head.id else "has no revision at all"
    return (
        f"the manager {at} and does not have r{index.revision} {index.id[:ID_DIGITS]}, on which this working copy is "
        f"based: it is behind ('--manager' asks another one), or an older history was restored there: then "
        f"'eccfg clone' anew, and copy your changes over"
    )


@contextmanager
def base_explained(client: Client, index: Index) -> Iterator[None]:
    """A refusal of what names the base is told by what is wrong with the base, where that is it. RefusedError."""
    try:
        yield
    except RefusedError as error:
        words = ""
        with suppress(JlogdError):  # what was refused says more than that this cannot be found out
            words = strayed(client, index)
        raise (RefusedError(words) if words else error) from error
