"""What a daemon asks of the allocator and the kernel about its memory (glibc and Linux; elsewhere nothing happens).

By default glibc maps and unmaps each buffer of 128 KiB and more: measured at 1 GB of log, 180,000 page
faults and half a CPU second. With a high threshold such buffers are reused from the heap, in two
arenas. What an idle process does not use it gives back: free heap, and the code that only the start
and the handshake needed (30 MB of mapped libraries, of which an idle agent runs a few).
"""

import contextlib
import ctypes
import gc
import re
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_REUSED_BYTES = 32 << 20  # glibc takes no mmap threshold above this (HEAP_MAX_SIZE / 2)
_ARENAS = 2  # each keeps its own free memory: more of them cost more than they speed up
_MADV_DONTNEED = 4
_LIBRARY_CODE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \d+ +/.*\.so[.0-9]*$", re.MULTILINE)

_libc = ctypes.CDLL(None)


def reuse_large_buffers() -> None:
    """Tune the allocator; call once at the start of a daemon."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _REUSED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _REUSED_BYTES)
        mallopt(_M_TOP_PAD, 1 << 20)


def give_back() -> None:
    """Give back what is not in use; worth calling after a start and when a daemon becomes idle.

    Code pages are clean and never written, so dropping them is safe at any moment: the next
    call into them maps them again from the page cache.
    """
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text(encoding="ascii", errors="replace")
        for found in _LIBRARY_CODE.finditer(maps):
            start, end = int(found[1], 16), int(found[2], 16)
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
