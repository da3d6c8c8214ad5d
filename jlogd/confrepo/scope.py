"""Which objects somebody needs: a node its own layers, a manager everything; minus what he has.

Trees are walked beside those of ``have``; what is equal is skipped, so a small change costs little in a large tree.
"""

from collections.abc import Sequence

from jlogd.confrepo import model as M  # noqa: N812
from jlogd.confrepo.objects import ObjectStore


def scope_objects(
    store: ObjectStore, commit_id: M.CommitId, scope: M.Scope | None, have: Sequence[M.CommitId] = ()
) -> list[M.ObjectId]:
    """The commit, the trees on the way, the own layers; without what is in the ``have`` commits' same scope.

    ``scope`` None: everything reachable, all parents included, that is not reachable from ``have``. Unknown ``have``
    ids are ignored. MissingError when the store itself lacks something.
    """
    raise NotImplementedError


def check_scope(
    store: ObjectStore, commit_id: M.CommitId, scope: M.Scope | None, have: Sequence[M.CommitId] = ()
) -> None:
    """Every object of the scope is here and hashes right; ``have``: what was checked before. DamageError."""
    raise NotImplementedError


def kept_objects(store: ObjectStore, commits: Sequence[M.CommitId], scope: M.Scope | None) -> set[str]:
    """What these commits need, for ``ObjectStore.keep_only``."""
    raise NotImplementedError
