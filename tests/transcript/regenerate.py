"""Write the transcripts anew, on purpose: ``python -m tests.transcript.regenerate [NAME…]``; review the diff."""

import sys
from pathlib import Path

from tests.transcript.attach_world import AttachWorld
from tests.transcript.world import World

HERE = Path(__file__).parent


def script(text: str) -> list[str]:
    """The lines that a person wrote: commands, comments, blank lines."""
    return [line for line in text.splitlines() if not line.startswith("  ")]


def run(path: Path) -> str:
    """The script with what it causes; those in ``attach`` are of Attach, the others of Deliver."""
    text = path.read_text()
    world = AttachWorld() if path.parent.name == "attach" else World()
    out = []
    for line in script(text):
        out.append(line)
        if line.startswith("> "):
            world.command(line[2:].split())
            out += world.lines
            world.lines.clear()
    return "\n".join(out) + "\n"


def transcripts() -> list[Path]:
    """Every transcript, by name."""
    return sorted(HERE.glob("**/*.txt"))


if __name__ == "__main__":
    for path in transcripts():
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            path.write_text(run(path))
            print(path)
