"""Who may read, commit and roll out which paths: ``global/access.toml``. Pure.

    [groups]
    web-team = ["operator:alice", "operator:bob"]

    [[rule]]
    who = ["@web-team"]                 # an identity ROLE:NAME, "role:ROLE", or a group "@NAME"
    paths = ["web/**"]                  # `*` and `?` within a part, `**` for any number of parts
    allow = ["read", "commit", "rollout"]

Rules only grant; an identity has what any of its rules grants.

* Without the file operators may do everything. With it they have what its rules say.
* Whatever it says: managers read everything, a node reads its own layers and commits to ``running/<node>/``.
* The file itself is committed by operators only; a file by which no operator could change it again is refused.
* A file with faults (no commit lets one in) grants operators to read everything and to repair that file.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from jlogd.confrepo.model import Scope

Right: TypeAlias = Literal["read", "commit", "rollout"]


def compile_globs(patterns: Iterable[str]) -> "re.Pattern[str]":
    """One expression whose ``fullmatch`` says whether a path matches any of ``patterns``."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[rule]]``, groups resolved. ``who``: identities and ``role:ROLE``."""

    who: frozenset[str]
    paths: tuple[str, ...]
    allow: frozenset[str]


class Rules:
    """What one version of the file says. Immutable, so any thread may ask."""

    def __init__(self, rules: Iterable[Rule] | None, faults: Iterable[tuple[int, str]] = ()) -> None:
        """``rules`` None: there is no file."""
        self.faults: tuple[tuple[int, str], ...] = tuple(faults)  # (line, problem)

    @classmethod
    def parse(cls, content: bytes | None) -> Self:
        """From the file's content; None: it is not there. Never fails: see ``faults``."""
        raise NotImplementedError

    def may(self, identity: str, right: Right, path: str, scope: Scope | None = None) -> bool:
        """Whether ``identity`` ("operator:alice") has ``right`` on ``path``. ``scope``: a node's own."""
        return self.judge(identity, right, scope)(path)

    def judge(self, identity: str, right: Right, scope: Scope | None = None) -> Callable[[str], bool]:
        """``may`` for many paths."""
        raise NotImplementedError

    def may_all(self, identity: str, right: Right) -> bool:
        """Whether ``identity`` has ``right`` on every path there may ever be."""
        raise NotImplementedError
