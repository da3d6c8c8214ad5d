"""The node's core against its table: what belongs where, one fetch at a time, which reports are kept."""

import copy
import itertools

import pytest

from jlogd.attach import messages
from jlogd.attach import session as at
from jlogd.attach.messages import PIECE_MAX, AttachHello, Fetch, Pack, Reported
from jlogd.forward.messages import Hello, ProtocolError, Refusal
from tests.support.attaching import commit, report, target

ME = at.Identity("a", "web", "host", "machine", b"i", "", 0)
HELLO = at.HelloReceived(Hello(1, "m1", "m1", 1))
ACCEPTED = at.ReportedReceived(Reported(0))
IN_SESSION: list[at.Event] = [
    at.TargetReceived(target(1)),
    at.FetchBegun(Fetch(commit(1))),
    at.ReportQueued(report(1, number=1)),
]
ENDS: list[at.Event] = [at.RefusalReceived(Refusal("stopping", "")), at.StreamEnded()]
EVERY: list[at.Event] = [HELLO, ACCEPTED, *IN_SESSION, at.PackReceived(Pack(commit(1))), *ENDS]
RUN: list[at.Event] = [HELLO, ACCEPTED]


def core(steps: int = 2, identity: at.Identity = ME) -> at.NodeAttach:
    """A session after the first ``steps`` events of the ordinary run."""
    made = at.NodeAttach(identity)
    for event in RUN[:steps]:
        made.step(event, 0.0)
    return made


@pytest.mark.parametrize(
    ("steps", "event"), list(itertools.product(range(4), EVERY)), ids=lambda value: str(value)[:20]
)
def test_an_absent_transition_raises_and_changes_nothing(steps: int, event: at.Event) -> None:
    """Every pair of state and event that the table does not have; 3 steps: the session is over."""
    one = core(steps)
    if steps == 3:
        one.step(at.StreamEnded(), 0.0)
    ordinary: list[list[at.Event]] = [[HELLO], [ACCEPTED], IN_SESSION, []]
    if event in ordinary[steps] or (event in ENDS and steps < 3):
        one.step(event, 0.0)
        return
    before = copy.deepcopy(vars(one))
    with pytest.raises(ProtocolError):
        one.step(event, 0.0)
    assert vars(one) == before


def test_who_we_are_and_who_the_manager_is() -> None:
    """The hello says everything; an older epoch is refused without a word, another protocol with our own."""
    one = core(0)
    assert one.step(HELLO, 0.0) == [at.SendHello(AttachHello(1, "a", "web", "host", "machine", b"i"))]
    assert one.step(ACCEPTED, 0.0) == [at.Attached("m1")]
    later = core(0, at.Identity("a", "web", "h", "m", b"i", "", 7))
    (refused,) = later.step(HELLO, 0.0)
    assert isinstance(refused, at.Refused)
    assert (refused.reason, later.state) == ("epoch_old", at.State.ENDED)
    other = core(0)
    hello, refused = other.step(at.HelloReceived(Hello(2, "?", "", 0)), 0.0)
    assert isinstance(hello, at.SendHello)
    assert isinstance(refused, at.Refused)
    assert refused.reason == "protocol_version"
    assert other.step(at.RefusalReceived(Refusal("protocol_version", "it says so too")), 0.0)


def test_a_pack_belongs_to_the_fetch() -> None:
    """Pieces in order, then over; a foreign pack, a second fetch, a pack without a fetch are none."""
    one = core()
    assert one.step(at.FetchBegun(Fetch(commit(1))), 0.0) == [at.SendFetch(Fetch(commit(1)))]
    with pytest.raises(ProtocolError, match="under way"):
        one.step(at.FetchBegun(Fetch(commit(2))), 0.0)
    with pytest.raises(ProtocolError, match="not asked for"):
        one.step(at.PackReceived(Pack(commit(2), b"x")), 0.0)
    assert one.step(at.PackReceived(Pack(commit(1), b"x")), 0.0) == [at.Piece(b"x")]
    assert one.step(at.PackReceived(Pack(commit(1), b"y", last=True)), 0.0) == [at.Piece(b"y"), at.FetchOver()]
    with pytest.raises(ProtocolError, match="not asked for"):
        one.step(at.PackReceived(Pack(commit(1), b"z")), 0.0)
    one.step(at.FetchBegun(Fetch(commit(2))), 0.0)
    assert one.step(at.PackReceived(Pack(commit(2), b"x", error="no")), 0.0) == [at.FetchOver("no")]


def test_a_pack_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 MiB in all; each fetch counts anew."""
    assert messages.PACK_BYTES_MAX == 600 << 20
    monkeypatch.setattr(at, "PACK_BYTES_MAX", 3 * PIECE_MAX)
    one = core()
    for _ in range(2):
        one.step(at.FetchBegun(Fetch(commit(1))), 0.0)
        for last in (False, False, True):
            one.step(at.PackReceived(Pack(commit(1), bytes(PIECE_MAX), last=last)), 0.0)
    one.step(at.FetchBegun(Fetch(commit(1))), 0.0)
    for _ in range(3):
        one.step(at.PackReceived(Pack(commit(1), bytes(PIECE_MAX))), 0.0)
    with pytest.raises(ProtocolError, match="a pack of more than 3 MiB"):
        one.step(at.PackReceived(Pack(commit(1), b"x")), 0.0)


def queue(one: at.NodeAttach, revision: int, state: messages.State, since_ns: int = 0) -> int:
    """Queue a report; its number."""
    number = one.next_number
    one.step(at.ReportQueued(report(revision, state, since_ns=since_ns, number=number)), 0.0)
    return number


def test_reports_that_wait_are_merged() -> None:
    """The newest of each serial, revision and state; in the order of their newest."""
    one = core()
    queue(one, 1, "pending")
    queue(one, 1, "rolled_back")
    queue(one, 2, "pending")
    assert queue(one, 1, "rolled_back", since_ns=9) == 4
    sent = [one.take_report(), one.take_report(), one.take_report()]
    assert [(got.number, got.state, got.since_ns) for got in sent if got] == [
        (1, "pending", 0), (3, "pending", 0), (4, "rolled_back", 9),
    ]  # fmt: skip
    assert one.take_report() is None
    assert not one.all_heard
    assert one.step(at.ReportedReceived(Reported(4)), 0.0) == [at.Heard(4)]
    assert one.all_heard


def test_reports_that_nobody_takes_do_not_gather() -> None:
    """The oldest are dropped: the node runs something else by now."""
    one = core()
    for revision in range(1, 100):
        queue(one, revision, "pending")
    taken = []
    while (got := one.take_report()) is not None:
        taken.append(got.number)
    assert taken == list(range(100 - at.WAITING_MAX, 100))


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_confirmation_of_what_was_not_sent(number: int) -> None:
    """Of nothing, of what still waits, of what does not exist: the manager does not keep the rules."""
    one = core()
    queue(one, 1, "pending")
    queue(one, 2, "pending")
    assert one.take_report() is not None
    with pytest.raises(ProtocolError, match=f"report {number} is confirmed"):
        one.step(at.ReportedReceived(Reported(number)), 0.0)
    one.step(at.ReportedReceived(Reported(1)), 0.0)
    with pytest.raises(ProtocolError, match="report 1 is confirmed"):
        one.step(at.ReportedReceived(Reported(1)), 0.0)


def test_a_report_is_cut_before_it_waits() -> None:
    """Nothing that a manager would refuse is ever sent."""
    one = core()
    one.step(at.ReportQueued(report(1, number=1, error="x\n" * 5000, drift=("f",) * 500)), 0.0)
    got = one.take_report()
    assert got is not None
    messages.check_report(got)
    assert (len(got.drift), got.drift_count) == (100, 500)
