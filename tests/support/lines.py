"""Log lines that can be told apart: numbered, of very different lengths, the same for the same seed.

Number ``n`` of writer ``name`` is ``NAME NNNNNNNNNN BODY``; the body comes from a pool, by a
multiplicative hash of the number, so a writer needs no state but the number.
"""

import random
from collections.abc import Sequence

_POOL = 2048
_STEP = 2654435761  # Knuth's multiplicative hash: neighbours get unrelated bodies
_ODD = [
    b"",
    b" ",
    b"\ttab\tand  spaces ",
    b"carriage return\r",
    b"\x00\x00NUL bytes\x00",
    b"\xff\xfe not UTF-8 \x80",
    "Grüße, 世界, 🚀".encode(),
    b"\x1b[31mred\x1b[0m",
]


def bodies(seed: int, *, longest: int = 1500) -> list[bytes]:
    """The pool of a seed: mostly 20-300 bytes as log lines are, a few empty, binary, or up to ``longest`` bytes."""
    rng = random.Random(seed)
    letters = b"abcdefghijklmnopqrstuvwxyz     0123456789=:/[]<>.,-"
    pool = []
    for index in range(_POOL):
        if index % 64 == 0:
            pool.append(_ODD[(index // 64) % len(_ODD)])
            continue
        length = rng.randrange(300, longest) if index % 100 == 1 else rng.randrange(20, 300)
        pool.append(bytes(rng.choices(letters, k=length)))
    return pool


def block(name: bytes, first: int, end: int, pool: Sequence[bytes]) -> bytes:
    """Lines ``[first, end)``, each with its newline."""
    size = len(pool)
    return b"".join([b"%b %010d %b\n" % (name, n, pool[(n * _STEP >> 7) % size]) for n in range(first, end)])


def number(line: bytes) -> int | None:
    """The number of a line, with or without what follows it; None when the line has none."""
    _, _, rest = line.partition(b" ")
    digits = rest[:10]
    return int(digits) if len(digits) == 10 and digits.isdigit() else None
