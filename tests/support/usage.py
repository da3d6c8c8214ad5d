"""What a process costs, from /proc: CPU seconds and resident memory."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU in seconds (user + system, all threads, since start), memory in bytes."""

    cpu_s: float
    rss_bytes: int
    rss_peak_bytes: int


def usage(pid: int) -> Usage:
    """Of process ``pid``, now. ProcessLookupError when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    sizes = {key: value for key, _, value in (line.partition(":") for line in status.splitlines())}
    return Usage(
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
        rss_bytes=_kib(sizes.get("VmRSS", "0 kB")),
        rss_peak_bytes=_kib(sizes.get("VmHWM", "0 kB")),
    )


def _kib(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) * 1024


def listening(port: int) -> bool:
    """Whether somebody on this machine listens on ``port``; asks the kernel, so that no peer is disturbed."""
    want = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        path = Path(table)
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == "0A" and fields[1].endswith(want):
                return True
    return False
