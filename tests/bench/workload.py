"""Deterministic workload files: the same bytes for the same arguments, on every machine.

mail: mail-log-like lines of about 219 bytes (4,564,000 of them are 1 GB); short: exactly 64 bytes a
line. Every line ends with `` seq=NNNNNNNNNN``, so loss, doubles, order and torn lines can be counted.

    python -m tests.bench.workload --kind mail --lines 4564000 --out mail.log
"""

import argparse
import os
import random
import sys
import time
from pathlib import Path

KINDS = ("mail", "short")
POOL = 4096
_CHUNK = 20_000  # lines per write
_START_S = 1_700_000_000
_LINES_PER_S = 2000  # of the made-up clock that stamps the lines
_WORDS = ["alpha", "bravo", "delta", "echo", "golf", "hotel", "india", "kilo", "lima", "mike", "nova", "oscar", "papa"]
_DOMAINS = [
    "example.com",
    "example.net",
    "mail.example.org",
    "lists.example.edu",
    "corp.example.co.uk",
    "shop.example.de",
]


def _mail(rng: random.Random) -> str:
    """One line without time and number."""
    queue_id = f"{rng.getrandbits(40):010X}"
    user = f"{rng.choice(_WORDS)}.{rng.choice(_WORDS)}{rng.randrange(1000)}"
    domain = rng.choice(_DOMAINS)
    address = f"198.51.{rng.randrange(256)}.{rng.randrange(256)}"
    host, pid = f"mx{rng.randrange(1, 9):02d}", rng.randrange(1000, 32768)
    kind = rng.randrange(10)
    if kind < 4:
        return (
            f"{host} postfix/smtp[{pid}]: {queue_id}: to=<{user}@{domain}>, relay=mx.{domain}[{address}]:25, "
            f"delay={rng.random() * 9:.2f}, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as {rng.getrandbits(40):010X})"
        )
    if kind < 6:
        return (
            f"{host} postfix/cleanup[{pid}]: {queue_id}: message-id=<{rng.getrandbits(64):016x}.{user}@{domain}> "
            f"header Subject: re: {rng.choice(_WORDS)} {rng.choice(_WORDS)} report from {domain}[{address}]; "
            "proto=ESMTP"
        )
    if kind < 8:
        return (
            f"{host} postfix/qmgr[{pid}]: {queue_id}: from=<bounce-{rng.randrange(10**6)}-{user}="
            f"{domain}@{rng.choice(_DOMAINS)}>, size={rng.randrange(500, 9_000_000)}, nrcpt={rng.randrange(1, 9)} "
            f"(queue active) client={domain}[{address}]"
        )
    if kind < 9:
        return (
            f"{host} dovecot: imap-login: Login: user=<{user}@{domain}>, method=PLAIN, rip={address}, lip=192.0.2.1, "
            f"mpid={pid}, TLS, session=<{rng.getrandbits(64):016x}>"
        )
    return (
        f"{host} postfix/smtpd[{pid}]: NOQUEUE: reject: RCPT from unknown[{address}]: 554 5.7.1 <{user}@{domain}>: "
        f"Relay access denied; from=<{user}@{domain}> proto=ESMTP helo=<host-{address.replace('.', '-')}.{domain}>"
    )


def _short(rng: random.Random) -> str:
    """32 bytes, so that the line has 64 with time, number and newline."""
    text = f"mx{rng.randrange(1, 9):02d} smtpd[{rng.randrange(10000, 32768):05d}]: {rng.getrandbits(32):08X} q=ok"
    return text.ljust(32, ".")[:32]


def write(kind: str, lines: int, out: Path) -> None:
    """Write the workload to ``out``."""
    rng = random.Random(20240101)
    pool = [_mail(rng) if kind == "mail" else _short(rng) for _ in range(POOL)]
    with out.open("w", encoding="ascii", newline="\n", buffering=1 << 20) as file:
        for start in range(0, lines, _CHUNK):
            text = []
            for number in range(start, min(start + _CHUNK, lines)):
                if number % _LINES_PER_S == 0 or number == start:
                    stamp = time.strftime("%b %d %H:%M:%S", time.gmtime(_START_S + number // _LINES_PER_S))
                text.append(f"{stamp} {pool[(number * 2654435761 >> 7) % POOL]} seq={number:010d}\n")
            file.write("".join(text))


def workload(kind: str, lines: int, directory: Path) -> Path:
    """The workload file in ``directory``, made when it is not there, and in the page cache."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{kind}-{lines}.log"
    if not path.exists():
        part = path.with_suffix(".part")
        write(kind, lines, part)
        os.replace(part, path)
    with path.open("rb") as file:
        while file.read(1 << 22):
            pass
    return path


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, default="mail")
    parser.add_argument("--lines", type=int, default=4_564_000)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    write(chosen.kind, chosen.lines, chosen.out)
    print(f"{chosen.out}: {chosen.out.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
