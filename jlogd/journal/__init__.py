"""A durable journal as a library: segments of checksummed frames with named subscribers.

``Journal`` is the one writer, ``Reader`` any reader; ``model`` has the words. The bytes are
described in ``docs/journal-format.md``.
"""

from jlogd.journal.checkpoint import Subscriber
from jlogd.journal.inspect import JournalView, Lag, committed_sources, inspect, lag_of
from jlogd.journal.journal import Journal
from jlogd.journal.model import (
    Base,
    Damage,
    Entry,
    Gap,
    GapKind,
    JournalOptions,
    Offset,
    Run,
    RunFlags,
    SourceKey,
    SourceState,
    Term,
    Tip,
)
from jlogd.journal.reader import Reader
from jlogd.journal.recovery import Recovery
from jlogd.journal.segment import FrameView

__all__ = [
    "Base",
    "Damage",
    "Entry",
    "FrameView",
    "Gap",
    "GapKind",
    "Journal",
    "JournalOptions",
    "JournalView",
    "Lag",
    "Offset",
    "Reader",
    "Recovery",
    "Run",
    "RunFlags",
    "SourceKey",
    "SourceState",
    "Subscriber",
    "Term",
    "Tip",
    "committed_sources",
    "inspect",
    "lag_of",
]
