"""The stable outside, as scripts see it: JSON fields, exit codes, file names and modes, of real daemons.

Fields may be added; what is listed here never goes, changes its type, or is left out.
"""

import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jlogd.journal import Journal
from tests.support.daemon import Result, run_command, until
from tests.support.fleet import JLOGD, MANAGERD, REPOSITORY, Fleet, Manager, Node, Tail

LINES = 300
NULL = type(None)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

JOURNAL = {"name": str, "id": str, "first": int, "end": int, "bytes": int}
SOURCE = {
    "path": str, "journal": str, "position": int, "size": int, "lag_bytes": int, "last_read": (str, NULL),
    "state": str, "error": (str, NULL),
}  # fmt: skip
SUBSCRIBER = {
    "name": str, "journal": str, "checkpoint": int, "lag_records": int, "lag_bytes": int, "lag_s": float, "state": str,
}  # fmt: skip
SESSION = {"manager": str, "subscriber": str, "state": str, "since": str, "error": (str, NULL)}
NODE_STATUS = {
    "schema": int, "node": str, "subcluster": str, "running": bool, "pid": (int, NULL), "since": (str, NULL),
    "journals": list, "sources": list, "subscribers": list, "sessions": list,
}  # fmt: skip
MANAGER_STATUS = {
    "schema": int, "manager": str, "subscriber": str, "running": bool, "pid": (int, NULL), "since": (str, NULL),
    "nodes": int, "sessions": int, "journals": int, "bytes": int,
}  # fmt: skip
NODE = {
    "name": str, "subcluster": (str, NULL), "state": str, "since": (str, NULL), "last_seen": (str, NULL),
    "journals": int, "lag_records": (int, NULL), "error": (str, NULL),
}  # fmt: skip
INCARNATION = {
    "id": str, "first": int, "end": int, "bytes": int, "records": int, "oldest": (str, NULL), "newest": (str, NULL),
    "gaps": int,
}  # fmt: skip
VERIFY = {"schema": int, "ok": bool, "frames": int, "records": int, "gaps": list, "damage": list}
GAP = {
    "dir": str, "kind": str, "first": int, "end": int, "lost_records": (int, NULL), "lost_bytes": (int, NULL),
    "reason": str,
}  # fmt: skip
DAMAGE = {"file": str, "position": int, "first": int, "end": int, "reason": str}


def holds(document: dict[str, Any], fields: dict[str, Any]) -> None:
    """Every field is there with its type; what sounds like a time is RFC 3339 in UTC."""
    assert fields.keys() <= document.keys(), fields.keys() - document.keys()
    for name, kind in fields.items():
        assert isinstance(document[name], kind), (name, document[name])
        if name in {"since", "last_seen", "last_read", "oldest", "newest"} and document[name] is not None:
            assert TIME.fullmatch(document[name]), (name, document[name])


def error(done: Result, code: int, reason: str) -> str:
    """``--json`` failed as it should: nothing on stdout, one document on stderr. Returns the message."""
    assert (done.code, done.out) == (code, b""), done.err
    document = json.loads(done.err)
    assert document["error"].keys() == {"reason", "message"}
    assert document["error"]["reason"] == reason
    return str(document["error"]["message"])


@dataclass
class World:
    """One node with two journals, one manager that has everything, one that was never there."""

    fleet: Fleet
    node: Node
    manager: Manager
    logs: Path

    def journal(self, *words: str) -> Result:
        return run_command([*JLOGD, "journal", *words], cwd=REPOSITORY)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("contract")
    (root / "z.log").write_bytes(b"".join(b"line %d\n" % number for number in range(LINES)))
    (root / "a.log").write_bytes(b"crlf\r\nnul\0\nbad\xff\n\nlast\n")
    with Fleet(root / "fleet") as fleet:
        manager, away = fleet.manager("m1"), fleet.manager("away")
        tails = [Tail("app", (str(root / "z.log"),)), Tail("odd", (str(root / "a.log"),))]
        node = fleet.node("n1", tails, [manager, away])
        for daemon in (manager, node):
            daemon.start()
            daemon.ready()
        until(lambda: _lags(node) == {"m1": 0, "away": LINES + 5}, 20, "m1 has everything")
        yield World(fleet, node, manager, root)


def _lags(node: Node) -> dict[str, int]:
    lags: dict[str, int] = {}
    for item in node.status()["subscribers"]:
        lags[item["name"]] = lags.get(item["name"], 0) + item["lag_records"]
    return lags


def by(items: list[dict[str, Any]], *keys: str) -> bool:
    """Whether a list is sorted."""
    return items == sorted(items, key=lambda item: [item[key] for key in keys])


# ---------------------------------------------------------------------- documents


def test_status_of_a_node(world: World) -> None:
    """Fields, order, states."""
    document = world.node.command("status", "--json").json()
    holds(document, NODE_STATUS)
    assert document["schema"] == 1
    for key, fields in (
        ("journals", JOURNAL), ("sources", SOURCE), ("subscribers", SUBSCRIBER), ("sessions", SESSION)
    ):  # fmt: skip
        for item in document[key]:
            holds(item, fields)
    assert len(document["sources"]) == len(document["journals"]) == len(document["sessions"]) == 2
    assert by(document["journals"], "name")
    assert by(document["sources"], "path")
    assert by(document["subscribers"], "name", "journal")
    assert by(document["sessions"], "manager")
    assert {source["state"] for source in document["sources"]} == {"following"}
    assert {session["state"] for session in document["sessions"]} == {"streaming", "backoff"}


def test_the_other_documents_of_a_node(world: World) -> None:
    """``journal ls``, ``subscriber ls``, ``check``."""
    journals = world.node.command("journal", "ls", "--json").json()
    assert journals["schema"] == 1
    assert by(journals["journals"], "name")
    for item in journals["journals"]:
        holds(item, JOURNAL | {"dir": str, "segments": int})
        assert Path(item["dir"]).is_dir()
    for item in world.node.command("subscriber", "ls", "--json").json()["subscribers"]:
        holds(item, SUBSCRIBER)
    assert world.node.command("check", "--json").json()["schema"] == 1


def test_status_and_nodes_of_a_manager(world: World) -> None:
    """Fields; the counts are those of this fleet."""
    document = world.manager.command("status", "--json").json()
    holds(document, MANAGER_STATUS)
    assert (document["schema"], document["nodes"], document["sessions"], document["journals"]) == (1, 1, 1, 2)
    (node,) = world.manager.command("nodes", "--json").json()["nodes"]
    holds(node, NODE)
    assert (node["state"], node["journals"], node["lag_records"]) == ("connected", 2, 0)


def test_logs_ls_and_verify(world: World) -> None:
    """Fields; everything is sound."""
    logs = world.manager.command("logs", "ls", "--json").json()
    assert logs["schema"] == 1
    assert [(log["node"], log["journal"]) for log in logs["logs"]] == [("n1", "app"), ("n1", "odd")]
    for log in logs["logs"]:
        for item in log["incarnations"]:
            holds(item, INCARNATION)
            assert (world.manager.data / "archive" / "n1" / log["journal"] / item["id"]).is_dir()
    done = world.manager.command("logs", "verify", "--json")
    assert done.code == 0
    holds(done.json(), VERIFY)
    assert (done.json()["ok"], done.json()["records"]) == (True, LINES + 5)


def test_records(world: World) -> None:
    """``text`` where it is UTF-8, else ``base64``; the same from the node's journal and from the archive."""
    done = world.manager.command("logs", "cat", "n1/odd", "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    fields = {"offset": int, "time": str, "source": str, "flags": list}
    for record in records:
        holds(record, fields)
        assert TIME.fullmatch(record["time"])
        assert ("text" in record) != ("base64" in record)
    assert [record.get("text", record.get("base64")) for record in records] == [
        "crlf\r",
        "nul\0",
        "YmFk/w==",
        "",
        "last",
    ]
    here = world.journal("read", str(world.node.journal("odd")), "--json")
    assert [json.loads(line)["offset"] for line in here.out.splitlines()] == [0, 1, 2, 3, 4]
    raw = world.manager.command("logs", "cat", "n1/odd", "--raw")
    assert raw.out == (world.logs / "a.log").read_bytes()


def test_a_stopped_node_and_manager_answer_from_their_files(tmp_path: Path) -> None:
    """The same fields, ``running`` false, nobody's pid; exit 0."""
    (tmp_path / "z.log").write_bytes(b"one\n")
    (tmp_path / "a.log").write_bytes(b"two\n")
    with Fleet(tmp_path / "fleet") as fleet:
        manager = fleet.manager("m1")
        tails = [Tail("app", (str(tmp_path / "z.log"),)), Tail("odd", (str(tmp_path / "a.log"),))]
        node = fleet.node("n1", tails, [manager])
        for daemon in (node, manager):
            never = daemon.command("status", "--json")
            assert (never.code, never.json()["running"]) == (0, False)
        fleet.start()
        fleet.settle(20)
        assert node.stop() == manager.stop() == 0
        (node.spool / "n1" / "journals" / "lost+found").mkdir()
        (manager.data / "archive" / "lost+found").mkdir()
        document = node.command("status", "--json").json()
        holds(document, NODE_STATUS)
        assert (document["pid"], document["since"], document["sessions"]) == (None, None, [])
        assert by(document["sources"], "path")
        for source in document["sources"]:
            holds(source, SOURCE)
        assert [journal["end"] for journal in document["journals"]] == [1, 1]
        stopped = manager.command("status", "--json").json()
        holds(stopped, MANAGER_STATUS)
        assert stopped["nodes"] == 1
        (silent,) = manager.command("nodes", "--json").json()["nodes"]
        holds(silent, NODE)
        assert silent["state"] == "silent"


# ---------------------------------------------------------------------- exit codes and words


def test_ranges_and_bounds(world: World) -> None:
    """Half-open; a time is never an offset; ``tail`` keeps to its bounds and ends there."""
    cat = world.manager.command
    assert cat("logs", "cat", "n1/app", "--from", "298").out == b"line 298\nline 299\n"
    assert cat("logs", "cat", "n*/a*", "--to", "1", "--since", "1h").out == b"line 0\n"
    assert cat("logs", "cat", "n1/app", "--until", "1h").out == b""
    assert cat("logs", "cat", "n1/app", "--source", "/nowhere").out == b""
    assert cat("logs", "tail", "n1/app", "-n", "2", "--to", "5", timeout_s=20).out == b"line 3\nline 4\n"
    read = world.journal("read", str(world.node.journal("app")), "--from", "1", "--to", "2", "--follow")
    assert (read.code, read.out) == (0, b"line 1\n")
    for words in (["--since", "5"], ["--from", "x"], ["--from", "9" * 5000], ["--since", "9" * 400 + "d"]):
        assert "is" in error(cat("logs", "cat", "n1/app", "--json", *words), 2, "usage")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["line 29", "n1/app"], 0),
        (["no such line", "n1/app"], 1),
        (["-v", "line", "n1/app"], 1),
        (["-i", "-F", "LINE 1", "n*/*"], 0),
        (["(", "n1/app"], 2),
        (["x", "n1/none"], 2),
        (["x", "n1/app", "--from", "x"], 2),
        (["x", "n1/app", "-c", "/nowhere/managerd.toml"], 2),
    ],
    ids=str,
)  # fmt: skip
def test_grep(world: World, words: list[str], code: int) -> None:
    """0 match, 1 none, 2 any error."""
    done = run_command([*MANAGERD, "logs", "grep", "--settings", str(world.manager.settings), *words], cwd=REPOSITORY)
    assert done.code == code, done.err
    assert bool(done.err) == (code == 2)
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["drain", "--timeout", "100ms"], 7, "deadline"),
        (["drain", "--timeout", "0.1"], 7, "deadline"),
        (["drain", "--timeout", "banana"], 2, "usage"),
        (["drain", "--timeout", "-5"], 2, "usage"),
        (["subscriber", "add", "Bad/Name"], 2, "usage"),
        (["subscriber", "add", "x", "--at", "²"], 2, "usage"),
        (["subscriber", "add", "x", "--at", "9" * 5000], 2, "usage"),
        (["subscriber", "add", "x", "--at", "999"], 2, "usage"),
        (["subscriber", "add", "x", "--at", "like:nobody"], 2, "usage"),
        (["subscriber", "add", "m1"], 6, "conflict"),
        (["subscriber", "set", "m1", "--at", "end"], 2, "usage"),
        (["subscriber", "remove", "m1"], 2, "usage"),
        (["subscriber", "remove", "nobody", "--yes"], 2, "usage"),
        (["run", "--bogus"], 2, "usage"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)  # fmt: skip
def test_refused_commands_of_a_node(world: World, words: list[str], code: int, reason: str) -> None:
    """Each with its code, its reason and one line."""
    message = error(world.node.command(*words, "--json"), code, reason)
    assert "\n" not in message


def test_settings_and_locks(world: World, tmp_path: Path) -> None:
    """3 for a settings file that is not there or not one, the default one included; 4 for a held journal."""
    for program, default in ((JLOGD, "jlogd.toml"), (MANAGERD, "managerd.toml")):
        nul = tmp_path / default
        nul.write_bytes(b'[node]\nname = "a\0b"\n')
        for words in ([], ["-c", str(tmp_path)], ["-c", str(nul)], ["-c", str(tmp_path / "none")]):
            done = run_command([*program, "status", "--json", *words], cwd=REPOSITORY)
            if words or not Path("/etc/jlogd", default).exists():
                message = error(done, 3, "settings")
                assert (str(tmp_path) if words else f"/etc/jlogd/{default}") in message
                assert message.isprintable()
    held = world.journal("repair", str(world.node.journal("app")), "--json")
    assert str(world.node.pid) in error(held, 4, "locked")
    assert error(world.manager.command("logs", "cat", "n1/none", "--json"), 6, "refused")
    assert error(world.manager.command("logs", "cat", "n1", "--json"), 2, "usage")


def test_damage_is_5_after_all_that_is_sound(tmp_path: Path) -> None:
    """A gap is not damage; damage is one line, or one JSON error, on stderr."""
    with Journal.open(tmp_path / "j") as journal:
        for number in range(3):
            journal.append_many([b"record %d" % (number * 2), b"record %d" % (number * 2 + 1)])
            journal.commit()
        with journal.reader() as reader:
            position = [view.position for view in reader.frames(0)][1]
    (segment,) = (tmp_path / "j").glob("*.jls")
    content = bytearray(segment.read_bytes())
    content[position + 140] ^= 1
    segment.write_bytes(content)
    words = ["read", str(tmp_path / "j")]
    plain = run_command([*JLOGD, "journal", *words], cwd=REPOSITORY)
    assert (plain.code, plain.out) == (5, b"record 0\nrecord 1\nrecord 4\nrecord 5\n")
    assert [line.split(":")[0] for line in plain.err.splitlines()] == ["damage"]
    as_json = run_command([*JLOGD, "journal", *words, "--json"], cwd=REPOSITORY)
    assert as_json.code == 5
    assert [json.loads(line)["flags"] for line in as_json.out.splitlines()] == [[], [], ["gap"], [], []]
    assert json.loads(as_json.err)["error"]["reason"] == "damage"
    proven = run_command([*JLOGD, "journal", "verify", str(tmp_path / "j"), "--json"], cwd=REPOSITORY)
    assert proven.code == 5
    (damage,) = proven.json()["damage"]
    holds(damage, DAMAGE)
    assert (damage["first"], damage["end"]) == (2, 4)
    repaired = run_command([*JLOGD, "journal", "repair", str(tmp_path / "j"), "--json"], cwd=REPOSITORY)
    assert repaired.code == 0, repaired.err
    after = run_command([*JLOGD, "journal", "verify", str(tmp_path / "j"), "--json"], cwd=REPOSITORY)
    assert after.code == 0
    (gap,) = after.json()["gaps"]
    holds(gap, GAP)
    assert (gap["kind"], gap["lost_records"]) == ("offsets", 2)


# ---------------------------------------------------------------------- files, library


def test_pki_files(tmp_path: Path) -> None:
    """Names, modes, ``--out``, never overwritten."""

    def pki(*words: str) -> Result:
        return run_command([*MANAGERD, "pki", *words, "--json"], cwd=REPOSITORY)

    where, out = tmp_path / "pki", tmp_path / "out"
    assert pki("init", str(where)).code == 0
    assert error(pki("init", str(where)), 6, "conflict")
    assert pki("issue", "node", "web1", "--pki", str(where)).code == 0
    made = pki("issue", "manager", "m1", "--pki", str(where), "--san", "10.0.0.5", "--out", str(out)).json()
    assert (made["certificate"], made["key"]) == (str(out / "m1.crt"), str(out / "m1.key"))
    assert TIME.fullmatch(made["not_after"])
    assert error(pki("issue", "node", "web1", "--pki", str(where)), 6, "conflict")
    assert error(pki("issue", "node", "Web1", "--pki", str(where)), 2, "usage")
    for key in (where / "ca.key", where / "web1.key", out / "m1.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert pki("revoke", "web1", "--pki", str(where)).code == 0
    assert len((where / "deny").read_text().split("#")[0].strip()) == 64


def test_files_of_the_daemons(world: World) -> None:
    """Where scripts look for them, and nobody else's to write."""
    node, data = world.node.spool / "n1", world.manager.data
    incarnation = world.manager.archive("n1", "app").name
    assert re.fullmatch(r"0001-[0-9a-f]{32}", incarnation)
    for path in (
        node / "owner",
        node / "control.sock",
        node / "journals" / "app",
        data / "owner",
        data / "control.sock",
    ):
        assert path.exists()
        assert not stat.S_IMODE(path.stat().st_mode) & 0o007, path


def test_the_library_face(tmp_path: Path) -> None:
    """What the first page promises to programs."""
    with Journal.open(tmp_path / "j") as journal:
        offset = journal.append(b"one")
        assert offset == 0
        journal.append_many([b"two", b"three"])
        journal.append_lines(b"four\nfive\n")
        assert journal.commit() == 5
        read = [(offset, record) for offset, _, record in journal.read(1)]
        assert read == [(1, b"two"), (2, b"three"), (3, b"four"), (4, b"five")]
        subscriber = journal.subscriber("name")
        assert subscriber.checkpoint == 0
