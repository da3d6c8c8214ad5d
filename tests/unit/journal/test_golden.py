"""The format on disk is pinned: a stored segment reads as it did, and the same values give the same bytes."""

from pathlib import Path

from jlogd.journal import Gap, GapKind, Run, RunFlags, Term
from jlogd.journal.frame import (
    FrameFields,
    Framing,
    Kind,
    content_hash,
    encode_frame,
    encode_lengths,
    make_body,
    next_chain,
)
from jlogd.journal.metadata import (
    SegmentInfo,
    encode_gap,
    encode_run,
    encode_segment,
    encode_snapshot_end,
    encode_term,
)
from jlogd.journal.reader import Reader

GOLDEN = Path(__file__).parent / "golden-v1.jls"
ID = bytes(range(16))
SALT = int.from_bytes(ID[:4], "little")
NS = 1_700_000_000_000_000_000
TERM = (7, 0x1122334455667788)
LINES = b"first line\nsecond line\npiece\n"
RUNS = [
    Run(b"/var/log/mail.log", 3, 2, 23, 1023, RunFlags.NONE, b"state", b"ladder"),
    Run(b"/var/log/\xff", 1, 1, 6, 5, RunFlags.CONTINUED),
]
GAP = Gap(GapKind.SOURCE, 100, 160, "vanished", None, 60, b"/var/log/mail.log", 2)


def build() -> bytes:
    """The golden segment from its values."""
    info = SegmentInfo(ID, 1, 1, 9, NS, 40, 8, 4096, "east")
    position = Run(b"/var/log/mail.log", 3, 0, 0, 1000, RunFlags.NONE, b"old state", b"")
    header = encode_segment(info) + encode_term(Term(7, TERM[1], 50)) + encode_run(position) + encode_snapshot_end()  # type: ignore[arg-type]
    chain = bytes(range(16, 32))
    frames = [encode_frame(FrameFields(Kind.SEGMENT, 50, 0, *TERM, SALT, chain, NS, NS), header)]
    runs = b"".join(encode_run(run) for run in RUNS)
    chain = next_chain(chain, 50, 53, content_hash(LINES))
    frames.append(
        encode_frame(FrameFields(Kind.RECORDS, 50, 3, *TERM, SALT, chain, NS, NS + 5), runs, make_body(LINES, "none"))
    )
    frames.append(encode_frame(FrameFields(Kind.MARK, 53, 0, *TERM, SALT, chain, NS, NS), b""))
    gap = encode_gap(GAP)
    chain = next_chain(chain, 53, 54, content_hash(gap))
    frames.append(encode_frame(FrameFields(Kind.GAP, 53, 1, *TERM, SALT, chain, NS, NS + 6), gap))
    body = encode_lengths([b"any\nbytes", b""])
    chain = next_chain(chain, 54, 56, content_hash(body))
    fields = FrameFields(Kind.RECORDS, 54, 2, *TERM, SALT, chain, NS, NS + 7, Framing.LENGTHS)
    frames.append(encode_frame(fields, b"", make_body(body, "none")))
    return b"".join(bytes(buffer) for frame in frames for buffer in frame)


def test_same_values_give_the_same_bytes() -> None:
    """Writing is stable to the byte."""
    assert build() == GOLDEN.read_bytes()


def test_golden_segment_reads_as_it_did(tmp_path: Path) -> None:
    """Reading is stable to the value."""
    (tmp_path / "00000000000000000050-000000000009.jls").write_bytes(GOLDEN.read_bytes())
    with Reader.open(tmp_path) as reader:
        assert (reader.id, reader.first, reader.end) == (ID, 50, 56)
        entries = list(reader.read())
        chain = reader.chain_at(56)
    assert [(e.offset, e.record, e.source, e.generation, e.flags) for e in entries] == [
        (50, b"first line", b"/var/log/mail.log", 3, RunFlags.NONE),
        (51, b"second line", b"/var/log/mail.log", 3, RunFlags.NONE),
        (52, b"piece", b"/var/log/\xff", 1, RunFlags.CONTINUED),
        (53, b"", b"/var/log/mail.log", 2, RunFlags.NONE),
        (54, b"any\nbytes", b"", 0, RunFlags.NONE),
        (55, b"", b"", 0, RunFlags.NONE),
    ]
    assert entries[3].gap == GAP
    assert chain is not None
    assert chain[1].hex() == "50e7a20a599690e5a4a346f9e7ee446d"
