"""Which file is which generation of a path: the verdict, pure.

Device and inode only say where to look first; a proof by content (head, tail and
prefix hash, see ``position``) decides. Files come newest first, the path itself
before its rotated siblings.

* While the path still holds its newest generation, siblings hold nothing new.
* A generation found nowhere else may be the path under another inode (restored, copied back).
* Unknown files newer than the newest known one are **fresh**: they are read, oldest first.
  Unknown files older than a known one were there before we were, and are left alone.
* Files with few bytes in common prove little (equal headers): a generation that is final,
  or still held open, is recognised under another inode only by its exact end or by at
  least ``HEAD_MAX`` bytes; one that is not the newest comes back to the path itself only by
  the latter (inodes are given out again). ``doubt`` has what siblings can tell.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from jlogd.tail.position import HEAD_MAX


class Proof(Enum):
    """What the content of a file says about one generation."""

    NO = "no"
    PREFIX = "prefix"  # the same up to the generation's position
    EXACT = "exact"  # the same, and it ends there
    UNSURE = "unsure"  # cannot be read now, or a compressed stream is not whole yet


@dataclass(frozen=True, slots=True)
class Known:
    """A generation as remembered."""

    number: int
    dev: int
    ino: int
    position: int
    final: bool
    skipped: bool
    open: bool  # a descriptor on its content is held
    newest: bool = True  # no generation is newer

    @property
    def short(self) -> bool:
        """Whether what was read of it may be a header that all generations share."""
        return self.position < HEAD_MAX


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file as found."""

    dev: int
    ino: int
    current: bool  # it stands at the path itself
    compressed: bool = False


@dataclass(slots=True)
class Verdict:
    """``assigned``: generation → candidate index. ``fresh``: candidate indices, oldest first.

    ``ambiguous``: generations that go on at the path, or whose successor there began with the very same bytes.
    """

    assigned: dict[int, int] = field(default_factory=dict)
    fresh: list[int] = field(default_factory=list)
    unsure: list[int] = field(default_factory=list)
    ambiguous: set[int] = field(default_factory=set)
    duplicates: dict[int, int] = field(default_factory=dict)  # candidate index → generation: second copies


Prove = Callable[[Known, Candidate], Proof]


def same_inode(known: Known, candidate: Candidate) -> bool:
    """Device and inode agree: a reason to look, no proof."""
    return (known.dev, known.ino) == (candidate.dev, candidate.ino)


def accepts(known: Known, candidate: Candidate, proof: Proof) -> bool:
    """Whether ``proof`` is enough to call ``candidate`` this generation."""
    if proof in (Proof.NO, Proof.UNSURE) or (known.skipped and candidate.current):
        return False  # what comes back to the path itself is followed, whatever it was
    if same_inode(known, candidate):
        return known.newest or not (known.short and candidate.current)
    if known.open and candidate.current:
        return known.position >= HEAD_MAX
    if known.open or known.final:
        return proof is Proof.EXACT or known.position >= HEAD_MAX
    return True


def judge(known: Sequence[Known], candidates: Sequence[Candidate], prove: Prove) -> Verdict:
    """Assign files to generations; ``candidates`` newest first, the path itself (if it exists) at index 0."""
    verdict = Verdict()
    newest_known_first = sorted(known, key=lambda one: -one.number)
    taken: dict[int, int] = {}
    for one in newest_known_first:
        for index, candidate in enumerate(candidates):
            if index in taken or not same_inode(one, candidate):
                continue
            proof = prove(one, candidate)
            if accepts(one, candidate, proof):
                taken[index] = one.number
                verdict.assigned[one.number] = index
                break
            if proof is Proof.UNSURE and index not in verdict.unsure:
                verdict.unsure.append(index)
    siblings = [index for index, candidate in enumerate(candidates) if not candidate.current]
    path_itself = [index for index, candidate in enumerate(candidates) if candidate.current]
    for index in siblings + path_itself:
        lost = any(not one.final and not one.open and one.number not in verdict.assigned for one in known)
        if index in taken or (not lost and taken and index > min(taken)):
            continue
        _place(index, candidates[index], newest_known_first, prove, verdict, taken)
    find_fresh(verdict, len(candidates))
    return verdict


def find_fresh(verdict: Verdict, candidates: int) -> None:
    """Name the fresh ones of that many candidates, by what else the verdict says."""
    taken = set(verdict.assigned.values())
    newest_taken = min(taken, default=candidates)
    verdict.fresh = [
        index
        for index in range(newest_taken - 1, -1, -1)
        if index not in taken and index not in verdict.duplicates and index not in verdict.unsure
    ]


def _place(
    index: int,
    candidate: Candidate,
    newest_known_first: Sequence[Known],
    prove: Prove,
    verdict: Verdict,
    taken: dict[int, int],
) -> None:
    """Find the generation of one file whose inode says nothing: what is still looked for and has most in common."""
    accepted: list[tuple[Known, Proof]] = []
    for one in newest_known_first:
        if same_inode(one, candidate):
            continue  # was asked already
        proof = prove(one, candidate)
        if proof is Proof.UNSURE and index not in verdict.unsure:
            verdict.unsure.append(index)
        if accepts(one, candidate, proof):
            accepted.append((one, proof))
    sought = [one for one, _ in accepted if one.number not in verdict.assigned]
    if sought:
        best = max(sought, key=lambda one: one.position)  # the newest of equals
        verdict.assigned[best.number] = index
        taken[index] = best.number
        return
    for one, proof in accepted:
        if not candidate.current and one.position and (proof is Proof.EXACT or one.position >= HEAD_MAX):
            verdict.duplicates[index] = one.number  # a second copy of something known
            return
