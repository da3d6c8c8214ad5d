"""``jlogd run | check | status | drain``."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from jlogd.render import format_bytes, json_option, note, print_table
from jlogd.runtime import logs
from jlogd.runtime.arguments import parse_timeout_s
from jlogd.runtime.errors import DeadlineError, UnavailableError
from jlogd.settings import DEFAULT_PATH, load, load_running
from jlogd.status import dump, status

settings_option = click.option(
    "-c", "settings_path", metavar="FILE", type=click.Path(path_type=Path), default=DEFAULT_PATH,
    show_default=True, help="The settings file.",
)  # fmt: skip

DRAIN_POLL_S = 0.2
DRIFT_SHOWN = 10
SUBSCRIBER_COLUMNS = ("subscriber", "journal", "checkpoint", "lag records", "lag", "lag s", "state")


@click.command()
@settings_option
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def run(settings_path: Path, log_level: str, log_format: Any) -> int:
    """Run the agent in the foreground until SIGTERM or SIGINT.

    A second signal leaves at once. SIGHUP reads the settings again. Messages go to stderr.

    \b
    Example:
      jlogd run -c /etc/jlogd/jlogd.toml
    """
    # the daemon's parts (grpc above all) are not loaded for the other commands
    from jlogd.app import Agent  # noqa: PLC0415
    from jlogd.runtime import daemon, memory  # noqa: PLC0415

    memory.reuse_large_buffers()
    logs.setup(log_level, log_format)
    return daemon.run(Agent(settings_path))


@click.command()
@settings_option
@json_option
def check(settings_path: Path, *, as_json: bool) -> None:
    """Check the settings file; every fault is named with its line (exit 3).

    \b
    Example:
      jlogd check -c ./jlogd.toml
    """
    from jlogd.app import check_certificate  # noqa: PLC0415 - as in run

    settings = load(settings_path)
    check_certificate(settings)
    journals = settings.journal_names()
    if as_json:
        click.echo(dump({"schema": 1, "ok": True, "node": settings.node.name, "journals": journals}))
    else:
        managers = ", ".join(f"{link.subscriber} at {link.address}" for link in settings.manager) or "none"
        click.echo(
            f"{settings_path}: good. Node {settings.node.name}, journals: {', '.join(journals) or 'none'}, "
            f"managers: {managers}"
        )


@click.command("status")
@settings_option
@json_option
def show_status(settings_path: Path, *, as_json: bool) -> None:
    """What the agent follows, holds and delivers. Works on the files when it is stopped.

    \b
    Examples:
      jlogd status
      jlogd status --json | jq '.subscribers[] | {name, lag_records, lag_s}'
    """
    settings, problem = load_running(settings_path)
    document = status(settings)
    if problem and not document["running"]:
        document["warnings"].append(f"would run with the boot file alone: {problem}")
    if as_json:
        click.echo(dump(document))
        return
    state = f"running since {document['since']}, pid {document['pid']}" if document["running"] else "stopped"
    click.echo(f"node {document['node']} ({document['subcluster']}): {state}")
    for title, columns, rows in _sections(document):
        click.echo()
        if rows:
            print_table(columns, rows)
        else:
            click.echo(f"no {title}")
    _show_config(document["config"])
    for warning in document["warnings"]:
        note(f"warning: {warning}")


@click.command()
@settings_option
@click.option("--timeout", metavar="T", help="Give up after this long (10s, 5m) with exit 7. Default: wait for ever.")
@json_option
def drain(settings_path: Path, timeout: str | None, *, as_json: bool) -> None:
    """Wait until every manager has everything that the agent has read, and all files are read to their end.

    \b
    Example (before a node is taken away):
      jlogd drain --timeout 5m && systemctl stop jlogd
    """
    settings, _problem = load_running(settings_path)
    deadline = None if timeout is None else time.monotonic() + parse_timeout_s(timeout)
    while True:
        document = status(settings)
        names = {link.subscriber for link in settings.manager}
        behind = [item for item in document["subscribers"] if item["name"] in names and item["lag_records"]]
        unread = [item for item in document["sources"] if item["lag_bytes"]]
        begun = {(item["name"], item["journal"]) for item in document["subscribers"]}
        missing = [
            (name, journal) for name in names for journal in settings.journal_names() if (name, journal) not in begun
        ]
        stuck = [item for item in document["journals"] if item["error"]]
        if not behind and not unread and not missing and not stuck:
            break
        if not document["running"]:
            raise UnavailableError("jlogd is not running, and managers do not have everything: start it")
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineError("not drained: " + "; ".join(_behind(behind, unread, missing, stuck)))
        time.sleep(DRAIN_POLL_S)
    if as_json:
        click.echo(dump({"schema": 1, "drained": True}))
    else:
        click.echo("drained: every manager has everything")


def _show_config(config: dict[str, Any] | None) -> None:
    if config is None:
        return
    click.echo()
    runs = f"r{config['revision']} {config['id'][:8]}" if config["revision"] else "none"
    click.echo(f"configuration: {runs}, {(config['state'] or 'nothing asked for yet').replace('_', ' ')}")
    target = config["target"]
    if target is not None and target["id"] != config["id"]:
        click.echo(f"asked for: r{target['revision']} {target['id'][:8]} since {config['since']}")
    if config["error"]:
        note(f"configuration: {config['error']}")
    if config["drift_count"]:
        shown = ", ".join(config["drift"][:DRIFT_SHOWN])
        note(f"changed on this machine: {shown}{' …' if config['drift_count'] > DRIFT_SHOWN else ''}")


def _behind(
    behind: list[dict[str, Any]],
    unread: list[dict[str, Any]],
    missing: list[tuple[str, str]],
    stuck: list[dict[str, Any]],
) -> list[str]:
    parts = [f"{item['name']} lacks {item['lag_records']} records of {item['journal']}" for item in behind]
    parts += [f"{name} has not begun {journal}: reload jlogd (SIGHUP)" for name, journal in sorted(missing)]
    parts += [f"journal {item['name']}: {item['error']}" for item in stuck]
    return parts + [f"{item['lag_bytes']} bytes of {item['path']} are not read" for item in unread]


def _sections(document: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...], list[tuple[object, ...]]]]:
    yield (
        "journals",
        ("journal", "first", "end", "size", "error"),
        [(j["name"], j["first"], j["end"], format_bytes(j["bytes"]), j["error"]) for j in document["journals"]],
    )
    yield (
        "sources",
        ("path", "journal", "state", "position", "size", "lag", "error"),
        [
            (s["path"], s["journal"], s["state"], s["position"], s["size"], format_bytes(s["lag_bytes"]), s["error"])
            for s in document["sources"]
        ],
    )
    yield "subscribers", SUBSCRIBER_COLUMNS, [subscriber_row(item) for item in document["subscribers"]]
    yield (
        "sessions",
        ("manager", "subscriber", "state", "since", "error"),
        [(s["manager"], s["subscriber"], s["state"], s["since"], s["error"]) for s in document["sessions"]],
    )


def subscriber_row(item: dict[str, Any]) -> tuple[object, ...]:
    """One subscriber as a row below ``SUBSCRIBER_COLUMNS``."""
    lag = (item["lag_records"], format_bytes(item["lag_bytes"]), item["lag_s"])
    return (item["name"], item["journal"], item["checkpoint"], *lag, item["state"])
