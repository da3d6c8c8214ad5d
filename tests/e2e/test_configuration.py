"""The fleet's configuration on real daemons: settings of jlogd from a revision, reverts by itself, kills, status."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Result, until
from tests.support.fleet import Fleet, Manager, Node, Tail
from tests.support.relay import Relay

WAIT_S = 30.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet") as made:
        yield made


def put(fleet: Fleet, path: str, text: str) -> Result:
    """A revision with one changed file."""
    source = fleet.root / "file"
    source.write_text(text)
    return fleet.eccfg("put", source, path, "-m", f"change {path}")


def commit(fleet: Fleet, path: str, text: str) -> int:
    """As ``put``; the revision's number."""
    result = put(fleet, path, text)
    assert result.code == 0, result.err
    return int(result.out.decode().split()[0].removeprefix("r"))


def config(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = node.status()["config"]
    return found


def runs(node: Node, revision: int) -> None:
    """Wait until the node runs it, confirmed."""
    try:
        until(lambda: (config(node)["revision"], config(node)["state"]) == (revision, "applied"), WAIT_S, "it runs")
    except AssertionError as error:
        raise AssertionError(f"{error}: {config(node)}\n{node.tail()}") from error


def begin(fleet: Fleet, *tails: Tail, config: str = "", more: str = "") -> tuple[Manager, Node]:
    """A manager and a node, started."""
    manager = fleet.manager("m1", config='writer = "m1"')
    node = fleet.node("n1", tails, [manager], config=config, more=more)
    fleet.start()
    return manager, node


def test_settings_of_jlogd_come_from_the_configuration_without_a_restart(fleet: Fleet, tmp_path: Path) -> None:
    """A tail is added, SIGHUP and a restart keep it, a bad one is taken back; what is broken here does not count."""
    log = tmp_path / "app.log"
    log.write_bytes(b"one\ntwo\n")
    manager, node = begin(fleet)
    pid = node.status()["pid"]
    tail = f'[[tail]]\njournal = "app"\npaths = ["{log}"]\n'
    runs(node, commit(fleet, "global/jlogd.toml", tail))
    until(lambda: manager.has_archive("n1", "app"), WAIT_S, "the lines arrive")
    fleet.settle(WAIT_S)
    assert node.status()["pid"] == pid

    bad = commit(fleet, "global/jlogd.toml", f'{tail}[journals.other]\ncodec = "none"\n')
    until(lambda: config(node)["state"] == "rolled_back", WAIT_S, "it is taken back")
    status = config(node)
    assert (status["revision"], status["target"]["revision"]) == (bad - 1, bad)
    assert "current/jlogd.toml:4: journals.other: no [[tail]] writes to this journal" in status["error"]
    shown = node.command("status")
    assert f"asked for: r{bad}" in shown.out.decode()
    assert "journals.other" in shown.err
    log.write_bytes(b"one\ntwo\nthree\n")
    fleet.settle(WAIT_S)

    node.signal(signal.SIGHUP)
    until(lambda: "reload: nothing changed" in node.tail(), WAIT_S, "the boot file was read again")
    good = commit(fleet, "global/jlogd.toml", f'{tail}[http]\nlisten = "127.0.0.1:1"\n')
    runs(node, good)
    assert config(node)["error"] == "http.listen needs a restart of jlogd"
    good = commit(fleet, "global/jlogd.toml", tail)
    runs(node, good)
    memory = node.spool / node.name / "config" / "state.json"
    until(lambda: json.loads(memory.read_bytes())["state"] == "applied", WAIT_S, "and will know it after a kill")
    node.kill()
    stopped = json.loads(node.command("status", "--json").out)
    assert (stopped["config"]["revision"], stopped["config"]["state"], stopped["running"]) == (good, "applied", False)
    node.start()
    node.ready()
    assert [source["path"] for source in node.status()["sources"]] == [str(log)]
    runs(node, good)

    node.kill()
    (node.view / "jlogd.toml").write_text("[[tail]\n")
    node.start()
    node.ready()
    assert node.status()["sources"] == []
    assert "running with the boot file alone" in node.status()["warnings"][-1]
    until(lambda: config(node)["drift"] == ["jlogd.toml"], WAIT_S, "the change is noticed")


def test_the_boot_file_s_manager_cannot_be_taken_away(fleet: Fleet) -> None:
    """A second manager at a bad address comes and goes; the first one stays attached."""
    _, node = begin(fleet)
    bad = '[[manager]]\naddress = "127.0.0.1:1"\nsubscriber = "bad"\n[node]\nname = "other"\n'
    runs(node, commit(fleet, "global/jlogd.toml", bad))
    until(lambda: [m["state"] for m in config(node)["managers"]].count("backoff") == 1, WAIT_S, "it cannot be reached")
    assert {session["subscriber"] for session in node.status()["sessions"]} == {"m1", "bad"}
    runs(node, commit(fleet, "global/jlogd.toml", ""))
    until(lambda: [m["state"] for m in config(node)["managers"]] == ["attached"], WAIT_S, "it is forgotten")


def test_a_revision_that_cuts_the_node_off_reverts_by_itself(fleet: Fleet, tmp_path: Path) -> None:
    """The reload command takes the network away (here: stops the manager); with the old revision it is back."""
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\ntest -e cut && word=STOP || word=CONT\nkill -$word $(cat ../../../../pid)\n")
    hook.chmod(0o755)
    manager, node = begin(fleet, config=f'reload = "{hook}"\nconfirm_timeout = "2s"')
    (node.spool / "pid").write_text(str(manager.pid))
    first = commit(fleet, "global/a", "1")
    runs(node, first)
    cut = commit(fleet, "global/cut", "x")
    until(lambda: config(node)["state"] == "rolled_back", WAIT_S, "it reverts")
    assert (config(node)["revision"], config(node)["error"]) == (first, "no manager heard from this node within 2 s")
    assert not (node.view / "cut").exists()
    nodes = json.loads(fleet.eccfg("nodes", "--json").out)["nodes"]
    assert [(item["state"], item["revision"]) for item in nodes] == [("rolled_back", first)]
    fixed = fleet.eccfg("delete", "global/cut", "-m", "no cut")
    assert fixed.code == 0, fixed.err
    runs(node, cut + 1)


def test_a_cut_that_comes_after_the_confirmation_reverts_too(fleet: Fleet) -> None:
    """As with a firewall that lets established connections live for a moment.

    The timeout is above the node's longest back-off: else the managers count as having been away.
    """
    manager = fleet.manager("m1", config='writer = "m1"')
    node = fleet.node("n1", [], [manager], config='confirm_timeout = "7s"')
    manager.start()
    manager.ready()
    relay = Relay(manager.address)
    node.settings.write_text(node.settings.read_text().replace(manager.address, relay.address))
    node.start()
    node.ready()
    first = commit(fleet, "global/a", "1")
    runs(node, first)
    cut = commit(fleet, "global/cut", "x")
    runs(node, cut)
    relay.close()
    until(lambda: not (node.view / "cut").exists(), WAIT_S, "it reverts")
    relay = Relay(manager.address, int(relay.address.rpartition(":")[2]))
    try:
        until(lambda: config(node)["managers"][0]["state"] == "attached", WAIT_S, "it is back")
        assert (config(node)["revision"], config(node)["state"]) == (first, "rolled_back")
        assert "no manager could be reached any more" in config(node)["error"]
    finally:
        relay.close()


def test_the_section_may_come_and_go_while_jlogd_runs(fleet: Fleet, tmp_path: Path) -> None:
    """Without it nothing of it is loaded: an idle agent's memory is for journals."""
    log = tmp_path / "app.log"
    log.write_bytes(b"one\n")
    manager = fleet.manager("m1", config='writer = "m1"')
    node = fleet.node("n1", [], [manager])
    fleet.start()
    revision = commit(fleet, "global/jlogd.toml", f'[[tail]]\njournal = "app"\npaths = ["{log}"]\n')
    status = node.status()
    assert status["config"] is None
    maps = Path(f"/proc/{status['pid']}/maps").read_text()
    assert "pyrage" not in maps
    assert "dulwich" not in maps
    assert not os.path.lexists(node.view.parent)

    without = node.settings.read_text()
    node.settings.write_text(without + '\n[config]\nreconcile = "1s"\n')
    node.signal(signal.SIGHUP)
    until(lambda: node.status()["config"], WAIT_S, "it follows the configuration")
    runs(node, revision)
    until(lambda: manager.has_archive("n1", "app"), WAIT_S, "its settings are taken")
    node.settings.write_text(without + '\n[config]\nlocal = "theirs"\nreconcile = "1s"\n')
    node.signal(signal.SIGHUP)
    until(lambda: "reload: 1 journals" in node.tail(), WAIT_S, "another policy")
    (node.view / "local").write_bytes(b"x")
    until(lambda: not (node.view / "local").exists(), WAIT_S, "it counts")
    node.settings.write_text(without)
    node.signal(signal.SIGHUP)
    until(lambda: node.status()["config"] is None, WAIT_S, "it follows no more")
    assert node.status()["sources"] == []
    assert node.running
