"""The metadata of a frame: a bounded list of type-length-value items. Pure.

Each item is ``u16 type, u16 length, value``. A type with the top bit set is critical: a
reader that does not know it refuses the frame; other unknown items are skipped.

    RUN          0x8001  u32 records, u32 raw bytes, u64 position, u32 generation, u16 flags,
                         u16 source length, u16 state length, u16 ladder length, then the three
    GAP          0x8002  u8 kind (1 offsets, 2 source), u8 zero, u16 reason length, u32 generation,
                         u64 first, u64 end, u64 lost records, u64 lost bytes (all ones = unknown),
                         u16 source length, 6 zeros, then reason and source
    SEGMENT      0x8003  16s journal id, u16 format version, u16 chain algorithm, u32 zero, u64 epoch,
                         i64 created_ns, u64 first offset, u64 epoch and u64 length of the predecessor
    SUBCLUSTER   0x0004  UTF-8 label
    TERM         0x8005  u32 counter, 4 zeros, u64 nonce, u64 first offset
    SNAPSHOT_END 0x8006  empty: the segment's header frames are complete
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from jlogd.journal.model import FRAME_METADATA_MAX, UNKNOWN, Gap, GapKind, Offset, Run, RunFlags, Term
from jlogd.runtime.errors import DamageError, FormatError

TLV = struct.Struct("<HH")  # type, length of the value
CRITICAL = 0x8000  # a reader that does not know the type must refuse the frame
TLV_RUN = CRITICAL | 1
TLV_GAP = CRITICAL | 2
TLV_SEGMENT = CRITICAL | 3
TLV_SUBCLUSTER = 4
TLV_TERM = CRITICAL | 5
TLV_SNAPSHOT_END = CRITICAL | 6
KNOWN_CRITICAL = frozenset({TLV_RUN, TLV_GAP, TLV_SEGMENT, TLV_TERM, TLV_SNAPSHOT_END})

RUN = struct.Struct("<IIQIHHHH")  # records, raw bytes, position, generation, flags, then three lengths
assert RUN.size == 28
GAP = struct.Struct("<BBHIQQQQH6x")
assert GAP.size == 48
SEGMENT = struct.Struct("<16sHHIQqQQQ")
assert SEGMENT.size == 64
TERM = struct.Struct("<I4xQQ")
assert TERM.size == 24
GAP_REASON_MAX = 200
_GAP_KINDS = {1: GapKind.OFFSETS, 2: GapKind.SOURCE}
_GAP_CODES = {kind: code for code, kind in _GAP_KINDS.items()}


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What the first frame of a segment says about it."""

    journal_id: bytes
    format_version: int
    chain_algorithm: int
    epoch: int
    created_ns: int
    previous_first: int  # UNKNOWN when the segment has no predecessor
    previous_epoch: int
    previous_length: int  # bytes of the predecessor up to its last committed frame
    subcluster: str = ""


def _tlv(kind: int, value: bytes) -> bytes:
    return TLV.pack(kind, len(value)) + value


def encode_run(run: Run) -> bytes:
    """One run as TLV."""
    fixed = RUN.pack(
        run.record_count,
        run.raw_length,
        run.position,
        run.generation,
        run.flags,
        len(run.source),
        len(run.state),
        len(run.ladder),
    )
    return _tlv(TLV_RUN, fixed + run.source + run.state + run.ladder)


def run_length(run: Run) -> int:
    """Bytes that ``encode_run`` gives: what a frame's metadata limit is spent on."""
    return TLV.size + RUN.size + len(run.source) + len(run.state) + len(run.ladder)


def encode_gap(gap: Gap) -> bytes:
    """One gap as TLV."""
    reason = gap.reason.encode()[:GAP_REASON_MAX]
    fixed = GAP.pack(
        _GAP_CODES[gap.kind],
        0,
        len(reason),
        gap.generation,
        gap.first,
        gap.end,
        UNKNOWN if gap.lost_records is None else gap.lost_records,
        UNKNOWN if gap.lost_bytes is None else gap.lost_bytes,
        len(gap.source),
    )
    return _tlv(TLV_GAP, fixed + reason + gap.source)


def encode_segment(info: SegmentInfo) -> bytes:
    """The segment's own description as TLVs."""
    fixed = SEGMENT.pack(
        info.journal_id,
        info.format_version,
        info.chain_algorithm,
        0,
        info.epoch,
        info.created_ns,
        info.previous_first,
        info.previous_epoch,
        info.previous_length,
    )
    return _tlv(TLV_SEGMENT, fixed) + _tlv(TLV_SUBCLUSTER, info.subcluster.encode())


def encode_term(term: Term) -> bytes:
    """One term as TLV."""
    return _tlv(TLV_TERM, TERM.pack(term.counter, term.nonce, term.first))


def encode_snapshot_end() -> bytes:
    """The mark that a segment's header frames are complete."""
    return _tlv(TLV_SNAPSHOT_END, b"")


def pack_metadata(items: Iterable[bytes]) -> Iterator[bytes]:
    """Join encoded TLVs into pieces that each fit one frame."""
    piece: list[bytes] = []
    length = 0
    for item in items:
        if length + len(item) > FRAME_METADATA_MAX:
            yield b"".join(piece)
            piece, length = [], 0
        piece.append(item)
        length += len(item)
    yield b"".join(piece)


class Metadata(NamedTuple):
    """The metadata of a frame, decoded."""

    runs: list[Run]
    gap: Gap | None
    segment: SegmentInfo | None
    terms: list[Term]
    snapshot_end: bool


def _decode_run(value: bytes) -> Run:
    records, raw, position, generation, flags, source_length, state_length, ladder_length = RUN.unpack_from(value)
    a, b = RUN.size + source_length, RUN.size + source_length + state_length
    if b + ladder_length != len(value):
        raise DamageError("run lengths do not add up")
    return Run(value[RUN.size : a], generation, records, raw, position, RunFlags(flags), value[a:b], value[b:])


def _decode_gap(value: bytes) -> Gap:
    code, _, reason_length, generation, first, end, records, lost, source_length = GAP.unpack_from(value)
    split = GAP.size + reason_length
    if split + source_length != len(value) or code not in _GAP_KINDS:
        raise DamageError("gap lengths do not add up")
    return Gap(
        _GAP_KINDS[code],
        first,
        end,
        value[GAP.size : split].decode(errors="replace"),
        None if records == UNKNOWN else records,
        None if lost == UNKNOWN else lost,
        value[split:],
        generation,
    )


def _tlvs(metadata: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(metadata):
        if at + TLV.size > len(metadata):
            raise DamageError("metadata ends inside an item")
        kind, length = TLV.unpack_from(metadata, at)
        at += TLV.size
        if at + length > len(metadata):
            raise DamageError("metadata item is longer than the metadata")
        yield kind, metadata[at : at + length]
        at += length


def decode_metadata(metadata: bytes) -> Metadata:
    """Decode checked metadata. DamageError when it does not add up, FormatError on an unknown critical item."""
    runs: list[Run] = []
    terms: list[Term] = []
    gap: Gap | None = None
    segment: SegmentInfo | None = None
    subcluster = ""
    snapshot_end = False
    try:
        for kind, value in _tlvs(metadata):
            if kind == TLV_RUN:
                runs.append(_decode_run(value))
            elif kind == TLV_GAP:
                gap = _decode_gap(value)
            elif kind == TLV_SEGMENT:
                journal_id, version, algorithm, _, epoch, created, first, previous, length = SEGMENT.unpack_from(value)
                segment = SegmentInfo(journal_id, version, algorithm, epoch, created, first, previous, length)
            elif kind == TLV_SUBCLUSTER:
                subcluster = value.decode(errors="replace")
            elif kind == TLV_TERM:
                counter, nonce, first = TERM.unpack_from(value)
                terms.append(Term(counter, nonce, Offset(first)))
            elif kind == TLV_SNAPSHOT_END:
                snapshot_end = True
            elif kind & CRITICAL:
                raise FormatError(f"metadata item {kind & ~CRITICAL} is required and not known to this version")
    except struct.error as error:
        raise DamageError(f"metadata item is too short: {error}") from error
    if segment is not None and subcluster:
        segment = replace(segment, subcluster=subcluster)
    return Metadata(runs, gap, segment, terms, snapshot_end)
