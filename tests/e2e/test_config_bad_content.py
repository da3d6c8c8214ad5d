"""Contents that no repository should take, and odd ones that it must: through a real manager, each in bounded time."""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from managerd import pki
from managerd.v1 import config_pb2 as pb
from tests.support.config_peers import Peer
from tests.support.daemon import run_command, until
from tests.support.fleet import Fleet

Outcome = pb.CommitResponse
LINK, FILE = 0o120000, 0o100644
BOUND_S = 20.0  # of one commit, on a loaded machine
ACCESS = """
[[rule]]
who = ["operator:alice"]
paths = ["**"]
allow = ["read", "commit", "rollout"]
[[rule]]
who = ["operator:bob"]
paths = ["web/**"]
allow = ["read", "commit"]
"""
FIRST = {
    "global/README": "first\n",
    "global/Case": "x\n",
    "global/caf\N{LATIN SMALL LETTER E WITH ACUTE}": "NFC\n",
    "global/directory/file": "x\n",
    "web/web1/only": "mine\n",
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A manager, a node, a small repository."""
    with Fleet(tmp_path_factory.mktemp("content")) as made:
        m1 = made.manager("m1", config='writer = "m1"\n')
        made.node("web1", [], [m1], subcluster="web", config="")
        for name in ("alice", "bob"):
            pki.issue("operator", name, made.root / "pki")
        made.start()
        with Peer(made, "alice") as alice:
            assert alice.commit(FIRST).outcome == Outcome.OUTCOME_COMMITTED
        yield made


@pytest.fixture
def alice(fleet: Fleet) -> Iterator[Peer]:
    with Peer(fleet, "alice") as peer:
        yield peer


def puts(files: Mapping[str, tuple[int, bytes]]) -> tuple[list[pb.Edit], list[bytes]]:
    """Edits with modes, and contents."""
    edits = [pb.Edit(put=pb.Put(path=path, mode=mode, size=len(text))) for path, (mode, text) in files.items()]
    return edits, [text for _, text in files.values()]


def refused(alice: Peer, files: Mapping[str, tuple[int, bytes]]) -> str:
    """Refused in bounded time with a fault of the first file; nothing is stored. The problem."""
    head, begun = alice.head().id, time.monotonic()
    answer = alice.edit(*puts(files))
    assert time.monotonic() - begun < BOUND_S
    assert answer.outcome == Outcome.OUTCOME_REFUSED, answer
    assert alice.head().id == head
    assert {fault.path for fault in answer.faults} & {*files, ""}, answer.faults
    return "; ".join(fault.problem for fault in answer.faults)


# ---------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "path",
    [
        "global/../x", "../x", "global/./x", "/global/x", "global//x", "global/x/", "", "global", ".", "global/..",
        "global/.git/config", "global/.GIT/config", "global/.git", "global/git~1/x", "global/.git /x", "global/.git./x",
        "global/.g\u200cit/x", "global/.git::$INDEX_ALLOCATION/x", "global/.gitmodules", "global/a\\b", "global/a\nb",
        "global/a\0b", "global/\x1b[31m", "global/\u2028", "global/" + "x" * 256, "global/" + "y/" * 40 + "z",
        "global/" + "/".join(["z" * 250] * 5), "global/case", "global/cafe\u0301", "Web/web1/x", "web/WEB1/x",
        "nowhere", ".git/hooks/post-update", "web/web1", "global/README/below", "global/directory",
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere_or_clash_are_refused(alice: Peer, path: str) -> None:
    """By the manager itself: no client is trusted to look."""
    assert refused(alice, {path: (FILE, b"x\n")})


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../../../etc/passwd",
        "..",
        "a/../../../x",
        "directory/../../x",
        "",
        "a\0b",
        "x" * 2000,
        "../Case",
    ],
)
def test_symlinks_that_leave_their_layer_are_refused(alice: Peer, target: str) -> None:
    """Absolute, climbing, climbing behind a name."""
    assert refused(alice, {"global/link": (LINK, target.encode())})


def test_nothing_is_put_below_a_symlink(alice: Peer) -> None:
    """In one commit, in two, through another layer of the view."""
    assert refused(alice, {"global/l": (LINK, b"directory"), "global/l/x": (FILE, b"x")})
    good = alice.edit(*puts({"global/link2": (LINK, b"directory")}))
    assert good.outcome == Outcome.OUTCOME_COMMITTED
    assert refused(alice, {"global/link2/x": (FILE, b"x")})
    assert refused(alice, {"web/web1/link2/x": (FILE, b"x")})


@pytest.mark.parametrize("mode", [0, 0o100600, 0o104755, 0o160000, 0o040000, 0o100664, 0o060644, 0xFFFFFFFF])
def test_modes_are_three(alice: Peer, mode: int) -> None:
    """No setuid, no submodule, no directory, no device."""
    assert refused(alice, {"global/mode": (mode, b"x")})


# ---------------------------------------------------------------------- limits


def test_too_large_too_many(alice: Peer) -> None:
    """4 MiB a file; 50,000 files; what is at the limit passes."""
    assert refused(alice, {"global/big": (FILE, bytes((4 << 20) + 1))})
    answer = alice.edit(*puts({"global/big": (FILE, bytes(4 << 20))}), dry_run=True)
    assert answer.outcome == Outcome.OUTCOME_GOOD
    many = {f"global/m/{n // 500}/{n}": (FILE, b"") for n in range(50_001)}
    begun = time.monotonic()
    answer = alice.edit(*puts(many), dry_run=True)
    assert answer.outcome == Outcome.OUTCOME_REFUSED
    assert time.monotonic() - begun < BOUND_S


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)
BOMBS = {
    "aliases.yaml": ALIASES,
    "deep.json": "[" * 100_000,
    "deep2.json": '{"a":' * 5000 + "1" + "}" * 5000,
    "deep.toml": "a = " + "[" * 100_000,
    "deep2.toml": "a." * 5000 + "b = 1\n",
    "deep.yaml": "a: " + "[" * 50_000,
    "deep2.yaml": "".join(" " * n + "a:\n" for n in range(2000)),
    "deep3.yaml": "- " * 20_000 + "\n",
    "merge.yaml": "a: &a\n  <<: *a\n",
    "number.json": '{"a": ' + "9" * 100_000 + "}",
    "number.toml": "a = " + "9" * 100_000 + "\n",
    "number.yaml": "a: " + "9" * 100_000 + "\nb: 0x" + "f" * 100_000 + "\n",
    "sexagesimal.yaml": "a: " + ":".join(["59"] * 20_000) + "\n",
    "key.yaml": "? [a, b]\n: 1\n",
    "tag.yaml": "a: !!python/object/apply:os.system ['touch /tmp/owned']\n",
    "nan.json": '{"a": NaN}',
    "surrogate.json": '{"a": "\\ud800"}',
    "twice.json": '{"a": 1, "a": 2}',
    "bom.json": "\ufeff{}",
    "utf16.json": '{"a": 1}'.encode("utf-16").decode("latin-1"),
    "unset.toml": 'a = {"$unset" = true, b = 1}\n',
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_or_harmless(alice: Peer, fleet: Fleet, name: str) -> None:
    """Within seconds, in little memory; the manager and the node that gets it live on."""
    content = BOMBS[name].encode("latin-1" if name.startswith("utf16") else "utf-8")
    before, begun = fleet.managers["m1"].usage(), time.monotonic()
    answer = alice.edit(*puts({f"global/{name}": (FILE, content), f"web/web1/{name}": (FILE, content)}))
    assert time.monotonic() - begun < BOUND_S
    assert answer.outcome in {Outcome.OUTCOME_REFUSED, Outcome.OUTCOME_COMMITTED}
    assert fleet.managers["m1"].usage().rss_bytes - before.rss_bytes < 300 << 20
    if answer.outcome == Outcome.OUTCOME_COMMITTED:
        arrived(fleet, answer)
        names = [pb.Edit(delete=f"global/{name}"), pb.Edit(delete=f"web/web1/{name}")]
        assert alice.edit(names).outcome == Outcome.OUTCOME_COMMITTED


def arrived(fleet: Fleet, answer: pb.CommitResponse) -> None:
    """The node runs it."""
    view = fleet.nodes["web1"].view
    until(lambda: view.resolve().name == answer.revision.id, 30, f"r{answer.revision.revision} is laid out")


# ---------------------------------------------------------------------- schemas


def test_a_schema_fetches_nothing(alice: Peer, tmp_path: Path) -> None:
    """References to http:// and file:// are faults; nobody is asked, no file is read."""
    (tmp_path / "word").write_text(json.dumps({"type": "integer", "const": 4711}))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        for target in (f"http://127.0.0.1:{port}/s.json", f"file://{tmp_path}/word", "other.json", f"{tmp_path}/word"):
            for word in ("$ref", "$dynamicRef", "$schema"):
                said = alice.commit(
                    {"schemas/f.json.json": json.dumps({word: target}), "global/f.json": '{"a": 1}'}, dry_run=True
                )
                assert said.outcome in {Outcome.OUTCOME_REFUSED, Outcome.OUTCOME_GOOD}
                assert (said.outcome == Outcome.OUTCOME_REFUSED) or word == "$schema"
                assert "4711" not in str(said)
        with pytest.raises(TimeoutError):
            server.accept()


def test_patterns_and_references_without_end_are_faults_of_the_schema(alice: Peer) -> None:
    """A pattern that backtracks for ever, references in a circle: other commits wait at most for seconds."""
    regex = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    for schema in (regex, {"$ref": "#"}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}):
        files = {"schemas/g.json.json": json.dumps(schema), "global/g.json": json.dumps({"a": "a" * 60 + "!"})}
        problem = refused(alice, {path: (FILE, text.encode()) for path, text in files.items()})
        assert problem
    assert alice.commit({"global/after": "1\n"}).outcome == Outcome.OUTCOME_COMMITTED


def test_faults_tell_nothing_of_layers_that_the_author_may_not_read(fleet: Fleet, alice: Peer) -> None:
    """A schema's complaint about a merged map repeats all of it, other people's values too."""
    schema = {"properties": {"m": {"maxProperties": 1}, "n": {"const": "zzz"}}}
    first = {
        "schemas/merged.json.json": json.dumps(schema), "global/merged.json": '{"m": {"password": "geheim"}}',
        "global/access.toml": ACCESS,
    }  # fmt: skip
    assert alice.commit(first).outcome == Outcome.OUTCOME_COMMITTED
    with Peer(fleet, "bob") as bob:
        answer = bob.commit({"web/web1/merged.json": '{"m": {"mine": 1}}'}, dry_run=True)
        assert answer.outcome == Outcome.OUTCOME_REFUSED
        assert "geheim" not in str(answer)
        answer = bob.commit({"web/web1/merged.json": '{\n"n": 1}'}, dry_run=True)
        assert [(fault.path, fault.line) for fault in answer.faults] == [("web/web1/merged.json", 2)]
    assert "geheim" in str(alice.commit({"web/web1/merged.json": '{"m": {"mine": 1}}'}, dry_run=True))
    assert alice.edit([pb.Edit(delete="global/access.toml")]).outcome == Outcome.OUTCOME_COMMITTED


# ---------------------------------------------------------------------- odd, and good


def test_odd_names_and_contents_arrive_as_they_are(fleet: Fleet, alice: Peer, tmp_path: Path) -> None:
    """Empty, binary, CRLF, long lines, names of all scripts; on the node, in a clone, by git's own check."""
    odd: dict[str, tuple[int, bytes]] = {
        "global/odd/empty": (FILE, b""),
        "global/odd/empty.json": (FILE, b"{}"),
        "global/odd/binary": (FILE, bytes(range(256)) * 10),
        "global/odd/crlf": (FILE, b"a\r\nb\r\n"),
        "global/odd/\u65e5\u672c\u8a9e \U0001f600 *?[]{}$'\"": (FILE, b"name\n"),
        "global/odd/-rf": (FILE, b"dash\n"),
        "global/odd/HEAD": (FILE, b"head\n"),
        "global/odd/run.sh": (0o100755, b"#!/bin/sh\n"),
        "global/odd/link": (LINK, b"crlf"),
        "global/odd/dangling": (LINK, b"nothing/there"),
    }
    answer = alice.edit(*puts(odd), message="\N{SNOWMAN} one\n\ntwo \t three")
    assert answer.outcome == Outcome.OUTCOME_COMMITTED, answer
    arrived(fleet, answer)
    view = fleet.nodes["web1"].view
    for path, (mode, content) in odd.items():
        place = view / path.removeprefix("global/")
        found = str(place.readlink()).encode() if mode == LINK else place.read_bytes()
        assert found == content, path
        assert mode == LINK or place.stat().st_mode & 0o777 == mode & 0o777
    git = ["git", "-c", "safe.directory=*", "-C", str(fleet.managers["m1"].repository)]
    checked = run_command([*git, "fsck", "--full", "--strict"])
    assert checked.code == 0, checked.err
    cloned = run_command([*git, "clone", "-q", ".", str(tmp_path / "clone")])
    assert cloned.code == 0, cloned.err
    assert (tmp_path / "clone/global/odd/binary").read_bytes() == odd["global/odd/binary"][1]


def test_a_commit_of_nothing_is_no_revision(alice: Peer) -> None:
    """No edits; the same content; deleted and put again; a message of nothing is refused."""
    head = alice.head().id
    assert alice.edit([]).outcome == Outcome.OUTCOME_NOTHING
    assert alice.commit({"global/README": "first\n"}).outcome == Outcome.OUTCOME_NOTHING
    again = [pb.Edit(delete="global/README"), pb.Edit(put=pb.Put(path="global/README", mode=FILE, size=6))]
    assert alice.edit(again, [b"first\n"]).outcome == Outcome.OUTCOME_NOTHING
    assert alice.head().id == head


def test_the_manager_is_well_after_all_this(fleet: Fleet) -> None:
    """No traceback in any log."""
    for daemon in fleet.daemons():
        assert daemon.running
        assert "Traceback" not in daemon.log.read_text()
