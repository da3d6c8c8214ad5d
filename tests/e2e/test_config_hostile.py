"""Callers of the configuration who are not what they should be, or ask for what is not theirs, at a real manager."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from jlogd.attach import wire
from jlogd.attach.messages import AttachHello, Fetch, Pack, Report, Reported, Target
from jlogd.confrepo.model import CommitId, Revision, Serial
from jlogd.forward.messages import PROTOCOL, Hello, Refusal
from jlogd.runtime.errors import JlogdError
from jlogd.runtime.rpc import TlsFiles, call_error, open_channel
from jlogd.v1 import attach_pb2
from managerd import pki
from managerd.eccfg.cli import cli
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc
from tests.support.certificates import files, forge
from tests.support.commandline import runner
from tests.support.daemon import until
from tests.support.fleet import Fleet, Manager

DEADLINE_S = 30.0
Outcome = pb.CommitResponse
WORD = "what db1 alone may know"
FIRST = {
    "global/app.toml": 'greeting = "hello"\n',
    "web/default/app.toml": "[server]\nport = 8080\n",
    "web/web1/only": "mine\n",
    "db/default/only": "of the db machines\n",
    "db/db1/secret.toml": f'word = "{WORD}"\n',
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A manager with certificates of everybody; nobody else runs."""
    home = tmp_path_factory.mktemp("hostile")
    with Fleet(home) as made:
        deny = home / "pki/deny"
        m1 = made.manager("m1", config='writer = "m1"\n')
        deny.touch()
        m1.settings.write_text(m1.settings.read_text().replace("[tls]", f'[tls]\ndeny = "{deny}"'))
        for role, name in (("node", "web1"), ("node", "web9"), ("node", "db1"), ("operator", "alice"),
                           ("manager", "m2")):  # fmt: skip
            pki.issue(role, name, home / "pki")  # type: ignore[arg-type]
        m1.start()
        m1.ready()
        with Peer(made, "alice") as alice:
            assert alice.commit(FIRST).outcome == Outcome.OUTCOME_COMMITTED
        yield made


class Peer:
    """Whoever has this certificate, speaking to the manager as he likes."""

    def __init__(self, fleet: Fleet, name: str = "", tls: TlsFiles | None = None) -> None:
        """Dial."""
        self.channel = open_channel(fleet.managers["m1"].address, tls or files(fleet.root / "pki", name))
        self.stub: Any = pb_grpc.ConfigServiceStub(self.channel)
        self.replica: Any = pb_grpc.ReplicaServiceStub(self.channel)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.channel.close()

    def commit(self, files_: Mapping[str, str | bytes], message: str = "A change", **header: Any) -> pb.CommitResponse:
        """Put these files."""
        contents = [text.encode() if isinstance(text, str) else text for text in files_.values()]
        edits = [
            pb.Edit(put=pb.Put(path=path, mode=0o100644, size=len(content)))
            for path, content in zip(files_, contents, strict=True)
        ]
        return self.edit([*edits, *header.pop("edits", ())], contents, message, **header)

    def edit(
        self, edits: Sequence[pb.Edit], contents: Sequence[bytes] = (), message: str = "A change", **header: Any
    ) -> pb.CommitResponse:
        """Commit these edits."""
        first = pb.CommitRequest(header=pb.CommitHeader(message=message, edits=edits, **header))
        pieces = (
            pb.CommitRequest(piece=content[at : at + (1 << 20)])
            for content in contents
            for at in range(0, len(content), 1 << 20)
        )
        answer = self.stub.Commit(iter([first, *pieces]), timeout=DEADLINE_S)
        assert isinstance(answer, pb.CommitResponse)
        return answer

    def head(self) -> pb.Revision:
        """The newest revision."""
        answer: pb.StatusResponse = self.stub.Status(pb.StatusRequest(), timeout=DEADLINE_S)
        return answer.head


def refused(call: Callable[[], Any], reason: str = "not_permitted") -> str:
    """The call fails with that reason; its message."""
    try:
        answer = call()
        answers = list(answer) if hasattr(answer, "__next__") else [answer]
    except grpc.RpcError as error:
        found: JlogdError = call_error(error, "m1")
        assert found.reason == reason, (found.reason, str(found))
        return str(found)
    raise AssertionError(f"it was answered: {answers}")


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


class Node:
    """A stream of AttachService, message by message."""

    def __init__(self, peer: Peer) -> None:
        """Nothing is said."""
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method: Any = peer.channel.stream_stream(
            wire.ATTACH_METHOD, request_serializer=None, response_deserializer=attach_pb2.AttachResponse.FromString
        )
        self._answers = method(iter(self._out.get, None), timeout=DEADLINE_S)

    def say(self, message: wire.ToManager) -> None:
        """To the manager."""
        self._out.put(wire.request_to_pb(message).SerializeToString())

    def hear(self, kind: type) -> Any:
        """The next message of a kind."""
        for message in map(wire.response_from_pb, self._answers):
            if isinstance(message, kind):
                return message
            assert not isinstance(message, Refusal), message
        raise AssertionError("the stream ended")

    def attach(self, name: str, subcluster: str, instance: bytes = b"i") -> None:
        """Say hello."""
        assert isinstance(self.hear(Hello), Hello)
        self.say(AttachHello(PROTOCOL, name, subcluster, "h", "m", instance))

    def end(self) -> None:
        """End the stream."""
        self._out.put(None)


@contextlib.contextmanager
def attached(fleet: Fleet, who: str, name: str, subcluster: str) -> Iterator[Node]:
    """A session begun."""
    with Peer(fleet, who) as peer:
        node = Node(peer)
        node.attach(name, subcluster)
        yield node
        node.end()


@pytest.mark.parametrize(
    ("who", "name", "subcluster"),
    [("alice", "alice", "web"), ("m2", "m2", "web"), ("web1", "db1", "db"), ("web1", "web1", "db"),
     ("web9", "web9", "global"), ("web9", "web9", "running"), ("web9", "web9", "schemas"), ("web9", "default", "db")],
)  # fmt: skip
def test_nobody_attaches_as_another(fleet: Fleet, who: str, name: str, subcluster: str) -> None:
    """Operators, managers, another node's name, the subcluster of another, reserved words."""
    with attached(fleet, who, name, subcluster) as node:
        assert node.hear(Refusal).message


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


# ---------------------------------------------------------------------- too much, too slow


def test_messages_beyond_the_limit_end_the_call_and_nothing_else(fleet: Fleet) -> None:
    """5 MiB in one message; more content than announced; announced and never sent."""
    with Peer(fleet, "alice") as alice:
        with pytest.raises(grpc.RpcError) as caught:
            alice.stub.Commit(iter([pb.CommitRequest(piece=bytes(5 << 20))]), timeout=DEADLINE_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        put = pb.Edit(put=pb.Put(path="global/x", mode=0o100644, size=3))
        refused(lambda: alice.edit([put], [b"four"]), "usage")
        refused(lambda: alice.edit([put], [b"12"]), "usage")
        huge = pb.Edit(put=pb.Put(path="global/x", mode=0o100644, size=1 << 62))
        assert alice.edit([huge]).outcome == Outcome.OUTCOME_REFUSED


def drip(header: pb.CommitHeader, done: threading.Event) -> Iterator[pb.CommitRequest]:
    """Announce much, send a byte now and then."""
    yield pb.CommitRequest(header=header)
    while not done.wait(0.5):
        yield pb.CommitRequest(piece=b"x")


def test_nodes_that_announce_much_and_send_little_keep_no_operator_waiting(fleet: Fleet) -> None:
    """The memory for commits is the operators'."""
    edits = [pb.Edit(put=pb.Put(path=f"running/web1/{n}", mode=0o100644, size=4 << 20)) for n in range(128)]
    header, done = pb.CommitHeader(message="x", edits=edits), threading.Event()
    with Peer(fleet, "web1") as web1, Peer(fleet, "alice") as alice:
        slow = [web1.stub.Commit.future(drip(header, done), timeout=DEADLINE_S) for _ in range(6)]
        until(lambda: not alice.stub.Nodes(pb.NodesRequest()).head.id or True, 5, "it serves")
        time.sleep(1.0)
        begun = time.monotonic()
        answer = alice.commit({"global/quick": f"{begun}\n" * 1000})
        assert answer.outcome == Outcome.OUTCOME_COMMITTED
        assert time.monotonic() - begun < 10
        done.set()
        for call in slow:
            call.cancel()


def test_watchers_of_one_node_leave_room_for_others(fleet: Fleet) -> None:
    """It may have a few; then it is refused, an operator is not."""
    with contextlib.ExitStack() as stack:
        held: list[Any] = []
        refusals = 0
        for _ in range(14):
            peer = stack.enter_context(Peer(fleet, "web1"))
            held += [peer.stub.Watch(pb.WatchRequest(state=True), timeout=DEADLINE_S) for _ in range(15)]
        for watch in held:
            with contextlib.suppress(grpc.RpcError):
                next(watch)
                continue
            assert call_error(watch, "m1").reason == "unavailable"
            refusals += 1
        assert refusals > len(held) // 2
        with Peer(fleet, "alice") as alice:
            assert next(alice.stub.Watch(pb.WatchRequest(state=True), timeout=DEADLINE_S)).HasField("revision")
        for watch in held:
            watch.cancel()


def test_a_hundred_committers_at_once(fleet: Fleet) -> None:
    """Each change is there once, the history is a line."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(fleet, "alice")) for _ in range(8)]
        before = peers[0].head().revision
        first = [
            pb.CommitRequest(header=pb.CommitHeader(message=f"{n}", edits=[
                pb.Edit(put=pb.Put(path=f"global/many/{n}", mode=0o100644, size=1))
            ])) for n in range(100)
        ]  # fmt: skip
        calls = [
            peers[n % 8].stub.Commit.future(iter([header, pb.CommitRequest(piece=b"x")]), timeout=DEADLINE_S)
            for n, header in enumerate(first)
        ]
        answers = [call.result() for call in calls]
        assert {answer.outcome for answer in answers} == {Outcome.OUTCOME_COMMITTED}
        assert sorted(answer.revision.revision for answer in answers) == list(range(before + 1, before + 101))
        log = peers[0].stub.Log(pb.LogRequest(path="global/many"))
        assert sorted(path for revision in log.revisions for path in revision.paths) == sorted(
            f"global/many/{n}" for n in range(100)
        )


def test_the_manager_is_well_after_all_this(fleet: Fleet) -> None:
    """It runs, and no traceback is in its log."""
    manager: Manager = fleet.managers["m1"]
    assert manager.status()["config"]["revision"] > 100
    assert "Traceback" not in manager.log.read_text()
