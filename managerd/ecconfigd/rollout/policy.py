"""``global/rollout.toml``: which paths ask for a rollout, and the defaults of one.

    [[require]]
    paths = ["web/**", "global/nginx/**"]    # `*` and `?` within a part, `**` for any number of parts
    stages = ["1", "10%", "100%"]            # the rest is optional: what `rollout start` takes when it is not told
    hold = "60s"
    health = ["bin/healthy", "--quick"]
    max_failed = 0

The file as it was *before* a commit decides about that commit: a commit cannot excuse itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requirement:
    """One ``[[require]]``. None: it says nothing about that."""

    paths: tuple[str, ...]
    stages: tuple[str, ...] | None = None
    hold_s: float | None = None
    health: tuple[str, ...] | None = None
    max_failed: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """All of them, in the file's order."""

    require: tuple[Requirement, ...] = ()

    def required(self, paths: Iterable[str], more: Sequence[str] = ()) -> tuple[str, ...]:
        """The patterns, of this policy and of ``more``, that at least one of ``paths`` matches; sorted."""
        raise NotImplementedError

    def defaults(self, patterns: Iterable[str]) -> Requirement:
        """What the first requirement with one of ``patterns`` says."""
        raise NotImplementedError


def parse_policy(content: bytes | None) -> tuple[Policy, list[tuple[int, str]]]:
    """The policy, and what is wrong with it as (line, problem); None or with faults: a policy that asks for nothing."""
    raise NotImplementedError
