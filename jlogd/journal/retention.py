"""Which segments may go: those that every subscriber is past, but for a short floor.

The floor is proof, not history: when the power goes, a source loses what its writer wrote in the last
half minute or so, and where exactly it was cut is found by comparing it with these records
(``jlogd.tail.proof``). Without them lines could be read twice.
"""

from jlogd.journal.model import JournalOptions
from jlogd.journal.segment import SegmentName


def oldest_needed(visible: list[SegmentName], needed: int, now_ns: int, options: JournalOptions) -> int:
    """Index of the oldest segment to keep. ``needed``: the lowest checkpoint; ``visible`` oldest first, not empty.

    The newest segment always stays, so end, chain and source positions never go.
    """
    newest = len(visible) - 1
    index = next((at for at in range(newest) if visible[at + 1].first > needed), newest)
    total = 0
    for at in range(newest, -1, -1):
        found = visible[at].path.stat()
        total += found.st_size
        if now_ns - found.st_mtime_ns > options.proof_age_s * 1e9 or total > options.proof_bytes:
            break
        index = min(index, at)
    return index
