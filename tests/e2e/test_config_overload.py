"""Callers of the configuration who ask for too much, send too little, read nothing, or come by the hundred."""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from jlogd.attach.messages import Fetch, Pack, Target
from jlogd.runtime.rpc import call_error
from managerd import pki
from managerd.v1 import config_pb2 as pb
from tests.support.config_peers import DEADLINE_S, Outcome, Peer, add_manager, attached, refused
from tests.support.fleet import Fleet, Manager


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A manager with certificates of everybody; nobody else runs."""
    with Fleet(tmp_path_factory.mktemp("hostile")) as made:
        add_manager(made, "web1", "web9", "db1")
        yield made


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


def drip(header: pb.CommitHeader, done: threading.Event, sent: queue.SimpleQueue[int]) -> Iterator[pb.CommitRequest]:
    """Announce much, send a byte now and then."""
    yield pb.CommitRequest(header=header)
    while not done.wait(0.5):
        sent.put(1)
        yield pb.CommitRequest(piece=b"x")


def test_nodes_that_announce_much_and_send_little_keep_no_operator_waiting(fleet: Fleet) -> None:
    """The memory for commits is the operators'."""
    edits = [pb.Edit(put=pb.Put(path=f"running/web1/{n}", mode=0o100644, size=4 << 20)) for n in range(31)]
    header, done = pb.CommitHeader(message="x", edits=edits), threading.Event()
    sent: queue.SimpleQueue[int] = queue.SimpleQueue()
    with Peer(fleet, "web1") as web1, Peer(fleet, "alice") as alice:
        slow = [web1.stub.Commit.future(drip(header, done, sent), timeout=DEADLINE_S) for _ in range(6)]
        for _ in range(2 * len(slow)):
            sent.get(timeout=DEADLINE_S)
        begun = time.monotonic()
        answer = alice.commit({f"global/quick{n}": bytes(4 << 20) for n in range(5)})
        assert answer.outcome == Outcome.OUTCOME_COMMITTED
        assert time.monotonic() - begun < 10
        done.set()
        for call in slow:
            call.cancel()


def test_nodes_that_ask_for_packs_and_do_not_read_them_hold_up_nobody(fleet: Fleet) -> None:
    """Sixteen stand still in the middle of 12 MiB; another one gets all of it, a commit is taken and told."""
    with Peer(fleet, "alice") as alice, contextlib.ExitStack() as stack:
        large = {f"web/default/large{n}": os.urandom(4 << 20) for n in range(3)}
        assert alice.commit(large).outcome == Outcome.OUTCOME_COMMITTED
        rss_bytes = fleet.managers["m1"].usage().rss_bytes
        for number in range(16):
            if not (fleet.root / f"pki/stuck{number}.crt").exists():
                pki.issue("node", f"stuck{number}", fleet.root / "pki")
            stuck = stack.enter_context(attached(fleet, f"stuck{number}", f"stuck{number}", "web"))
            stuck.say(Fetch(stuck.hear(Target).id, ()))
            assert stuck.hear(Pack).piece
        node = stack.enter_context(attached(fleet, "web1", "web1", "web"))
        target, got, begun = node.hear(Target), 0, time.monotonic()
        node.say(Fetch(target.id, ()))
        while True:
            pack = node.hear(Pack)
            got += len(pack.piece)
            if pack.last:
                break
        assert got > 12 << 20
        assert alice.commit({"web/default/small": f"{begun}"}).outcome == Outcome.OUTCOME_COMMITTED
        assert node.hear(Target).revision > target.revision
        assert time.monotonic() - begun < 15
        grown = fleet.managers["m1"].usage().rss_bytes - rss_bytes
        assert grown < 90 << 20  # 1 MiB for each, and 32 MiB that are kept for all
        gone = [pb.Edit(delete=path) for path in large]
        assert alice.edit(gone).outcome == Outcome.OUTCOME_COMMITTED


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
