"""Callers of the configuration who are not what they should be, or ask for what is not theirs, at a real manager."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from jlogd.attach.messages import Fetch, Pack, Report, Reported, Target
from jlogd.confrepo.model import CommitId, Revision, Serial
from jlogd.forward.messages import Refusal
from jlogd.runtime.rpc import TlsFiles, call_error
from managerd import pki
from managerd.eccfg.cli import cli
from managerd.v1 import config_pb2 as pb
from tests.support.certificates import files, forge
from tests.support.commandline import runner
from tests.support.config_peers import DEADLINE_S, WORD, Outcome, Peer, add_manager, attached, refused
from tests.support.fleet import Fleet, Manager


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A manager with certificates of everybody; nobody else runs."""
    with Fleet(tmp_path_factory.mktemp("hostile")) as made:
        add_manager(made, "web1", "web9", "db1")
        yield made


# ---------------------------------------------------------------------- a node looks at what is another's


READS: dict[str, Callable[[Any], Any]] = {
    "cat": lambda stub: stub.Cat(pb.CatRequest(path="db/db1/secret.toml")),
    "cat of a directory's default": lambda stub: stub.Cat(pb.CatRequest(path="db/default/only")),
    "cat of another's view": lambda stub: stub.Cat(pb.CatRequest(path="secret.toml", node="db1")),
    "blame": lambda stub: stub.Blame(pb.BlameRequest(path="db/db1/secret.toml")),
    "explain": lambda stub: stub.Explain(pb.ExplainRequest(path="secret.toml", node="db1")),
    "effective": lambda stub: stub.Effective(pb.EffectiveRequest(node="db1")),
    "log of a file": lambda stub: stub.Log(pb.LogRequest(path="db/db1/secret.toml")),
    "export": lambda stub: stub.Export(pb.ExportRequest()),
    "import": lambda stub: stub.Import(iter([pb.ImportRequest(piece=b"# v2 git bundle\n")])),
    "rollout": lambda stub: stub.Rollout(pb.RolloutRequest(action=pb.RolloutRequest.ACTION_ABORT)),
}


@pytest.mark.parametrize("name", READS)
def test_a_node_is_told_nothing_of_another_s_files(fleet: Fleet, name: str) -> None:
    """Refused, with no word of what stands in them."""
    with Peer(fleet, "web1") as web1:
        assert WORD not in refused(lambda: READS[name](web1.stub))


@pytest.mark.parametrize(
    "path",
    ["web/web1/../../db/db1/secret.toml", "web/web1//../db1/secret.toml", "/db/db1/secret.toml", "./db/db1/secret.toml",
     "web/web1/\0/db", "DB/db1/secret.toml", "db/db1/secret.toml/", "web/../db/db1/secret.toml"],
)  # fmt: skip
def test_no_way_of_writing_a_path_leads_to_another_s_file(fleet: Fleet, path: str) -> None:
    """Not there, or not permitted."""
    with Peer(fleet, "web1") as web1:
        calls: list[Callable[[], Any]] = [
            lambda: web1.stub.Cat(pb.CatRequest(path=path)),
            lambda: web1.stub.Cat(pb.CatRequest(path=path.removeprefix("web/web1/"), node="web1")),
            lambda: web1.stub.Blame(pb.BlameRequest(path=path)),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert call_error(caught.value, "m1").reason in {"refused", "not_permitted"}
        shown = [answer.entry.path for answer in web1.stub.Tree(pb.TreeRequest(path=path)) if answer.HasField("entry")]
        assert not any(each.startswith("db/") for each in shown)


def test_lists_leave_out_what_a_node_may_not_read(fleet: Fleet) -> None:
    """Trees, revisions, nodes, events."""
    with Peer(fleet, "web1") as web1:
        for request in (pb.TreeRequest(), pb.TreeRequest(path="db"), pb.TreeRequest(names_only=True)):
            entries = [answer.entry.path for answer in web1.stub.Tree(request) if answer.HasField("entry")]
            assert all(path.startswith(("global/", "web/default/", "web/web1/")) for path in entries), entries
        log = web1.stub.Log(pb.LogRequest())
        assert all("db" not in path for revision in log.revisions for path in revision.paths)
        assert {node.name for node in web1.stub.Nodes(pb.NodesRequest()).nodes} <= {"web1"}
        assert not web1.stub.Log(pb.LogRequest(path="db")).revisions


# ---------------------------------------------------------------------- and writes what is not its own


@pytest.mark.parametrize(
    "edit",
    [
        pb.Edit(delete="db/db1/secret.toml"),
        pb.Edit(delete="web/web1/only"),
        pb.Edit(copy=pb.Copy(source="db/db1/secret.toml", target="running/web1/secret.toml")),
        pb.Edit(copy=pb.Copy(source="db", target="running/web1")),
        pb.Edit(copy=pb.Copy(source="running/web1", target="db/db1", overlay=True)),
        pb.Edit(revert="r1"),
    ],
    ids=lambda edit: str(edit).replace("\n", " ")[:60],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_node_changes_and_copies_nothing_but_its_own(fleet: Fleet, edit: pb.Edit, *, dry_run: bool) -> None:
    """Whatever the edit; asked for as a check as well."""
    with Peer(fleet, "web1") as web1:
        said = web1.commit({"running/web1/x": "1\n"}, dry_run=dry_run)
        assert said.outcome in {Outcome.OUTCOME_COMMITTED, Outcome.OUTCOME_NOTHING, Outcome.OUTCOME_GOOD}
        assert WORD not in refused(lambda: web1.edit([edit], dry_run=dry_run))


@pytest.mark.parametrize("path", ["web/web1/only", "running/db1/x", "global/access.toml", "schemas/app.toml.json"])
def test_a_node_puts_nothing_but_what_it_runs(fleet: Fleet, path: str) -> None:
    """Also on an old base: a conflict would show what stands there."""
    with Peer(fleet, "web1") as web1:
        refused(lambda: web1.commit({path: "x"}))
        refused(lambda: web1.commit({path: "x"}, base="r1"))
        refused(lambda: web1.commit({"db/db1/secret.toml": "x"}, base="r1", dry_run=True))


@pytest.mark.parametrize("who", ["web1", "alice"])
def test_only_managers_act_for_others(fleet: Fleet, who: str) -> None:
    """A commit, a rollout, an import in somebody else's name."""
    with Peer(fleet, who) as peer:
        refused(lambda: peer.commit({"global/x": "1"}, on_behalf_of="operator:root"))
        request = pb.RolloutRequest(action=pb.RolloutRequest.ACTION_ABORT, on_behalf_of="operator:root")
        refused(lambda: peer.stub.Rollout(request))
        refused(lambda: peer.stub.Import(iter([pb.ImportRequest(on_behalf_of="operator:root")])))
        refused(lambda: peer.stub.Publish(pb.PublishRequest(prepared=b"x", on_behalf_of="operator:root")))


def test_a_manager_acts_for_an_operator_and_the_rules_are_the_operator_s(fleet: Fleet) -> None:
    """That is how a commit is passed on; a node's name gives no more than the node has."""
    with Peer(fleet, "m2") as m2:
        assert m2.commit({"global/by-m2": "1"}, on_behalf_of="operator:bob").revision.author == "operator:bob"
        refused(lambda: m2.commit({"global/by-m2": "2"}, on_behalf_of="node:web1"))
        refused(lambda: m2.commit({"global/by-m2": "2"}))


@pytest.mark.parametrize("who", ["web1", "alice"])
def test_replication_is_for_managers(fleet: Fleet, who: str) -> None:
    """Each of its calls."""
    with Peer(fleet, who) as peer:
        refused(lambda: peer.replica.Refs(pb.RefsRequest()))
        refused(lambda: peer.replica.History(pb.HistoryRequest(revisions=[1])))
        refused(lambda: peer.replica.Fetch(pb.FetchRequest(want=[peer.head().id])))
        refused(lambda: peer.replica.Push(iter([pb.PushRequest(header=pb.PushHeader(manager="m1"))])))


def test_a_manager_that_is_not_the_writer_pushes_nothing(fleet: Fleet) -> None:
    """Said in one line, and main stays."""
    with Peer(fleet, "m2") as m2, Peer(fleet, "alice") as alice:
        head = alice.head().id
        update = pb.RefUpdate(name="refs/heads/main", before=head, after="0" * 40)
        for name in ("m2", "m1"):
            header = pb.PushHeader(updates=[update], manager=name, reset=True)
            answer = m2.replica.Push(iter([pb.PushRequest(header=header)]))
            assert not answer.accepted
            assert answer.problem
        assert alice.head().id == head


# ---------------------------------------------------------------------- certificates


def test_certificates_that_do_not_count(fleet: Fleet, tmp_path: Path) -> None:
    """Expired, not yet valid, of another authority, of no role: no call is answered."""
    root = fleet.root / "pki"
    pki.init(tmp_path / "foreign")
    pki.issue("operator", "alice", tmp_path / "foreign")
    foreign = files(tmp_path / "foreign", "alice")
    none = TlsFiles(root / "ca.crt", foreign.cert, foreign.key)
    cases = {
        "expired": forge(root, "old", uris=("jlogd:operator:old",), end_days=-1),
        "early": forge(root, "early", uris=("jlogd:operator:early",), begin_days=1),
        "foreign": none,
    }
    for tls in cases.values():
        with Peer(fleet, tls=tls) as peer:
            refused(lambda peer=peer: peer.stub.Status(pb.StatusRequest(), timeout=5), "unavailable")  # type: ignore[misc]
    for tls in (forge(root, "roleless"), forge(root, "odd", uris=("jlogd:root:x",)), forge(root, "two", uris=("a:b",))):
        with Peer(fleet, tls=tls) as peer:
            refused(lambda peer=peer: peer.stub.Status(pb.StatusRequest()))  # type: ignore[misc]


def test_a_certificate_that_is_denied_is_refused_at_once(fleet: Fleet) -> None:
    """Config and Attach; a watch that runs is ended."""
    pki.issue("operator", "mallory", fleet.root / "pki")
    with Peer(fleet, "mallory") as mallory:
        watch = mallory.stub.Watch(pb.WatchRequest(state=True), timeout=DEADLINE_S)
        assert next(watch).HasField("revision")
        pki.revoke("mallory", fleet.root / "pki")
        refused(lambda: watch)
        refused(lambda: mallory.stub.Status(pb.StatusRequest()))


# ---------------------------------------------------------------------- Attach


@pytest.mark.parametrize(
    ("who", "name", "subcluster"),
    [("alice", "alice", "web"), ("m2", "m2", "web"), ("web1", "db1", "db"), ("web1", "web1", "db"),
     ("web9", "web9", "global"), ("web9", "web9", "running"), ("web9", "web9", "schemas"), ("web9", "default", "db")],
)  # fmt: skip
def test_nobody_attaches_as_another(fleet: Fleet, who: str, name: str, subcluster: str) -> None:
    """Operators, managers, another node's name, the subcluster of another, reserved words."""
    with attached(fleet, who, name, subcluster) as node:
        assert node.hear(Refusal).message


def test_members_say_who_may_be_of_a_subcluster_without_a_directory(fleet: Fleet) -> None:
    """Who is not listed is refused, also while it is attached, and reads no word of it any more; others stay."""
    rule = '[[rule]]\nwho = ["role:operator"]\npaths = ["**"]\nallow = ["read", "commit", "rollout"]\n'
    with Peer(fleet, "alice") as alice, Peer(fleet, "web9") as web9:
        with attached(fleet, "web9", "web9", "db") as node, attached(fleet, "web1", "web1", "web") as web1:
            assert node.hear(Target).revision == web1.hear(Target).revision
            assert web9.stub.Cat(pb.CatRequest(path="db/default/only")).content
            made = alice.commit({"global/access.toml": f'{rule}[members]\ndb = ["db?", "new*"]\n'})
            assert "web9 may not be of subcluster db: it has no directory db/web9" in node.hear(Refusal).message
            assert web1.hear(Target).revision == made.revision.revision
        refused(lambda: web9.stub.Cat(pb.CatRequest(path="db/default/only")))
        with attached(fleet, "web9", "web9", "db") as node:
            assert "[members] of global/access.toml does not list it there" in node.hear(Refusal).message
        with attached(fleet, "web9", "web9", "default") as node:
            assert node.hear(Target).revision == made.revision.revision
        assert alice.commit({"db/web9/x": "1\n"}).outcome == Outcome.OUTCOME_COMMITTED
        with attached(fleet, "web9", "web9", "db") as node:
            assert node.hear(Target).revision > made.revision.revision
        gone = [pb.Edit(delete=path) for path in ("db/web9", "global/access.toml")]
        assert alice.edit(gone).outcome == Outcome.OUTCOME_COMMITTED


def test_a_node_gets_the_objects_of_its_own_layers_only(fleet: Fleet) -> None:
    """Of what it was told to run, whatever it says to have; other commits are refused, the session goes on."""
    with Peer(fleet, "alice") as alice:
        assert alice.commit({"global/later": "1\n"}).outcome == Outcome.OUTCOME_COMMITTED
        first = alice.stub.Log(pb.LogRequest(until="r1")).revisions[0].id
    with attached(fleet, "web1", "web1", "web") as node:
        target = node.hear(Target)
        for have in ((), (CommitId("f" * 40),), (CommitId(first),)):
            node.say(Fetch(target.id, have))
            content = b""
            while True:
                pack = node.hear(Pack)
                assert not pack.error
                content += pack.piece
                if pack.last:
                    break
            assert content.startswith(b"PACK")
            assert WORD.encode() not in b"".join(inflated(content))
        node.say(Fetch(CommitId("f" * 40), ()))
        assert "was not told" in node.hear(Pack).error


def inflated(pack: bytes) -> Iterator[bytes]:
    """What is in a pack."""
    from jlogd.confrepo.packformat import PackReader  # noqa: PLC0415 - one reader of this

    return (content for _, content in PackReader(pack, 1 << 30).objects())


def test_what_a_node_says_does_not_steer_a_terminal(
    fleet: Fleet, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Errors, paths of drift, messages of commits, names of files: escaped wherever they are shown."""
    run, tls = runner(cli, capfdbinary), files(fleet.root / "pki", "alice")
    whom = (
        "-C",
        tmp_path,
        "--manager",
        fleet.managers["m1"].address,
        "--ca",
        tls.ca,
        "--cert",
        tls.cert,
        "--key",
        tls.key,
    )
    nasty = "\x1b]0;owned\x07\r\u202e\x9b31m"
    with attached(fleet, "web1", "web1", "web") as node, Peer(fleet, "alice") as alice:
        target = node.hear(Target)
        node.say(
            Report("refused", target.revision, target.id, Revision(0), None, Serial(target.serial),
                   f"no {nasty}", (f"file{nasty}",), 1, time.time_ns(), number=1)
        )  # fmt: skip
        while node.hear(Reported).number != 1:
            pass
        said = alice.commit({"global/motd": f"hello {nasty}\n"}, message=f"A message {nasty}")
        assert said.outcome in {Outcome.OUTCOME_COMMITTED, Outcome.OUTCOME_REFUSED}
        for words in (
            ("nodes",), ("nodes", "--json"), ("log",), ("log", "--json"), ("show",), ("blame", "global/motd"),
            ("diff", "HEAD~1", "HEAD"), ("wait", "r1", "--node", "web1", "--timeout", "5s"),
            ("cat", f"global/{nasty}"), ("show", nasty), ("explain", "motd", "--node", "web1"),
            ("put", "-", f"global/{nasty}", "-m", nasty), ("wait", nasty),
            ("--cert", nasty, "nodes"), ("rollout", "start", nasty), (nasty,),
        ):  # fmt: skip
            done = run(*whom, *words)
            for char in ("\x1b", "\x07", "\u202e", "\x9b"):
                assert char not in done.out.decode() + done.err, (words, done)


def test_the_manager_is_well_after_all_this(fleet: Fleet) -> None:
    """It runs, and no traceback is in its log."""
    manager: Manager = fleet.managers["m1"]
    assert manager.status()["config"]["revision"] > 1
    assert "Traceback" not in manager.log.read_text()
