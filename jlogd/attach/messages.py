"""What a node and a manager say to each other in an Attach session, as values; limits; who calls whom on the node.

The wire form is proto/jlogd/v1/attach.proto, the rules are docs/session.md. Pure, as
``jlogd.forward.messages``, which has Hello, Refusal and the reasons. What arrives is
checked here (``check_*``) before anything looks at it: ids, lengths, counts.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol, TypeAlias, get_args

from jlogd.confrepo.model import PATH_BYTES_MAX, TREE_BYTES_MAX, CommitId, Revision, Serial, is_commit_id
from jlogd.forward.messages import (
    OFFSET_MAX,
    TEXT_MAX,
    WORDS_MAX,
    ProtocolError,
    check_name,
)

PROTOCOL: Final = 1  # of Attach; Deliver counts its own
PIECE_MAX: Final = 1 << 20  # bytes of a pack in one message
GIFT_MAX: Final = 64 << 10  # bytes of a pack beside its target
PACK_BYTES_MAX: Final = TREE_BYTES_MAX + (88 << 20)  # 600 MiB: a whole repository, its trees and what packs add
HAVE_MAX: Final = 16  # commits a Fetch names
DRIFT_MAX: Final = 100  # paths a Report names; it counts the others
ERROR_MAX: Final = 2000  # characters
HEALTH_WORDS_MAX: Final = 64  # of a health check's command line
HEALTH_WORD_MAX: Final = 1024  # characters
TRIAL_S_MAX: Final = 7 * 24 * 3600  # longer trials are revisions that nobody decides on
NUMBER_MAX: Final = OFFSET_MAX  # of revisions, serials, reports, nanoseconds

State: TypeAlias = Literal["pending", "applied", "refused", "rolled_back"]
STATES: Final[tuple[State, ...]] = get_args(State)

_RECIPIENT = re.compile(r"age1[0-9a-z]{1,250}")


@dataclass(frozen=True, slots=True)
class AttachHello:
    """The node's answer to Hello. ``recipient``: "age1…", empty when the node has none."""

    protocol: int
    node: str
    subcluster: str
    host: str
    machine_id: str
    instance: bytes
    recipient: str = ""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gift:
    """A pack that nobody asked for, beside its target: what whoever has all of ``have`` lacks."""

    have: CommitId
    pack: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """What a node should run. ``repository``: id of revision 1. ``health``: a program of the view and its arguments."""

    revision: Revision
    id: CommitId
    serial: Serial
    repository: CommitId
    health: tuple[str, ...] = ()
    trial_s: float = 0.0  # how long health is checked again and again; 0 = once
    gift: Gift | None = field(default=None, compare=False)  # how to get there says nothing about where


@dataclass(frozen=True, slots=True)
class Fetch:
    """Asks for the objects of ``want`` that ``have`` does not bring."""

    want: CommitId
    have: tuple[CommitId, ...] = ()


@dataclass(frozen=True, slots=True)
class Pack:
    """A piece of a git pack; ``last`` completes it. ``error`` not empty: there is none, and why."""

    want: CommitId
    piece: bytes = b""
    last: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node runs, and what became of ``revision``.

    ``running``: what ``current`` points to. ``drift``: the first paths of ``drift_count``. ``since_ns``: when the
    node entered the state, its own wall time. ``number`` is given by the session.
    """

    state: State
    revision: Revision
    id: CommitId | None
    running: Revision
    running_id: CommitId | None
    serial: Serial
    error: str = ""
    drift: tuple[str, ...] = ()
    drift_count: int = 0
    since_ns: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class Reported:
    """The manager has the report."""

    number: int


# ---------------------------------------------------------------------- who calls whom on the node


class Talk(Protocol):
    """A session that is up, as its user sees it. Any thread; everything fails with UnavailableError once it is over."""

    def fetch(self, want: CommitId, have: Sequence[CommitId], timeout_s: float) -> Iterator[bytes]:
        """The pieces of a pack, in order; each ``next`` blocks until the next one is here.

        DeadlineError when the whole takes longer than ``timeout_s`` (the session ends then, and another
        begins), UnavailableError when the session ends, RefusedError with the manager's words. One fetch of a
        session at a time: the next one waits. Close the iterator when it is not read to its end. Never
        from inside of a ``Listener``.
        """
        ...

    def report(self, report: Report, *, patience_s: float = 0.0) -> int:
        """Queue ``report``; never blocks. Its number, which comes back in ``Listener.reported``.

        With ``patience_s`` it is queued so much later, at the latest a second after that, unless another report
        takes its place; the number is not known then, 0.

        One that is not sent yet and says the same serial, revision and state is replaced: the manager sees the
        newest. Long texts and lists are cut to what a message may hold. 0 when the session is over.
        """
        ...


class Listener(Protocol):
    """Who wants to know. Called in a session's thread: must return at once, and must not raise."""

    def attached(self, manager: str, talk: Talk) -> None:
        """A session with ``manager`` (``host:port`` of the settings) is up."""
        ...

    def detached(self, manager: str) -> None:
        """It is over. Nothing more comes from it."""
        ...

    def target(self, manager: str, target: Target) -> None:
        """``manager`` says what to run."""
        ...

    def reported(self, manager: str, number: int) -> None:
        """``manager`` has the report of that number, and so all before."""
        ...


# ---------------------------------------------------------------------- limits of what is sent


def clip(report: Report) -> Report:
    """``report`` within the limits: one line of error, the first paths, nothing that UTF-8 cannot carry."""
    return replace(
        report,
        error=_text(" ".join(report.error.split()))[:ERROR_MAX],
        drift=tuple(_text(path)[:PATH_BYTES_MAX] for path in report.drift[:DRIFT_MAX]),
        drift_count=max(report.drift_count, len(report.drift)),
    )


def _text(text: str) -> str:
    """File names may be any bytes; what is not UTF-8 is shown escaped."""
    return text.encode(errors="backslashreplace").decode()


# ---------------------------------------------------------------------- checks of what arrived


def check_id(what: str, text: str) -> None:
    """ProtocolError unless it is a whole commit id."""
    if not is_commit_id(text):
        raise ProtocolError(f"{what} {text[:80]!r} is not a commit id (40 of 0-9 a-f)")


def check_number(what: str, number: int) -> None:
    """ProtocolError for an absurd one."""
    if not 0 <= number <= NUMBER_MAX:
        raise ProtocolError(f"{what} {number} is out of range")


def _check_text(what: str, text: str, most: int) -> None:
    if len(text) > most:
        raise ProtocolError(f"{what} of {len(text)} characters, at most {most} are allowed")


def check_attach_hello(hello: AttachHello) -> None:
    """Everything in an AttachHello except whether we want it."""
    check_name("node", hello.node)
    check_name("subcluster", hello.subcluster)
    _check_text("host", hello.host, TEXT_MAX)
    _check_text("machine id", hello.machine_id, TEXT_MAX)
    if len(hello.instance) > TEXT_MAX:
        raise ProtocolError(f"instance of {len(hello.instance)} bytes, at most {TEXT_MAX} are allowed")
    if len(hello.capabilities) > WORDS_MAX or any(len(word) > TEXT_MAX for word in hello.capabilities):
        raise ProtocolError(f"at most {WORDS_MAX} capabilities of {TEXT_MAX} characters are allowed")
    check_recipient(hello.recipient)


def check_recipient(recipient: str) -> None:
    """ProtocolError unless it is one, or empty."""
    if recipient and not _RECIPIENT.fullmatch(recipient):
        raise ProtocolError(f"recipient {recipient[:80]!r} is not an age recipient (age1…)")


def check_target(target: Target) -> None:
    """A Target that a node may follow."""
    check_id("target", target.id)
    check_id("repository", target.repository)
    check_number("revision", target.revision)
    check_number("serial", target.serial)
    if target.revision == 0:
        raise ProtocolError("a target of revision 0: they count from 1")
    if len(target.health) > HEALTH_WORDS_MAX:
        raise ProtocolError(f"a health check of {len(target.health)} words, at most {HEALTH_WORDS_MAX} are allowed")
    for word in target.health:
        _check_text("a word of the health check", word, HEALTH_WORD_MAX)
    if not 0 <= target.trial_s <= TRIAL_S_MAX:
        raise ProtocolError(f"a trial of {target.trial_s:g} s, at most {TRIAL_S_MAX} are allowed")
    if target.gift is not None:
        check_id("the target's pack for", target.gift.have)
        if len(target.gift.pack) > GIFT_MAX:
            raise ProtocolError(f"a target with a pack of {len(target.gift.pack)} bytes, {GIFT_MAX} are allowed")


def check_fetch(fetch: Fetch) -> None:
    """A Fetch, before anything is looked up."""
    check_id("want", fetch.want)
    if len(fetch.have) > HAVE_MAX:
        raise ProtocolError(f"{len(fetch.have)} commits in have, at most {HAVE_MAX} are allowed")
    for commit in fetch.have:
        check_id("have", commit)


def check_pack(pack: Pack) -> None:
    """One piece; how much the whole may be is the session's to count."""
    check_id("pack of", pack.want)
    if len(pack.piece) > PIECE_MAX:
        raise ProtocolError(f"a piece of {len(pack.piece)} bytes, at most {PIECE_MAX} are allowed")
    _check_text("error", pack.error, ERROR_MAX)


def check_report(report: Report) -> None:
    """A Report, before it is kept or shown."""
    if report.state not in STATES:
        raise ProtocolError(f"a report of state {report.state!r}, which this version does not know")
    for what, revision, commit in (
        ("reported", report.revision, report.id),
        ("running", report.running, report.running_id),
    ):
        check_number(f"{what} revision", revision)
        if revision or commit:
            check_id(what, commit or "")
    numbers = {"serial": report.serial, "drift_count": report.drift_count, "since_ns": report.since_ns}
    for what, number in numbers.items():
        check_number(what, number)
    check_number("report number", report.number)
    _check_text("error", report.error, ERROR_MAX)
    if len(report.drift) > DRIFT_MAX:
        raise ProtocolError(f"{len(report.drift)} paths of drift, at most {DRIFT_MAX} are allowed")
    for path in report.drift:
        _check_text("a path of drift", path, PATH_BYTES_MAX)
