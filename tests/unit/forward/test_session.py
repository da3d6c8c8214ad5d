"""The node's core and the words that both sides share, without any peer."""

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd.forward import events as ev
from jlogd.forward.messages import (
    Ack,
    Hello,
    JournalAck,
    JournalOffer,
    JournalResume,
    Kind,
    ProtocolError,
    Refusal,
    ReplicaEnd,
    Welcome,
    check_resume,
    common_prefix,
    terms_max,
)
from jlogd.forward.session import NodeSession, State
from jlogd.journal.model import Offset, Term

ID = bytes(16)
IDENTITY = ev.Identity("a", "default", "m1", "host", "machine", b"i", 3)
OFFER = JournalOffer("main", ID, Offset(0), Offset(30), Offset(10))
LOCAL = ev.LocalJournal(OFFER, Offset(0), acknowledged=True)
TERM = Term(1, 7, Offset(0))
LOCATED = ev.Located(0, Offset(10), Offset(10), Offset(0), Offset(30), (ID,), (TERM,))
RUN: list[ev.Event] = [
    ev.HelloReceived(Hello(1, "m1", "m1", 3)),
    ev.EpochStored((LOCAL,)),
    ev.WelcomeReceived(Welcome((ReplicaEnd(True, Offset(10), ID, (TERM,)),), 100)),
    ev.HistoryFound((LOCATED,)),
    ev.FramesSent(60, ((0, Offset(20)),)),
    ev.AckReceived(Ack((JournalAck(0, Offset(20)),), 160)),
]
EVERY: list[ev.Event] = [*RUN, ev.RefusalReceived(Refusal("stopping", "")), ev.StreamEnded()]
OPEN_TO_ALL = {ev.RefusalReceived, ev.StreamEnded}


def at(steps: int) -> NodeSession:
    """A session after the first ``steps`` events of the ordinary run."""
    core = NodeSession(IDENTITY)
    for event in RUN[:steps]:
        core.step(event, 0.0)
    return core


def fields(core: NodeSession) -> dict[str, Any]:
    return copy.deepcopy(vars(core))


def test_the_ordinary_run() -> None:
    """States in the order of the module's table."""
    states = [at(steps).state.name for steps in range(len(RUN) + 1)]
    assert states == ["CONNECTED", "STORING", "OFFERED", "COMPARING", "STREAMING", "STREAMING", "STREAMING"]


@pytest.mark.parametrize(
    ("steps", "event"), list(itertools.product(range(5), EVERY)), ids=lambda value: str(value)[:20]
)
def test_an_absent_transition_raises_and_changes_nothing(steps: int, event: ev.Event) -> None:
    """Every pair of state and event that the ordinary run does not have."""
    core = at(steps)
    allowed = type(event) is type(RUN[steps]) or type(event) in OPEN_TO_ALL
    allowed = allowed or (core.state is State.STREAMING and isinstance(event, ev.AckReceived | ev.FramesSent))
    if allowed:
        return
    before = fields(core)
    with pytest.raises(ProtocolError):
        core.step(event, 0.0)
    assert fields(core) == before


@pytest.mark.parametrize("event", EVERY)
def test_a_session_that_ended_takes_nothing(event: ev.Event) -> None:
    """ENDED has no way out."""
    core = at(4)
    core.step(ev.StreamEnded(), 0.0)
    with pytest.raises(ProtocolError):
        core.step(event, 0.0)


def test_an_ack_beyond_what_was_sent_is_refused() -> None:
    """A manager cannot make us drop what it never got."""
    core = at(5)
    before = fields(core)
    with pytest.raises(ProtocolError, match="20 is the end of what was sent"):
        core.step(ev.AckReceived(Ack((JournalAck(0, Offset(21)),), 0)), 0.0)
    with pytest.raises(ProtocolError, match="journal index 1 of 1"):
        core.step(ev.AckReceived(Ack((JournalAck(0, Offset(20)), JournalAck(1, Offset(1))), 0)), 0.0)
    assert fields(core) == before


def test_credit_is_cumulative_and_may_be_overdrawn_by_one_message() -> None:
    """As long as it is positive, a message may go; then none until it is positive again. It never shrinks."""
    core = at(4)
    core.step(ev.FramesSent(99, ()), 0.0)
    core.step(ev.FramesSent(1000, ()), 0.0)
    assert core.credit_left == 100 - 1099
    with pytest.raises(ProtocolError, match="without credit"):
        core.step(ev.FramesSent(1, ()), 0.0)
    assert core.step(ev.AckReceived(Ack((), 1200)), 0.0) == [ev.CreditGrown()]
    assert core.step(ev.AckReceived(Ack((), 500)), 0.0) == []
    assert core.credit_left == 101


def compare(end: ReplicaEnd, located: ev.Located) -> list[ev.Effect]:
    core = at(2)
    core.step(ev.WelcomeReceived(Welcome((end,), 100)), 0.0)
    return core.step(ev.HistoryFound((located,)), 0.0)


def test_an_unknown_chain_is_judged_by_the_terms() -> None:
    """Damage hides the frame at the replica's end: same terms go on, other terms fork."""
    unknown = ev.Located(0, Offset(15), Offset(10), Offset(0), Offset(30), (), (TERM,))
    assert ev.Stream((Offset(15),)) in compare(ReplicaEnd(True, Offset(15), ID, (TERM,)), unknown)
    other = ReplicaEnd(True, Offset(15), ID, (TERM, Term(2, 9, Offset(5))))
    assert ev.LookUp((ev.Place(0, Offset(5)),)) in compare(other, unknown)


def test_the_same_chain_goes_on_whatever_the_terms_say() -> None:
    """Lists may be cut at their old end; the chain is the proof."""
    located = ev.Located(0, Offset(10), Offset(10), Offset(0), Offset(30), (b"x" * 16, ID), (TERM,))
    assert ev.Stream((Offset(10),)) in compare(ReplicaEnd(True, Offset(10), ID, ()), located)


# ---------------------------------------------------------------------- histories

NONCES = st.integers(min_value=1, max_value=3)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Term], int, list[Term], int, int]:
    """Two histories that were one up to a known offset."""
    common = [Term(n + 1, 100 + n, Offset(10 * n)) for n in range(draw(st.integers(0, 4)))]
    split = 10 * len(common)
    sides = []
    for side in (1, 2):
        own = draw(st.integers(0, 3))
        terms = common + [Term(len(common) + n + 1, 1000 * side + n, Offset(split + 10 * n)) for n in range(own)]
        sides.append((terms, split + 10 * own))
    return sides[0][0], sides[0][1], sides[1][0], sides[1][1], split


@given(histories())
def test_common_prefix_finds_where_two_histories_part(two: tuple[list[Term], int, list[Term], int, int]) -> None:
    """Exactly the split, whichever side asks, and also when old terms are cut off one list."""
    a, end_a, b, end_b, split = two
    assert common_prefix(a, Offset(end_a), b, Offset(end_b)) == split
    assert common_prefix(b, Offset(end_b), a, Offset(end_a)) == split
    if split >= 20:
        assert common_prefix(a[1:], Offset(end_a), b, Offset(end_b)) == split


def test_common_prefix_of_one_term_is_the_shorter_end() -> None:
    """One side lost its tail."""
    assert common_prefix([TERM], Offset(30), [TERM], Offset(20)) == 20


def test_terms_of_many_journals_fit_one_message() -> None:
    """The limit of one journal shrinks with their number."""
    assert [terms_max(n) for n in (0, 1, 64, 65, 256)] == [1024, 1024, 1024, 1008, 256]


@pytest.mark.parametrize(
    ("resume", "end"),
    [
        (JournalResume(Kind.CONTINUE), ReplicaEnd(present=False)),
        (JournalResume(Kind.FORK, Offset(1), ID), ReplicaEnd(present=False)),
        (JournalResume(Kind.BEGIN, Offset(1), ID), ReplicaEnd(True, Offset(5), ID)),
        (JournalResume(Kind.FORK, Offset(6), ID), ReplicaEnd(True, Offset(5), ID)),
        (JournalResume(Kind.BEGIN, Offset(1), b"short"), ReplicaEnd(present=False)),
        (JournalResume(Kind.BEGIN, Offset(1 << 63), ID), ReplicaEnd(present=False)),
        (JournalResume(Kind.BEGIN, Offset(5), ID, (Term(1, 1, Offset(6)),)), ReplicaEnd(present=False)),
        (JournalResume(Kind.BEGIN, Offset(5), ID, (TERM,) * 1025), ReplicaEnd(present=False)),
    ],
)
def test_a_resume_that_does_not_follow_from_welcome(resume: JournalResume, end: ReplicaEnd) -> None:
    """Checked before an incarnation is made."""
    with pytest.raises(ProtocolError):
        check_resume((resume,), (end,))
