"""Attach messages: values ↔ protobuf, what is cut before it is sent, what is refused when it arrives."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd.attach import wire
from jlogd.attach.messages import (
    DRIFT_MAX,
    ERROR_MAX,
    GIFT_MAX,
    HAVE_MAX,
    HEALTH_WORD_MAX,
    HEALTH_WORDS_MAX,
    NUMBER_MAX,
    PIECE_MAX,
    STATES,
    TRIAL_S_MAX,
    AttachHello,
    Fetch,
    Gift,
    Pack,
    Reported,
    State,
    check_attach_hello,
    check_fetch,
    check_pack,
    check_report,
    check_target,
    clip,
)
from jlogd.confrepo.model import PATH_BYTES_MAX, CommitId, Revision, Serial
from jlogd.forward.messages import Hello, ProtocolError, Refusal
from jlogd.runtime.rpc import MESSAGE_MAX, Malformed
from jlogd.v1 import attach_pb2 as pb
from tests.support.attaching import commit, report, target

HELLO = AttachHello(1, "a", "web", "host", "machine", b"i", "age1" + "q" * 58, ("word",))
REPORT = report(3, "rolled_back", error="no", drift=("etc/a", "b"), drift_count=7, since_ns=9, number=4)
TO_NODE: list[wire.ToNode] = [
    Hello(1, "m1", "m1", 1 << 40, ("words",)),
    target(3),
    target(3, health=("bin/check", "-x"), trial_s=1.25),
    target(3, gift=Gift(commit(2), b"PACK")),
    Pack(commit(1), b"\x00\xff", last=True),
    Pack(commit(1), error="none"),
    Reported(0),
    Reported(NUMBER_MAX),
    Refusal("damage", "why"),
]
TO_MANAGER: list[wire.ToManager] = [
    HELLO,
    Fetch(commit(1), (commit(2), commit(3))),
    REPORT,
    *(replace(REPORT, state=state, id=None, running_id=None) for state in STATES),
]


@pytest.mark.parametrize("message", TO_NODE, ids=lambda message: type(message).__name__)
def test_what_a_manager_says_survives_the_wire(message: wire.ToNode) -> None:
    """Value → protobuf → bytes → value."""
    there = pb.AttachResponse.FromString(wire.response_to_pb(message).SerializeToString())
    back = wire.response_from_pb(there)
    assert back == message
    assert getattr(back, "gift", None) == getattr(message, "gift", None)  # two targets are equal without


@pytest.mark.parametrize("message", TO_MANAGER, ids=lambda message: type(message).__name__)
def test_what_a_node_says_survives_the_wire(message: wire.ToManager) -> None:
    """As above."""
    there = wire.decode_request(wire.request_to_pb(message).SerializeToString())
    assert isinstance(there, pb.AttachRequest)
    assert wire.request_from_pb(there) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_clear_error(wire_bytes: bytes) -> None:
    """Nothing but ProtocolError and Malformed comes out of the decoders and checks."""
    request = wire.decode_request(wire_bytes)
    if isinstance(request, Malformed):
        assert request.problem.startswith("not an AttachRequest")
        return
    try:
        wire.request_from_pb(request)
    except ProtocolError:
        return


def test_messages_of_another_version() -> None:
    """Empty ones, and a state that this version does not have."""
    with pytest.raises(ProtocolError, match="does not know"):
        wire.response_from_pb(pb.AttachResponse())
    with pytest.raises(ProtocolError, match="report state 9"):
        wire.request_from_pb(pb.AttachRequest(report=pb.Report(state=9)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("check", "message", "words"),
    [
        (check_attach_hello, replace(HELLO, node="No"), "is not a name"),
        (check_attach_hello, replace(HELLO, subcluster="../x"), "is not a name"),
        (check_attach_hello, replace(HELLO, host="h" * 256), "host of 256"),
        (check_attach_hello, replace(HELLO, machine_id="h" * 256), "machine id of 256"),
        (check_attach_hello, replace(HELLO, instance=b"h" * 256), "instance of 256"),
        (check_attach_hello, replace(HELLO, capabilities=("w",) * 65), "64 capabilities"),
        (check_attach_hello, replace(HELLO, recipient="age1\x1b[31m"), "not an age recipient"),
        (check_attach_hello, replace(HELLO, recipient="age1" + "q" * 251), "not an age recipient"),
        (check_target, replace(target(1), id=CommitId("HEAD")), "'HEAD' is not a commit id"),
        (check_target, replace(target(1), repository=CommitId("")), "repository '' is not"),
        (check_target, replace(target(1), revision=Revision(0)), "revision 0"),
        (check_target, target(1, gift=Gift(CommitId("x"), b"")), "'x' is not a commit id"),
        (check_target, target(1, gift=Gift(commit(1), bytes(GIFT_MAX + 1))), "pack of 65537 bytes"),
        (check_target, replace(target(1), serial=Serial(NUMBER_MAX + 1)), "serial .* out of range"),
        (check_target, target(1, health=("x",) * (HEALTH_WORDS_MAX + 1)), "65 words"),
        (check_target, target(1, health=("x" * (HEALTH_WORD_MAX + 1),)), "1025 characters"),
        (check_target, target(1, trial_s=TRIAL_S_MAX + 1.0), "a trial of"),
        (check_fetch, Fetch(CommitId("A" * 40)), "is not a commit id"),
        (check_fetch, Fetch(commit(1), (commit(1),) * (HAVE_MAX + 1)), "17 commits"),
        (check_fetch, Fetch(commit(1), (CommitId("x"),)), "have 'x'"),
        (check_pack, Pack(commit(1), bytes(PIECE_MAX + 1)), "a piece of"),
        (check_pack, Pack(CommitId("")), "is not a commit id"),
        (check_pack, Pack(commit(1), error="x" * (ERROR_MAX + 1)), "error of 2001"),
        (check_report, replace(REPORT, id=None), "is not a commit id"),
        (check_report, replace(REPORT, revision=Revision(0), id=CommitId("x")), "is not a commit id"),
        (check_report, replace(REPORT, running_id=CommitId("abc")), "running 'abc'"),
        (check_report, replace(REPORT, since_ns=NUMBER_MAX + 1), "since_ns"),
        (check_report, replace(REPORT, drift_count=NUMBER_MAX + 1), "drift_count"),
        (check_report, replace(REPORT, error="x" * (ERROR_MAX + 1)), "error of 2001"),
        (check_report, replace(REPORT, drift=("x",) * (DRIFT_MAX + 1)), "101 paths"),
        (check_report, replace(REPORT, drift=("x" * (PATH_BYTES_MAX + 1),)), "a path of drift"),
        (check_report, replace(REPORT, state=cast("State", "fine")), "state 'fine'"),
    ],
)
def test_limits_of_what_arrives(check: Callable[[Any], None], message: Any, words: str) -> None:
    """Each field, one above its limit."""
    with pytest.raises(ProtocolError, match=words):
        check(message)


def test_what_is_at_its_limit_is_allowed() -> None:
    """So that the limits are what they say."""
    check_attach_hello(replace(HELLO, recipient=""))
    check_target(target(1, health=("x" * HEALTH_WORD_MAX,) * HEALTH_WORDS_MAX, trial_s=float(TRIAL_S_MAX)))
    check_fetch(Fetch(commit(1), (commit(1),) * HAVE_MAX))
    check_pack(Pack(commit(1), bytes(PIECE_MAX), error="x" * ERROR_MAX))
    most = replace(REPORT, error="x" * ERROR_MAX, drift=("é" * PATH_BYTES_MAX,) * DRIFT_MAX)
    check_report(most)
    check_report(replace(REPORT, revision=Revision(0), id=None, running=Revision(0), running_id=None))
    assert wire.request_to_pb(most).ByteSize() < MESSAGE_MAX


@given(st.text(), st.lists(st.text(st.characters(exclude_categories=()), max_size=3000), max_size=120))
def test_a_clipped_report_can_always_be_sent(error: str, drift: list[str]) -> None:
    """Whatever a file is called, whatever an error says; the count is right, the error is one line."""
    clipped = clip(replace(REPORT, error=error + "\n\ud800", drift=tuple(drift), drift_count=0))
    check_report(clipped)
    assert clipped.drift_count == len(drift)
    assert "\n" not in clipped.error
    assert wire.request_to_pb(clipped).SerializeToString()
