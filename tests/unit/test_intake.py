"""The intake: order, one frame for a gap and its position, and a disk that says no."""

import errno
import threading
from pathlib import Path

from jlogd.intake import Intake, JournalHistory
from jlogd.journal import GapKind, Journal, JournalOptions
from jlogd.runtime.clock import ManualClock
from jlogd.tail import Tailer, TailSpec
from tests.support.daemon import until
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
            until(lambda: intake.error is not None, 10.0, "the disk refuses")
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


def test_hundreds_of_files_in_one_frame_and_their_snapshot(tmp_path: Path) -> None:
    """Runs of 700 files do not fit one frame's metadata, nor does the snapshot of their positions one header frame."""
    paths = [tmp_path / "logs" / f"{'long-name-' * 8}{number:04d}.log" for number in range(700)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(lines(2))
    options = JournalOptions(segment_bytes=64 << 10)
    with Journal.open(tmp_path / "j", options=options) as journal:
        spec = TailSpec((str(tmp_path / "logs" / "*.log"),))
        tailer = Tailer([spec], journal.sources, JournalHistory(journal), events=False)
        intake = Intake("app", journal, tailer, commit_delay_s=0.0)
        while items := tailer.poll(1 << 20):
            for item in items:
                intake._take(item)
        intake._commit(threading.Event())
        assert journal.end == 1400
        tailer.close()
    with Journal.open(tmp_path / "j", options=options) as journal:
        positions = {source: known.position for (source, _), known in journal.sources.items()}
        assert positions == {bytes(path): 128 for path in paths}
        journal.append(b"begins a segment with the whole snapshot")
        journal.commit()
    with Journal.open(tmp_path / "j", options=options) as journal:
        assert len(journal.sources) == 700
        assert not journal.recovery.damage
        assert sum(1 for _ in journal.read()) == 1401
