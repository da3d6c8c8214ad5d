"""How the C library's allocator treats our large, short-lived buffers (glibc's mallopt(3)).

By default each buffer of 128 KiB and more is mapped and unmapped again: measured at 1 GB of log,
180,000 page faults and half a CPU second. With a high threshold they are reused from the heap,
in two arenas; ``give_back`` returns what an idle process does not need.
"""

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_REUSED_BYTES = 32 << 20  # glibc takes no mmap threshold above this (HEAP_MAX_SIZE / 2)
_ARENAS = 2  # each keeps its own free memory: more of them cost more than they speed up


def reuse_large_buffers() -> None:
    """Tune the allocator; call once at the start of a daemon. Does nothing on other C libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _REUSED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _REUSED_BYTES)
        mallopt(_M_TOP_PAD, 1 << 20)


def give_back() -> None:
    """Return free heap memory to the system; worth calling after a start and when a daemon becomes idle."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
