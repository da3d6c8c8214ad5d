"""``eccfg rollout``: bring a held revision to a few nodes first, see how they do, stop it."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import click

from jlogd.render import json_option, note, print_json, print_table, printable
from jlogd.runtime.arguments import format_time, parse_timeout_s
from jlogd.runtime.errors import UsageError
from jlogd.runtime.settings import format_duration
from managerd.eccfg.connection import Connection, pass_connection
from managerd.v1 import config_pb2 as pb

NAMES_CHARACTERS = 100  # of a group in the table; --json has them all
ERRORS_SHOWN = 10
_ACTIVE = ("running", "paused")


@click.group()
def rollout() -> None:
    """Bring a revision to a few nodes first, then to more; it goes back by itself where it does harm.

    A commit is held back, and waits for a rollout, when global/rollout.toml asks for one of its paths.

    \b
    Examples:
      eccfg rollout start r12 --stages 1,10%,100% --hold 2m --health "checks/up.sh --quick"
      eccfg rollout status
      eccfg rollout abort
    """


def _split_stages(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(stage.strip() for stage in text.split(",")) if text is not None else ()


def _split_words(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text or ""))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no command line: {error}") from error


@rollout.command()
@click.argument("rev")
@click.option("--stages", metavar="LIST", callback=_split_stages,
              help="How many nodes have it in all, stage by stage: 1,10%,50%,100%.")  # fmt: skip
@click.option("--hold", metavar="T", help="Each node must be well for so long (60s, 10m) before the next stage.")
@click.option("--health", metavar="CMD", callback=_split_words,
              help="A program of the node's view, which must end with 0, all through the hold.")  # fmt: skip
@click.option("--max-failed", type=click.IntRange(0, 1_000_000), help="So many nodes may fail; one more ends it.")
@json_option
@pass_connection
def start(
    connection: Connection, *, rev: str, stages: Sequence[str], hold: str | None, health: Sequence[str],
    max_failed: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Begin to bring REV, a revision that is held back, to all nodes.

    What is not given is as global/rollout.toml says for its paths, else: stages 1,10%,50%,100%, a hold of
    one minute, no health check, no failures. A node that fails, or that goes away for longer than the hold
    (at least a minute), goes back; when more than --max-failed did, all nodes go back.

    \b
    Examples:
      eccfg rollout start r12
      eccfg rollout start HEAD --stages 1,25,100% --hold 10m --max-failed 1
      eccfg rollout start r12 --health "checks/up.sh --port 80"
    """
    request = pb.RolloutRequest(
        action=pb.RolloutRequest.ACTION_START, revision=rev, stages=stages, health=health, max_failed=max_failed
    )
    if hold is not None:
        request.hold_ms = round(parse_timeout_s(hold) * 1000)
    if any(not stage for stage in stages):
        raise UsageError("--stages has an empty stage: write 1,10%,100%")
    _ask(connection, request, as_json=as_json)


@rollout.command()
@json_option
@pass_connection
def status(connection: Connection, *, as_json: bool) -> None:
    """How the present or last rollout stands: stages, and which nodes are where.

    \b
    Examples:
      eccfg rollout status
      eccfg rollout status --json | jq -r '.rollout | "\\(.state) \\(.hold_left_s)"'
    """
    _ask(connection, pb.RolloutRequest(action=pb.RolloutRequest.ACTION_STATUS), as_json=as_json)


@rollout.command()
@json_option
@pass_connection
def pause(connection: Connection, *, as_json: bool) -> None:
    """Give it to no further node. Failures still count; nodes that have it keep it.

    \b
    Example:
      eccfg rollout pause
    """
    _ask(connection, pb.RolloutRequest(action=pb.RolloutRequest.ACTION_PAUSE), as_json=as_json)


@rollout.command()
@json_option
@pass_connection
def resume(connection: Connection, *, as_json: bool) -> None:
    """Go on after a pause; the hold of the stage starts over.

    \b
    Example:
      eccfg rollout resume
    """
    _ask(connection, pb.RolloutRequest(action=pb.RolloutRequest.ACTION_RESUME), as_json=as_json)


@rollout.command()
@json_option
@pass_connection
def abort(connection: Connection, *, as_json: bool) -> None:
    """Take it back from every node that has it. The revision stays held back.

    \b
    Example:
      eccfg rollout abort && eccfg revert r12 -m "Not this way"
    """
    _ask(connection, pb.RolloutRequest(action=pb.RolloutRequest.ACTION_ABORT), as_json=as_json)


# ---------------------------------------------------------------------- what people and scripts see


def _ask(connection: Connection, request: pb.RolloutRequest, *, as_json: bool) -> None:
    with connection.connect() as client:
        answer = client.rollout(request)
    state = answer.rollout if answer.HasField("rollout") else None
    if as_json:
        print_json({"rollout": document(state) if state is not None else None})
    elif state is None:
        note("there was no rollout yet: eccfg rollout start REV begins one")
    else:
        show(state)


def document(state: pb.RolloutState) -> dict[str, Any]:
    """A rollout for scripts."""
    return {
        "number": state.number,
        "state": state.state,
        "revision": state.revision,
        "id": state.id,
        "baseline": state.baseline,
        "author": state.author,
        "since": format_time(state.since_ns or None),
        "reason": state.reason or None,
        "stages": list(state.stages),
        "counts": [count or None for count in state.counts],
        "stage": state.stage,
        "hold_s": state.hold_ms / 1000,
        "hold_left_s": state.hold_left_ms / 1000 if state.HasField("hold_left_ms") else None,
        "health": list(state.health),
        "max_failed": state.max_failed,
        "nodes": state.nodes,
        "released": sorted(state.released),
        "applied": sorted(state.applied),
        "pending": _pending(state),
        "offline": sorted(state.offline),
        "failed": sorted(state.failed),
        "errors": [
            {"node": node, "error": error or None}
            for node, error in sorted(zip(state.failed, state.errors, strict=False))
        ],
    }


def show(state: pb.RolloutState) -> None:
    """Two tables: stages, and nodes by what became of them; then why nodes failed."""
    click.echo(printable(_headline(state)))
    click.echo()
    print_table(("stage", "nodes", "state"), list(_stage_rows(state)))
    click.echo()
    print_table(("nodes are", "count", "names"), list(_group_rows(state)))
    failures = list(zip(state.failed, state.errors, strict=False))
    for node, error in failures[:ERRORS_SHOWN]:
        click.echo(printable(f"{node} failed: {error or 'see eccfg nodes'}"))
    if len(failures) > ERRORS_SHOWN:
        click.echo(f"… and {len(failures) - ERRORS_SHOWN} more: eccfg rollout status --json")


def _headline(state: pb.RolloutState) -> str:
    checks = f", health {shlex.join(state.health)}" if state.health else ""
    return (
        f"rollout {state.number}: r{state.revision} on top of r{state.baseline}, {state.state}"
        f"{f' ({state.reason})' if state.reason else ''}; by {state.author},"
        f" hold {format_duration(state.hold_ms / 1000)}, at most {state.max_failed} may fail{checks}"
    )


def _stage_rows(state: pb.RolloutState) -> Iterator[tuple[object, ...]]:
    for number, stage in enumerate(state.stages):
        count = state.counts[number] if number < len(state.counts) else 0
        yield stage, str(count) if count else "all", _stage_state(state, number)


def _stage_state(state: pb.RolloutState, number: int) -> str:
    if state.state == "done" or number < state.stage:
        return "over"
    if number > state.stage:
        return "to come" if state.state in _ACTIVE else "never begun"
    if state.state == "running" and state.HasField("hold_left_ms"):
        return f"holds for {format_duration(-(-state.hold_left_ms // 1000))} more"
    return {"running": "waits for its nodes", "paused": "paused"}.get(state.state, "ended here")


def _group_rows(state: pb.RolloutState) -> Iterator[tuple[object, ...]]:
    groups: tuple[tuple[str, Sequence[str]], ...] = (
        ("applied", sorted(state.applied)),
        ("pending", _pending(state)),
        ("offline", sorted(state.offline)),
        ("failed", sorted(state.failed)),
    )
    for word, names in groups:
        yield word, len(names), _joined(names)
    if state.state in _ACTIVE:
        yield "not yet released", max(0, state.nodes - len(set(state.released) | set(state.failed))), None


def _pending(state: pb.RolloutState) -> list[str]:
    """Released, here, and not there yet."""
    if state.state not in _ACTIVE:
        return []
    return sorted(set(state.released) - set(state.applied) - set(state.failed) - set(state.offline))


def _joined(names: Sequence[str]) -> str | None:
    text = ""
    for at, name in enumerate(names):
        if len(text) + len(name) > NAMES_CHARACTERS:
            return f"{text} and {len(names) - at} more"
        text += f" {name}" if text else name
    return text or None
