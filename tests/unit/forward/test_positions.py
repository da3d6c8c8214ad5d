"""Positions that come back: whose answer counts, when it counts, and that it is stored whole or asked for again."""

import threading
from pathlib import Path

import pytest

from jlogd.forward.messages import (
    OFFSET_MAX,
    SOURCES_BYTES_MAX,
    ProtocolError,
    ReplicaEnd,
    SourcePosition,
    Welcome,
    check_welcome,
)
from jlogd.forward.positions import Awaited, is_new, store
from jlogd.journal import Journal, Run
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import StorageError
from tests.support.faulty_fs import FaultyFs

ONE = (SourcePosition(b"/var/log/a", 3, 77, b"s" * 80, b"l" * 16),)
OTHER = (SourcePosition(b"/var/log/a", 3, 99, b"s" * 80, b""),)


def test_the_first_that_has_something_decides() -> None:
    """Later answers, also of the same manager, change nothing."""
    awaited = Awaited("app", 3)
    awaited.answer("m1", "m1", ())
    awaited.answer("m2", "m2", ONE)
    assert not awaited.pending
    awaited.answer("m3", "m3", OTHER)
    assert awaited.wait(threading.Event()) == ONE


def test_none_counts_when_all_have_none() -> None:
    """A manager that answers twice, or is too old to answer, is one manager that has nothing."""
    awaited = Awaited("app", 2, clock=ManualClock())
    awaited.answer("m1", "m1", ())
    awaited.answer("m1", "m1", ())
    assert awaited.pending
    awaited.answer("m2", "m2", None)
    assert awaited.wait(threading.Event()) == ()
    assert not awaited.pending


def test_none_counts_after_a_while_when_the_others_stay_away() -> None:
    """A dead manager does not keep the node from reading for ever."""
    clock = ManualClock()
    awaited = Awaited("app", 2, grace_s=10.0, clock=clock)
    awaited.answer("m1", "m1", ())
    clock.advance(9.9)
    assert awaited.pending
    clock.advance(0.1)
    assert awaited.wait(threading.Event()) == ()


def test_a_stop_ends_the_wait() -> None:
    """And an answer that comes then is not taken."""
    awaited, stopping = Awaited("app", 1), threading.Event()
    got: list[object] = []
    waiter = threading.Thread(target=lambda: got.append(awaited.wait(stopping)))
    waiter.start()
    stopping.set()
    awaited.wake()
    waiter.join(10.0)
    assert got == [None]
    awaited.answer("m1", "m1", ONE)
    assert not awaited.pending


def many(count: int, position: int) -> list[SourcePosition]:
    """More than one frame of notes can hold."""
    return [SourcePosition(b"/logs/%04d" % n, 1, position + n, b"s" * 80, b"l" * 384) for n in range(count)]


def test_stored_positions_are_the_journals_sources(tmp_path: Path) -> None:
    """After the commit they survive, and the journal is not new any more; without lines it still ends at 0."""
    with Journal.open(tmp_path / "j") as journal:
        assert is_new(journal)
        store(journal, many(300, 7))
        journal.commit()
        assert not is_new(journal)
    with Journal.open(tmp_path / "j") as journal:
        assert not is_new(journal)
        assert journal.end == 0
        assert {key: state.position for key, state in journal.sources.items()} == {
            (b"/logs/%04d" % number, 1): 7 + number for number in range(300)
        }


def test_torn_anywhere_it_asks_again_or_has_all(tmp_path: Path) -> None:
    """The file with the notes cut at any place: a start finds either all positions or a journal that is still new."""
    with Journal.open(tmp_path / "j") as journal:
        store(journal, many(300, 7))
        journal.commit()
        whole = next((tmp_path / "j").glob("*.jls"))
        content = whole.read_bytes()  # of an open journal, as kill -9 leaves it
    begun = 0
    for length in range(len(content), 0, -2999):
        place = tmp_path / f"cut-{length}"
        place.mkdir()
        (place / whole.name).write_bytes(content[:length])
        with Journal.open(place) as journal:
            if is_new(journal):
                begun += bool(journal.sources)
                store(journal, many(2, 50))
                journal.commit()
                assert sorted(state.position for state in journal.sources.values()) == [50, 51], "nothing is left over"
            else:
                assert len(journal.sources) == 300
    assert begun > 3, "some cuts left a part"


def test_a_disk_that_refuses_loses_no_position(tmp_path: Path) -> None:
    """The commit that succeeds later has them all."""
    fs = FaultyFs()
    with Journal.open(tmp_path / "j", fs=fs) as journal:
        fs.fail_at, fs.sticky = fs.operations + 1, True
        store(journal, many(300, 7))
        with pytest.raises(StorageError):
            journal.commit()
        fs.heal()
        journal.commit()
        assert not is_new(journal)
        assert len(journal.sources) == 300


def test_a_journal_that_knows_positions_is_not_new(tmp_path: Path) -> None:
    """As start_at = "end" leaves one that has no lines yet."""
    with Journal.open(tmp_path / "j") as journal:
        journal.note_sources([Run(b"/a", 1, 0, 0, 9)])
        journal.commit()
        assert not is_new(journal)


@pytest.mark.parametrize(
    "position",
    [
        SourcePosition(b"relative", 1, 0, b"", b""),
        SourcePosition(b"", 1, 0, b"", b""),
        SourcePosition(b"/" * 4097, 1, 0, b"", b""),
        SourcePosition(b"/a", 0, 0, b"", b""),
        SourcePosition(b"/a", 1, OFFSET_MAX + 1, b"", b""),
        SourcePosition(b"/a", 1, 0, b"s" * 4097, b""),
        SourcePosition(b"/a", 1, 0, b"", b"l" * 4097),
    ],
)
def test_absurd_positions_end_the_session(position: SourcePosition) -> None:
    with pytest.raises(ProtocolError):
        check_welcome(Welcome((ReplicaEnd(present=False, sources=(position,)),), 0), 1)


def test_too_many_positions_end_the_session() -> None:
    count = SOURCES_BYTES_MAX // ONE[0].length
    check_welcome(Welcome((ReplicaEnd(present=False, sources=ONE * count),), 0), 1)
    with pytest.raises(ProtocolError):
        check_welcome(Welcome((ReplicaEnd(present=False, sources=ONE * (count + 1)),), 0), 1)
