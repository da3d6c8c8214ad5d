"""What a caller may see: the rules of ``global/access.toml`` as at head, and the questions that reading asks of them.

A refusal names the right, the path and the identity. A node's own layers follow from its subcluster, so the rules are
asked with its scope. Rights to commit are the store's to check, those to roll out the service's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from jlogd.confrepo.model import ACCESS_FILE, DEFAULT, RESERVED, Commit, Scope
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import NotPermittedError, RefusedError
from jlogd.runtime.names import is_name
from managerd.ecconfigd.access import Right, Rules
from managerd.ecconfigd.calls import Caller


@dataclass(frozen=True, slots=True)
class Gate:
    """One caller's rights for one call. ``everything``: may read all there is, so paths need no look. Any thread."""

    caller: Caller
    everything: bool
    may_read: Callable[[str], bool]
    rules: Rules
    scope: Scope | None

    @classmethod
    def of(cls, rules: Rules, caller: Caller, scope: Scope | None = None) -> Self:
        """``scope``: of a caller that is a node."""
        everything = rules.may_everything(caller.identity, "read")
        return cls(caller, everything, rules.judge(caller.identity, "read", scope), rules, scope)

    def readable(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Those of ``paths`` that the caller may read."""
        return tuple(paths) if self.everything else tuple(filter(self.may_read, paths))

    def require_read(self, path: str) -> None:
        """NotPermittedError unless the caller may read ``path``."""
        if not self.everything and not self.may_read(path):
            raise NotPermittedError(f"{self.caller.identity} may not read {path}: see {ACCESS_FILE}")

    def require_everything(self, right: Right, what: str) -> None:
        """NotPermittedError unless the caller has ``right`` on every path."""
        if not self.rules.may_everything(self.caller.identity, right):
            raise NotPermittedError(
                f"{self.caller.identity} may not {what}: that needs {right} on every path, see {ACCESS_FILE}"
            )

    def require_role(self, role: str, what: str) -> None:
        """NotPermittedError unless the caller is a ``role``."""
        if self.caller.role != role:
            raise NotPermittedError(f"{self.caller.identity} may not {what}: that is for the role {role}")

    def require(self, right: Right, paths: Iterable[str]) -> None:
        """NotPermittedError unless the caller has ``right`` on all of ``paths``."""
        may = self.rules.judge(self.caller.identity, right, self.scope)
        missing = next((path for path in paths if not may(path)), None)
        if missing is not None:
            raise NotPermittedError(f"{self.caller.identity} has no right to {right} {missing}: see {ACCESS_FILE}")


def subcluster_in_tree(repository: Repository, commit: Commit | None, node: str) -> str | None:
    """The subcluster that has a directory for ``node``; None when none has. RefusedError when several have."""
    top = (name for name, is_directory in repository.names(commit).items() if is_directory and name not in RESERVED)
    found = [name for name in top if repository.names(commit, name).get(node)]
    if len(found) > 1:
        raise RefusedError(
            f"node {node} is in several subclusters ({', '.join(found)}), and none is known to be its own"
        )
    return found[0] if found else None


def check_node(node: str) -> None:
    """RefusedError unless a node can be called so."""
    if not is_name(node) or node == DEFAULT:
        raise RefusedError(f"{node[:80]!r} is not a node's name")
