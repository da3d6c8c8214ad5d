"""Tiny files, real clock, milliseconds: writers that rotate faster than time stamps tell.

    python -m tests.fault.tail_fuzz --seed 1 --rounds 600 [--headers]

One process: a seeded writer (append, rename, copytruncate, compress) and a tailer that may look between
any two steps, also between copy and truncation. The writer keeps the truth. With ``headers`` each
generation begins with the same line, so that bytes alone do not always tell them apart: then a
difference counts only when no gap speaks of it.
"""

import argparse
import gzip
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from jlogd.tail import Tailer, TailSpec
from tests.unit.tail.harness import Collector

ROTATE_WAIT_S = 0.03
SETTLE_S = 0.1  # longer than every wait of the tailer with this ``ROTATE_WAIT_S``
DEADLINE_S = 5.0
HEADER = b"# header\n"


@dataclass
class Fuzz:
    """One run in ``folder``."""

    folder: Path
    seed: int
    headers: bool = False
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed} {self.headers}")
        self.log = self.folder / "app.log"
        self.log.touch()
        self.written = [b""]
        self.kept = 0  # rotated generations
        self.lines = 0
        self.journal = Collector()
        self._start()
        self.poll()

    def _start(self) -> None:
        spec = TailSpec((str(self.log),), rotate_wait_s=ROTATE_WAIT_S)
        self.tailer = Tailer([spec], self.journal.sources(), self.journal, events=False)

    def poll(self) -> None:
        """Look once, commit."""
        self.story.append("poll")
        for item in self.tailer.poll(1 << 20):
            self.journal.append(item)
        self.journal.commit()

    def restart(self) -> None:
        """Stop, perhaps for some steps' time, and start again."""
        self.story.append("restart")
        self.tailer.close()
        self._start()

    def append(self) -> None:
        """One to three lines of equal length, so that sizes tell nothing."""
        text = HEADER if self.headers and not self.written[-1] else b""
        for _ in range(self.rng.choice([0 if text else 1, 1, 1, 2])):
            self.lines += 1
            text += b"%06d\n" % self.lines
        if self.rng.random() < 0.05:
            text = text[:-1]  # the next one ends it, or it stays without an end
        with self.log.open("ab", buffering=0) as file:
            file.write(text)
        self.written[-1] += text
        self.story.append(f"append {text!r}")

    def rotate(self) -> None:
        """Numbered names; rename or copytruncate, then perhaps compress one."""
        if not self.written[-1]:
            return
        self._shift()
        target = self.log.with_name("app.log.1")
        if self.rng.random() < 0.7:
            shutil.copyfile(self.log, target)
            self.story.append("copy")
            if self.rng.random() < 0.3:
                self.poll()
                self.pause()
            os.truncate(self.log, 0)
            self.story.append("truncate")
        else:
            self.log.rename(target)
            self.log.touch()
            self.story.append("rename")
        self.written.append(b"")

    def _shift(self) -> None:
        for number in range(self.kept, 0, -1):
            for ending in ("", ".gz"):
                old = self.log.with_name(f"app.log.{number}{ending}")
                if old.exists():
                    if not ending and number > 1 and self.rng.random() < 0.3:
                        old = self._compress(old)
                    old.rename(self.log.with_name(f"app.log.{number + 1}{old.suffix if old.suffix == '.gz' else ''}"))
                    break
        self.kept += 1

    def _compress(self, old: Path) -> Path:
        new = old.with_name(old.name + ".gz")
        new.write_bytes(gzip.compress(old.read_bytes(), 1))
        old.unlink()
        self.story.append(f"compress {old.name}")
        return new

    def pause(self) -> None:
        """0 to 5 ms, often none."""
        if self.rng.random() < 0.5:
            time.sleep(self.rng.random() * 0.005)

    def run(self) -> str:
        """Empty, or what differs and how it came."""
        for _ in range(self.rng.randint(4, 40)):
            chosen = self.rng.random()
            if chosen < 0.45:
                self.append()
            elif chosen < 0.7:
                self.rotate()
            elif chosen < 0.97:
                self.poll()
            else:
                self.restart()
            self.pause()
        if self.rng.random() < 0.5:  # what is overlooked now is overlooked for good
            self.poll()
            self.rotate()
        # Siblings of a path without content are looked at once a second only, and a header alone that equals the one
        # before is decided when more comes.
        self.append()
        self.append()
        self._settle()
        self.tailer.close()
        return self._judge()

    def _settle(self) -> None:
        """Until nothing has come for ``SETTLE_S``."""
        until_s, quiet_s = time.monotonic() + DEADLINE_S, time.monotonic() + SETTLE_S
        while time.monotonic() < min(until_s, quiet_s):
            before = len(self.journal.items)
            self.poll()
            if len(self.journal.items) != before:
                quiet_s = time.monotonic() + SETTLE_S
            time.sleep(0.002)

    def _judge(self) -> str:
        last = self.written[-1]
        wanted = [*self.written[:-1], last[: last.rfind(b"\n") + 1]]
        found = [text for _, text in sorted(self.journal.text().items())]
        if [text for text in found if text] == [text for text in wanted if text]:
            return ""
        if self.headers and self.journal.gaps():
            return ""
        gaps = "".join(f"{gap}\n" for gap in self.journal.gaps())
        story = "\n".join(self.story)
        return f"seed {self.seed}\n{story}\nwanted {wanted}\nfound  {found}\n{gaps}"


def run_fuzz(seed: int, *, headers: bool) -> str:
    """One run in a folder of its own; empty when all is well."""
    with tempfile.TemporaryDirectory(prefix="tail-fuzz-") as folder:
        return Fuzz(Path(folder), seed, headers).run()


def main() -> int:
    """Exit 1 when any run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--headers", action="store_true")
    chosen = parser.parse_args()
    wrong = 0
    for seed in range(chosen.seed, chosen.seed + chosen.rounds):
        if difference := run_fuzz(seed, headers=chosen.headers):
            wrong += 1
            print(difference)
    print(f"{wrong} of {chosen.rounds} runs differ")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
