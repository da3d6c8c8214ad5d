"""``managerd run | check | status | nodes``."""

from pathlib import Path
from typing import Any

import click

from jlogd.render import format_bytes, json_option, print_json, print_table
from jlogd.runtime import logs
from managerd.settings import DEFAULT_PATH, load
from managerd.status import ask

settings_option = click.option(
    "-c", "settings_path", metavar="FILE", type=click.Path(path_type=Path), default=DEFAULT_PATH,
    show_default=True, help="The settings file.",
)  # fmt: skip


@click.command()
@settings_option
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def run(settings_path: Path, log_level: str, log_format: Any) -> int:
    """Run the manager in the foreground until SIGTERM or SIGINT.

    A second signal leaves at once. SIGHUP says which changed settings need a restart. Messages go to stderr.

    \b
    Example:
      managerd run -c /etc/jlogd/managerd.toml
    """
    from jlogd.runtime import daemon, memory  # noqa: PLC0415 - the daemon's parts are not loaded for the other commands
    from managerd.app import Manager  # noqa: PLC0415

    memory.reuse_large_buffers()
    logs.setup(log_level, log_format)
    return daemon.run(Manager(settings_path))


@click.command()
@settings_option
@json_option
def check(settings_path: Path, *, as_json: bool) -> None:
    """Check the settings file; every fault is named with its line (exit 3).

    \b
    Example:
      managerd check -c ./managerd.toml
    """
    from managerd.app import check_certificate  # noqa: PLC0415 - as in run

    settings = load(settings_path)
    check_certificate(settings)
    if as_json:
        print_json({"ok": True, "manager": settings.manager.name, "subscriber": settings.subscriber})
    else:
        click.echo(
            f"{settings_path}: good. Manager {settings.manager.name}, subscriber {settings.subscriber}, "
            f"listens on {settings.manager.listen}, archive in {settings.manager.data}"
        )


@click.command("status")
@settings_option
@json_option
def show_status(settings_path: Path, *, as_json: bool) -> None:
    """The manager at a glance. Works on the files when it is stopped.

    \b
    Example:
      managerd status --json | jq .bytes
    """
    document = ask(load(settings_path), "status")
    if as_json:
        print_json(document)
        return
    state = f"running since {document['since']}, pid {document['pid']}" if document["running"] else "stopped"
    click.echo(f"manager {document['manager']}, subscriber {document['subscriber']}: {state}")
    click.echo(
        f"{document['nodes']} nodes, {document['sessions']} connected; {document['journals']} journals, "
        f"{format_bytes(document['bytes'])} of archive"
    )


@click.command()
@settings_option
@json_option
def nodes(settings_path: Path, *, as_json: bool) -> None:
    """Every node that ever delivered: connected or silent, since when, how far behind.

    \b
    Example:
      managerd nodes --json | jq '.nodes[] | select(.state == "silent") | .name'
    """
    document = ask(load(settings_path), "nodes")
    if as_json:
        print_json(document)
        return
    print_table(
        ("node", "state", "since", "last seen", "journals", "lag records", "error"),
        [
            (n["name"], n["state"], n["since"], n["last_seen"], n["journals"], n["lag_records"], n["error"])
            for n in document["nodes"]
        ],
    )
