"""From what ``rollout start`` asks for to a plan that can be carried out, or why not. In any thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jlogd.attach.messages import TRIAL_S_MAX
from jlogd.confrepo.model import EXECUTABLE, Commit, Scope
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import RefusedError, UsageError
from managerd.ecconfigd import holding
from managerd.ecconfigd.rollout import DEFAULT, FAILED_MAX, Document, Held, Plan, Point, check_stages, health_problem

HOLD_S: Final = 60.0  # where nobody says


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What is asked for. None or empty: as ``global/rollout.toml`` says, else the default."""

    revision: str
    stages: Sequence[str] = ()
    hold_s: float | None = None
    health: Sequence[str] = ()
    max_failed: int | None = None


def plan(
    repository: Repository, document: Document, request: StartRequest, author: str, nodes: Sequence[Scope]
) -> Plan:
    """RefusedError or UsageError says what is in the way. ``nodes``: those that can try it now."""
    commit = repository.resolve(request.revision)
    held = _held(repository, document, commit)
    head = repository.head()
    defaults = holding.policy_of(repository, head or commit).defaults(held.patterns)
    made = Plan(
        target=Point(commit.revision, commit.id),
        baseline=held.baseline,
        stages=check_stages(tuple(request.stages) or defaults.stages or DEFAULT),
        hold_s=_first(request.hold_s, defaults.hold_s, HOLD_S),
        health=tuple(request.health) or defaults.health or (),
        max_failed=int(_first(request.max_failed, defaults.max_failed, 0)),
        author=author,
    )
    _check(made)
    if made.health:
        _check_health(repository, commit, made.health[0], nodes)
    return made


def _held(repository: Repository, document: Document, commit: Commit) -> Held:
    if not repository.on_main(commit.id):
        raise RefusedError(f"{commit.id[:8]} is not on the main line: give one of `eccfg log`")
    confirmed = holding.confirmed_revision(repository)
    if commit.revision > confirmed:
        raise RefusedError(f"r{commit.revision} is not on enough managers yet: try again when `eccfg log` says so")
    held = holding.in_force(repository, document)
    if held is None:
        raise RefusedError(
            f"no revision is held back: all nodes get r{confirmed}. A commit waits for a rollout when"
            " global/rollout.toml asks for one; `eccfg rollback` takes an older tree"
        )
    if commit.revision <= held.baseline.revision:
        raise RefusedError(
            f"all nodes run {held.baseline} or get it: a rollout is for what is newer;"
            f" for the tree as at r{commit.revision} use `eccfg rollback r{commit.revision}`"
        )
    return held


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _check(made: Plan) -> None:
    if not 0 <= made.hold_s <= TRIAL_S_MAX:
        raise UsageError(f"a hold of {made.hold_s:g} s: it may be 0 to {TRIAL_S_MAX} s (7 days)")
    if not 0 <= made.max_failed <= FAILED_MAX:
        raise UsageError(f"max_failed is {made.max_failed}: it may be 0 to {FAILED_MAX}")
    if problem := health_problem(made.health):
        raise UsageError(f"health check: {problem}")


def _check_health(repository: Repository, commit: Commit, path: str, nodes: Sequence[Scope]) -> None:
    """Every node would fail for the same silly reason."""
    modes: dict[str, int | None] = {}  # layer → the file's mode in it
    for scope in nodes:
        mode = None
        for layer in reversed(scope.layers):
            if layer not in modes:
                entry = repository.entry(commit, f"{layer}/{path}")
                modes[layer] = entry.mode if entry else None
            mode = mode or modes[layer]
        if mode is None:
            raise RefusedError(f"r{commit.revision} has no {path} in the view of node {scope.node}: commit one first")
        if mode != EXECUTABLE:
            raise RefusedError(f"{path} in the view of node {scope.node} is not a program (mode {mode:o}, not 100755)")
