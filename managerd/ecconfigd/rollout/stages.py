"""Stages as people write them: ``1``, ``25``, ``10%``, ``100%``: so many nodes in all, or so many of a hundred.

Each stage releases more nodes than the one before; the last one is everyone's, and is added where it is not written:
no node gets a revision that was not held before somebody said that it is good.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Final

from jlogd.runtime.errors import UsageError

DEFAULT: Final = ("1", "10%", "50%", "100%")
STAGES_MAX: Final = 100
EVERYONE: Final = "100%"

_COUNT = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)
_SHARE = re.compile(r"(100|[0-9]{1,2}(?:\.[0-9]{1,3})?)%", re.ASCII)


def check_stages(stages: Sequence[str]) -> tuple[str, ...]:
    """``stages`` with everyone at the end. UsageError when they are no stages or do not grow."""
    if len(stages) > STAGES_MAX:
        raise UsageError(f"{len(stages)} stages, at most {STAGES_MAX} are allowed")
    for before, after in itertools.pairwise(stages):
        if before.endswith("%") == after.endswith("%") and _number(before) >= _number(after):
            raise UsageError(f"stage {after} does not release more than {before}, the one before it")
    if any(_is_everyone(stage) for stage in stages[:-1]):
        raise UsageError(f"{EVERYONE} is everyone: no stage can follow it")
    numbers = [_number(stage) for stage in stages]  # the last one as well
    return tuple(stages) if numbers and _is_everyone(stages[-1]) else (*stages, EVERYONE)


def node_counts(stages: Sequence[str], nodes: int) -> tuple[int | None, ...]:
    """How many of ``nodes`` each stage releases in all: 1 or more, no fewer than the one before; None = everyone."""
    counts: list[int | None] = []
    most = 1
    for stage in stages:
        share = _number(stage) * nodes / 100 if stage.endswith("%") else _number(stage)
        most = max(most, math.ceil(share))
        counts.append(None if _is_everyone(stage) else most)
    return tuple(counts)


def _is_everyone(stage: str) -> bool:
    return stage.endswith("%") and _number(stage) == 100


def _number(stage: str) -> float:
    if _COUNT.fullmatch(stage):
        return int(stage)
    share = _SHARE.fullmatch(stage)
    if share is None or not float(share[1]):
        raise UsageError(f"{stage[:40]!r} is not a stage: write how many nodes (25) or which share (10%)")
    return float(share[1])
