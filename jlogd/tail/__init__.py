"""Following files: log lines and where they stand, exactly once per generation of content.

Owns which bytes of which file are delivered next; knows nothing of how they are stored.
``Tailer`` is the face; ``model`` has its words; ``identity``, ``siblings`` and ``position``
are pure; ``follower`` follows one path.
"""

from jlogd.tail.model import History, Item, Lines, Missing, Note, SourceStatus, TailSpec
from jlogd.tail.tailer import Tailer

__all__ = ["History", "Item", "Lines", "Missing", "Note", "SourceStatus", "TailSpec", "Tailer"]
