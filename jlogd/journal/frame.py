"""One frame: bytes ↔ values. Pure; the layout is in docs/journal-format.md and pinned by a golden file.

    header (128 B) │ metadata (TLV) │ body as stored │ zeros up to a multiple of 8

     0  4s  magic "JLF1"            32  u64  first_offset          88  i64  read_min_ns
     4  u16 header_length = 128     40  u64  offset_count          96  i64  read_max_ns
     6  u8  kind                    48  u32  raw_length           104  i64  event_min_ns (0 = unknown)
     7  u8  codec                   52  u32  stored_length        112  i64  event_max_ns
     8  u8  framing                 56  u32  metadata_length      120  u32  CRC32C of the stored body
     9  u8  zero, 10 u16 zero       60  u32  term counter         124  u32  CRC32C of header[0:124],
    12  u32 required feature bits   64  u64  term nonce                      header[128:], metadata
    16  u32 optional feature bits   72  16s  chain after this frame
    20  u32 dictionary id, 24 u32 key id (reserved, zero), 28 u32 journal salt

A frame never holds more than the limits in ``model``; they are checked before anything is
allocated. Offsets covered: ``[first_offset, first_offset + offset_count)``. Kinds SEGMENT, NOTE
and MARK are local: they cover nothing, leave the chain alone and never travel.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import google_crc32c
from backports import zstd
from blake3 import blake3

from jlogd.journal.model import (
    FRAME_METADATA_MAX,
    FRAME_RAW_MAX,
    FRAME_STORED_MAX,
    UNKNOWN,
    Codec,
)
from jlogd.runtime.errors import DamageError, FormatError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"JLF1"
FORMAT_VERSION = 1
ALIGNMENT = 8  # frames begin on multiples, so that a search for the next one after damage is cheap
HEADER = struct.Struct("<4sHBBBBHIIIIIQQIIIIQ16sqqqqII")
HEADER_LENGTH = 128
assert HEADER.size == HEADER_LENGTH
HEADER_LENGTH_MAX = 512  # a later version may add optional fields at the end; they are checksummed and skipped
REQUIRED_KNOWN = 0  # no required feature exists yet
FRAME_MAX = HEADER_LENGTH_MAX + FRAME_METADATA_MAX + FRAME_STORED_MAX + ALIGNMENT

CHAIN_LENGTH = 16
CHAIN_ORIGIN = bytes(CHAIN_LENGTH)  # the chain before the first frame of a journal
CHAIN_BLAKE3 = 1  # algorithm number in the segment header: BLAKE3, the chain cut to 16 bytes
# Level 1 with long matches and tables that fit the CPU's cache: 10 % quicker than plain level 1 on log
# text at the same ratio (4.7); level 3 is slower and no smaller (tests/bench/codec.py).
ZSTD_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.window_log: 18,
    zstd.CompressionParameter.hash_log: 14,
    zstd.CompressionParameter.min_match: 7,
}


class Kind(IntEnum):
    """What a frame is for."""

    RECORDS = 0
    GAP = 1
    SEGMENT = 2  # local: begins a segment
    NOTE = 3  # local: positions without lines
    MARK = 4  # local: everything before it in this file was synced when it was written


class Framing(IntEnum):
    """How records stand in the raw body."""

    LINES = 0  # each record ends with one newline
    LENGTHS = 1  # each record follows its u32 length


class CodecId(IntEnum):
    """How the body is stored."""

    NONE = 0
    ZSTD = 1


class FrameHeader(NamedTuple):
    """The fixed part, in the order of the bytes."""

    magic: bytes
    header_length: int
    kind: int
    codec: int
    framing: int
    zero8: int
    zero16: int
    required: int
    optional: int
    dictionary_id: int
    key_id: int
    salt: int
    first_offset: int
    offset_count: int
    raw_length: int
    stored_length: int
    metadata_length: int
    term: int
    nonce: int
    chain: bytes
    read_min_ns: int
    read_max_ns: int
    event_min_ns: int
    event_max_ns: int
    body_crc: int
    header_crc: int

    @property
    def end(self) -> int:
        """First offset after the frame."""
        return self.first_offset + self.offset_count

    @property
    def frame_length(self) -> int:
        """Bytes from the magic to the next frame."""
        return aligned(self.header_length + self.metadata_length + self.stored_length)

    @property
    def is_local(self) -> bool:
        """True for frames that never leave the machine."""
        return self.kind >= Kind.SEGMENT


def aligned(length: int) -> int:
    """``length`` rounded up to the frame alignment."""
    return (length + ALIGNMENT - 1) & -ALIGNMENT


# ---------------------------------------------------------------------- chain


def content_hash(content: Buffer) -> bytes:
    """Hash of a raw body (or of a gap's TLV): what the chain covers of a frame."""
    return blake3(content).digest()


def next_chain(chain: bytes, first: int, end: int, content: bytes) -> bytes:
    """The chain after a frame that covers ``[first, end)`` and whose content hash is ``content``."""
    return blake3(chain + struct.pack("<QQ", first, end) + content).digest()[:CHAIN_LENGTH]


def gap_chain(salt: int, end: int) -> bytes:
    """The chain at ``end`` where damage hides the true one: the same for every reader, wherever its gap begins."""
    return blake3(b"jlogd damage gap" + struct.pack("<IQ", salt, end)).digest()[:CHAIN_LENGTH]


def crc32c(content: Buffer) -> int:
    """CRC32C of any buffer (the library reads bytes only, so a view is copied)."""
    return int(google_crc32c.value(content if type(content) is bytes else bytes(content)))


# ---------------------------------------------------------------------- encode


@dataclass(frozen=True, slots=True)
class Body:
    """A body ready to be framed: everything that costs time is done, and may have been done in another thread."""

    raw_length: int
    content: bytes  # hash of the raw bytes
    codec: CodecId
    stored: Buffer
    crc: int


def make_body(raw: bytes, codec: Codec) -> Body:
    """Hash, compress (when asked and when it helps) and checksum. Thread-safe; frees the GIL for the long parts."""
    content = content_hash(raw)
    if codec == "zstd" and raw:
        stored = zstd.compress(raw, options=ZSTD_OPTIONS)
        if len(stored) < len(raw) and len(stored) <= FRAME_STORED_MAX:
            return Body(len(raw), content, CodecId.ZSTD, stored, crc32c(stored))
    return Body(len(raw), content, CodecId.NONE, raw, crc32c(raw))


EMPTY_BODY = Body(0, content_hash(b""), CodecId.NONE, b"", crc32c(b""))


@dataclass(frozen=True, slots=True)
class FrameFields:
    """What the caller of ``encode_frame`` decides; the rest is computed."""

    kind: Kind
    first: int
    count: int
    term: int
    nonce: int
    salt: int
    chain: bytes
    read_min_ns: int
    read_max_ns: int
    framing: Framing = Framing.LINES


def encode_frame(fields: FrameFields, metadata: bytes, body: Body = EMPTY_BODY) -> list[Buffer]:
    """The frame as buffers to write one after the other; the body is not copied."""
    stored_length = len(body.stored)
    if len(metadata) > FRAME_METADATA_MAX or stored_length > FRAME_STORED_MAX or body.raw_length > FRAME_RAW_MAX:
        raise DamageError(f"a frame of {body.raw_length} raw bytes and {len(metadata)} of metadata is over the limits")
    header = bytearray(
        HEADER.pack(
            MAGIC, HEADER_LENGTH, fields.kind, body.codec, fields.framing, 0, 0, 0, 0, 0, 0, fields.salt,
            fields.first, fields.count, body.raw_length, stored_length, len(metadata),
            fields.term, fields.nonce, fields.chain,
            fields.read_min_ns, fields.read_max_ns, 0, 0,
            body.crc, 0,
        )
    )  # fmt: skip
    struct.pack_into("<I", header, 124, _header_crc(header, metadata))
    unpadded = HEADER_LENGTH + len(metadata) + stored_length
    return [bytes(header) + metadata, body.stored, bytes(aligned(unpadded) - unpadded)]


def _header_crc(header: Buffer, metadata: Buffer) -> int:
    view = memoryview(header)
    crc = google_crc32c.value(bytes(view[:124]))
    if len(view) > HEADER_LENGTH:
        crc = google_crc32c.extend(crc, bytes(view[HEADER_LENGTH:]))
    return int(google_crc32c.extend(crc, bytes(metadata)))


# ---------------------------------------------------------------------- decode


def decode_header(buffer: Buffer, at: int = 0) -> FrameHeader:
    """The header at ``at``; limits checked, checksums not yet. DamageError, FormatError."""
    if len(buffer) - at < HEADER_LENGTH:
        raise DamageError("frame header is cut off")
    header = FrameHeader._make(HEADER.unpack_from(buffer, at))
    if header.magic != MAGIC:
        if header.magic[:3] == MAGIC[:3] and header.magic[3:].isdigit():
            raise FormatError(f"frame format {header.magic.decode()} is newer than this version, which reads JLF1")
        raise DamageError("no frame begins here")
    if not HEADER_LENGTH <= header.header_length <= HEADER_LENGTH_MAX or header.header_length % ALIGNMENT:
        raise DamageError(f"header length {header.header_length} is out of range")
    if header.raw_length > FRAME_RAW_MAX or header.stored_length > FRAME_STORED_MAX:
        raise DamageError(f"body of {header.stored_length} bytes ({header.raw_length} raw) is over the limits")
    if header.metadata_length > FRAME_METADATA_MAX:
        raise DamageError(f"metadata of {header.metadata_length} bytes is over the limit")
    if header.end > UNKNOWN:
        raise DamageError("offsets overflow")
    return header


def check_header(header: FrameHeader, frame: memoryview) -> bytes:
    """Verify the header checksum of a whole frame; returns the metadata. Features are checked after the checksum."""
    split = header.header_length + header.metadata_length
    metadata = bytes(frame[header.header_length : split])
    if _header_crc(frame[: header.header_length], metadata) != header.header_crc:
        raise DamageError("header checksum does not match")
    unknown = header.required & ~REQUIRED_KNOWN
    if unknown:
        raise FormatError(f"frame needs features {unknown:#x}, which this version does not know: upgrade to read it")
    if header.kind > Kind.MARK or header.codec > CodecId.ZSTD or header.framing > Framing.LENGTHS:
        raise FormatError(f"frame of kind {header.kind}, codec {header.codec}, framing {header.framing} is not known")
    if header.dictionary_id or header.key_id:
        raise FormatError("frame needs a dictionary or a key, which this version does not know")
    return metadata


def check_frame(header: FrameHeader, frame: memoryview) -> bytes:
    """Verify both checksums of a whole frame; returns the metadata. DamageError, FormatError."""
    if len(frame) < header.frame_length:
        raise DamageError("frame is cut off")
    metadata = check_header(header, frame)
    at = header.header_length + header.metadata_length
    if crc32c(frame[at : at + header.stored_length]) != header.body_crc:
        raise DamageError("body checksum does not match")
    return metadata


def load_body(header: FrameHeader, frame: memoryview) -> bytes:
    """The raw body of a checked frame. DamageError when it does not decompress to what the header says."""
    at = header.header_length + header.metadata_length
    stored = frame[at : at + header.stored_length]
    if header.codec == CodecId.NONE:
        raw = bytes(stored)
    else:
        decompressor = zstd.ZstdDecompressor()
        try:
            raw = decompressor.decompress(stored, max_length=header.raw_length + 1)
        except zstd.ZstdError as error:
            raise DamageError(f"body does not decompress: {error}") from error
    if len(raw) != header.raw_length:
        raise DamageError(f"body has {len(raw)} bytes, its header says {header.raw_length}")
    return raw


def encode_lengths(records: Sequence[bytes]) -> bytes:
    """Records as a LENGTHS body."""
    pack = struct.Struct("<I").pack
    return b"".join(part for record in records for part in (pack(len(record)), record))


def split_records(framing: int, raw: bytes, count: int) -> list[bytes]:
    """The records of a raw body. DamageError when their number is not ``count``."""
    if framing == Framing.LINES:
        records = raw.split(b"\n")
        if records.pop() != b"" or len(records) != count:
            raise DamageError(f"body holds {len(records)} lines, its header says {count}")
        return records
    records = []
    at = 0
    while at + 4 <= len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        records.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(raw) or len(records) != count:
        raise DamageError(f"body holds {len(records)} records, its header says {count}")
    return records
