"""The stable outside of the configuration, as scripts see it: JSON fields, exit codes, errors, of a real fleet.

Fields may be added; what is listed here never goes, changes its type, or is left out.
"""

import json
import os
import pty
import re
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from managerd.eccfg.cli import cli
from tests.support.commandline import Outcome, runner
from tests.support.daemon import until
from tests.support.fleet import ECCFG, REPOSITORY, Fleet, free_port

NULL = type(None)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
ID = re.compile(r"[0-9a-f]{40}")
STATES = {"pending", "applied", "refused", "rolled_back", "offline"}

COMMITTED = {
    "schema": int, "revision": int, "id": str, "confirmed": bool, "merged": bool, "held": (str, NULL), "notes": list,
}  # fmt: skip
REVISION = {
    "revision": int, "id": str, "author": str, "time": str, "message": str, "paths": list, "path_count": int,
    "signer": (str, NULL), "confirmed": bool,
}  # fmt: skip
NODE = {
    "name": str, "subcluster": str, "revision": (int, NULL), "id": (str, NULL), "state": str, "since": (str, NULL),
    "drift": list, "drift_count": int, "error": (str, NULL), "target": (int, NULL), "about": (int, NULL),
    "recipient": (str, NULL), "via": list,
}  # fmt: skip
EXPLAINED = {"key": str, "value": object, "layer": str, "revision": (int, NULL), "secret": bool}
STATUS = {
    "schema": int, "root": str, "revision": int, "id": (str, NULL), "head": (int, NULL), "confirmed": (int, NULL),
    "behind": (int, NULL), "interrupted": bool, "changes": list, "conflicts": list, "side_branches": list,
    "error": (str, NULL),
}  # fmt: skip
ROLLOUT = {
    "number": int, "state": str, "revision": int, "id": str, "baseline": int, "author": str, "since": (str, NULL),
    "reason": (str, NULL), "stages": list, "counts": list, "stage": int, "hold_s": float,
    "hold_left_s": (float, NULL), "health": list, "max_failed": int, "nodes": int, "released": list,
    "applied": list, "pending": list, "offline": list, "failed": list, "errors": list,
}  # fmt: skip
FILES = {
    "global/app.toml": 'greeting = "hello"\n[server]\nport = 80\n',
    "global/rollout.toml": '[[require]]\npaths = ["global/held/**"]\nhold = "0s"\nstages = ["100%"]\n',
    "web/default/app.toml": "[server]\nport = 8080\n",
    "web/web1/only": "mine\n",
    "schemas/app.toml.json": '{"properties": {"greeting": {"type": "string"}}}',
}

Eccfg = Callable[..., Outcome]


def holds(document: dict[str, Any], fields: dict[str, Any]) -> None:
    """Every field is there with its type; times are RFC 3339 in UTC, ids whole."""
    assert fields.keys() <= document.keys(), fields.keys() - document.keys()
    assert document.get("schema", 1) == 1
    for name, kind in fields.items():
        assert isinstance(document[name], kind), (name, document[name])
        if name in {"since", "time"} and document[name] is not None:
            assert TIME.fullmatch(document[name]), (name, document[name])
        if name == "id" and document[name] is not None:
            assert ID.fullmatch(document[name]), document[name]


def error(done: Outcome, code: int, reason: str) -> dict[str, Any]:
    """``--json`` failed as it should: nothing on stdout, one document on stderr. Returns the error."""
    assert (done.code, done.out) == (code, b""), done
    found = json.loads(done.err)["error"]
    assert found["reason"] == reason, found
    assert found["message"], found
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One manager, a node that runs and one that left."""
    home = tmp_path_factory.mktemp("contract")
    with Fleet(home) as made:
        m1 = made.manager("m1", config='writer = "m1"\n')
        web1, gone = (made.node(name, [], [m1], subcluster="web", config="") for name in ("web1", "gone"))
        made.start()
        for path, text in FILES.items():
            (home / "first" / path).parent.mkdir(parents=True, exist_ok=True)
            (home / "first" / path).write_text(text)
        done = made.eccfg("bootstrap", "--from", home / "first", "-m", "First")
        assert done.code == 0, done.err
        for node in (web1, gone):
            until((node.view / "app.toml").exists, 20, f"{node.name} has r1")
        gone.stop()
        yield made


@pytest.fixture
def eccfg(
    fleet: Fleet, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Eccfg:
    """``eccfg(*words)`` as alice, in this process; ``at``: another directory than an empty one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    run, tls = runner(cli, capfdbinary), fleet.operator("alice")

    def eccfg(*words: object, at: Path | None = None, manager: str = "") -> Outcome:
        address = manager or fleet.managers["m1"].address
        whom = ("--manager", address, "--ca", tls.ca, "--cert", tls.cert, "--key", tls.key)
        return run(*whom, "-C", at or tmp_path, *words)

    return eccfg


@pytest.fixture
def put(eccfg: Eccfg, tmp_path: Path) -> Callable[..., Outcome]:
    """``put(path, text)``: one revision."""

    def put(path: str, text: str, *words: str, message: str = "A change") -> Outcome:
        (tmp_path / "text").write_text(text)
        return eccfg("put", tmp_path / "text", path, "-m", message, *words)

    return put


# ---------------------------------------------------------------------- committing


def test_a_commit_prints_its_revision_and_the_beginning_of_its_id(put: Callable[..., Outcome], eccfg: Eccfg) -> None:
    """``r12 1a2b3c4d``; with --json whole; nothing to commit is no failure and has no revision."""
    said = put("global/motd", "one\n").out.decode()
    assert re.fullmatch(r"r\d+ [0-9a-f]{8}\n", said)
    document = put("global/motd", "two\n", "--json").json()
    holds(document, COMMITTED)
    nothing = put("global/motd", "two\n", "--json")
    assert nothing.code == 0
    assert (nothing.json()["revision"], nothing.json()["id"]) == (None, None)
    assert json.loads(eccfg("log", "-n", "1", "--json").out)["revisions"][0]["id"] == document["id"]


@pytest.mark.parametrize(
    "words",
    [
        ("copy", "web/web1", "web/web2", "-m", "x"),
        ("overlay", "web/web2", "web/web3", "-m", "x"),
        ("delete", "web/web2", "web/web3", "-m", "x"),
        ("revert", "HEAD", "-m", "x"),
        ("rollback", "r1", "-m", "x"),
        ("subcluster", "create", "test", "-m", "x"),
        ("subcluster", "copy", "web", "test", "-m", "x"),
        ("subcluster", "rm", "test", "--yes", "-m", "x"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_every_command_that_makes_a_revision_answers_alike(eccfg: Eccfg, words: tuple[str, ...]) -> None:
    """One revision each."""
    before = eccfg("log", "-n", "1", "--json").json()["revisions"][0]["revision"]
    done = eccfg(*words, "--json")
    assert done.code == 0, done.err
    holds(done.json(), COMMITTED)
    assert done.json()["revision"] == before + 1


def test_a_refused_commit_names_file_line_and_problem(put: Callable[..., Outcome], eccfg: Eccfg) -> None:
    """Exit 6, ``path:line: problem`` on stderr, nothing stored."""
    before = eccfg("log", "--json").json()
    refused = put("web/web1/app.toml", "a = 1\ngreeting = 7\n")
    assert refused.code == 6
    assert re.match(r"web/web1/app\.toml:2: \S.*\n", refused.err), refused.err
    assert refused.out == b""
    fault, *_ = error(put("web/web1/app.toml", "a = \n", "--json"), 6, "refused")["faults"]
    holds(fault, {"path": str, "line": (int, NULL), "problem": str})
    assert (fault["path"], fault["line"]) == ("web/web1/app.toml", 1)
    assert eccfg("log", "--json").json() == before


def test_a_conflict_shows_both_sides(put: Callable[..., Outcome], eccfg: Eccfg) -> None:
    """Exit 6; keys and both values."""
    base = str(put("global/both.toml", "[a]\nb = 1\n", "--json").json()["revision"])
    assert put("global/both.toml", "[a]\nb = 2\n").code == 0
    conflict = put("global/both.toml", "[a]\nb = 3\n", "--base", f"r{base}")
    assert conflict.code == 6
    assert "2" in conflict.err
    assert "3" in conflict.err
    found = error(put("global/both.toml", "[a]\nb = 3\n", "--base", f"r{base}", "--json"), 6, "conflict")
    assert [(each["path"], each["keys"]) for each in found["conflicts"]] == [("global/both.toml", ["a.b"])]


# ---------------------------------------------------------------------- reading


def test_log_show_blame_cat(eccfg: Eccfg) -> None:
    """Fields and order."""
    log = eccfg("log", "--json").json()
    numbers = [revision["revision"] for revision in log["revisions"]]
    assert numbers == sorted(numbers, reverse=True)
    assert log["more"] is False
    for revision in log["revisions"]:
        holds(revision, REVISION)
        assert revision["paths"] == sorted(revision["paths"])
    shown = eccfg("show", "r1", "--json").json()
    holds(shown, {**REVISION, "schema": int, "files": list})
    for file in shown["files"]:
        holds(file, {"path": str, "status": str, "mode": (str, NULL), "diff": str})
    assert [file["path"] for file in shown["files"]] == sorted(FILES)
    line, *_ = eccfg("blame", "global/app.toml", "--json").json()["lines"]
    holds(line, {"line": int, "revision": int, "id": str, "author": str, "time": str, "text": str})
    text = eccfg("cat", "global/app.toml@r1", "--json").json()
    holds(text, {"schema": int, "file": str, "node": NULL, "revision": int, "id": str, "mode": str, "bytes": int})
    assert text["text"] == FILES["global/app.toml"]


def test_explain_and_effective(eccfg: Eccfg) -> None:
    """The contract's explain."""
    document = eccfg("explain", "app.toml", "--node", "web1", "--json").json()
    holds(document, {"schema": int, "file": str, "node": str, "keys": list})
    for key in document["keys"]:
        holds(key, EXPLAINED)
    assert {key["key"]: key["layer"] for key in document["keys"]}["server.port"] == "web/default"
    document = eccfg("effective", "--node", "web1", "--json").json()
    holds(document, {"schema": int, "node": str, "revision": int, "id": str, "files": list})
    for file in document["files"]:
        holds(file, {"path": str, "mode": str, "bytes": int, "layers": list})
    assert [file["path"] for file in document["files"]] == sorted(file["path"] for file in document["files"])


def test_nodes(eccfg: Eccfg) -> None:
    """The contract's nodes: sorted, one of the five states, null for what is not known."""
    document = eccfg("nodes", "--json").json()
    holds(document, {"schema": int, "head": int, "nodes": list, "silent": list})
    for node in document["nodes"]:
        holds(node, NODE)
        assert node["state"] in STATES
    names = [node["name"] for node in document["nodes"]]
    assert names == sorted(names)
    assert {node["name"]: node["state"] for node in document["nodes"]}["gone"] == "offline"


def test_wait(put: Callable[..., Outcome], eccfg: Eccfg) -> None:
    """0 when it is there; 7 when the time is over, naming who is missing."""
    revision = put("global/motd", "wait\n", "--json").json()["revision"]
    done = eccfg("wait", f"r{revision}", "--timeout", "20s", "--json")
    assert done.code == 0, done.err
    holds(done.json(), {"schema": int, "revision": int, "id": str, "nodes": list})
    for node in done.json()["nodes"]:
        holds(node, NODE)
    late = error(eccfg("wait", "HEAD", "--node", "gone", "--timeout", "100ms", "--json"), 7, "deadline")
    assert "gone" in late["message"]


def test_a_rollout(put: Callable[..., Outcome], eccfg: Eccfg) -> None:
    """Null while there was none; the commit that it waits for says so."""
    assert eccfg("rollout", "status", "--json").json() == {"schema": 1, "rollout": None}
    committed = put("global/held/file", "careful\n", "--json").json()
    assert committed["held"] is not None
    assert "global/rollout.toml" in committed["held"]
    started = eccfg("rollout", "start", f"r{committed['revision']}", "--json")
    assert started.code == 0, started.err
    holds(started.json()["rollout"], ROLLOUT)
    for action in ("pause", "resume", "abort"):
        done = eccfg("rollout", action, "--json")
        if done.code:  # one node only: it may be over before
            error(done, 6, "refused")
        else:
            holds(done.json()["rollout"], ROLLOUT)
    eccfg("delete", "global/held", "-m", "Done")
    holds(eccfg("rollout", "status", "--json").json()["rollout"], ROLLOUT)


def test_bundles(eccfg: Eccfg, tmp_path: Path) -> None:
    """Export and import say what they did; an existing file is never overwritten."""
    document = eccfg("export", tmp_path / "b", "--json").json()
    holds(document, {"schema": int, "file": str, "bytes": int})
    assert (tmp_path / "b").stat().st_size == document["bytes"]
    error(eccfg("export", tmp_path / "b", "--json"), 6, "conflict")
    done = eccfg("import", tmp_path / "b", "--json").json()
    holds(done, {"schema": int, "revision": int, "id": str, "added": int})
    assert done["added"] == 0


# ---------------------------------------------------------------------- working copy


def test_a_working_copy(eccfg: Eccfg, tmp_path: Path) -> None:
    """clone, status, diff, add, rm, restore, check, commit, pull, resolve."""
    copy = tmp_path / "copy"
    cloned = eccfg("clone", "copy", "--json").json()
    holds(cloned, {"schema": int, "directory": str, "revision": int, "id": str, "files": int})
    (copy / "global/app.toml").write_text('greeting = "changed"\n')
    (copy / "global/new").write_text("new\n")
    status = eccfg("status", "--json", at=copy).json()
    holds(status, STATUS)
    for change in status["changes"]:
        holds(change, {"path": str, "kind": str, "staged": bool})
    assert {change["path"]: change["kind"] for change in status["changes"]} == {
        "global/app.toml": "modified", "global/new": "unknown",
    }  # fmt: skip
    for words in (("add", "global/new"), ("rm", "web/web1/only"), ("restore", "web/web1/only")):
        holds(eccfg(*words, "--json", at=copy).json(), {"schema": int, "paths": list})
    for difference in eccfg("diff", "--json", at=copy).json()["differences"]:
        holds(difference, {"path": str, "status": str, "keys": (list, NULL), "lines": list})
    for difference in eccfg("diff", "r1", "HEAD", "--node", "web1", "--json", at=copy).json()["differences"]:
        holds(difference, {"path": str, "status": str, "keys": (list, NULL), "lines": list})
    assert eccfg("check", "--json", at=copy).json() == {"schema": 1, "ok": True, "faults": [], "notes": []}
    (copy / "global/bad.json").write_text("{")
    assert eccfg("add", "global/bad.json", at=copy).code == 0
    error(eccfg("check", "--json", at=copy), 6, "refused")
    assert eccfg("rm", "--force", "global/bad.json", at=copy).code == 0
    holds(eccfg("commit", "-m", "All", "--json", at=copy).json(), COMMITTED)
    holds(
        eccfg("pull", "--json", at=copy).json(),
        {"schema": int, "revision": int, "id": str, "updated": list, "merged": list, "kept": list, "conflicts": list},
    )
    assert eccfg("resolve", "global/app.toml", at=copy).code in {0, 2, 6}  # nothing is conflicted
    gone = eccfg("status", "--json", at=copy, manager=f"127.0.0.1:{free_port()}").json()
    holds(gone, STATUS)
    assert (gone["head"], gone["behind"]) == (None, None)
    assert gone["error"] is not None


def test_subclusters(eccfg: Eccfg) -> None:
    """Sorted by name."""
    found = eccfg("subcluster", "ls", "--json").json()["subclusters"]
    for each in found:
        holds(each, {"name": str, "default_files": int, "directories": list, "nodes": list})
    assert [each["name"] for each in found] == sorted(each["name"] for each in found)
    assert {each["name"]: each["nodes"] for each in found}["web"] == ["gone", "web1"]


# ---------------------------------------------------------------------- exit codes and errors


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("cat", "global/nothing"), 6, "refused"),
        (("show", "r4711"), 6, "refused"),
        (("log", "--until", "zz"), 6, "refused"),
        (("explain", "app.toml", "no.such.key", "--node", "web1"), 6, "refused"),
        (("explain", "app.toml", "--node", "NOT A NAME"), 6, "refused"),
        (("effective",), 2, "usage"),
        (("nosuchcommand",), 2, "usage"),
        (("put", "nothing-there", "global/x", "-m", "x"), 2, "usage"),
        (("wait", "HEAD", "--timeout", "soon"), 2, "usage"),
        (("status",), 2, "usage"),
        (("import", "nothing-there"), 2, "usage"),
        (("rollout", "start", "r1"), 6, "refused"),
        (("secret", "set", "app.toml", "k", "--node", "nobody", "--value-file", "/dev/null", "-m", "x"), 6, "refused"),
        (("resolve", "--side", "m9-r9", "-m", "x"), 6, "refused"),
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, tuple) else None,
)
def test_failures_have_a_code_and_a_reason(eccfg: Eccfg, words: tuple[str, ...], code: int, reason: str) -> None:
    """Errors with --json are one document on stderr; without it, one ``error:`` line."""
    error(eccfg(*words, "--json"), code, reason)
    plain = eccfg(*words)
    assert (plain.code, plain.out) == (code, b"")
    assert "Traceback" not in plain.err


def test_unreachable_and_unconfigured(eccfg: Eccfg, fleet: Fleet, tmp_path: Path) -> None:
    """1 when nobody answers, naming the address; 3 when settings are wrong."""
    nobody = f"127.0.0.1:{free_port()}"
    assert nobody in error(eccfg("nodes", "--json", manager=nobody), 1, "unavailable")["message"]
    (tmp_path / "xdg").mkdir()
    (tmp_path / "xdg/eccfg.toml").write_text("managr = 1\n")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    done = subprocess.run(
        [*ECCFG, "nodes", "--json"], capture_output=True, env=environment, timeout=30, check=False, cwd=tmp_path
    )
    found = error(Outcome(done.returncode, done.stdout, done.stderr.decode()), 3, "settings")
    assert "eccfg.toml" in found["message"]


def test_not_permitted_is_a_failure(fleet: Fleet, tmp_path: Path) -> None:
    """A node's certificate at the whole history: exit 1, the right is named."""
    home = fleet.root / "web1"
    whom = ("--manager", fleet.managers["m1"].address, "--ca", fleet.root / "pki/ca.crt")
    own = ("--cert", home / "web1.crt", "--key", home / "web1.key")
    argv = [*ECCFG, *map(str, (*whom, *own)), "export", "-", "--json"]
    done = subprocess.run(
        argv, capture_output=True, timeout=30, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    error(Outcome(done.returncode, done.stdout, done.stderr.decode()), 1, "not_permitted")


def test_watch_is_one_object_a_line_and_progress_is_for_terminals(fleet: Fleet, eccfg: Eccfg) -> None:
    """Ctrl-C ends it with 0; its stderr, no terminal, stays empty. On a terminal ``wait`` shows a bar there."""
    tls = fleet.operator("alice")
    whom = ("--manager", fleet.managers["m1"].address, "--ca", tls.ca, "--cert", tls.cert, "--key", tls.key)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    argv = [*ECCFG, *map(str, whom)]
    with subprocess.Popen(
        [*argv, "watch", "--state", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
    for event in events:
        holds(event, {"schema": int, "time": str, "event": str})
        holds(event[event["event"]], {"revision": REVISION, "node": NODE}[event["event"]])
    ours, theirs = pty.openpty()
    waiting = subprocess.run([*argv, "wait", "r1"], stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=30,
                             check=False)  # fmt: skip
    os.close(theirs)
    assert waiting.returncode == 0
    assert b"\r" in os.read(ours, 4096)
    os.close(ours)
    assert "\r" not in eccfg("wait", "r1").err


# ---------------------------------------------------------------------- what lies on the disk


def test_nothing_of_a_configuration_is_open_to_everybody(fleet: Fleet) -> None:
    """Nobody else gets in; the identity is its owner's alone. Inside the view, modes are the repository's."""
    config, repository = fleet.nodes["web1"].view.parent, fleet.managers["m1"].repository
    assert stat.S_IMODE((config / "identity").stat().st_mode) == 0o600
    places = [config, *config.iterdir(), *(config / "objects").rglob("*"), *(config / "revisions").iterdir()]
    for place in [*places, repository, *repository.rglob("*")]:
        view = place.parent.name == "revisions" and place.is_dir()
        assert view or place.is_symlink() or stat.S_IMODE(place.stat().st_mode) & 0o007 == 0, place
    assert re.fullmatch(r"revisions/[0-9a-f]{40}", os.readlink(config / "current"))


def test_managerd_status_has_the_configuration(fleet: Fleet) -> None:
    """Beside the old fields."""
    config = fleet.managers["m1"].status()["config"]
    holds(config, {"writer": str, "revision": int, "confirmed": int, "nodes": int, "attached": int})
