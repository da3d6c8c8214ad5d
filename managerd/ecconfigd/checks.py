"""The operator's own checks: programs of ``[config] checks`` that look at the tree that a commit would make.

Each gets a directory with the whole tree as its only argument and working directory, runs as ``checks_user`` in a
session of its own within limits, and says what is wrong as lines ``path:line: problem``; status 0 = nothing is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jlogd.confrepo.model import Fault

if TYPE_CHECKING:
    from managerd.ecconfigd.candidate import Candidate


class Checks:
    """See the module. ``run`` from any thread, one at a time. ``close`` removes the checkout."""

    def __init__(self, programs: Sequence[Path], *, directory: Path, user: str, timeout_s: float) -> None:
        """``directory``: where the checkout goes; made anew."""
        raise NotImplementedError

    def run(self, candidate: "Candidate", *, author: str, message: str) -> list[Fault]:
        """What the programs say of ``candidate``."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove the checkout."""
        raise NotImplementedError
