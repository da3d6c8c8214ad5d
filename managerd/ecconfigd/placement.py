"""What people should hear of where a commit puts the directories of nodes. Pure; it never refuses.

A node says itself of which subcluster it is, and is refused when the repository has it in another one only. A commit
may take it there on purpose, or by a typing error that shows when the node attaches next, much later: so it is said
when it is committed. Only of nodes whose directories the commit touches, else each one repeated it. Whether a node may
attach is judged in ``attach_session``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from jlogd.confrepo.model import DEFAULT, RESERVED, Scope
from managerd.ecconfigd.candidate import Candidate

NOTES_MAX: Final = 20
PLACES_SAID: Final = 5
_DEPTH: Final = 3  # SUBCLUSTER/NODE/FILE


def notes(candidate: Candidate, nodes: Callable[[], Sequence[Scope]]) -> tuple[str, ...]:
    """At most ``NOTES_MAX``, and one that counts the rest. ``nodes``: as they said last; asked only when needed."""
    touched = _touched(candidate.changes)
    said = {scope.node: scope.subcluster for scope in nodes() if scope.node in touched} if touched else {}
    if not said:
        return ()
    places = _places(candidate, said.keys())
    found = (_note(node, said[node], places[node]) for node in sorted(said))
    return shortened([note for note in found if note])


def shortened(found: Sequence[str]) -> tuple[str, ...]:
    """As many as people read."""
    more = len(found) - NOTES_MAX
    return (*found[:NOTES_MAX], *([f"and {more} more nodes like these"] if more > 0 else ()))


def _touched(paths: Iterable[str]) -> set[str]:
    split = (path.split("/", _DEPTH - 1) for path in paths)
    return {parts[1] for parts in split if len(parts) == _DEPTH and parts[0] not in RESERVED and parts[1] != DEFAULT}


def _places(candidate: Candidate, nodes: Iterable[str]) -> dict[str, list[str]]:
    """Subclusters that have a directory for each."""
    found: dict[str, list[str]] = {node: [] for node in nodes}
    for subcluster, is_directory in sorted(candidate.names().items()):
        if not is_directory or subcluster in RESERVED:
            continue
        for node, inner in candidate.names(subcluster).items():
            if inner and node in found:
                found[node].append(subcluster)
    return found


def _note(node: str, said: str, places: Sequence[str]) -> str:
    """Empty when nothing is to be said."""
    where = ", ".join(f"{place}/{node}" for place in places[:PLACES_SAID])
    if len(places) > 1:
        return (
            f"node {node} has directories in {len(places)} subclusters: {where}; it gets the one that its [node] "
            f"subcluster names ({said} when it was seen last): delete the others"
        )
    if not places or said in places:
        return ""
    return (
        f"node {node} says that it is of subcluster {said}: with only {where} it is refused when it attaches next; "
        f"set [node] subcluster there, or move the directory"
    )
