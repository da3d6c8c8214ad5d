"""The manager's core against its table, the budget, the registry."""

import asyncio
import copy
import itertools

import pytest

from jlogd.forward.messages import JournalOffer, JournalResume, Kind, NodeHello, ProtocolError, Reason, ReplicaEnd
from jlogd.journal.model import Offset
from jlogd.runtime.clock import ManualClock
from managerd.ingest import events as ev
from managerd.ingest.budget import WINDOW_MAX, WINDOW_MIN, Budget
from managerd.ingest.registry import Registry
from managerd.ingest.session import ManagerSession, State

OFFER = JournalOffer("main", bytes(16), Offset(0), Offset(30), Offset(0))
HELLO = NodeHello(1, "a", "default", "m1", "host", "machine", b"i", (OFFER,))
PEER = ev.Peer("node", "a", "ipv4:1")
RUN: list[ev.Event] = [
    ev.Started(),
    ev.NodeHelloReceived(HELLO, PEER),
    ev.OlderEnded(),
    ev.ReplicasFound((ReplicaEnd(True, Offset(10), bytes(16)),), 100),
    ev.ResumeReceived((JournalResume(Kind.CONTINUE),)),
    ev.Begun((Offset(10),)),
    ev.FramesReceived(60),
    ev.Committed(((0, Offset(20)),), 60, 100),
]
EVERY: list[ev.Event] = [*RUN, ev.Failed("stopping", ""), ev.StreamEnded()]


def at(steps: int) -> ManagerSession:
    """A session after the first ``steps`` events of the ordinary run."""
    core = ManagerSession("m1", "m1", 1)
    for event in RUN[:steps]:
        core.step(event, 0.0)
    return core


@pytest.mark.parametrize(
    ("steps", "event"), list(itertools.product(range(7), EVERY)), ids=lambda value: str(value)[:20]
)
def test_an_absent_transition_raises_and_changes_nothing(steps: int, event: ev.Event) -> None:
    """Every pair of state and event that the ordinary run does not have."""
    core = at(steps)
    allowed = type(event) is type(RUN[steps]) or isinstance(event, ev.Failed | ev.StreamEnded)
    if allowed or (core.state is State.STREAMING and isinstance(event, ev.Committed | ev.FramesReceived)):
        return
    before = copy.deepcopy(vars(core))
    with pytest.raises(ProtocolError):
        core.step(event, 0.0)
    assert vars(core) == before


def test_credit_refills_by_what_left_memory_and_never_shrinks() -> None:
    """The window is what may be under way; a smaller one is reached by granting nothing."""
    core = at(6)
    core.step(ev.FramesReceived(60), 0.0)
    core.step(ev.FramesReceived(60), 0.0)
    with pytest.raises(ProtocolError, match="without credit"):
        core.step(ev.FramesReceived(1), 0.0)
    (sent,) = core.step(ev.Committed(((0, Offset(20)),), 120, 100), 0.0)
    assert isinstance(sent, ev.SendAck)
    assert sent.ack.credit == 220
    assert core.step(ev.Committed(((0, Offset(20)),), 0, 10), 0.0) == []


def test_a_message_over_the_limit_is_refused() -> None:
    """4 MiB, whatever the credit."""
    with pytest.raises(ProtocolError, match="4194304 are allowed"):
        at(6).step(ev.FramesReceived((4 << 20) + 1), 0.0)


@pytest.mark.parametrize(
    ("there", "returned", "reason"),
    [
        (ev.Other("host", "machine", b"old", "x"), False, None),  # the process started again
        (ev.Other("host", "machine", b"i", "x"), False, None),  # the same process, another connection
        (ev.Other("host", "machine", b"old", "x"), True, Reason.DUPLICATE_NODE),  # two processes take turns
        (ev.Other("host", "another", b"old", "x"), False, Reason.DUPLICATE_NODE),
        (ev.Other("host", "", b"old", "x"), False, Reason.DUPLICATE_NODE),
    ],
)
def test_two_sessions_of_one_name(there: ev.Other, returned: bool, reason: str | None) -> None:
    """A restart takes over, a second host does not."""
    effects = at(1).step(ev.NodeHelloReceived(HELLO, PEER, there, returned), 0.0)
    refusals = [effect.refusal.reason for effect in effects if isinstance(effect, ev.SendRefusal)]
    assert refusals == ([reason] if reason else [])


def test_the_window_shrinks_with_the_sessions() -> None:
    """Between 1 and 16 MiB, an equal share between."""
    budget = Budget(64 << 20)
    windows = []
    for budget.sessions in (0, 1, 4, 8, 64, 1000):
        windows.append(budget.window())
    assert windows == [WINDOW_MAX, WINDOW_MAX, WINDOW_MAX, 8 << 20, WINDOW_MIN, WINDOW_MIN]


def test_a_full_budget_stops_bulk_before_trickle() -> None:
    """Who has something under way waits first; the reserve is for the others."""

    async def scenario() -> None:
        budget = Budget(100)
        budget.take(100)
        await asyncio.wait_for(budget.room(idle=True), 1.0)
        bulk = asyncio.create_task(budget.room(idle=False))
        budget.take(25)
        trickle = asyncio.create_task(budget.room(idle=True))
        await asyncio.sleep(0)
        assert not bulk.done()
        assert not trickle.done()
        budget.free(10)
        await asyncio.wait_for(trickle, 1.0)
        assert not bulk.done()
        budget.free(100)
        await asyncio.wait_for(bulk, 1.0)

    asyncio.run(scenario())


class Session:
    """Remembers why it was ended."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def fail(self, reason: str, message: str) -> None:
        self.reasons.append(reason)


def test_the_registry_tells_who_is_there() -> None:
    """Connected, lag, last error; an older session that leaves late does not take the newer one's place."""
    clock = ManualClock()
    registry = Registry(clock, ["b"])
    first, second = Session(), Session()
    assert registry.enter(HELLO, "x", first) is None
    registry.progress("a", first, [("main", Offset(12))])
    assert registry.enter(HELLO, "y", second) is first
    registry.leave("a", first, "superseded")
    rows = {row["name"]: row for row in registry.snapshot()}
    assert (rows["a"]["state"], rows["a"]["lag_records"], rows["a"]["error"]) == ("connected", 18, None)
    assert (rows["b"]["state"], rows["b"]["journals"]) == ("silent", None)
    clock.advance(5)
    registry.leave("a", second, "damage: bad")
    row = registry.snapshot()[0]
    assert (row["state"], row["error"]) == ("silent", "damage: bad")
    assert row["since"] == row["last_seen"]
