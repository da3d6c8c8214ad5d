"""Programs of the operator's: as they were given, in the view, for a limited time, with their last words kept."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from jlogd.attach import hook
from jlogd.attach.hook import OUTPUT_MAX, Ran
from jlogd.runtime.errors import StorageError
from tests.support.faulty_fs import FaultyFs

TIMEOUT_S = 20.0


def run(tmp_path: Path, *argv: str, timeout_s: float = TIMEOUT_S, stopping: threading.Event | None = None) -> Ran:
    return hook.run(argv, tmp_path, {"JLOGD_REVISION": "7"}, timeout_s, stopping or threading.Event())


def python(tmp_path: Path, text: str) -> Ran:
    return run(tmp_path, sys.executable, "-c", text)


def test_a_program_gets_its_words_environment_and_directory(tmp_path: Path) -> None:
    (tmp_path / "print").write_text('#!/bin/sh\npwd; echo "$1|$2|$#"; echo "$JLOGD_REVISION" >&2; cat\n')
    (tmp_path / "print").chmod(0o755)
    ran = run(tmp_path, "./print", "a b; $HOME", "*")
    assert (ran.code, ran.error) == (0, "")
    assert ran.output.decode().splitlines() == [str(tmp_path), "a b; $HOME|*|2", "7"]


@pytest.mark.parametrize(
    ("argv", "code", "error"),
    [
        (("sh", "-c", "echo one; echo two >&2; echo; exit 3"), 3, "sh: exit 3: two"),
        (("sh", "-c", "kill -9 $$"), -9, "sh: signal 9"),
        (("./nothing",), 127, "./nothing: exit 127: "),
        (("false",), 1, "false: exit 1"),
    ],
)
def test_how_it_went_is_one_line(tmp_path: Path, argv: tuple[str, ...], code: int, error: str) -> None:
    ran = run(tmp_path, *argv)
    assert ran.code == code
    assert ran.error.startswith(error)
    assert "\n" not in ran.error


def test_a_directory_that_is_gone_is_an_error_of_the_program(tmp_path: Path) -> None:
    assert "gone" in run(tmp_path / "gone", "true").error
    assert run(tmp_path, "tr\0ue").error.startswith("tr\0ue: cannot be started: ")


def test_time_is_limited_for_the_whole_group(tmp_path: Path) -> None:
    """The program's children go with it, even when they keep its output open."""
    began_s = time.monotonic()
    ran = run(tmp_path, "sh", "-c", "echo begun; sleep 300 & echo $! > child; wait", timeout_s=0.5)
    assert ran.error == "sh: did not end within 0.5 s: begun"
    assert ran.code is None
    assert time.monotonic() - began_s < TIMEOUT_S
    child = int((tmp_path / "child").read_text())
    assert ended(child)


def ended(process: int) -> bool:
    """Within the deadline; a zombie that nobody waits for has ended."""
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_a_program_that_never_stops_talking_does_not_escape_its_limit(tmp_path: Path) -> None:
    ran = run(tmp_path, "yes", "x" * 1000, timeout_s=0.3)
    assert ran.problem
    assert len(ran.output) == OUTPUT_MAX


def test_the_last_output_is_kept(tmp_path: Path) -> None:
    ran = python(tmp_path, f"print('x' * {3 * OUTPUT_MAX}); print('end')")
    assert ran.code == 0
    assert len(ran.output) == OUTPUT_MAX
    assert ran.output.endswith(b"xx\nend\n")


def test_a_program_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    ran = run(tmp_path, "sh", "-c", "exec >&- 2>&-; sleep 0.3; exit 4")
    assert ran.code == 4
    assert ran.seconds > 0.2


def test_a_daemon_that_is_left_behind_is_not_waited_for(tmp_path: Path) -> None:
    ran = run(tmp_path, "sh", "-c", "echo started; sleep 300 & echo $! > child; exit 0")
    try:
        assert (ran.code, ran.output) == (0, b"started\n")
        assert ran.seconds < TIMEOUT_S / 2
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_signals_that_jlogd_blocks_are_not_blocked_in_the_program(tmp_path: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        ran = python(tmp_path, "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert ran.output == b"set()\n"


def test_when_jlogd_stops_the_program_ends(tmp_path: Path) -> None:
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    ran = run(tmp_path, "sleep", "300", stopping=stopping)
    assert ran.problem == "ended, because jlogd stops"


def test_the_output_is_written_down_with_how_it_went(tmp_path: Path) -> None:
    ran = run(tmp_path, "sh", "-c", "echo words; exit 3")
    hook.keep_output(tmp_path / "reload.log", ran, 12)
    head, _, rest = (tmp_path / "reload.log").read_text().partition("\n")
    assert " r12 exit 3 after " in head
    assert rest == "words\n"
    with pytest.raises(StorageError, match=r"reload\.log: the output of the reload command is not kept"):
        hook.keep_output(tmp_path / "reload.log", ran, 13, fs=FaultyFs(1))
    assert " r12 " in (tmp_path / "reload.log").read_text()
