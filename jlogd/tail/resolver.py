"""After a rotation, a truncation or a restart: find out which file is which generation, and act on it.

``identity.judge`` draws the verdict; this module collects the files, lends the
proofs, and turns the verdict into open generations, notes and gaps. When a file
could not be looked at, or a generation is not found at once (names may be moving
this very moment), nothing is decided and the caller asks again.
"""

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

from jlogd.tail import rotation
from jlogd.tail.book import Book
from jlogd.tail.content import BROKEN, Content, PlainContent
from jlogd.tail.doubt import judge_short
from jlogd.tail.generation import Generation
from jlogd.tail.identity import Candidate, Known, Proof, Verdict, same_inode
from jlogd.tail.model import History, Item, TailSpec
from jlogd.tail.position import HEAD_MAX, Cursor, StateFlags
from jlogd.tail.proof import Runs, common_end, hashed_to, is_beginning, prove, resume, skipped, starts_like
from jlogd.tail.rotation import FoundFile, FoundFiles, MovedError
from jlogd.tail.sourcefs import SourceFs, refusal

SETTLE_MAX_S = 1.0  # a generation must stay unfound this long: names move while we look
ASK_AGAIN_S = 0.05
UNSURE_GIVE_UP_S = 30.0  # a sibling that stays unreadable or half compressed this long is left out, with an error
REMEMBERED_MAX = 32  # siblings that are remembered as skipped; older ones are recognised by being older
COPY_STEP_MIN = 4096  # programs copy files by a page at least
END_LOOK_BACK = 64 << 10  # start_at = "end": where the last begun line is looked for


@dataclass(slots=True)
class Outcome:
    """``retry_s``: ask again after that long; None: settled."""

    progress: bool = False
    retry_s: float | None = None
    problem: str | None = None
    unreadable: bool = False  # the path itself


class Resolver:
    """Resolve one path's generations; state between calls is only what has not settled yet."""

    def __init__(self, book: Book, spec: TailSpec, history: History | None, fs: SourceFs, *, from_end: bool) -> None:
        """``from_end``: if the path was never seen, its present content is not wanted."""
        self._book, self._spec, self._history, self._fs = book, spec, history, fs
        self._from_end = from_end
        self._cold = True  # nothing was verified in this process yet: a power cut may lie behind us
        self._truncated: tuple[int, int] | None = None  # the path's inode, if it held another content before
        self._unfound_since_s: float | None = None
        self._unsure_since_s: float | None = None
        self._confirmed: object = None  # the siblings as they were when they said nothing against the path's file

    def resolve(self, now_s: float, out: list[Item]) -> Outcome:
        """Decide and act; raises OSError when a directory cannot be listed."""
        try:
            with ExitStack() as stack:
                found = self._find()
                files = FoundFiles(self._fs, found, stack)
                if not self._book.generations:
                    return self._first_sight(files, now_s, out)
                return self._resolve(files, now_s, out)
        except MovedError:
            return Outcome(retry_s=ASK_AGAIN_S)

    def confirm(self, generation: Generation, out: list[Item]) -> bool:
        """Whether the open file, which has grown, still is ``generation`` of which only a header's worth was read.

        Raises ``MovedError`` when it is too early to tell, OSError when a directory cannot be listed.
        """
        found = self._find()
        siblings = [(file.inode, file.status.st_size, file.status.st_mtime_ns) for file in found if not file.current]
        look = (generation.number, siblings)
        at = next((at for at, file in enumerate(found) if file.inode == (generation.dev, generation.ino)), len(found))
        if not found[at + 1 :] or look == self._confirmed:
            return True
        with ExitStack() as stack:
            verdict = self._judge(FoundFiles(self._fs, found, stack))
        if verdict.assigned.get(generation.number) != at:
            return False
        self._say_ambiguous(verdict, out)
        self._confirmed = look
        return True

    def _say_ambiguous(self, verdict: Verdict, out: list[Item]) -> None:
        for number in verdict.ambiguous:
            self._book.ambiguous(self._book.generations[number], out)

    def begins_like(self, generation: Generation, path: bytes) -> bool:
        """Whether the file at ``path`` has the generation's head."""
        try:
            status = self._fs.stat(path)
            content = rotation.open_content(self._fs, FoundFile(path, status, None, current=False))
            if content is None:
                return False
            with closing(content):
                return starts_like(content, generation.state())
        except OSError:
            return False

    def _find(self) -> list[FoundFile]:
        return rotation.find(self._fs, self._book.path, self._status(), self._book.other_names)

    def _status(self) -> os.stat_result | None:
        """Of the path, when content is there."""
        try:
            status = self._fs.stat(self._book.path)
        except FileNotFoundError:
            return None
        return status if status.st_size and not refusal(status.st_mode) else None

    # -- the first time -------------------------------------------------------------------------------------------

    def _first_sight(self, files: FoundFiles, now_s: float, out: list[Item]) -> Outcome:
        """Rotated siblings were there before us: skip and remember them; begin with what the path holds."""
        outcome = Outcome()
        current = bool(files.found) and files.found[0].current
        content = self._readable(files, outcome) if current else None
        if current and content is None:
            return outcome
        siblings = [index for index, file in enumerate(files.found) if not file.current]
        for index in reversed(siblings[:REMEMBERED_MAX]):
            self._remember_skipped(files, index, out)
        generation = self._book.begin()
        cursor = _at_end(content) if content is not None and self._from_end else Cursor.begin(0, 0)
        if not cursor.start:  # a place holder, so that whatever is found later is known to be new
            generation.flags = StateFlags.FINAL | StateFlags.SKIPPED
            out.append(generation.note())
        if content is not None:
            generation.flags = StateFlags.NONE
            self._book.attach(generation, files.take(0), cursor, self._book.path, current=True, now_s=now_s)
            outcome.progress = True
            if cursor.start:
                out.append(generation.note())
        self._cold = False
        return outcome

    def _readable(self, files: FoundFiles, outcome: Outcome) -> Content | None:
        try:
            return files.content(0)
        except OSError:
            outcome.problem, outcome.unreadable, outcome.retry_s = files.problems[0], True, 1.0
            return None

    def _remember_skipped(self, files: FoundFiles, index: int, out: list[Item]) -> None:
        file = files.found[index]
        try:
            position, state = skipped(files.content(index), *file.inode)
        except (OSError, *BROKEN):
            return  # unreadable: if it becomes readable it is older than what we know
        generation = self._book.begin()
        generation.saved, generation.saved_position, generation.flags = state, position, state.flags
        generation.dev, generation.ino = file.inode
        generation.seen, generation.location = state.seen, file.path
        out.append(generation.note())

    # -- later ----------------------------------------------------------------------------------------------------

    def _resolve(self, files: FoundFiles, now_s: float, out: list[Item]) -> Outcome:
        outcome = Outcome()
        if files.found and files.found[0].current:
            self._readable(files, outcome)
            if any((one.dev, one.ino) == files.found[0].inode for one in self._book.generations.values()):
                self._truncated = files.found[0].inode
        verdict = self._judge(files)
        lost = [
            one
            for one in self._book.generations.values()
            if not one.final and one.content is None and one.number not in verdict.assigned
        ]
        cuts = self._cuts(files, verdict)
        lost = [one for one in lost if one.number not in {number for number, _ in cuts.values()}]
        self._check_whole(files, verdict)
        self._leave_copies(files, verdict)
        if self._must_wait(files, verdict, lost, outcome, now_s):
            return outcome
        if verdict.fresh or lost:
            self._check_still(files)
        for one in lost:
            self._book.missing(one, "vanished", out)
            outcome.progress = True
        self._say_ambiguous(verdict, out)
        for number, index in sorted(verdict.assigned.items()):
            outcome.progress |= self._settle(files, self._book.generations[number], index, now_s, out)
        for index in verdict.fresh:
            outcome.progress |= self._begin(files, index, cuts.get(index), now_s, out)
        self._book.trim(out)
        self._cold = False
        return outcome

    def _judge(self, files: FoundFiles) -> Verdict:
        known = [
            Known(
                one.number, one.dev, one.ino, one.position, one.final, one.skipped, one.content is not None,
                newest=one.number == self._book.newest,
            )
            for one in self._book.generations.values()
        ]  # fmt: skip
        candidates = [Candidate(*file.inode, file.current, file.compression is not None) for file in files.found]
        index_of = {id(candidate): index for index, candidate in enumerate(candidates)}

        def proof(one: Known, candidate: Candidate) -> Proof:
            generation = self._book.generations[one.number]
            if one.open and same_inode(one, candidate):
                return Proof.PREFIX  # its descriptor is on this very file, each read compares
            try:
                content = files.content(index_of[id(candidate)])
            except OSError:
                return Proof.UNSURE
            same = same_inode(one, candidate)
            return prove(content, generation.state(), one.position, generation.partial, same_inode=same)

        def begins(one: Candidate, other: Candidate) -> bool:
            try:
                return is_beginning(*(files.content(index_of[id(file)]) for file in (one, other)))
            except OSError:
                return False

        return judge_short(known, candidates, proof, begins)

    def _check_whole(self, files: FoundFiles, verdict: Verdict) -> None:
        """A compressed stream counts when it is whole."""
        for index in list(verdict.fresh):
            try:
                files.content(index).size()
            except (OSError, *BROKEN):
                verdict.fresh.remove(index)
                verdict.unsure.append(index)

    def _check_still(self, files: FoundFiles) -> None:
        """A generation that was being renamed while we listed would be missed: look twice before acting."""
        again = [(file.path, file.inode) for file in self._find()]
        if again != [(file.path, file.inode) for file in files.found]:
            raise MovedError

    def _leave_copies(self, files: FoundFiles, verdict: Verdict) -> None:
        """A sibling that is the beginning of what the path holds, and younger, is a copy under way.

        When it is done and the path truncated, it is recognised. (A rotated generation
        that was only a header is older than the path's file.)
        """
        if not verdict.fresh or not files.found[verdict.fresh[-1]].current:
            return
        current = files.found[0]
        for index in verdict.fresh[:-1]:
            file = files.found[index]
            size, since_ns = file.status.st_size, file.status.st_mtime_ns - current.status.st_mtime_ns
            # With equal stamps (one step of the clock) a short copy is whole, or it is no copy: nobody copies by less.
            younger = since_ns > 0 or (not since_ns and (size == current.status.st_size or size >= COPY_STEP_MIN))
            fits = not file.compression and size <= current.status.st_size
            if younger and fits and is_beginning(files.content(index), files.content(0)):
                verdict.fresh.remove(index)

    def _must_wait(
        self, files: FoundFiles, verdict: Verdict, lost: list[Generation], outcome: Outcome, now_s: float
    ) -> bool:
        """Whether it is too early to decide; sets when to ask again."""
        newest = min(verdict.assigned.values(), default=len(files.found))
        unsure = [index for index in verdict.unsure if lost or index < newest]
        if not unsure:
            self._unsure_since_s = None
        elif outcome.unreadable:
            outcome.retry_s = 1.0
            if lost:
                return True
        else:
            self._unsure_since_s = now_s if self._unsure_since_s is None else self._unsure_since_s
            file = files.found[unsure[0]].path.decode(errors="replace")
            outcome.problem = f"{file}: {files.problems.get(unsure[0], 'compressed stream is not whole')}"
            if now_s - self._unsure_since_s < UNSURE_GIVE_UP_S:
                outcome.retry_s = 1.0
                return True
        if not lost:
            self._unfound_since_s = None
            return False
        self._unfound_since_s = now_s if self._unfound_since_s is None else self._unfound_since_s
        if now_s - self._unfound_since_s < min(self._spec.rotate_wait_s, SETTLE_MAX_S):
            outcome.retry_s = ASK_AGAIN_S
            return True
        self._unfound_since_s = None
        return False

    def _settle(self, files: FoundFiles, generation: Generation, index: int, now_s: float, out: list[Item]) -> bool:
        """A known generation stands in this file; True when it is (again) being read."""
        file = files.found[index]
        moved = (generation.dev, generation.ino) != file.inode
        generation.absent_since_s, generation.location = None, file.path
        if generation.content is not None and not (file.current and moved):
            if file.current and not generation.rotated:
                self._book.current = generation.number
            return False
        plain = not file.compression
        grown = plain and file.status.st_size > max(generation.position, generation.seen)
        if generation.skipped or (generation.final and not grown and not file.current):
            if moved:
                generation.dev, generation.ino = file.inode
                out.append(generation.note())
            return False
        content = files.take(index)
        cursor = resume(content, generation.state(), generation.position)
        if cursor is None:
            content.close()
            raise MovedError
        if file.current:
            generation.flags &= ~StateFlags.FINAL
        self._book.attach(generation, content, cursor, file.path, current=file.current, now_s=now_s)
        return True

    # -- new generations ------------------------------------------------------------------------------------------

    def _begin(self, files: FoundFiles, index: int, cut: tuple[int, int] | None, now_s: float, out: list[Item]) -> bool:
        """A file with content that was not read yet."""
        file = files.found[index]
        if not file.status.st_size:
            return False
        content = files.take(index)
        if cut:
            number, start = cut
            old = self._book.generations[number]
            cursor = hashed_to(content, start, old.state().origin, start)
            if cursor is None:
                content.close()
                raise MovedError
            self._book.missing(old, "truncated", out)
        else:
            first = self._first_byte(content, file)
            if first is None:
                content.close()
                return False
            cursor = Cursor.begin(first, first)
        generation = self._book.begin()
        self._book.attach(generation, content, cursor, file.path, current=file.current, now_s=now_s)
        if cut:
            out.append(generation.note())
        return True

    def _first_byte(self, content: Content, file: FoundFile) -> int | None:
        """0, or after the hole that a writer leaves who goes on at its old position in a truncated file."""
        if file.inode == self._truncated and isinstance(content, PlainContent) and content.read(1, 0) == b"\0":
            return content.first_text(0)
        return 0

    def _cuts(self, files: FoundFiles, verdict: Verdict) -> dict[int, tuple[int, int]]:
        """Files that are a generation of ours up to some point, and then something else: index → (generation, point).

        After a start any proven common line counts (power loss cuts files at any
        length). While we watched, only a long one: a file truncated and begun anew
        with the same header is a new generation.
        """
        newest_found = max(verdict.assigned, default=0)
        gone = [
            one
            for number, one in sorted(self._book.generations.items(), reverse=True)
            if number > newest_found and one.content is None and not one.skipped and one.position
        ]
        cuts: dict[int, tuple[int, int]] = {}
        for index in verdict.fresh:
            for one in gone:
                end = self._cut(files, index, one)
                if end > one.state().start:
                    cuts[index] = (one.number, end)
                    gone.remove(one)
                    break
        return cuts

    def _cut(self, files: FoundFiles, index: int, one: Generation) -> int:
        """How far the file is still this generation; 0 when that is not proven."""
        saved, file = one.state(), files.found[index]
        same = (one.dev, one.ino) == file.inode
        try:
            content = files.content(index)
            if not same and (one.final or not starts_like(content, saved)):
                return 0
            end = common_end(content, saved, one.position, one.ladder, partial(self._runs, one))
        except (OSError, *BROKEN):
            return 0
        return end if self._cold or end - saved.origin >= HEAD_MAX else 0

    def _runs(self, generation: Generation, position: int) -> Runs:
        if self._history is None:
            return iter(())
        return self._history.runs(self._book.path, generation.number, position)


def _at_end(content: Content) -> Cursor:
    """A cursor after the last whole line."""
    size = content.size()
    before = content.read(min(size, END_LOOK_BACK), size - min(size, END_LOOK_BACK))
    newline = before.rfind(b"\n")
    start = size - len(before) + newline + 1 if newline >= 0 else size
    return Cursor.begin(start, start, before[: len(before) - (size - start)])
