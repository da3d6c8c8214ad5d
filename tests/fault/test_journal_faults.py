"""Every file operation of a journal fails or tears once; every truncation and flipped bit of a segment is found."""

import errno
import struct
import tempfile
from pathlib import Path

import pytest

from jlogd.journal import Journal, JournalOptions, Reader, Run
from jlogd.journal.frame import HEADER_LENGTH, crc32c
from jlogd.journal.segment import list_segments
from jlogd.runtime.errors import DamageError, FormatError, StorageError
from jlogd.runtime.fs import OS, FileSystem
from tests.support.faulty_fs import FaultyFs
from tests.support.journals import abandon

OPTIONS = JournalOptions(segment_bytes=900, codec="none")


def use(directory: Path, fs: FaultyFs, accepted: list[bytes]) -> int:
    """Append and commit until something fails; returns how many records a commit confirmed."""
    confirmed = 0
    with Journal.open(directory, options=OPTIONS, fs=fs) as journal:
        journal.subscriber("reader")
        for number in range(12):
            record = b"record %d " % number * 5
            journal.append(record)
            accepted.append(record)
            for _ in range(3):  # the same call again, as the daemon does when the disk said no
                try:
                    confirmed = journal.commit()
                except StorageError:
                    continue
                break
            journal.subscriber("reader").advance(journal.end)
    return confirmed


def operations() -> int:
    """How many file operations ``use`` makes."""
    fs = FaultyFs()
    with tempfile.TemporaryDirectory() as directory:
        use(Path(directory) / "j", fs, [])
    return fs.operations


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("torn", [0.0, 0.6])
def test_one_failing_operation_loses_nothing(tmp_path: Path, error: int, torn: float) -> None:
    """Whatever single operation fails, what a commit confirmed is there afterwards, in order, and nothing else."""
    for number in range(1, operations() + 1):
        directory = tmp_path / f"{error}-{torn}-{number}"
        accepted: list[bytes] = []
        try:
            confirmed = use(directory, FaultyFs(number, error=error, torn=torn), accepted)
        except StorageError:
            confirmed = 0
        with Journal.open(directory, options=OPTIONS) as journal:
            assert not journal.recovery.damage, number
            records = [entry.record for entry in journal.read(journal.first)]
            assert records == accepted[journal.first : journal.end], number
            assert journal.end >= confirmed, number


@pytest.mark.parametrize("torn", [0.0, 0.4])
def test_dying_at_any_operation_leaves_a_sound_prefix(tmp_path: Path, torn: float) -> None:
    """From the N-th operation on everything fails (the process dies there): a prefix of what was accepted is left."""
    for number in range(1, operations() + 1):
        directory = tmp_path / str(number)
        accepted: list[bytes] = []
        confirmed = 0
        fs = FaultyFs(number, error=errno.EIO, torn=torn, sticky=True)
        journal = None
        try:
            journal = Journal.open(directory, options=OPTIONS, fs=fs)
            for index in range(12):
                accepted.append(b"record %d " % index * 5)
                journal.append(accepted[-1])
                confirmed = journal.commit()
        except StorageError:
            pass
        if journal is not None:
            abandon(journal)
        with Journal.open(directory, options=OPTIONS) as recovered:
            assert [entry.record for entry in recovered.read()] == accepted[: recovered.end], number
            assert recovered.end >= confirmed


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A journal with one sealed segment and a live one behind it."""
    with Journal.open(tmp_path / "j", options=JournalOptions(codec="zstd")) as journal:
        for number in range(4):
            journal.append_lines(b"line %d\n" % number * 4)
            journal.commit()
    with Journal.open(tmp_path / "j") as journal:
        journal.append(b"behind")
    return tmp_path / "j"


def read_all(directory: Path) -> tuple[list[tuple[int, bytes]], int]:
    """Sound records, and how many offsets gaps stand for."""
    with Reader.open(directory) as reader:
        entries = list(reader.read())
        lost = sum(entry.gap.end - entry.gap.first for entry in entries if entry.gap)
    return [(entry.offset, entry.record) for entry in entries if entry.gap is None], lost


def test_every_flipped_bit_is_found(sealed: Path) -> None:
    """No flipped bit of a sealed segment changes a record: records are right or in a gap, and offsets add up."""
    good, lost = read_all(sealed)
    assert lost == 0
    path = list_segments(OS, sealed)[0].path
    (sealed / path.with_suffix(".idx").name).unlink()
    content = path.read_bytes()
    for bit in range(0, len(content) * 8, 3):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        try:
            records, lost = read_all(sealed)
        except (DamageError, FormatError):
            continue  # refused whole: found
        assert set(records) <= set(good), bit
        assert len(records) + lost == len(good), bit


def test_every_truncation_is_found(sealed: Path) -> None:
    """A sealed segment cut anywhere gives its sound frames and a gap for the rest."""
    good, _ = read_all(sealed)
    path = list_segments(OS, sealed)[0].path
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        records, lost = read_all(sealed)
        assert set(records) <= set(good)
        assert len(records) + lost == len(good)


def test_torn_tail_is_cut_and_said(tmp_path: Path) -> None:
    """Garbage and half a frame behind the last commit are cut, with their size."""
    with Journal.open(tmp_path / "j") as journal:
        journal.append(b"kept")
    path = list_segments(OS, tmp_path / "j")[0].path
    with path.open("ab") as file:
        file.write(path.read_bytes()[-100:] + b"garbage")
    with Journal.open(tmp_path / "j") as journal:
        assert journal.recovery.cut_bytes == 107
        assert [entry.record for entry in journal.read()] == [b"kept"]


def test_a_torn_note_before_a_whole_one_is_a_torn_tail(tmp_path: Path) -> None:
    """Neither was committed: notes stand at the synced end, and one at that place proves nothing about its past."""
    journal = Journal.open(tmp_path / "j")
    journal.append(b"kept")
    journal.commit()
    path = list_segments(OS, tmp_path / "j")[0].path
    committed = path.stat().st_size
    for position in (1, 2):
        journal.note_sources([Run(b"/log/1", 1, 0, 0, position)])
    abandon(journal)
    torn = path.stat().st_size - committed
    flip(path, committed + 130)
    with Journal.open(tmp_path / "j") as journal:
        assert not journal.recovery.damage
        assert journal.recovery.cut_bytes == torn
        assert [entry.record for entry in journal.read()] == [b"kept"]


def test_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    """A journal of a newer format version is refused, untouched, saying what to do."""
    with Journal.open(tmp_path / "j") as journal:
        journal.append(b"kept")
    path = list_segments(OS, tmp_path / "j")[0].path
    content = bytearray(path.read_bytes())
    metadata_length = struct.unpack_from("<I", content, 56)[0]
    at = HEADER_LENGTH + 4 + 16  # behind the item's head and the journal id
    struct.pack_into("<H", content, at, 2)
    struct.pack_into("<I", content, 124, crc32c(bytes(content[:124] + content[128 : 128 + metadata_length])))
    path.write_bytes(content)
    with pytest.raises(FormatError, match="newer than this version"):
        Journal.open(tmp_path / "j")
    assert path.read_bytes() == content


def test_unknown_required_feature_is_refused_by_name(tmp_path: Path) -> None:
    """A frame with an unknown required bit is refused, not taken for damage."""
    with Journal.open(tmp_path / "j", options=JournalOptions(codec="none")) as journal:
        journal.append(b"kept")
    path = list_segments(OS, tmp_path / "j")[0].path
    content = bytearray(path.read_bytes())
    at = content.index(b"JLF1", 8)
    struct.pack_into("<I", content, at + 12, 0x10)
    struct.pack_into("<I", content, at + 124, crc32c(bytes(content[at : at + 124])))
    path.write_bytes(content)
    with pytest.raises(FormatError, match="0x10"):
        Journal.open(tmp_path / "j")
    assert path.read_bytes() == content


def flip(path: Path, at: int) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def frames_of(directory: Path, count: int) -> tuple[Path, list[int]]:
    """A journal of ``count`` one-record frames, its segment and where its frames begin."""
    with Journal.open(directory, options=JournalOptions(codec="none")) as journal:
        for number in range(count):
            journal.append(b"record %d" % number)
            journal.commit()
    path = list_segments(OS, directory)[0].path
    content = path.read_bytes()
    places = [at for at in range(8, len(content), 8) if content[at : at + 4] == b"JLF1"]
    return path, places


def test_committed_records_behind_a_flipped_bit_are_kept(tmp_path: Path) -> None:
    """Damage inside what was synced costs its own frame only, also before any MARK was written."""
    path, places = frames_of(tmp_path / "j", 6)
    flip(path, places[2] + 130)
    with Journal.open(tmp_path / "j") as journal:
        assert journal.recovery.cut_bytes == 0
        assert len(journal.recovery.damage) == 1
        entries = list(journal.read())
        assert [entry.offset for entry in entries] == [0, 1, 2, 3, 4, 5]
        assert [entry.gap is not None for entry in entries] == [False, False, True, False, False, False]


def test_damaged_committed_tail_is_cut_loudly_and_kept_aside(tmp_path: Path) -> None:
    """A flipped bit in the last committed frame is reported as damage, and the bytes are kept."""
    path, places = frames_of(tmp_path / "j", 3)
    flip(path, places[2] + 130)
    broken = path.read_bytes()
    with Journal.open(tmp_path / "j") as journal:
        assert journal.end == 2
        assert [(damage.first, damage.end) for damage in journal.recovery.damage] == [(2, 3)]
        assert path.with_suffix(".damaged").read_bytes() == broken


class UnlistableFs(FileSystem):
    """A directory that cannot be listed while ``broken``."""

    broken = False

    def list_dir(self, path: Path) -> list[str]:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return super().list_dir(path)


def test_a_commit_that_succeeded_does_not_fail_because_old_segments_cannot_be_looked_at(tmp_path: Path) -> None:
    """Retention is put off, not reported as a failed commit; it is made up for later."""
    fs = UnlistableFs()
    with Journal.open(tmp_path / "j", options=OPTIONS, fs=fs) as journal:
        journal.subscriber("reader")
        fs.broken = True
        for number in range(20):
            journal.append(b"record %d " % number * 10)
            journal.subscriber("reader").advance(journal.commit())
        assert journal.end == 20
        assert journal.first == 0
        fs.broken = False
        journal.retain()
        assert journal.first > 0
