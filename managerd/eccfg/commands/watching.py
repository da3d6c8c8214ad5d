"""``eccfg watch``: what happens, as it happens, also over the end of the manager that tells it.

A stream that breaks is asked for again, at the first manager that answers, for ``GIVE_UP_S`` at most. It then begins
with how things are: what happened meanwhile is told by its outcome, some of it for the second time.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from jlogd.render import json_line, json_option, note, printable, stdout_bytes
from jlogd.runtime.arguments import format_time
from jlogd.runtime.errors import DeadlineError, UnavailableError
from managerd.eccfg.commands.history import UNREADABLE
from managerd.eccfg.commands.history import document as revision_document
from managerd.eccfg.commands.nodes import document
from managerd.eccfg.connection import CONNECT_TIMEOUT_S, Connection, pass_connection
from managerd.eccfg.outcome import short
from managerd.v1 import config_pb2 as pb

RETRY_S = 1.0  # a manager that restarts is asked again this often
GIVE_UP_S = 60.0  # without a stream: longer than a restart takes, shorter than a person waits for nothing


@click.command()
@click.option("--state", is_flag=True, help="Begin with how things are: head, every node, the rollout.")
@json_option
@pass_connection
def watch(connection: Connection, *, state: bool, as_json: bool) -> None:
    """What happens, one line an event, until Ctrl-C: revisions, what nodes make of them, rollouts.

    When its manager goes away it goes on at the first one that answers, beginning with how things are there; exit 1
    when none does for a minute.

    \b
    Examples:
      eccfg watch
      eccfg watch --json | jq -r 'select(.event == "node" and .node.state == "refused") | .node.name'
    """
    try:
        with stdout_bytes() as out:
            for event in _events(connection, state=state):
                out.write(json_line(event_document(event)) if as_json else _event_line(event).encode() + b"\n")
                out.flush()
    except KeyboardInterrupt:
        pass  # how watching is meant to end


class _Break:
    """How long nobody has told anything, and what was said of it."""

    def __init__(self) -> None:
        """Nobody has told anything yet: the first error is the last."""
        self.is_again = False
        self._since_s: float | None = None
        self._begun_s: float | None = None  # when the stream that is there began
        self._said = ""

    def begins(self, address: str) -> None:
        """That manager answers, and is asked for its events."""
        if self.is_again:
            note(f"note: {address} answers: this is how things are now")
        self.is_again = True
        self._begun_s = time.monotonic()

    def is_over(self) -> None:
        """Somebody tells."""
        self._since_s, self._said = None, ""

    def take(self, error: UnavailableError | DeadlineError) -> None:
        """The stream is not there, or no longer. Raises it when that goes on for too long."""
        now_s = time.monotonic()
        if self._begun_s is not None and now_s - self._begun_s >= RETRY_S:
            self.is_over()  # it was there, and there was nothing to tell
        self._begun_s = None
        self._since_s = now_s if self._since_s is None else self._since_s
        if not self.is_again or now_s - self._since_s >= GIVE_UP_S:
            raise error
        if str(error) != self._said:  # once, not every second
            self._said = str(error)
            note(f"note: {self._said}; trying again")


def _events(connection: Connection, *, state: bool) -> Iterator[pb.WatchResponse]:
    broken = _Break()
    while True:
        try:
            with connection.connect() as client:
                client.status(timeout_s=CONNECT_TIMEOUT_S)  # a stream that waits for a manager looks like a quiet one
                wanted = state or broken.is_again
                broken.begins(client.address)
                for event in client.watch(state=wanted):
                    broken.is_over()
                    yield event
        except (UnavailableError, DeadlineError) as error:
            broken.take(error)
            time.sleep(RETRY_S)


def event_document(event: pb.WatchResponse) -> Mapping[str, Any]:
    """An event for scripts."""
    kind = event.WhichOneof("event") or "unknown"
    described: dict[str, Any] = {"schema": 1, "time": format_time(event.time_ns), "event": kind}
    if kind == "revision":
        described["revision"] = revision_document(event.revision)
    elif kind == "node":
        described["node"] = document(event.node)
    elif kind == "rollout":
        described["rollout"] = rollout_document(event.rollout)
    return described


def rollout_document(rollout: pb.RolloutState) -> dict[str, Any]:
    """A rollout for scripts, as short as an event is."""
    return {
        "number": rollout.number,
        "state": rollout.state,
        "revision": rollout.revision,
        "id": rollout.id,
        "stage": rollout.stage,
        "stages": list(rollout.stages),
        "released": len(rollout.released),
        "applied": len(rollout.applied),
        "failed": list(rollout.failed),
        "reason": rollout.reason or None,
    }


def _event_line(event: pb.WatchResponse) -> str:
    when = format_time(event.time_ns)
    return printable(f"{when}  {' '.join(_words(event))}")


def _subject(revision: pb.Revision) -> str:
    subject = revision.message.partition("\n")[0]
    return f"{revision.author}: {subject}" if revision.author else UNREADABLE


def _words(event: pb.WatchResponse) -> Iterator[str]:
    kind = event.WhichOneof("event")
    if kind == "revision":
        yield f"{short(event.revision)} {_subject(event.revision)}"
    elif kind == "node":
        node = event.node
        yield f"node {node.name}: {node.state.replace('_', ' ')}"
        if node.about and node.about != node.revision:
            yield f"r{node.about}, runs {f'r{node.revision}' if node.revision else 'nothing'}"
        elif node.revision:
            yield f"r{node.revision}"
        if node.drift_count:
            yield f"({node.drift_count} files differ)"
        if node.error:
            yield f"- {node.error}"
    elif kind == "rollout":
        rollout = event.rollout
        yield f"rollout {rollout.number}: {rollout.state} r{rollout.revision}"
        yield f"stage {rollout.stage + 1}/{len(rollout.stages)}, {len(rollout.applied)} of {rollout.nodes} nodes"
        if rollout.reason:
            yield f"- {rollout.reason}"
    else:
        yield "an event that this eccfg does not know"
