"""What is wrong with a tree that a commit would make: syntax, `$unset`, secrets, schemas, settings of our own, clashes.

Only what a change can affect is looked at: for each changed path the distinct files that result from it for real nodes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jlogd.confrepo.model import Fault, Scope

if TYPE_CHECKING:
    from managerd.ecconfigd.candidate import Candidate

FAULTS_MAX = 100  # of one commit: nobody reads more


def validate(candidate: "Candidate", nodes: Sequence[Scope]) -> list[Fault]:
    """Faults by path and line, at most ``FAULTS_MAX``. ``nodes``: those that are known beside the tree's."""
    raise NotImplementedError
