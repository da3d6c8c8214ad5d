"""The daemons as a person runs them: exit codes, status, start order, absent managers, subscribers, drain."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compare import compare_whole
from tests.support.daemon import Daemon, until
from tests.support.fleet import Fleet, Manager, Node, Tail
from tests.support.lines import block, bodies

POOL = bodies(7)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet") as made:
        yield made


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_bytes(block(b"app", 0, 2000, POOL))
    return path


def pair(fleet: Fleet, log: Path, managers: int = 1) -> tuple[Node, list[Manager]]:
    """One node and its managers, not started."""
    made = [fleet.manager(f"m{number + 1}") for number in range(managers)]
    return fleet.node("n1", [Tail("app", (str(log),))], made), made


def grow(log: Path, first: int, end: int) -> None:
    with log.open("ab") as file:
        file.write(block(b"app", first, end, POOL))


# ---------------------------------------------------------------------- exit codes


def test_clean_stop_is_quick_and_ends_with_0(fleet: Fleet, log: Path) -> None:
    """One SIGTERM to each daemon, idle or not."""
    node, (manager,) = pair(fleet, log)
    fleet.start()
    fleet.settle(20)
    for daemon in (node, manager):
        start = time.monotonic()
        assert daemon.stop(10) == 0, daemon.tail()
        assert time.monotonic() - start < 3.0


def test_sigint_is_a_clean_stop_too(fleet: Fleet, log: Path) -> None:
    node, (manager,) = pair(fleet, log)
    fleet.start()
    for daemon in (node, manager):
        daemon.signal(signal.SIGINT)
        assert daemon.wait(10) == 0, daemon.tail()


def test_a_second_sigterm_forces(fleet: Fleet, log: Path) -> None:
    """Sent while the clean stop is under way: 128 + 15."""
    node, _ = pair(fleet, log)
    node.start()
    node.ready()
    for _ in range(20):
        node.signal(signal.SIGTERM)
        if not node.running:
            break
        time.sleep(0.02)
    assert node.wait(10) == 128 + signal.SIGTERM, node.tail()
    node.start()
    node.ready()
    assert node.stop(10) == 0


def test_a_locked_spool_names_its_holder(fleet: Fleet, log: Path) -> None:
    """A second jlogd on one spool, a second managerd on one archive: exit 4, and who holds it."""
    node, (manager,) = pair(fleet, log)
    fleet.start()
    for daemon in (node, manager):
        second = Daemon(f"{daemon.name}-second", daemon.argv, daemon.directory, environment=daemon.environment)
        second.start()
        assert second.wait(20) == 4, second.tail()
        assert str(daemon.pid) in second.log.read_text()
        assert daemon.answers()


def test_five_faults_in_the_settings_at_once(fleet: Fleet, log: Path) -> None:
    """Each with its line, exit 3, from `check` and from `run`."""
    node, _ = pair(fleet, log)
    text = node.settings.read_text().replace('name = "n1"', 'name = "N 1"\ncolour = "red"')
    text += '\n[journal]\ncodec = "gzip"\nsegment_bytes = "7 bananas"\ncommit_dely = 1\n'
    node.settings.write_text(text)
    for words in (["check"], ["run"]):
        done = node.command(*words)
        assert done.code == 3
        for fault in ("node.name", "node.colour", "journal.codec", "journal.segment_bytes", "journal.commit_dely"):
            line = next(line for line in done.err.splitlines() if fault in line)
            number = int(line.split(str(node.settings) + ":")[1].split(":")[0])
            assert fault.split(".")[1] in text.splitlines()[number - 1]
        assert "commit_delay" in done.err  # did you mean …?


# ---------------------------------------------------------------------- status


def test_status_of_a_running_and_of_a_stopped_daemon(fleet: Fleet, log: Path) -> None:
    """The same document; a stopped daemon's comes from its files, exit 0."""
    node, (manager,) = pair(fleet, log)
    fleet.start()
    fleet.settle(20)
    running = node.command("status", "--json").json()
    assert running["running"] is True
    assert running["pid"] == node.pid
    assert [(s["path"], s["position"], s["state"]) for s in running["sources"]] == [
        (str(log), log.stat().st_size, "following")
    ]
    assert [(s["manager"], s["state"]) for s in running["sessions"]] == [(f"127.0.0.1:{manager.port}", "streaming")]
    assert manager.command("status", "--json").json()["sessions"] == 1
    assert node.stop() == 0
    assert manager.stop() == 0
    stopped = node.command("status", "--json")
    assert stopped.code == 0
    document = stopped.json()
    assert (document["running"], document["pid"]) == (False, None)
    assert document["journals"][0]["end"] == running["journals"][0]["end"] == 2000
    assert document["subscribers"][0]["checkpoint"] == 2000
    archived = manager.command("status", "--json").json()
    assert (archived["running"], archived["nodes"], archived["journals"]) == (False, 1, 1)
    nodes = manager.command("nodes", "--json").json()["nodes"]
    assert [(one["name"], one["state"]) for one in nodes] == [("n1", "silent")]


def test_idle_sources_are_followed_again_at_once(fleet: Fleet, log: Path) -> None:
    """After a while of silence a new line is in the archive within a second."""
    node, (manager,) = pair(fleet, log)
    fleet.start()
    fleet.settle(20)
    time.sleep(2.5)  # long enough that nobody polls any more: this is about being woken
    grow(log, 2000, 2001)
    start = time.monotonic()
    want = {"lag_records": 0, "checkpoint": 2001}
    until(lambda: want.items() <= node.status()["subscribers"][0].items(), 10, "the line is acknowledged")
    assert time.monotonic() - start < 1.0
    assert compare_whole(manager.archive("n1", "app"), log) == ""


# ---------------------------------------------------------------------- order and absence


def test_the_node_may_start_before_its_managers(fleet: Fleet, log: Path) -> None:
    node, (manager,) = pair(fleet, log)
    node.start()
    node.ready()
    until(lambda: node.status()["journals"][0]["end"] == 2000, 20, "all is journalled")
    manager.start()
    fleet.settle(30)
    assert compare_whole(manager.archive("n1", "app"), log) == ""


def test_a_manager_that_is_away_misses_nothing_and_stops_nobody(fleet: Fleet, log: Path) -> None:
    """m2 gets what came while it was away; m1 got it meanwhile."""
    node, (m1, m2) = pair(fleet, log, managers=2)
    fleet.start()
    fleet.settle(20)
    assert m2.stop() == 0
    grow(log, 2000, 6000)
    until(lambda: _checkpoint(node, "m1") == 6000, 20, "m1 has everything")
    assert _checkpoint(node, "m2") == 2000
    m2.start()
    fleet.settle(30)
    for manager in (m1, m2):
        assert compare_whole(manager.archive("n1", "app"), log) == ""


def _checkpoint(node: Node, subscriber: str) -> int:
    found = [item["checkpoint"] for item in node.status()["subscribers"] if item["name"] == subscriber]
    assert len(found) == 1
    return int(found[0])


# ---------------------------------------------------------------------- subscriber, drain


def test_drain_of_a_node_that_never_ran_is_not_done(fleet: Fleet, log: Path) -> None:
    """No journal, no subscriber: nobody has the lines that wait in the files. Exit 1, and what to do."""
    node, _ = pair(fleet, log)
    done = node.command("drain", "--timeout", "1s")
    assert (done.code, "start it" in done.err) == (1, True)


def test_drain_waits_until_every_manager_has_everything(fleet: Fleet, log: Path) -> None:
    """Exit 0 when they have; 7 when one is away and the time is over."""
    node, (_, m2) = pair(fleet, log, managers=2)
    fleet.start()
    assert node.command("drain", "--timeout", "20s").code == 0
    assert (_checkpoint(node, "m1"), _checkpoint(node, "m2")) == (2000, 2000)
    m2.kill()
    grow(log, 2000, 2100)
    until(lambda: _checkpoint(node, "m1") == 2100, 20, "m1 has everything")
    start = time.monotonic()
    assert node.command("drain", "--timeout", "1s").code == 7
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("running", [True, False])
def test_subscribers_are_listed_added_set_and_removed(fleet: Fleet, log: Path, *, running: bool) -> None:
    """The same whether the daemon runs or not; what destroys something wants --yes."""
    node, _ = pair(fleet, log)
    fleet.start()
    fleet.settle(20)
    if not running:
        assert node.stop() == 0

    def listed() -> dict[str, int]:
        done = node.command("subscriber", "ls", "--json")
        assert done.code == 0, done.err
        return {item["name"]: item["checkpoint"] for item in json.loads(done.out)["subscribers"]}

    assert listed() == {"m1": 2000}
    assert node.command("subscriber", "add", "audit", "--at", "begin").code == 0
    assert listed() == {"audit": 0, "m1": 2000}
    assert node.command("subscriber", "add", "audit").code == 6
    assert node.command("subscriber", "set", "audit", "--at", "1500").code == 2
    assert listed()["audit"] == 0
    assert node.command("subscriber", "set", "audit", "--at", "1500", "--yes").code == 0
    assert listed()["audit"] == 1500
    assert node.command("subscriber", "remove", "audit").code == 2
    assert node.command("subscriber", "remove", "audit", "--yes").code == 0
    assert listed() == {"m1": 2000}


def test_a_removed_manager_keeps_its_data_with_a_warning(fleet: Fleet, log: Path) -> None:
    """Taking the [[manager]] section away keeps the subscriber until it is removed; SIGHUP is enough."""
    node, (m1, m2) = pair(fleet, log, managers=2)
    fleet.start()
    fleet.settle(20)
    text = node.settings.read_text()
    node.settings.write_text(text[: text.rindex("[[manager]]")])
    node.signal(signal.SIGHUP)
    until(lambda: node.answers() and len(node.status()["sessions"]) == 1, 20, "one session is left")
    assert any("m2" in warning for warning in node.status()["warnings"])
    grow(log, 2000, 2500)
    until(lambda: _checkpoint(node, "m1") == 2500, 20, "m1 has everything")
    assert _checkpoint(node, "m2") == 2000
    assert node.command("subscriber", "remove", "m2", "--yes").code == 0
    assert node.status()["warnings"] == []
    assert m2.answers()
    assert compare_whole(m1.archive("n1", "app"), log) == ""


def test_a_journal_whose_tail_was_taken_away_is_still_delivered(fleet: Fleet, log: Path) -> None:
    """A manager that was away meanwhile gets it, `drain` waits for it, `status` shows it."""
    node, (manager,) = pair(fleet, log)
    text = node.settings.read_text()
    other = log.with_name("other.log")
    other.write_bytes(block(b"old", 0, 300, POOL))
    node.settings.write_text(text + f'\n[[tail]]\njournal = "aged"\npaths = ["{other}"]\n')
    node.start()
    node.ready()
    until(lambda: [j["end"] for j in node.status()["journals"]] == [300, 2000], 20, "all is journalled")
    node.settings.write_text(text)
    node.signal(signal.SIGHUP)
    until(lambda: "reload: 2 journals" in node.tail(), 20, "the reload is taken")
    assert [s["path"] for s in node.status()["sources"]] == [str(log)]
    assert [j["name"] for j in node.status()["journals"]] == ["aged", "app"]
    assert "aged" in node.command("drain", "--timeout", "100ms").err
    manager.start()
    assert node.command("drain", "--timeout", "20s").code == 0
    assert compare_whole(manager.archive("n1", "aged"), other) == ""


def test_a_reload_that_cannot_open_its_journals_stops_the_daemon(fleet: Fleet, log: Path) -> None:
    """It never runs on without a pipeline; the exit code and the last line say why."""
    node, _ = pair(fleet, log)
    node.start()
    node.ready()
    text = node.settings.read_text()
    (node.spool / "n1" / "journals" / "new").write_text("in the way\n")
    node.settings.write_text(text + f'\n[[tail]]\njournal = "new"\npaths = ["{log}x"]\n')
    node.signal(signal.SIGHUP)
    assert node.wait(20) == 1, node.tail()
    assert "new" in node.tail()
    assert "Traceback" not in node.tail()
