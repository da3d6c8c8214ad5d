"""The manager's core against its table, who may attach, what is said and what is not said twice."""

import copy
import itertools
from dataclasses import replace

import pytest

from jlogd.attach.messages import PROTOCOL, AttachHello, Fetch, Reported, State
from jlogd.confrepo.model import Scope
from jlogd.forward.messages import ProtocolError, Refusal
from managerd.ecconfigd import attach_session as at
from managerd.ingest.events import Other, Peer
from managerd.ingest.identity import SUPERSEDED_MAX, Claims
from tests.support.attaching import commit, report, target

HELLO = AttachHello(PROTOCOL, "a", "web", "host", "machine", b"i")
PEER = Peer("node", "a", "ipv4:1")
ARRIVED = at.AttachHelloReceived(HELLO, PEER)
IN_SESSION: list[at.Event] = [
    at.TargetFound(target(1)),
    at.FetchReceived(Fetch(commit(1))),
    at.PackMade(),
    at.ReportReceived(report(1, number=1)),
]
ENDS: list[at.Event] = [at.Failed("stopping", "bye"), at.StreamEnded()]
EVERY: list[at.Event] = [at.Started(), ARRIVED, *IN_SESSION, *ENDS]
RUN: list[at.Event] = [at.Started(), ARRIVED, at.StreamEnded()]


def core(steps: int = 2) -> at.ManagerAttach:
    """A session after the first ``steps`` events of the ordinary run."""
    made = at.ManagerAttach("m1", 1)
    for event in RUN[:steps]:
        made.step(event, 0.0)
    return made


@pytest.mark.parametrize(
    ("steps", "event"), list(itertools.product(range(4), EVERY)), ids=lambda value: str(value)[:20]
)
def test_an_absent_transition_raises_and_changes_nothing(steps: int, event: at.Event) -> None:
    """Every pair of state and event that the table does not have."""
    one = core(steps)
    ordinary: list[list[at.Event]] = [[at.Started()], [ARRIVED], IN_SESSION, []]
    if event in ordinary[steps] or (event in ENDS and steps < 3):
        one.step(event, 0.0)
        return
    before = copy.deepcopy(vars(one))
    with pytest.raises(ProtocolError):
        one.step(event, 0.0)
    assert vars(one) == before


def why_not(event: at.AttachHelloReceived) -> str:
    """The reason of the refusal; empty: it is attached."""
    one = core(1)
    effects = one.step(event, 0.0)
    if not isinstance(effects[0], at.SendRefusal):
        assert effects == [at.EndOlder(event.hello), at.Send(Reported(0))]
        assert one.node == event.hello.node
        return ""
    assert effects[1:] == [at.End()]
    assert one.node == ""
    return effects[0].refusal.reason


LIVE = Other("host", "machine", b"other", "ipv4:2")


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (ARRIVED, ""),
        (replace(ARRIVED, home="web"), ""),
        (replace(ARRIVED, home="db"), "name_mismatch"),
        (replace(ARRIVED, stranger=True), "name_mismatch"),
        (replace(ARRIVED, peer=replace(PEER, name="b")), "name_mismatch"),
        (replace(ARRIVED, peer=replace(PEER, role="operator")), "certificate"),
        (replace(ARRIVED, peer=replace(PEER, role="unknown", name="")), "certificate"),
        (replace(ARRIVED, peer=replace(PEER, denied=True)), "certificate_denied"),
        (replace(ARRIVED, peer=Peer("", "", "ipv4:1")), ""),  # no TLS: loopback only
        (replace(ARRIVED, hello=replace(HELLO, protocol=2)), "protocol_version"),
        (replace(ARRIVED, hello=replace(HELLO, subcluster="global")), "name_mismatch"),
        (replace(ARRIVED, hello=replace(HELLO, subcluster="running")), "name_mismatch"),
        (replace(ARRIVED, hello=replace(HELLO, node="default"), peer=replace(PEER, name="default")), "name_mismatch"),
        (replace(ARRIVED, other=LIVE), ""),
        (replace(ARRIVED, other=LIVE, returned=True), "duplicate_node"),
        (replace(ARRIVED, other=replace(LIVE, instance=b"i"), returned=True), ""),
        (replace(ARRIVED, other=replace(LIVE, machine_id="n")), "duplicate_node"),
        (replace(ARRIVED, other=replace(LIVE, machine_id="")), "duplicate_node"),
    ],
)
def test_who_may_attach(event: at.AttachHelloReceived, reason: str) -> None:
    """A node with its own certificate, in its own subcluster, once."""
    assert why_not(event) == reason


def test_a_target_is_not_said_twice_in_a_row() -> None:
    """Nothing before there is one, nothing when it goes away, the same again only after another."""
    one = core()
    said = [one.step(at.TargetFound(now), 0.0) for now in (None, target(1), target(1), None, target(2), target(1))]
    assert said == [[], [at.Send(target(1))], [], [], [at.Send(target(2))], [at.Send(target(1))]]


def test_a_fetch_has_the_scope_of_the_hello() -> None:
    """Whatever it asks for; one at a time."""
    one = core()
    fetch = Fetch(commit(1), (commit(2),))
    assert one.step(at.FetchReceived(fetch), 0.0) == [at.MakePack(Scope("web", "a"), fetch)]
    with pytest.raises(ProtocolError, match="under way"):
        one.step(at.FetchReceived(Fetch(commit(3))), 0.0)
    one.step(at.PackMade(), 0.0)
    assert one.step(at.FetchReceived(Fetch(commit(3))), 0.0)


def test_reports_are_kept_and_confirmed() -> None:
    """Numbers grow, with gaps where the node merged some. Nobody waits to hear that "applied" has arrived."""
    one = core()
    states: list[tuple[int, State]] = [(1, "pending"), (5, "applied")]
    for number, state in states:
        kept = replace(report(1, number=number), state=state)
        said = at.Send(Reported(number), later=state == "applied")
        assert one.step(at.ReportReceived(kept), 0.0) == [at.Keep(kept), said]
    for number in (5, 4, 0):
        with pytest.raises(ProtocolError, match="they count up"):
            one.step(at.ReportReceived(report(1, number=number)), 0.0)


def test_a_failure_is_said_once() -> None:
    """And nothing after it."""
    one = core()
    assert one.step(at.Failed("superseded", "x"), 0.0) == [at.SendRefusal(Refusal("superseded", "x")), at.End()]
    with pytest.raises(ProtocolError):
        one.step(at.Failed("stopping", "y"), 0.0)


def test_claims_remember_whom_they_threw_out() -> None:
    """As long as somebody lives there, and not for ever."""
    claims: Claims[object] = Claims()
    sessions = [object() for _ in range(SUPERSEDED_MAX + 3)]
    assert claims.other(HELLO) == (None, False)
    for number, session in enumerate(sessions):
        older = claims.enter(replace(HELLO, instance=bytes([number])), "x", session)
        assert older is (sessions[number - 1] if number else None)
    other, returned = claims.other(replace(HELLO, instance=bytes([SUPERSEDED_MAX + 1])))
    assert other is not None
    assert (other.instance, returned) == (bytes([SUPERSEDED_MAX + 2]), True)
    assert claims.other(replace(HELLO, instance=b"\x00")) == (other, False)
    assert not claims.leave("a", sessions[0])
    assert "a" in claims
    assert claims.leave("a", sessions[-1])
    assert claims.sessions() == []
    assert claims.other(replace(HELLO, instance=b"\x01")) == (None, False)
