"""Directories as git trees: what is below one, what differs between two, and a new one from changes.

Equal ids are equal contents: whatever walks two trees together skips what they share.
"""

from collections.abc import Iterator

from dulwich.objects import ShaFile

from jlogd.confrepo import model as M  # noqa: N812
from jlogd.confrepo.objects import ObjectStore


def flatten(store: ObjectStore, tree_id: str, prefix: str = "") -> dict[str, M.Entry]:
    """All files below a tree, path (with ``prefix`` in front) → entry."""
    raise NotImplementedError


def difference(
    store: ObjectStore, old: str | None, new: str | None, prefix: str = ""
) -> Iterator[tuple[str, M.Entry | None, M.Entry | None]]:
    """Files that differ between two trees, in the order of their paths: path, old, new."""
    raise NotImplementedError


def edit(store: ObjectStore, tree_id: str | None, changes: M.Changes) -> tuple[M.ObjectId, list[ShaFile]]:
    """The tree with the changes made, and the objects that the store does not have yet. RefusedError."""
    raise NotImplementedError
