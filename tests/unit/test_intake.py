"""The intake: order, one frame for a gap and its position, and a disk that says no."""

import errno
import threading
from pathlib import Path

from jlogd.intake import Intake, JournalHistory
from jlogd.journal import GapKind, Journal, JournalOptions
from jlogd.runtime.clock import ManualClock
from jlogd.tail import Tailer, TailSpec
from tests.support.faulty_fs import FaultyFs


def lines(count: int, start: int = 0) -> bytes:
    """Numbered lines of 64 bytes."""
    return b"".join(b"line %010d %s\n" % (number, b"x" * 47) for number in range(start, start + count))


def test_a_gap_and_its_position_are_one_frame(tmp_path: Path) -> None:
    """A source that was emptied before it was read: the gap frame itself moves the position."""
    path = tmp_path / "app.log"
    path.write_bytes(lines(40_000))
    clock = ManualClock()
    with Journal.open(tmp_path / "j", clock=clock) as journal:
        tailer = Tailer([TailSpec((str(path),))], journal.sources, JournalHistory(journal), clock=clock, events=False)
        intake = Intake("app", journal, tailer, commit_delay_s=0.0, clock=clock)
        for item in tailer.poll(1):
            intake._take(item)
        path.write_bytes(lines(3, 90_000))
        for _ in range(40):
            for item in tailer.poll(1 << 20):
                intake._take(item)
            clock.advance(0.2)
        intake._commit(threading.Event())
        with journal.reader() as reader:
            frames = [view for view in reader.frames(0) if view.gap() is not None]
        tailer.close()
        assert len(frames) == 1
        gap = frames[0].gap()
        assert gap is not None
        assert (gap.kind, gap.generation, gap.end) == (GapKind.SOURCE, 1, 40_000 * 64)
        assert [(run.generation, run.record_count, run.position) for run in frames[0].runs()] == [(1, 0, gap.first)]
        text = b"".join(e.record + b"\n" for e in journal.read() if e.gap is None)
        assert text == lines(gap.first // 64) + lines(3, 90_000)


def test_a_disk_that_refuses_stops_the_intake_and_nothing_is_lost(tmp_path: Path) -> None:
    """While the disk says no the error shows; when it takes bytes again everything is there once."""
    path = tmp_path / "app.log"
    path.write_bytes(lines(30_000))
    fs = FaultyFs()
    options = JournalOptions(codec="none", segment_bytes=1 << 20)
    with Journal.open(tmp_path / "j", options=options, fs=fs) as journal:
        tailer = Tailer([TailSpec((str(path),))], journal.sources, JournalHistory(journal))
        intake = Intake("app", journal, tailer, commit_delay_s=0.0)
        fs.fail_at, fs.sticky, fs.error = fs.operations + 3, True, errno.ENOSPC
        stopping = threading.Event()
        thread = threading.Thread(target=intake.run, args=(stopping,))
        thread.start()
        try:
            refused = threading.Event()
            journal.listeners.append(refused.set)
            for _ in range(100):
                if intake.error is not None:
                    break
                refused.wait(0.1)
            assert "No space left" in (intake.error or "")
            fs.heal()
            assert journal.wait(29_999, 20.0)
        finally:
            stopping.set()
            tailer.wake()
            thread.join()
        assert intake.error is None
        assert b"".join(entry.record + b"\n" for entry in journal.read()) == lines(30_000)
        tailer.close()
