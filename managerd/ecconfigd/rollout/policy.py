"""``global/rollout.toml``: which paths ask for a rollout, and the defaults of one.

    [[require]]
    paths = ["web/**", "global/nginx/**"]    # `*` and `?` within a part, `**` for any number of parts
    stages = ["1", "10%", "100%"]            # the rest is optional: what `rollout start` takes when it is not told
    hold = "60s"
    health = ["bin/healthy", "--quick"]
    max_failed = 0

The file as it was *before* a commit decides about that commit: a commit cannot excuse itself.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jlogd.attach.messages import HEALTH_WORD_MAX, HEALTH_WORDS_MAX, TRIAL_S_MAX
from jlogd.runtime import toml
from jlogd.runtime.errors import UsageError
from managerd.ecconfigd.access import compile_globs, pattern_fault
from managerd.ecconfigd.rollout.stages import check_stages

PATTERNS_MAX: Final = 256  # each changed path is compared with each of them
FAILED_MAX: Final = 1_000_000

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", re.ASCII)
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")


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
        patterns = {pattern for requirement in self.require for pattern in requirement.paths} | set(more)
        if not patterns:
            return ()
        hit = list(filter(compile_globs(sorted(patterns)).fullmatch, paths))
        return tuple(sorted(pattern for pattern in patterns if any(map(compile_globs([pattern]).fullmatch, hit))))

    def defaults(self, patterns: Iterable[str]) -> Requirement:
        """What the first requirement with one of ``patterns`` says."""
        wanted = set(patterns)
        return next((found for found in self.require if wanted & set(found.paths)), Requirement(()))


def parse_policy(content: bytes | None) -> tuple[Policy, list[tuple[int, str]]]:
    """The policy, and what is wrong with it as (line, problem); None or with faults: a policy that asks for nothing."""
    if content is None:
        return Policy(), []
    try:
        text = content.decode()
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        found = _TOML_LINE.search(str(error))
        return Policy(), [(int(found[1]) if found else 0, f"not TOML: {error}")]
    parser = _Parser(toml.locate(text))
    policy = parser.policy(table)
    return (Policy(), sorted(parser.faults)) if parser.faults else (policy, [])


class _Parser:
    """Collects every fault with its line."""

    def __init__(self, lines: dict[toml.Path, int]) -> None:
        self.faults: list[tuple[int, str]] = []
        self._lines = lines

    def policy(self, table: dict[str, Any]) -> Policy:
        for key in table.keys() - {"require"}:
            self._fault((key,), f"{key}: unknown; this file has [[require]] only")
        rows = table.get("require", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self._fault(("require",), "require: write [[require]]")
            return Policy()
        policy = Policy(tuple(self._requirement(("require", number), row) for number, row in enumerate(rows)))
        if sum(len(requirement.paths) for requirement in policy.require) > PATTERNS_MAX:
            self._fault(("require",), f"more than {PATTERNS_MAX} paths")
        return policy

    def _requirement(self, at: toml.Path, row: dict[str, Any]) -> Requirement:
        for key in row.keys() - {"paths", "stages", "hold", "health", "max_failed"}:
            self._fault((*at, key), f"{key}: unknown; known are paths, stages, hold, health, max_failed")
        paths = self._texts((*at, "paths"), row.get("paths", []))
        if not paths:
            self._fault((*at, "paths") if "paths" in row else at, 'paths: at least one is needed, e.g. ["web/**"]')
        for number, path in enumerate(paths):
            if problem := pattern_fault(path):
                self._fault((*at, "paths", number), f"paths: {problem}")
        return Requirement(
            paths,
            self._stages((*at, "stages"), row["stages"]) if "stages" in row else None,
            self._hold((*at, "hold"), row["hold"]) if "hold" in row else None,
            self._health((*at, "health"), row["health"]) if "health" in row else None,
            self._max_failed((*at, "max_failed"), row["max_failed"]) if "max_failed" in row else None,
        )

    def _stages(self, at: toml.Path, value: object) -> tuple[str, ...] | None:
        try:
            return check_stages(self._texts(at, value))
        except UsageError as error:
            self._fault(at, f"stages: {error}")
            return None

    def _hold(self, at: toml.Path, value: object) -> float | None:
        found = _DURATION.fullmatch(value) if isinstance(value, str) else None
        seconds = float(found[1]) * _UNITS_S[found[2]] if found else value
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= TRIAL_S_MAX:
            self._fault(at, 'hold: not a duration up to 7d; write seconds, or "60s", "10m"')
            return None
        return float(seconds)

    def _health(self, at: toml.Path, value: object) -> tuple[str, ...] | None:
        words = self._texts(at, value)
        if problem := health_problem(words):
            self._fault(at, f"health: {problem}")
        return words

    def _max_failed(self, at: toml.Path, value: object) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= FAILED_MAX:
            self._fault(at, "max_failed: write a number of nodes, 0 or more")
            return None
        return value

    def _texts(self, at: toml.Path, value: object) -> tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return tuple(value)
        self._fault(at, f'{at[-1]}: write a list of texts, e.g. ["…"]')
        return ()

    def _fault(self, at: toml.Path, problem: str) -> None:
        self.faults.append((self._lines.get(at, self._lines.get(at[:-1], 0)), problem))


def health_problem(words: Sequence[str]) -> str | None:
    """What is wrong with a health check's command; None: nothing. Empty: there is none to run."""
    if not words:
        return None
    parts = words[0].split("/")
    if not words[0] or any(part in {"", ".", ".."} for part in parts):
        return f"{words[0][:80]!r} is not a path in the view (relative, no ..)"
    if len(words) > HEALTH_WORDS_MAX or any(len(word) > HEALTH_WORD_MAX or "\0" in word for word in words):
        return f"at most {HEALTH_WORDS_MAX} words of {HEALTH_WORD_MAX} characters are allowed"
    return None
