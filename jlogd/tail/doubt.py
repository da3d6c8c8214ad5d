"""Generations of which only a header's worth was read: where bytes alone do not tell them apart, pure.

A file is recognised by what was read of it. When that is less than ``HEAD_MAX`` and each
generation begins with the same line, the file at the same inode may be a successor
(truncated and filled anew, or the inode was given out again) while the rest of ours stands
in a sibling. Of all unknown files that begin like ours the oldest is ours, since a
generation that came earlier would be known:

====================================  ===========================================
an unknown sibling that begins alike  is
====================================  ===========================================
a beginning of the path's file,       a copy under way: nothing has happened yet
longer than what was read
exactly what was read, the path's     undecidable: a generation of a header only, or a copy under
file is longer                        way: go on at the path, and say so (``ambiguous``)
anything else                         ours: the path holds a successor
====================================  ===========================================
"""

from collections.abc import Callable, Sequence

from jlogd.tail.identity import Candidate, Known, Proof, Prove, Verdict, accepts, find_fresh, judge, same_inode

Begins = Callable[[Candidate, Candidate], bool]  # whether the second file begins with all of the first

ROUNDS_MAX = 256  # each rules at least one pair of generation and file out; real directories need a few


def judge_short(known: Sequence[Known], candidates: Sequence[Candidate], prove: Prove, begins: Begins) -> Verdict:
    """``judge``, and what order and siblings tell about generations with little proof."""
    asked: dict[tuple[int, int], Proof] = {}
    ruled_out: set[tuple[int, int]] = set()
    index_of = {id(candidate): index for index, candidate in enumerate(candidates)}

    def proof(one: Known, candidate: Candidate) -> Proof:
        pair = one.number, index_of[id(candidate)]
        if pair in ruled_out:
            return Proof.NO
        if pair not in asked:
            asked[pair] = prove(one, candidate)
        return asked[pair]

    for _ in range(ROUNDS_MAX):
        verdict = judge(known, candidates, proof)
        wrong = _disordered(known, candidates, proof, verdict)
        if not wrong:
            break
        ruled_out |= wrong
    _move_to_oldest(known, candidates, proof, begins, verdict)
    short = {one.number for one in known if one.short}
    for index, number in list(verdict.duplicates.items()):
        at = verdict.assigned.get(number, index)
        if number in short and at > index:
            del verdict.duplicates[index]  # younger than the file it would be a copy of
        elif number in short and at < index and candidates[at].current:
            verdict.ambiguous.add(number)
    find_fresh(verdict, len(candidates))
    return verdict


def _move_to_oldest(
    known: Sequence[Known], candidates: Sequence[Candidate], prove: Prove, begins: Begins, verdict: Verdict
) -> None:
    for one in known:
        index = verdict.assigned.get(one.number)
        if index is None or not one.short or one.skipped:
            continue
        others = [other for other in known if not (other.short and other.number in verdict.assigned)]
        alike = _unknown_alike(one, index, others, candidates, prove, verdict)
        at_path = candidates[index]
        if any(_holds_other(candidates[older], at_path, begins) for older, _ in alike):
            verdict.assigned[one.number] = alike[-1][0]
        elif prove(one, at_path) is Proof.PREFIX and any(proof is Proof.EXACT for _, proof in alike):
            verdict.ambiguous.add(one.number)


def _holds_other(file: Candidate, at_path: Candidate, begins: Begins) -> bool:
    """Whether ``file`` is no copy under way of what stands at the path, so that the path has a successor by now."""
    return not at_path.current or file.compressed or not begins(file, at_path)


def _disordered(
    known: Sequence[Known], candidates: Sequence[Candidate], prove: Prove, verdict: Verdict
) -> set[tuple[int, int]]:
    """Pairs of generation and file that cannot be: a newer generation does not stand in an older file.

    The one with little proof is wrong: it is a reused inode, or another with the same few bytes.
    """
    claims = {**verdict.duplicates, **{index: number for number, index in verdict.assigned.items()}}
    by_number = {one.number: one for one in known}
    wrong = set()
    for index, number in claims.items():
        one = by_number[number]
        if not one.short or (one.open and same_inode(one, candidates[index])):
            continue  # an open file keeps its inode
        newer = [other for other in known if other.number > number and not other.skipped]
        itself = verdict.assigned.get(number, index) > index
        if itself or any(_stands_before(other, index, candidates, prove, verdict) for other in newer):
            wrong.add((number, index))
    return wrong


def _stands_before(one: Known, index: int, candidates: Sequence[Candidate], prove: Prove, verdict: Verdict) -> bool:
    """Whether ``one`` is found in a file older than ``index``."""
    if one.number in verdict.assigned:
        return verdict.assigned[one.number] > index
    return any(accepts(one, file, prove(one, file)) for file in candidates[index + 1 :])


def _unknown_alike(
    one: Known,
    index: int,
    others: Sequence[Known],
    candidates: Sequence[Candidate],
    prove: Prove,
    verdict: Verdict,
) -> list[tuple[int, Proof]]:
    """Files older than ``index`` that begin like ``one`` and are nobody's, up to the first that is another's."""
    taken = set(verdict.assigned.values())
    alike: list[tuple[int, Proof]] = []
    for older in range(index + 1, len(candidates)):
        file = candidates[older]
        if older in taken or any(accepts(other, file, prove(other, file)) for other in others):
            break
        proof = prove(one, file)
        if proof in (Proof.PREFIX, Proof.EXACT):
            alike.append((older, proof))
    return alike
