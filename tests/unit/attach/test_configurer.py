"""A node follows its managers: from a target to a view that runs, and back when that does not work."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jlogd.attach import statefile
from jlogd.attach.configurer import Configurer
from jlogd.confrepo.model import EXECUTABLE, File, Revision
from jlogd.confrepo.replica import Replica
from jlogd.runtime.errors import RefusedError, SettingsError, UnavailableError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.settings import AgentSettings, ConfigSettings, NodeSettings
from tests.support.daemon import until
from tests.support.faulty_fs import FaultyFs
from tests.support.replicas import DirectManager, Origin, content
from tests.support.revisions import put

SHORT_S = 1.0  # confirm_timeout where it passes


@dataclass
class Node:
    """A configurer with a directory, and managers that are called directly."""

    directory: Path
    origin: Origin
    fs: FileSystem = OS
    config: dict[str, Any] = field(default_factory=dict)
    applied: list[str | None] = field(default_factory=list)  # the overlay at each call
    reconcile_s: float = 3600.0
    refusal: str = ""
    failure: BaseException | None = None
    running: Configurer | None = None

    def start(self, managers: int = 1) -> list[DirectManager]:
        """A new process; its managers, not attached."""
        settings = AgentSettings(
            node=NodeSettings(name="web1", subcluster="web", spool=self.directory),
            config=ConfigSettings(**self.config).model_copy(update={"reconcile": self.reconcile_s}),
        )
        self.running = Configurer.open(settings, self.apply, self.fail, fs=self.fs)
        made = [DirectManager(f"m{number}", self.origin, self.running) for number in range(managers)]
        self.running.set_managers([manager.name for manager in made])
        self.running.start()
        return made

    def apply(self, overlay: Path | None) -> list[str]:
        text = overlay.read_text() if overlay is not None else None
        self.applied.append(text)
        if self.refusal and text is not None and self.refusal in text:
            raise SettingsError([f"{overlay}:1: bad", "and worse"])
        return ["http.listen needs a restart"] if text == "note\n" else []

    def fail(self, error: BaseException) -> None:
        self.failure = error

    def stop(self) -> None:
        if self.running is not None:
            assert self.running.stop(20)
            assert self.failure is None, self.failure
        self.running = None

    @property
    def home(self) -> Path:
        return self.directory / "web1/config"

    @property
    def view(self) -> dict[str, bytes]:
        return content(self.home / "current") if (self.home / "current").is_symlink() else {}

    def status(self) -> dict[str, Any]:
        assert self.running is not None
        return self.running.status()


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path)


@pytest.fixture
def node(tmp_path: Path, origin: Origin) -> Iterator[Node]:
    made = Node(tmp_path / "spool", origin)
    yield made
    made.stop()


def test_a_target_is_fetched_applied_confirmed_and_reported(node: Node, origin: Origin) -> None:
    (manager,) = node.start()
    first = origin.put("global/a", "1")
    manager.attach(origin.target(first))
    report = manager.wait_for("applied", first)
    assert (report.running, report.running_id, report.serial, report.error) == (1, first.id, 1, "")
    assert node.view == {"a": b"1"}
    assert manager.fetches == [(first.id, ())]
    second = origin.put("global/a", "2")
    manager.tell(origin.target(second))
    assert manager.wait_for("applied", second).since_ns >= report.since_ns
    assert manager.fetches[1:] == [(second.id, (first.id,))]
    status = node.status()
    assert (status["revision"], status["id"], status["state"], status["error"]) == (2, second.id, "applied", None)
    assert [report.state for report in manager.reports] == ["pending", "pending", "applied"] * 2


def test_a_restart_goes_on_where_it_was_and_reports_it(node: Node, origin: Origin) -> None:
    (manager,) = node.start()
    first = origin.put("global/a", "1")
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    node.stop()
    (manager,) = node.start()
    assert node.status()["revision"] == 1
    manager.attach()
    assert manager.wait_for("applied", first).running == 1
    manager.tell(origin.target(first))
    second = origin.put("global/a", "2")
    manager.tell(origin.target(second))
    manager.wait_for("applied", second)
    assert manager.fetches == [(second.id, (first.id,))]


def test_another_manager_is_asked_when_one_cannot_give_it(node: Node, origin: Origin) -> None:
    """A fetch that fails everywhere is tried again."""
    one, two = node.start(2)
    one.broken, two.broken = UnavailableError("gone"), RefusedError("not here")
    first = origin.put("global/a", "1")
    two.attach()
    one.attach(origin.target(first))
    report = one.wait(lambda report: bool(report.error))
    assert (report.state, report.error) == ("pending", "not fetched: m0: gone; m1: not here")
    two.broken = None
    assert two.wait_for("applied", first).error == ""
    assert node.view == {"a": b"1"}


def test_a_node_whose_objects_are_damaged_fetches_them_again(node: Node, origin: Origin) -> None:
    (manager,) = node.start()
    first = origin.commit(put("global/a", "1") | put("global/b", "2"))
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    node.stop()
    for path in (node.home / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    (manager,) = node.start()
    second = origin.put("global/a", "3")
    manager.attach(origin.target(second))
    manager.wait_for("applied", second)
    assert node.view == {"a": b"3", "b": b"2"}
    assert manager.fetches[-1] == (second.id, ())


# ---------------------------------------------------------------------- settings of jlogd itself


def test_the_overlay_is_applied_and_its_notes_are_reported(node: Node, origin: Origin) -> None:
    (manager,) = node.start()
    first = origin.put("global/a", "1")
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    second = origin.put("web/web1/jlogd.toml", "note\n")
    manager.tell(origin.target(second))
    assert manager.wait_for("applied", second).error == "http.listen needs a restart"
    assert node.applied == [None, "note\n"]


def test_settings_that_jlogd_cannot_take_are_taken_back(node: Node, origin: Origin) -> None:
    node.refusal = "bad"
    (manager,) = node.start()
    first = origin.put("global/jlogd.toml", "good\n")
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    second = origin.put("global/jlogd.toml", "bad\n")
    manager.tell(origin.target(second))
    report = manager.wait_for("rolled_back", second)
    assert report.error.endswith("jlogd.toml:1: bad; and worse")
    assert (report.running, report.running_id) == (1, first.id)
    assert node.applied == ["good\n", "bad\n", "good\n"]
    assert node.view == {"jlogd.toml": b"good\n"}


# ---------------------------------------------------------------------- the reload command


HOOK = """#!/bin/sh
echo "$JLOGD_REVISION $JLOGD_CHANGED_PATHS" >> {log}
test "$JLOGD_CONFIG" = "$(pwd -P)" && test "${{JLOGD_CONFIG##*/}}" = "$JLOGD_REVISION_ID" || exit 9
grep -q bad a && {{ echo "a is bad"; exit 3; }}
exit 0
"""


def with_hook(node: Node, tmp_path: Path) -> Path:
    """A reload command; where it writes down its calls."""
    log, program = tmp_path / "calls", tmp_path / "hook"
    program.write_text(HOOK.format(log=log))
    program.chmod(0o755)
    node.config["reload"] = str(program)
    return log


def test_a_reload_command_that_fails_takes_the_revision_back(node: Node, origin: Origin, tmp_path: Path) -> None:
    log = with_hook(node, tmp_path)
    (manager,) = node.start()
    first = origin.put("global/a", "good")
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    second = origin.commit(put("global/a", "bad") | put("global/b", "b"))
    manager.tell(origin.target(second))
    report = manager.wait_for("rolled_back", second)
    assert report.error == f"reload: {tmp_path}/hook: exit 3: a is bad"
    assert log.read_text().splitlines() == ["1 a", "2 a", "b", "1 a", "b"]
    assert " r1 exit 0 " in (node.home / "reload.log").read_text()
    failed = (node.home / "reload.failed.log").read_text()
    assert " r2 exit 3 " in failed
    assert failed.endswith("a is bad\n")
    assert node.view == {"a": b"good"}
    third = origin.put("global/a", "good again")
    manager.tell(origin.target(third))
    manager.wait_for("applied", third)


def test_the_first_revision_of_all_is_taken_back_to_none(node: Node, origin: Origin, tmp_path: Path) -> None:
    node.config["reload"] = "false"
    (manager,) = node.start()
    first = origin.put("global/a", "x")
    manager.attach(origin.target(first))
    report = manager.wait_for("rolled_back", first)
    assert (report.running, report.running_id) == (0, None)
    assert report.error == "reload: false: exit 1; going back: reload: false: exit 1"
    assert not os.path.lexists(node.home / "current")


def test_a_reload_command_under_way_does_not_hold_up_a_stop_and_runs_again(node: Node, origin: Origin) -> None:
    node.config["reload"] = "sh -c 'echo > started; exec sleep 300'"
    (manager,) = node.start()
    first = origin.put("global/a", "x")
    manager.attach(origin.target(first))
    until((node.home / "current/started").exists, 20, "the command runs")
    node.stop()
    assert statefile.load(node.home).trial is not None
    node.config["reload"] = "true"
    (manager,) = node.start()
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)


# ---------------------------------------------------------------------- health


def test_a_rollout_s_health_check_decides(node: Node, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the revision counts as applied, and while its trial lasts."""
    monkeypatch.setattr("jlogd.attach.decide.HEALTH_EVERY_S", 0.1)
    check = File(
        b'#!/bin/sh\ntest "$1" = now && test ! -e ill && test ! -e a/ill || { echo ill; exit 1; }\n', EXECUTABLE
    )
    (manager,) = node.start()
    first = origin.put("global/x", "x")
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    ill = origin.commit({"global/bin/check": check} | put("global/ill", "x"))
    manager.tell(origin.target(ill, health=("bin/check", "now")))
    report = manager.wait_for("rolled_back", ill)
    assert report.error.startswith("health check: ")
    assert report.error.endswith("bin/check: exit 1: ill")
    well = origin.commit({"global/ill": None})
    manager.tell(origin.target(well, health=("bin/check", "now"), trial_s=60.0))
    manager.wait_for("applied", well)
    (node.home / "current/ill").write_bytes(b"")
    assert manager.wait_for("rolled_back", well).running == 1
    assert node.view == {"x": b"x"}
    missing = origin.put("global/y", "y")
    manager.tell(origin.target(missing, health=("../../../bin/true",)))
    assert "is not in the view" in manager.wait_for("rolled_back", missing).error


# ---------------------------------------------------------------------- cut off


def test_a_revision_that_cuts_the_node_off_reverts_by_itself(node: Node, origin: Origin) -> None:
    node.config["confirm_timeout"] = SHORT_S
    (manager,) = node.start()
    first = origin.put("global/a", "1")
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    manager.answers = False
    second = origin.put("global/a", "2")
    manager.tell(origin.target(second))
    until(lambda: node.view == {"a": b"2"}, 20, "the second runs")
    until(lambda: node.view == {"a": b"1"}, 20, "it is taken back")
    manager.answers = True
    manager.detach()
    manager.attach(origin.target(second))
    report = manager.wait_for("rolled_back", second)
    assert report.error == "no manager heard from this node within 1 s"
    third = origin.put("global/a", "3")
    manager.tell(origin.target(third))
    manager.wait_for("applied", third)
    assert statefile.load(node.home).blocks(origin.target(second))


def test_managers_that_were_away_are_asked_again_when_they_are_back(node: Node, origin: Origin) -> None:
    node.config["confirm_timeout"] = SHORT_S
    (manager,) = node.start()
    first = origin.put("global/a", "1")
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    manager.answers = False
    second = origin.put("global/a", "2")
    manager.tell(origin.target(second))
    manager.wait_for("pending", second)
    until(lambda: node.view == {"a": b"2"}, 20, "the second runs")
    manager.detach()
    until(lambda: any(each.forgiven for each in statefile.load(node.home).failed), 20, "it is forgiven")
    assert node.view == {"a": b"1"}
    manager.answers = True
    manager.attach(origin.target(second))
    manager.wait_for("applied", second)


# ---------------------------------------------------------------------- drift


def reconcile_fast(node: Node, **config: Any) -> DirectManager:
    """A node that looks at its view all the time, and runs a first revision."""
    node.config.update(config)
    node.reconcile_s = 0.05
    (manager,) = node.start()
    first = node.origin.put("global/a", "1")
    manager.attach(node.origin.target(first))
    manager.wait_for("applied", first)
    return manager


def drifted(*paths: str) -> Callable[[Any], bool]:
    """A report that says so."""
    return lambda report: report.drift == paths and report.drift_count == len(paths)


def test_local_changes_are_reported_and_kept(node: Node, origin: Origin) -> None:
    manager = reconcile_fast(node)
    (node.home / "current/new").write_bytes(b"local")
    manager.wait(drifted("new"))
    second = origin.put("global/a", "2")
    manager.tell(origin.target(second))
    assert manager.wait_for("applied", second).drift == ("new",)
    assert node.view == {"a": b"2", "new": b"local"}
    assert node.status()["drift"] == ["new"]
    (node.home / "current/new").unlink()
    manager.wait(drifted())


def test_theirs_undoes_local_changes(node: Node) -> None:
    reconcile_fast(node, local="theirs")
    (node.home / "current/new").write_bytes(b"local")
    (node.home / "current/a").write_bytes(b"local")
    until(lambda: node.view == {"a": b"1"}, 20, "the repository's files are back")


def test_refuse_waits_until_local_changes_are_undone(node: Node, origin: Origin) -> None:
    manager = reconcile_fast(node, local="refuse")
    (node.home / "current/new").write_bytes(b"local")
    manager.wait(drifted("new"))
    second = origin.put("global/a", "2")
    manager.tell(origin.target(second))
    assert "new changed on this machine" in manager.wait_for("refused", second).error
    assert node.view["a"] == b"1"
    (node.home / "current/new").unlink()
    manager.wait_for("applied", second)
    assert node.view == {"a": b"2"}


@pytest.mark.parametrize("how", ["missing", "dangling", "directory", "view gone", "everything gone"])
def test_current_is_set_right(node: Node, origin: Origin, how: str) -> None:
    """While it runs, and at the start."""
    reconcile_fast(node)
    current = node.home / "current"

    def spoil() -> None:
        view = current.resolve()
        aside = node.home / f"aside-{len(os.listdir(node.home))}"
        if how in {"missing", "dangling", "directory"}:
            current.unlink()
        if how == "dangling":
            current.symlink_to("revisions/nowhere")
        if how == "directory":
            current.mkdir()
        if how in {"view gone", "everything gone"}:
            view.rename(aside)
        if how == "everything gone":
            (node.home / "objects").rename(f"{aside}-objects")

    spoil()
    if how != "everything gone":
        until(lambda: node.view == {"a": b"1"}, 20, "it is right again")
    node.stop()
    if how != "everything gone":
        spoil()
    (manager,) = node.start()
    manager.attach(origin.target(origin.repository.at(Revision(1))))
    until(lambda: node.view == {"a": b"1"}, 20, "it is right again")


# ---------------------------------------------------------------------- the disk


def test_a_full_disk_keeps_the_old_revision_and_is_tried_again(node: Node, origin: Origin) -> None:
    fs = node.fs = FaultyFs(sticky=True)
    (manager,) = node.start()
    first = origin.put("global/a", "1")
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    fs.fail_at = 1
    second = origin.put("global/a", "2")
    manager.tell(origin.target(second))
    report = manager.wait(lambda report: bool(report.error))
    assert report.state == "pending"
    assert "No space left on device" in report.error
    assert node.view == {"a": b"1"}
    fs.heal()
    manager.wait_for("applied", second)
    assert node.view == {"a": b"2"}


def test_an_unexpected_exception_of_one_revision_does_not_end_the_daemon(
    node: Node, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    (manager,) = node.start()
    broken = threading.Event()
    broken.set()
    prepare = Replica.prepare

    def fail(*arguments: Any) -> Any:
        if broken.is_set():
            raise ZeroDivisionError
        return prepare(*arguments)

    monkeypatch.setattr(Replica, "prepare", fail)
    first = origin.put("global/a", "1")
    manager.attach(origin.target(first))
    assert manager.wait_for("refused", first).error == "internal: ZeroDivisionError()"
    broken.clear()
    second = origin.put("global/a", "2")
    manager.tell(origin.target(second))
    manager.wait_for("applied", second)


def test_a_damaged_state_file_is_no_reason_to_stop(node: Node, origin: Origin) -> None:
    (manager,) = node.start()
    first = origin.put("global/a", "1")
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    node.stop()
    (node.home / "state.json").write_bytes(b"\0" * 100)
    (manager,) = node.start()
    manager.attach(origin.target(first))
    manager.wait_for("applied", first)
    assert manager.fetches == []
