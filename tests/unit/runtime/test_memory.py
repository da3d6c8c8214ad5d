"""Giving memory back shrinks the process and breaks nothing."""

import subprocess
import sys

PROGRAM = """
import zlib, ssl, sqlite3
from jlogd.runtime import memory

def resident_kb(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what + ":"))

memory.reuse_large_buffers()
blocks = [bytes([n]) * (1 << 20) for n in range(1, 40)]
del blocks
import jlogd.app
before = resident_kb("VmRSS"), resident_kb("RssFile")
memory.give_back()
after = resident_kb("VmRSS"), resident_kb("RssFile")
assert zlib.decompress(zlib.compress(b"x" * 100_000)) == b"x" * 100_000
ssl.create_default_context()
print(before[0] - after[0], before[1] - after[1])
"""


def test_memory_is_given_back_and_code_still_runs() -> None:
    """Free heap and idle code go; whatever is called afterwards works."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    total_kb, code_kb = map(int, done.stdout.split())
    assert total_kb > 30_000  # the freed blocks alone are 39 MiB
    assert code_kb > 1_000
