"""What a manager gives back to a journal that is new: which archive's word counts, in which order, and how much."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from jlogd.forward.messages import SOURCES_BYTES_MAX, JournalOffer, ReplicaEnd, Welcome, check_welcome
from jlogd.journal import Journal, Offset, Run
from managerd.archive import Archive
from managerd.archive.layout import incarnation_dir, log_dir
from managerd.ingest.replicas import find, give_back, known_sources

NEW = JournalOffer("app", b"n" * 16, Offset(0), Offset(0), Offset(0), wants_sources=True)
ABSENT = ReplicaEnd(present=False)


def incarnation(data: Path, number: int, journal_id: bytes, sources: dict[tuple[bytes, int], int]) -> Path:
    """A journal in the archive that stands at these positions."""
    place = incarnation_dir(log_dir(data, "a", "app"), number, journal_id)
    with Journal.open(place, journal_id=journal_id) as journal:
        for (path, generation), position in sources.items():
            journal.append_lines(b"x\n", [Run(path, generation, 1, 2, position, state=b"s" * 80, ladder=b"l" * 384)])
            if len(sources) < 100:
                journal.commit()
    return place


def positions(data: Path, offer: JournalOffer = NEW) -> list[tuple[bytes, int, int]]:
    return [(one.path, one.generation, one.position) for one in known_sources(data, "a", offer)]


def test_the_newest_journal_that_knows_a_path_counts(tmp_path: Path) -> None:
    """A file that stayed idle since an earlier loss is known from before; generations of two journals never mix."""
    incarnation(tmp_path, 1, b"1" * 16, {(b"/idle", 1): 5, (b"/busy", 1): 9, (b"/busy", 7): 90})
    incarnation(tmp_path, 2, b"2" * 16, {(b"/busy", 1): 30, (b"/busy", 2): 4})
    assert positions(tmp_path) == [(b"/busy", 2, 4), (b"/idle", 1, 5), (b"/busy", 1, 30)]


def test_a_journals_own_incarnations_say_nothing(tmp_path: Path) -> None:
    """Begun before the node was killed; or lines that the node has lost: they end up in a branch."""
    incarnation(tmp_path, 1, b"1" * 16, {(b"/a", 1): 5})
    incarnation(tmp_path, 2, NEW.journal_id, {})
    assert positions(tmp_path) == [(b"/a", 1, 5)]
    incarnation(tmp_path, 3, NEW.journal_id, {(b"/a", 1): 50})
    assert positions(tmp_path) == [(b"/a", 1, 5)]


def test_a_damaged_archive_is_named_and_the_older_one_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    incarnation(tmp_path, 1, b"1" * 16, {(b"/a", 1): 5})
    place = incarnation(tmp_path, 2, b"2" * 16, {(b"/a", 1): 50})
    for segment in place.glob("*.jls"):
        content = bytearray(segment.read_bytes())
        content[:128] = bytes(128)
        segment.write_bytes(content)
    assert positions(tmp_path) == [(b"/a", 1, 5)]
    assert str(place) in caplog.text


def test_nothing_is_given_unasked_nor_where_nothing_is(tmp_path: Path) -> None:
    incarnation(tmp_path, 1, b"1" * 16, {(b"/a", 1): 5})
    unasked, unknown = replace(NEW, wants_sources=False), replace(NEW, journal="other")
    assert give_back(tmp_path, "a", [unasked, unknown], [ABSENT, ABSENT]) == (ABSENT, ABSENT)


def test_what_does_not_fit_is_the_oldest_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each path's newest generation first; the answer passes the node's own check."""
    caplog.set_level(logging.WARNING)
    path = b"/logs/" + b"p" * 3000
    sources = {(path + b"%04d" % number, generation): 1 for number in range(400) for generation in (1, 2)}
    incarnation(tmp_path, 1, b"1" * 16, sources)
    (end,) = give_back(tmp_path, "a", [NEW], [ABSENT])
    check_welcome(Welcome((end,), 0), 1)
    assert 400 < len(end.sources) < 800
    assert all(one.generation == 2 for one in end.sources[:400])
    assert sum(one.length for one in end.sources) > SOURCES_BYTES_MAX - 4000
    assert f"{800 - len(end.sources)} positions" in caplog.text


def test_a_journal_that_comes_back_goes_on_in_its_own_incarnation(tmp_path: Path) -> None:
    """Journal ids A, B, A (a spool that was not mounted for a while): A goes on where it ended."""
    ids = [b"A" * 16, b"B" * 16]
    offers = [JournalOffer("app", journal_id, Offset(0), Offset(9), Offset(0)) for journal_id in ids]
    with Archive.open(tmp_path, epoch=1) as archive:
        for count, journal_id in enumerate(ids, 1):
            replica = archive.begin("n", "app", journal_id, first=Offset(0))
            with Journal.open(tmp_path / f"node{count}", journal_id=journal_id) as journal, journal.reader() as reader:
                for _ in range(count):
                    journal.append_lines(b"line\n")
                    journal.commit()
                for view in reader.frames(0):
                    replica.journal.append_frame(bytes(view.frame))
            archive.commit([replica])
        ends, replicas = find(archive, "n", offers)
        assert [(end.present, end.next_offset) for end in ends] == [(True, 1), (True, 2)]
        assert [replica.number for replica in replicas if replica] == [1, 2]
    with Archive.open(tmp_path, epoch=2) as archive:
        ends, replicas = find(archive, "n", offers)
        assert [(end.present, end.next_offset) for end in ends] == [(True, 1), (True, 2)]
        newest = archive.current("n", "app")
        assert newest is not None
        assert newest.number == 2
