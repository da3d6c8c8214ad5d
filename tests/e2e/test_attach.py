"""Attach over real gRPC with real certificates: what a node should run, its objects, what became of it."""

import json
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from jlogd.attach import wire  # before grpc: it makes grpc keep its handshakes to itself
from jlogd.attach.attacher import Attacher
from jlogd.attach.messages import PIECE_MAX, PROTOCOL, AttachHello, Fetch, Gift, Pack, Reported, Talk
from jlogd.confrepo.model import CommitId
from jlogd.forward.messages import Hello, Refusal
from jlogd.runtime.errors import DeadlineError, RefusedError, UnavailableError
from jlogd.runtime.rpc import open_channel
from jlogd.settings import load
from jlogd.v1 import attach_pb2 as pb
from managerd import pki
from managerd.ecconfigd.attach import BUILDS_MAX
from managerd.ecconfigd.nodes import Registry
from tests.support.attaching import AttachManager, Heard, attacher, commit, report, target
from tests.support.certificates import files
from tests.support.sessions import DEADLINE_S, Bench, bench, until


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def attach(fleet: Bench) -> Iterator[Callable[..., Attacher]]:
    """Attachers that are stopped at the end."""
    made: list[Attacher] = []

    def start(*words: Any, **more: Any) -> Attacher:
        made.append(attacher(fleet, *words, **more))
        return made[-1]

    yield start
    for one in made:
        assert one.stop(10.0)


Attach = Callable[..., Attacher]


def test_from_first_contact_to_applied(fleet: Bench, attach: Attach) -> None:
    """Target, fetch with what is there, report, and the manager knows; a change is told at once; the file remembers."""
    manager = AttachManager(fleet)
    manager.targets.now = target(1)
    manager.targets.packs[commit(1)] = [b"PACK", b"of one"]
    heard = Heard()
    link = attach(manager.address, heard, subcluster="web", recipient="age1" + "q" * 58)
    talk: Talk = heard.next("attached")
    assert heard.next("target") == target(1)
    assert list(talk.fetch(commit(1), [commit(0)], 10.0)) == [b"PACK", b"of one"]
    number = talk.report(report(1, since_ns=5))
    assert heard.next("reported") == number == 1
    ((scope, want, have),) = manager.targets.asked
    assert (scope.subcluster, scope.node, want, have) == ("web", "a", commit(1), (commit(0),))
    entry = manager.registry.get("a")
    assert entry is not None
    assert (entry.state, entry.revision, entry.id, entry.since_ns) == ("applied", 1, commit(1), 5)
    assert entry.recipient == "age1" + "q" * 58
    manager.tell(target(2, health=("bin/check", "-x"), trial_s=1.5))
    assert heard.next("target") == target(2, health=("bin/check", "-x"), trial_s=1.5)
    assert link.status()["state"] == "attached"
    assert link.status()["name"] == "m1"
    assert link.stop(10.0)
    heard.next("detached")
    manager.entry(lambda entry: not entry.attached)
    manager.manager.stop()
    again = Registry(manager.path, manager="m1").get("a")
    assert again is not None
    assert (again.state, again.revision, again.subcluster) == ("offline", 1, "web")


def test_a_small_pack_comes_with_the_target(fleet: Bench, attach: Attach) -> None:
    """Once the manager knows what the node runs; without a fetch, and only beside the target that it is for."""
    manager = AttachManager(fleet)
    manager.targets.now = target(1)
    manager.targets.gift = Gift(commit(1), b"PACK")
    heard = Heard()
    attach(manager.address, heard)
    talk: Talk = heard.next("attached")
    assert heard.next("target").gift is None
    talk.report(report(1))
    heard.next("reported")
    manager.tell(target(2))
    assert heard.next("target").gift == Gift(commit(1), b"PACK")


def test_nothing_to_run_yet_and_the_same_target_twice(fleet: Bench, attach: Attach) -> None:
    """An empty repository tells nothing; a change that changes nothing for the node is not told."""
    manager = AttachManager(fleet)
    heard = Heard()
    attach(manager.address, heard)
    heard.next("attached")
    for now in (None, target(3), target(3), target(4)):
        manager.tell(now)
    told = [heard.next("target")]
    while told[-1] != target(4):
        told.append(heard.next("target"))
    assert told in ([target(3), target(4)], [target(4)])
    for now in (target(4), None, target(5)):
        manager.tell(now)
    assert heard.next("target") == target(5)


def test_a_large_pack_in_order_with_a_slow_reader(fleet: Bench, attach: Attach) -> None:
    """40 MiB arrive whole, in order; neither side holds more than a few pieces, and other words still get through."""
    manager = AttachManager(fleet)
    pieces = [bytes([number]) * PIECE_MAX for number in range(40)]
    manager.targets.packs[commit(1)] = pieces
    manager.targets.large = {commit(1)}
    heard = Heard()
    attach(manager.address, heard)
    talk = heard.next("attached")
    reading = talk.fetch(commit(1), [], 30.0)
    got = [next(reading)]
    assert talk.report(report(1)) == 1
    manager.entry(lambda entry: entry.report is not None)  # the reader stands still meanwhile
    got += list(reading)
    assert got == pieces
    assert heard.next("reported") == 1


def test_a_fetch_that_fails_and_one_that_is_given_up(fleet: Bench, attach: Attach) -> None:
    """The manager's words arrive; what nobody reads is dropped, and the next fetch gets its own pack."""
    manager = AttachManager(fleet)
    manager.targets.packs[commit(1)] = [b"x" * PIECE_MAX] * 20
    manager.targets.packs[commit(2)] = [b"two"]
    manager.targets.packs[commit(4)] = ValueError("a bug")
    heard = Heard()
    attach(manager.address, heard)
    talk = heard.next("attached")
    with pytest.raises(RefusedError, match="is not for node a"):
        list(talk.fetch(commit(3), [], 10.0))
    with pytest.raises(RefusedError, match="see its log"):
        list(talk.fetch(commit(4), [], 10.0))
    given_up = talk.fetch(commit(1), [], 10.0)
    next(given_up)
    given_up.close()
    assert list(talk.fetch(commit(2), [], 10.0)) == [b"two"]


def test_two_threads_that_fetch(fleet: Bench, attach: Attach) -> None:
    """One after the other; each gets its own."""
    manager = AttachManager(fleet)
    for number in range(1, 5):
        manager.targets.packs[commit(number)] = [bytes([number]) * 1000] * 30
    heard = Heard()
    attach(manager.address, heard)
    talk = heard.next("attached")
    got: dict[int, bytes] = {}

    def fetch(number: int) -> None:
        got[number] = b"".join(talk.fetch(commit(number), [], 10.0))

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert got == {number: bytes([number]) * 30_000 for number in range(1, 5)}


def test_a_manager_that_ends_ends_a_fetch_too(fleet: Bench, attach: Attach) -> None:
    """``stopping``; whoever fetches is told at once, and so is whoever reports afterwards."""
    manager = AttachManager(fleet)
    manager.targets.packs[commit(1)] = [b"x" * PIECE_MAX] * 100
    heard = Heard()
    link = attach(manager.address, heard)
    talk = heard.next("attached")
    reading = talk.fetch(commit(1), [], 30.0)
    next(reading)
    stopping = threading.Thread(target=manager.manager.stop)
    stopping.start()
    with pytest.raises(UnavailableError, match="was not fetched"):
        list(reading)
    heard.next("detached")
    stopping.join(DEADLINE_S)
    assert talk.report(report(1)) == 0
    with pytest.raises(UnavailableError):
        list(talk.fetch(commit(1), [], 1.0))
    assert link.status()["state"] == "backoff"
    assert not manager.targets.followed


def test_reports_of_one_state_are_merged_and_the_last_words_arrive(fleet: Bench, attach: Attach) -> None:
    """However many are made, the newest arrives, the failure before it too; stop sends what waits."""
    manager = AttachManager(fleet)
    heard = Heard()
    link = attach(manager.address, heard)
    talk = heard.next("attached")
    talk.report(report(6, "rolled_back", error="no health"))
    for number in range(500):
        last = talk.report(report(7, "pending", since_ns=number))
    assert last == 501
    assert link.stop(10.0)
    states = []
    while True:
        entry = manager.entries.get(timeout=DEADLINE_S)
        if not entry.attached:
            break
        states.append(entry.report)
    assert states[1] is not None
    assert (states[1].state, states[1].error) == ("rolled_back", "no health")
    assert states[-1] is not None
    assert (states[-1].number, states[-1].since_ns) == (501, 499)


# ---------------------------------------------------------------------- refusals


def refused(link: Attacher, words: str) -> str:
    """``link`` is refused with a line that holds ``words``."""
    until(lambda: words in (link.status()["error"] or ""))
    assert link.status()["state"] == "refused"
    return str(link.status()["error"])


def test_names_that_are_not_the_nodes(fleet: Bench, attach: Attach) -> None:
    """Another's certificate, another role, another subcluster than the repository's, a reserved one."""
    manager = AttachManager(fleet)
    manager.targets.homes["c"] = "db"
    fleet.issue("node", "b")
    fleet.issue("operator", "alice")
    heard = Heard()
    link = attach(manager.address, heard, tls=files(fleet.pki, "b"))
    assert "name_mismatch" in refused(link, "calls itself a, its certificate was issued to b")
    link = attach(manager.address, heard, tls=files(fleet.pki, "alice"))
    assert "certificate" in refused(link, "a operator's certificate (alice) cannot attach")
    link = attach(manager.address, heard, name="c", subcluster="web")
    error = refused(link, "name_mismatch")
    assert "subcluster web" in error
    assert "has it in db" in error
    link = attach(manager.address, heard, name="d", subcluster="running")
    refused(link, "cannot be subclusters")
    assert heard.events.empty()
    assert manager.registry.snapshot() == []
    attach(manager.address, heard, name="c", subcluster="db")
    heard.next("attached")


def test_why_a_known_node_is_refused_is_shown_of_it(fleet: Bench, attach: Attach) -> None:
    """Its directory moved while it was away. Nobody can say anything of it without its certificate."""
    manager = AttachManager(fleet)
    heard = Heard()
    first = attach(manager.address, heard, name="c", subcluster="db")
    heard.next("attached")
    first.stop(DEADLINE_S)
    until(lambda: [entry.state for entry in manager.registry.snapshot()] == ["offline"])
    fleet.issue("node", "b")
    refused(attach(manager.address, Heard(), name="c", tls=files(fleet.pki, "b")), "name_mismatch")
    assert [entry.error for entry in manager.registry.snapshot()] == [""]
    manager.targets.homes["c"] = "bd"
    second = attach(manager.address, Heard(), name="c", subcluster="db")
    refused(second, "name_mismatch")
    (entry,) = manager.registry.snapshot()
    assert (entry.state, "the repository has it in bd" in entry.error) == ("offline", True)
    second.stop(DEADLINE_S)
    del manager.targets.homes["c"]
    attach(manager.address, heard, name="c", subcluster="db")
    until(lambda: [(one.attached, one.error) for one in manager.registry.snapshot()] == [(True, "")])


def test_a_denied_certificate_at_start_and_while_it_is_used(fleet: Bench, attach: Attach) -> None:
    """Live sessions are cut off within seconds, new ones refused; the node is shown as offline."""
    manager = AttachManager(fleet)
    heard = Heard()
    link = attach(manager.address, heard)
    heard.next("attached")
    pki.revoke("a", fleet.pki)
    heard.next("detached")
    refused(link, "certificate_denied: the certificate of a was denied")
    manager.entry(lambda entry: entry.state == "offline")
    link.reconnect()
    refused(link, "is on the deny list")
    assert heard.events.empty()


def test_a_newer_session_ends_the_older_and_another_host_is_refused(fleet: Bench, attach: Attach) -> None:
    """The same rules as for Deliver: ``superseded``, ``duplicate_node``; the registry shows the newer one."""
    manager = AttachManager(fleet)
    first, second = Heard(), Heard()
    older = attach(manager.address, first, machine_id="m", host="h1", instance=b"1")
    first.next("attached")
    attach(manager.address, second, machine_id="m", host="h1", instance=b"2")
    second.next("attached")
    first.next("detached")
    until(lambda: "superseded" in (older.status()["error"] or "") or older.status()["state"] == "refused")
    refused(older, "two live nodes are named a")  # it was thrown out and came back
    other = attach(manager.address, Heard(), machine_id="n", host="h2", instance=b"3")
    assert "host h1" in refused(other, "duplicate_node")
    entry = manager.registry.get("a")
    assert entry is not None
    assert entry.attached


def test_an_older_epoch_is_refused_by_the_node(fleet: Bench, attach: Attach) -> None:
    """What Deliver saw counts here as well."""
    manager = AttachManager(fleet, epoch=4)
    (fleet.directory / "epochs-a.json").write_text(json.dumps({"m1": 5}))
    heard = Heard()
    link = attach(manager.address, heard)
    assert "epoch 5 was seen" in refused(link, "epoch_old")
    assert heard.events.empty()


# ---------------------------------------------------------------------- peers that do not keep the rules


class Raw:
    """A stream to a manager, message by message."""

    def __init__(self, fleet: Bench, address: str, name: str = "a") -> None:
        """Nothing is said."""
        fleet.issue("node", name)
        self.node = name
        self.channel = open_channel(address, files(fleet.pki, name))
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method: Any = self.channel.stream_stream(
            wire.ATTACH_METHOD, request_serializer=None, response_deserializer=pb.AttachResponse.FromString
        )
        self._answers = method(iter(self._out.get, None), timeout=DEADLINE_S)

    def hello(self, **more: Any) -> AttachHello:
        """An ordinary one."""
        return AttachHello(
            **{
                "protocol": PROTOCOL, "node": self.node, "subcluster": "web", "host": "h", "machine_id": "m",
                "instance": b"i", **more,
            }
        )  # fmt: skip

    def say(self, message: wire.ToManager | bytes) -> None:
        """To the manager."""
        self._out.put(message if isinstance(message, bytes) else wire.request_to_pb(message).SerializeToString())

    def hear(self) -> wire.ToNode:
        """The manager's next message."""
        return wire.response_from_pb(next(self._answers))

    def refusal(self) -> Refusal:
        """It ends with one."""
        while True:
            message = self.hear()
            if isinstance(message, Refusal):
                return message

    def close(self) -> None:
        """End."""
        self._out.put(None)
        self.channel.close()


@pytest.fixture
def raw(fleet: Bench) -> Iterator[tuple[AttachManager, Raw]]:
    manager = AttachManager(fleet)
    peer = Raw(fleet, manager.address)
    yield manager, peer
    peer.close()


def test_another_protocol(raw: tuple[AttachManager, Raw]) -> None:
    """Both versions are named; content of another version is not judged."""
    _, peer = raw
    hello = peer.hear()
    assert isinstance(hello, Hello)
    assert (hello.protocol, hello.manager, hello.epoch) == (PROTOCOL, "m1", 1)
    peer.say(peer.hello(protocol=9, subcluster="NO NAME"))
    refusal = peer.refusal()
    assert refusal.reason == "protocol_version"
    assert "protocol 9" in refusal.message


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"\xff\xff\xff", "not an AttachRequest"),
        (b"", "does not know"),
        (report(1, number=1), "does not belong"),
        ("long host", "host of 256 characters"),
        ("recipient", "not an age recipient"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_bad_beginning(raw: tuple[AttachManager, Raw], said: Any, words: str) -> None:
    """A refusal names what was wrong; nothing of it is kept."""
    manager, peer = raw
    if isinstance(said, str):
        said = peer.hello(host="h" * 256) if said == "long host" else peer.hello(recipient="AGE-SECRET-KEY-1")
    peer.say(said)
    refusal = peer.refusal()
    assert (refusal.reason, words in refusal.message) == ("protocol", True), refusal
    assert manager.registry.snapshot() == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (report(1, number=1, error="x" * 2001), "error of 2001 characters"),
        (report(1, number=1, drift=("f",) * 101), "101 paths of drift"),
        (report(1, number=0), "they count up"),
        ("hello", "does not belong"),
        (pb.AttachRequest(fetch=pb.Fetch(want="zz")).SerializeToString(), "is not a commit id"),
        (pb.AttachRequest(fetch=pb.Fetch(want=commit(1), have=[commit(2)] * 17)).SerializeToString(), "17 commits"),
        (pb.AttachRequest(report=pb.Report(number=1)).SerializeToString(), "report state 0"),
    ],
    ids=lambda value: str(value)[:16],
)
def test_a_bad_message_ends_the_session(raw: tuple[AttachManager, Raw], said: Any, words: str) -> None:
    """One line on what was wrong; the node is offline and what it said before stays."""
    manager, peer = raw
    peer.say(peer.hello())
    peer.say(peer.hello() if said == "hello" else said)
    refusal = peer.refusal()
    assert (refusal.reason, words in refusal.message) == ("protocol", True), refusal
    manager.entry(lambda entry: not entry.attached)
    entry = manager.registry.get("a")
    assert entry is not None
    assert entry.report is None


def test_two_fetches_at_once(raw: tuple[AttachManager, Raw]) -> None:
    """The second one ends the session: a node of ours waits."""
    manager, peer = raw
    manager.targets.packs[commit(1)] = [b"x" * PIECE_MAX] * 50
    peer.say(peer.hello())
    for _ in range(2):
        peer.say(Fetch(commit(1)))
    assert "while one of" in peer.refusal().message


def test_confirmations_are_cumulative(raw: tuple[AttachManager, Raw]) -> None:
    """A manager may answer several reports with the number of the newest."""
    _, peer = raw
    peer.say(peer.hello())
    for number in range(1, 200):
        peer.say(report(1, number=number))
    heard: list[int] = []
    while not heard or heard[-1] < 199:
        message = peer.hear()
        if isinstance(message, Reported):
            heard.append(message.number)
    assert heard == sorted(set(heard))
    assert heard[0] == 0


def test_a_manager_that_does_not_answer_a_fetch(fleet: Bench, attach: Attach) -> None:
    """The deadline is told, and the node makes a new session; what hangs in the manager holds no place for ever."""
    manager = AttachManager(fleet)
    manager.targets.packs[commit(1)] = [b"x"]
    heard = Heard()
    attach(manager.address, heard)
    talk = heard.next("attached")
    manager.targets.stuck = True
    for _ in range(BUILDS_MAX + 1):
        with pytest.raises(DeadlineError, match="was not fetched in time"):
            list(talk.fetch(commit(1), [], 0.05))
        heard.next("detached")
        talk = heard.next("attached")
    manager.targets.stuck = False
    assert list(talk.fetch(commit(1), [], 10.0)) == [b"x"]


HELLO = Hello(1, "m1", "m1", 1)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([target(1)], "TargetReceived does not belong"),
        ([HELLO, target(1)], "TargetReceived does not belong"),
        ([HELLO, Reported(1)], "report 1 is confirmed before any was sent"),
        ([HELLO, Reported(0), Reported(1)], "0 were sent"),
        ([HELLO, Reported(0), Pack(commit(1), b"x")], "which was not asked for"),
        ([HELLO, Reported(0), replace(target(1), id=CommitId("HEAD"))], "is not a commit id"),
        ([HELLO, Reported(0), pb.AttachResponse()], "does not know"),
        ([replace(HELLO, manager="?")], "is not a name"),
    ],
    ids=lambda value: str(value)[-24:],
)
def test_a_manager_that_does_not_keep_the_rules(fleet: Bench, attach: Attach, said: list[Any], words: str) -> None:
    """The session ends with one line, and is tried again later: nothing that it said is believed."""

    def answer(requests: Iterator[pb.AttachRequest], _context: grpc.ServicerContext) -> Iterator[pb.AttachResponse]:
        for message in said:
            yield message if isinstance(message, pb.AttachResponse) else wire.response_to_pb(message)
        deque(requests, maxlen=0)  # until the node ends

    method = grpc.stream_stream_rpc_method_handler(
        answer, pb.AttachRequest.FromString, pb.AttachResponse.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, {"Attach": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    heard = Heard()
    link = attach(f"127.0.0.1:{port}", heard, tls=None)
    assert refused(link, words).startswith("protocol: ")
    assert link.stop(10.0)
    if Reported(0) in said:
        heard.next("attached")
        heard.next("detached")
    assert heard.events.empty()
    server.stop(0).wait(DEADLINE_S)


def test_an_attacher_from_settings(fleet: Bench) -> None:
    """The same files and names as the node's other session."""
    fleet.issue("node", "a")
    manager = AttachManager(fleet)
    path = fleet.directory / "jlogd.toml"
    tls = "".join(
        f'{key} = "{fleet.pki}/{name}"\n' for key, name in (("ca", "ca.crt"), ("cert", "a.crt"), ("key", "a.key"))
    )
    path.write_text(
        f'[node]\nname = "a"\nsubcluster = "web"\nspool = "{fleet.directory}"\n[tls]\n{tls}'
        f'[[manager]]\naddress = "{manager.address}"\nsubscriber = "m1"\n'
    )
    settings = load(path)
    heard = Heard()
    link = Attacher.from_settings(settings, settings.manager[0], heard, fleet.failures.append, recipient="age1q")
    link.start()
    heard.next("attached")
    assert link.stop(10.0)
    entry = manager.registry.get("a")
    assert entry is not None
    assert (entry.subcluster, entry.recipient) == ("web", "age1q")


def test_nobody_listens_and_a_manager_without_attach(fleet: Bench, attach: Attach) -> None:
    """The manager may come, or get the service: asked again, slowly in the second case."""
    plain = fleet.manager("m1")
    link = attach(plain.address, Heard())
    until(lambda: link.status()["state"] == "refused")
    assert "it keeps no configuration" in (link.status()["error"] or "")
    plain.stop()
    link.reconnect()
    until(lambda: "refuses connections" in (link.status()["error"] or ""))


def test_a_service_that_does_not_begin_keeps_the_server_from_starting(fleet: Bench) -> None:
    """Whoever starts it gets the error; those that had begun are ended, the last first."""
    calls: list[str] = []

    class Service:
        def __init__(self, name: str, *, fails: bool = False) -> None:
            self.name, self.fails = name, fails

        async def begin(self) -> None:
            calls.append(f"begin {self.name}")
            if self.fails:
                raise UnavailableError("no repository")

        def handler(self) -> grpc.GenericRpcHandler:
            return grpc.method_handlers_generic_handler(f"test.{self.name}", {})

        async def end(self, deadline_s: float) -> None:
            calls.append(f"end {self.name}")

    with pytest.raises(UnavailableError, match="no repository"):
        fleet.manager("m1", services=(Service("x"), Service("y"), Service("z", fails=True)))
    assert calls == ["begin x", "begin y", "begin z", "end y", "end x"]
    calls.clear()
    fleet.manager("m2", services=(Service("x"), Service("y"))).stop()
    assert calls == ["begin x", "begin y", "end y", "end x"]
