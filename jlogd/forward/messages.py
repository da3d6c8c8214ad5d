"""What the two sides of a session say to each other, as values; limits and reasons of refusal.

The wire form is proto/jlogd/v1/deliver.proto, the rules are docs/session.md. Pure: the
shells convert (``jlogd.forward.wire``), both cores speak only these. What arrives is
checked here (``check_*``) before a core looks at it: names, lengths, counts.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from jlogd.journal.model import Offset, Term
from jlogd.runtime.errors import JlogdError
from jlogd.runtime.names import JOURNALS_MAX, is_name

PROTOCOL = 1
ZERO = Offset(0)
ID_LENGTH = 16
CHAIN_LENGTH = 16
TERMS_MAX = 1024  # per journal in one message
TERMS_TOTAL_MAX = 65536  # of all journals in one message: 28 bytes each, so Welcome stays below 2 MiB
TEXT_MAX = 255  # host name, machine id, subcluster, one capability
WORDS_MAX = 64  # capabilities
FRAMES_MAX = 4 << 20  # bytes of one `frames` message
SOURCES_BYTES_MAX = 2 << 20  # of positions in one Welcome: beside its terms it still fits one message
PATH_MAX = 4096  # Linux: PATH_MAX
PROOF_MAX = 4096  # state or ladder of one position; jlogd.tail writes 80 and up to 384 bytes
POSITION_OVERHEAD = 40  # tags, lengths and numbers of one position
SOURCES = "sources"  # capability of a manager: it gives positions back to a journal that wants them
OFFSET_MAX = (1 << 63) - 1  # leaves room so that no sum of offsets can overflow anybody's integers


class ProtocolError(JlogdError):
    """The peer said something that the protocol does not allow now; the session ends, nothing else changes."""

    reason, status, exit_code = "protocol", "FAILED_PRECONDITION", 1


class Reason:
    """Stable words of a refusal."""

    PROTOCOL_VERSION = "protocol_version"
    SUBSCRIBER_MISMATCH = "subscriber_mismatch"
    EPOCH_OLD = "epoch_old"  # a deposed manager still speaks
    NAME_MISMATCH = "name_mismatch"  # NodeHello and certificate disagree
    CERTIFICATE_DENIED = "certificate_denied"
    CERTIFICATE = "certificate"  # the handshake itself failed, or the certificate is of another role
    DUPLICATE_NODE = "duplicate_node"  # two live nodes with one name
    SUPERSEDED = "superseded"  # a newer session of the same node took over
    LIMITS = "limits"
    PROTOCOL = "protocol"
    DAMAGE = "damage"  # a frame's bytes are not what was written
    OFFSET = "offset"  # a frame does not begin at the replica's end
    STORAGE = "storage"
    STOPPING = "stopping"


# Retrying at once cannot help: somebody must change a setting, a certificate or a host.
FOR_A_PERSON = frozenset(
    {
        Reason.PROTOCOL_VERSION,
        Reason.SUBSCRIBER_MISMATCH,
        Reason.EPOCH_OLD,
        Reason.NAME_MISMATCH,
        Reason.CERTIFICATE_DENIED,
        Reason.CERTIFICATE,
        Reason.DUPLICATE_NODE,
        Reason.LIMITS,
        Reason.PROTOCOL,
        Reason.DAMAGE,
        Reason.OFFSET,
    }
)


class Kind(Enum):
    """What happens to one journal after Welcome."""

    CONTINUE = "continue"
    BEGIN = "begin"
    FORK = "fork"


@dataclass(frozen=True, slots=True)
class Hello:
    """The manager's first message."""

    protocol: int
    manager: str
    subscriber: str
    epoch: int
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JournalOffer:
    """One journal of the node. ``wants_sources``: it is new, and positions may come back from the archive."""

    journal: str
    journal_id: bytes
    first: Offset
    end: Offset
    checkpoint: Offset
    wants_sources: bool = False


@dataclass(frozen=True, slots=True)
class NodeHello:
    """The node's answer; the index of an offer is the journal index of the session."""

    protocol: int
    node: str
    subcluster: str
    subscriber: str
    host: str
    machine_id: str
    instance: bytes
    journals: tuple[JournalOffer, ...]


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """How far one generation of one source stands in the archive; ``state`` and ``ladder`` as in a ``Run``."""

    path: bytes
    generation: int
    position: int
    state: bytes
    ladder: bytes

    @property
    def length(self) -> int:
        """Bytes on the wire, at most."""
        return len(self.path) + len(self.state) + len(self.ladder) + POSITION_OVERHEAD


@dataclass(frozen=True, slots=True)
class ReplicaEnd:
    """Where a replica ends, or that there is none of this journal id; ``sources`` where they were wanted."""

    present: bool
    next_offset: Offset = ZERO
    chain: bytes = b""
    terms: tuple[Term, ...] = ()
    sources: tuple[SourcePosition, ...] = ()


@dataclass(frozen=True, slots=True)
class Welcome:
    """The replicas' ends in the order of the offers; credit counts bytes since the session began."""

    replicas: tuple[ReplicaEnd, ...]
    credit: int


@dataclass(frozen=True, slots=True)
class JournalResume:
    """The node's decision for one journal; ``first``, ``chain`` and ``terms`` only for BEGIN and FORK."""

    kind: Kind
    first: Offset = ZERO
    chain: bytes = b""
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class JournalAck:
    """Everything below ``end`` is durable on the manager."""

    journal: int
    end: Offset


@dataclass(frozen=True, slots=True)
class Ack:
    """Cumulative; ``credit`` is the total that may have been sent since the session began."""

    journals: tuple[JournalAck, ...]
    credit: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, and why; ends the session."""

    reason: str
    message: str


def terms_max(journals: int) -> int:
    """How many terms one message may carry for each of ``journals`` journals."""
    return min(TERMS_MAX, TERMS_TOTAL_MAX // max(1, journals))


def common_prefix(terms_a: Sequence[Term], end_a: Offset, terms_b: Sequence[Term], end_b: Offset) -> Offset:
    """The last offset up to which two histories can be the same, judged by who wrote what.

    A term is unique (64 random bits), so the newest term that stands in both lists decides:
    the histories agree up to where the first of them left that term. Lists may be cut at
    their old end. 0 when no term is common.
    """
    places = {(term.counter, term.nonce): place for place, term in enumerate(terms_b)}
    for place in range(len(terms_a) - 1, -1, -1):
        other = places.get((terms_a[place].counter, terms_a[place].nonce))
        if other is not None:
            return min(_term_end(terms_a, place, end_a), _term_end(terms_b, other, end_b))
    return Offset(0)


def _term_end(terms: Sequence[Term], place: int, end: Offset) -> Offset:
    return min(terms[place + 1].first, end) if place + 1 < len(terms) else end


def last_common_term(terms_a: Sequence[Term], terms_b: Sequence[Term]) -> Term | None:
    """The newest term that stands in both lists."""
    known = {(term.counter, term.nonce) for term in terms_b}
    return next((term for term in reversed(terms_a) if (term.counter, term.nonce) in known), None)


# ---------------------------------------------------------------------- checks of what arrived


def check_name(what: str, name: str) -> None:
    """ProtocolError unless ``name`` is one; the message never repeats an absurdly long one."""
    if not is_name(name):
        raise ProtocolError(f"{what} {name[:80]!r} is not a name ([a-z0-9][a-z0-9._-]{{0,62}})")


def check_offset(what: str, offset: int) -> None:
    """ProtocolError for an absurd offset."""
    if not 0 <= offset <= OFFSET_MAX:
        raise ProtocolError(f"{what} {offset} is out of range")


def check_chain(chain: bytes, *, may_be_empty: bool) -> None:
    """ProtocolError unless 16 bytes, or none where that is allowed."""
    if len(chain) != CHAIN_LENGTH and not (may_be_empty and not chain):
        raise ProtocolError(f"a chain of {len(chain)} bytes: it has {CHAIN_LENGTH}")


def check_terms(terms: Sequence[Term]) -> None:
    """ProtocolError unless few enough and in order."""
    if len(terms) > TERMS_MAX:
        raise ProtocolError(f"{len(terms)} terms for one journal, at most {TERMS_MAX} are allowed")
    for before, after in itertools.pairwise(terms):
        if after.first < before.first:
            raise ProtocolError(f"terms are out of order at offset {after.first}")


def check_hello(hello: Hello) -> None:
    """Everything in a manager's Hello except whether we want it."""
    check_name("manager", hello.manager)
    check_name("subscriber", hello.subscriber)
    if len(hello.capabilities) > WORDS_MAX or any(len(word) > TEXT_MAX for word in hello.capabilities):
        raise ProtocolError(f"at most {WORDS_MAX} capabilities of {TEXT_MAX} characters are allowed")


def check_node_hello(hello: NodeHello) -> None:
    """Everything in a NodeHello except whether we want it."""
    check_name("node", hello.node)
    check_name("subscriber", hello.subscriber)
    for what, text in (("subcluster", hello.subcluster), ("host", hello.host), ("machine id", hello.machine_id)):
        if len(text) > TEXT_MAX:
            raise ProtocolError(f"{what} of {len(text)} characters, at most {TEXT_MAX} are allowed")
    if len(hello.instance) > TEXT_MAX:
        raise ProtocolError(f"instance of {len(hello.instance)} bytes, at most {TEXT_MAX} are allowed")
    if len(hello.journals) > JOURNALS_MAX:
        raise ProtocolError(f"{len(hello.journals)} journals, at most {JOURNALS_MAX} are allowed")
    names = [offer.journal for offer in hello.journals]
    if len(set(names)) != len(names):
        raise ProtocolError("one journal is offered twice")
    for offer in hello.journals:
        check_name("journal", offer.journal)
        if len(offer.journal_id) != ID_LENGTH:
            raise ProtocolError(f"journal {offer.journal}: an id of {len(offer.journal_id)} bytes, not {ID_LENGTH}")
        for what, offset in (("first", offer.first), ("end", offer.end), ("checkpoint", offer.checkpoint)):
            check_offset(f"journal {offer.journal}: {what}", offset)
        if offer.first > offer.end:
            raise ProtocolError(f"journal {offer.journal}: first {offer.first} is after end {offer.end}")


def check_welcome(welcome: Welcome, journals: int) -> None:
    """A Welcome against the number of journals that were offered."""
    if len(welcome.replicas) != journals:
        raise ProtocolError(f"Welcome speaks of {len(welcome.replicas)} journals, {journals} were offered")
    for end in welcome.replicas:
        if end.present:
            check_offset("next_offset", end.next_offset)
            check_chain(end.chain, may_be_empty=False)
            check_terms(end.terms)
        for source in end.sources:
            check_source(source)
    if sum(source.length for end in welcome.replicas for source in end.sources) > SOURCES_BYTES_MAX:
        raise ProtocolError(f"positions of more than {SOURCES_BYTES_MAX} bytes")


def check_source(source: SourcePosition) -> None:
    """ProtocolError for a position that no node of ours can have written."""
    if not (source.path.startswith(b"/") and len(source.path) <= PATH_MAX):
        raise ProtocolError(f"a source position for {source.path[:80]!r}, which is no absolute path")
    if not 0 < source.generation < 1 << 32:
        raise ProtocolError(f"source generation {source.generation} is out of range")
    check_offset("source position", source.position)
    if max(len(source.state), len(source.ladder)) > PROOF_MAX:
        raise ProtocolError(f"the proof of a source position has more than {PROOF_MAX} bytes")


def check_resume(resumes: Sequence[JournalResume], replicas: Sequence[ReplicaEnd]) -> None:
    """The node's decisions against what Welcome told it."""
    if len(resumes) != len(replicas):
        raise ProtocolError(f"Resume speaks of {len(resumes)} journals, Welcome of {len(replicas)}")
    for resume, end in zip(resumes, replicas, strict=True):
        if (resume.kind is Kind.BEGIN) == end.present:
            raise ProtocolError(
                f"Resume says {resume.kind.value}, but the replica is {'' if end.present else 'not '}present"
            )
        if resume.kind is Kind.CONTINUE:
            continue
        check_offset("first", resume.first)
        check_chain(resume.chain, may_be_empty=True)
        check_terms(resume.terms)
        if resume.terms and resume.terms[-1].first > resume.first:
            raise ProtocolError(
                f"a term begins at {resume.terms[-1].first}, after the new incarnation at {resume.first}"
            )
        if resume.kind is Kind.FORK and resume.first > end.next_offset:
            raise ProtocolError(f"fork at {resume.first}, but the replica ends at {end.next_offset}")
