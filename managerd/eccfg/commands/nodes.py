"""``eccfg nodes | wait``: who runs what, and until everybody runs it."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from jlogd.render import json_option, note, print_json, print_table, printable
from jlogd.runtime.arguments import check_name, format_time, parse_timeout_s
from jlogd.runtime.errors import DeadlineError, RefusedError, UnavailableError
from managerd.eccfg.client import Client
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.held import reason, reason_now, told_older
from managerd.eccfg.outcome import short
from managerd.v1 import config_pb2 as pb

RETRY_S = 1.0  # a manager that restarts is asked again this often while a wait lasts
NAMED = 5  # nodes of a list in one line
FAILED = ("refused", "rolled_back")


@click.command()
@json_option
@pass_connection
def nodes(connection: Connection, *, as_json: bool) -> None:
    """What each node runs, since when, and why not more. Offline nodes keep what was last known.

    VIA: the managers that it is attached to; every manager knows of all nodes.
    STATE: pending, applied, refused, rolled_back, offline. DRIFT: files that were changed on the node itself.

    \b
    Examples:
      eccfg nodes
      eccfg nodes --json | jq -r '.nodes[] | select(.state != "applied") | "\\(.name) \\(.error)"'
    """
    with connection.connect() as client:
        answer = client.nodes()
        held = "" if as_json or not answer.HasField("head") else reason_now(client, answer.head)
    if as_json:
        head = answer.head.revision if answer.HasField("head") else None
        rows = [document(node) for node in answer.nodes]
        print_json({"head": head, "nodes": rows, "silent": list(answer.silent)})
        return
    columns = ("name", "subcluster", "via", "revision", "state", "since", "drift", "error")
    print_table(columns, [_row(node) for node in answer.nodes])
    if answer.HasField("head"):
        note(f"head: {short(answer.head)}" + ("" if answer.head.confirmed else ", not confirmed yet"))
    _note_held(held)
    for manager in answer.silent:
        note(f"note: manager {manager} tells nothing at present: nodes that only it has are shown as offline")


def document(node: pb.Node) -> dict[str, Any]:
    """A node for scripts. ``about``: the revision that its last report is about."""
    return {
        "name": node.name,
        "subcluster": node.subcluster,
        "revision": node.revision or None,
        "id": node.id or None,
        "state": node.state,
        "since": format_time(node.since_ns or None),
        "drift": list(node.drift),
        "drift_count": node.drift_count,
        "error": node.error or None,
        "target": node.target or None,
        "about": node.about or None,
        "recipient": node.recipient or None,
        "via": list(node.via),
    }


def _row(node: pb.Node) -> tuple[object, ...]:
    since = format_time(node.since_ns or None)
    return (
        node.name,
        node.subcluster,
        ", ".join(node.via) or None,
        f"r{node.revision}" if node.revision else None,
        node.state,
        since.partition(".")[0] + "Z" if since else None,
        node.drift_count or None,
        node.error or None,
    )


# ---------------------------------------------------------------------- wait


class Awaited:
    """Which nodes are to run a revision, and what is known of each. Pure."""

    def __init__(self, revision: pb.Revision, names: Sequence[str], *, attached: bool = False) -> None:
        """Nothing is known of anybody. ``attached``: what a node said before it went away does not count."""
        self._wanted = revision
        self._attached = attached
        self._rollout: pb.RolloutState | None = None
        self.known: dict[str, pb.Node | None] = dict.fromkeys(sorted(names))

    def take(self, node: pb.Node) -> None:
        """What a node runs now."""
        if node.name in self.known:
            self.known[node.name] = node

    def take_rollout(self, rollout: pb.RolloutState) -> None:
        """How the present or last rollout stands now."""
        self._rollout = rollout

    @property
    def held(self) -> str:
        """Why nodes that are missing are not told to run it; empty when they are."""
        missing = (self.known[name] for name in self.missing)
        told = told_older(self._wanted.revision, (node for node in missing if node is not None))
        return reason(self._wanted.revision, told, self._rollout) if told and self._wanted.confirmed else ""

    @property
    def missing(self) -> list[str]:
        """Nodes that do not run it yet."""
        return [name for name, node in self.known.items() if node is None or not self._runs(node)]

    @property
    def offline(self) -> list[str]:
        """Those of the missing ones that were seen once, and are not attached now."""
        known = ((name, self.known[name]) for name in self.missing)
        return [name for name, node in known if node is not None and not node.attached]

    @property
    def failures(self) -> list[str]:
        """One line for each that will not run it by itself."""
        return [
            f"{node.name} {node.reported.replace('_', ' ')} r{node.about}: {node.error or 'it does not say why'}"
            for node in self.known.values()
            if node is not None
            and not self._runs(node)
            and node.reported in FAILED
            and node.about >= self._wanted.revision
        ]

    def _runs(self, node: pb.Node) -> bool:
        """Main is a line: a later revision contains it. One of the same number must be the same one."""
        if self._attached and not node.attached:
            return False
        if node.revision == self._wanted.revision:
            return node.id == self._wanted.id and node.reported == "applied"
        return node.revision > self._wanted.revision


@click.command()
@click.argument("rev", default="HEAD")
@click.option("--timeout", metavar="T", help="Give up after this long (10s, 5m) with exit 7. Default: wait for ever.")
@click.option("--node", "names", metavar="NODE", multiple=True,
              help="Wait until this node is attached and runs it. Default: all that are attached now.")  # fmt: skip
@json_option
@pass_connection
def wait(connection: Connection, *, rev: str, timeout: str | None, names: tuple[str, ...], as_json: bool) -> None:
    """Wait until nodes run REV, or a later revision.

    Exit 7 when the time is over; exit 6 as soon as a node refuses REV or goes back from it, with its error.

    \b
    Examples:
      eccfg wait r12 --timeout 1m
      eccfg commit -m "New relay" && eccfg wait --node web1 --node web2
    """
    deadline = None if timeout is None else time.monotonic() + parse_timeout_s(timeout)
    for name in names:
        check_name("node", name)
    with connection.connect() as client:
        found = client.log(until=rev, limit=1).revisions
        if not found:
            raise RefusedError("the repository is empty: there is no revision to wait for")
        revision = found[0]
        found_nodes = client.nodes().nodes
        chosen = list(names) or _attached(found_nodes)
        held = reason_now(client, revision, chosen)
    if not as_json:
        _note_held(held)
        _note_away(chosen, found_nodes)
    awaited = Awaited(revision, chosen, attached=bool(names))
    bar = Bar(f"r{revision.revision}", len(chosen))
    try:
        _wait(connection, awaited, deadline, bar)
    except DeadlineError:
        why = (awaited.held if any(awaited.known.values()) else held) or "see 'eccfg nodes'"
        raise DeadlineError(f"{_late(awaited, f'r{revision.revision} within {timeout}')}: {why}") from None
    finally:
        bar.close()
    if as_json:
        rows = [document(node) for node in awaited.known.values() if node is not None]
        print_json({"revision": revision.revision, "id": revision.id, "nodes": rows})
    else:
        click.echo(f"{short(revision)}: {len(chosen)} node{'s' if len(chosen) != 1 else ''}")


def _note_held(held: str) -> None:
    """Else nobody understands what nodes wait for."""
    if held:
        note(f"note: {printable(held)}")


def _note_away(chosen: Sequence[str], found: Sequence[pb.Node]) -> None:
    """Else nobody sees a name that is mistyped, or a node that is off, while the wait has no end."""
    attached = {node.name for node in found if node.attached}
    away = [name for name in chosen if name not in attached]
    if away:
        note(f"note: not attached now, waiting until that changes: {_list(away)}")


def _late(awaited: Awaited, what: str) -> str:
    """``what``: "r7 within 10s". An offline node may run it: nobody says that it does not."""
    offline = awaited.offline
    late = [name for name in awaited.missing if name not in set(offline)]
    parts = [f"{_list(offline)} offline, not seen to run {what}"] if offline else []
    return "; ".join([*parts, f"{_list(late)} did not get to {what}"] if late else parts)


def _attached(found: Sequence[pb.Node]) -> list[str]:
    offline = [node.name for node in found if not node.attached]
    if offline:
        note(f"note: not waiting for {_list(offline)}: offline")
    attached = [node.name for node in found if node.attached]
    if not attached:
        note("note: no node is attached: there is nothing to wait for")
    return attached


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _wait(connection: Connection, awaited: Awaited, deadline: float | None, bar: "Bar") -> None:
    """Follow the nodes until all run it; a connection that breaks is made again. DeadlineError, RefusedError."""
    said = ""
    while awaited.missing:
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise DeadlineError("the time is over")
        try:
            with connection.connect() as client:
                _follow(client, awaited, left_s, bar)
        except UnavailableError as error:
            if str(error) != said:  # once, not every second
                said = str(error)
                note(f"note: {said}; trying again")
            time.sleep(RETRY_S if deadline is None else max(min(RETRY_S, deadline - time.monotonic()), 0.0))


def _follow(client: Client, awaited: Awaited, left_s: float | None, bar: "Bar") -> None:
    for event in client.watch(state=True, timeout_s=left_s):
        kind = event.WhichOneof("event")
        if kind == "node":
            awaited.take(event.node)
        elif kind == "rollout":
            awaited.take_rollout(event.rollout)
        failures = awaited.failures
        if failures:
            raise RefusedError("\n".join(map(printable, failures)))
        missing = awaited.missing
        bar.show(len(awaited.known) - len(missing))
        if not missing:
            return


class Bar:
    """How many of how many, on stderr; nothing when stderr is not a terminal."""

    WIDTH = 30

    def __init__(self, what: str, whole: int) -> None:
        """``what`` begins the line."""
        self._what = what
        self._whole = whole
        self._shown = False

    def show(self, done: int) -> None:
        """``done`` of the whole."""
        if self._whole and sys.stderr.isatty():
            self._shown = True
            full = self.WIDTH * done // self._whole
            line = f"{'█' * full}{'░' * (self.WIDTH - full)}"
            click.echo(f"\r{self._what} {line} {done}/{self._whole}", err=True, nl=False)

    def close(self) -> None:
        """Wipe the line."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
