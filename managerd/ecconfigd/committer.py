"""How a change becomes a revision. Runs in the store's owner thread; dry runs in any.

    edits on `base` ─▶ three-way with head ─▶ rights ─▶ paths, limits ─▶ validation ─▶ objects ─▶ hold ─▶ main advances

Invariant: until the last step nothing of it is visible, and that step is one compare-and-set. Dying before it leaves
objects that nobody names.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final, TypeAlias

from jlogd.confrepo.merge import merge_changes
from jlogd.confrepo.model import MESSAGE_MAX, Commit, CommitId, Conflict, Fault, Scope
from jlogd.confrepo.paths import check_path
from jlogd.confrepo.repository import MAIN, SIDE, Draft, Repository
from jlogd.runtime.clock import Clock
from jlogd.runtime.errors import ConflictError, NotPermittedError, RefusedError
from managerd.ecconfigd import edits
from managerd.ecconfigd.access import Right, Rules
from managerd.ecconfigd.candidate import Candidate
from managerd.ecconfigd.change import CommitRequest, Outcome, Prepared, PreparedOnes, Result
from managerd.ecconfigd.signer import Signer
from managerd.ecconfigd.validate import FAULTS_MAX

JOINED: Final = "refs/jlogd/joined/"  # tips of lines that were joined, and of side branches that were settled

Updates: TypeAlias = "dict[str, tuple[CommitId | None, CommitId | None]]"
Hold: TypeAlias = Callable[[Repository, Commit, Sequence[str]], "str | None"]  # see Targets.hold
Notes: TypeAlias = Callable[[Candidate], Sequence[str]]
Judge: TypeAlias = Callable[[Candidate, str, str], "list[Fault]"]  # of the candidate, author, message


class Committer:
    """See the module."""

    def __init__(
        self,
        repository: Repository,
        *,
        signer: Signer,
        judge: Judge,
        notes: Notes,
        rules: Callable[[Commit | None], Rules],
        hold: Hold | None,
        clock: Clock,
    ) -> None:
        """``judge``: what is wrong with a tree. ``notes``: what people should know of it. ``rules``: at a revision."""
        self._hold = hold
        self._repository = repository
        self._signer = signer
        self._judge = judge
        self._notes = notes
        self._rules = rules
        self._clock = clock
        self._prepared = PreparedOnes()

    # ------------------------------------------------------------------ asked by people

    def commit(self, request: CommitRequest, author: str, scope: Scope | None) -> Result:
        """See ``Store.commit``."""
        head = self._repository.head()
        message = _message(request)
        permit = _Permit(self._rules(head), author, scope)
        settling = self._settle(request.settles, permit)
        base = self._base(request.base, head)
        proposal = Candidate(self._repository, base)
        edited = edits.apply(request.edits, proposal)
        permit("read", edited.read)
        permit("commit", proposal.changes)
        if edited.faults:
            return Result(Outcome.REFUSED, faults=edited.faults)
        candidate, conflicts = self._onto(head, proposal)
        if edited.conflicts or conflicts:
            return _conflict([*edited.conflicts, *conflicts], permit)
        if not candidate.changes:
            return self._without_revision(settling, head, dry_run=request.dry_run)
        permit("commit", candidate.changes)
        made = Prepared(author, message, tuple(candidate.changes), tuple(request.settles), merged=base != head)
        faults = self._judge(candidate, author, message)
        if faults:
            return Result(Outcome.REFUSED, faults=permit.shown(faults, candidate.changes), merged=made.merged)
        if scope is None:  # a node hears nothing of others
            made = replace(made, notes=self._notes(candidate))
        return self._accept(request, candidate, made, settling)

    def _accept(self, request: CommitRequest, candidate: Candidate, made: Prepared, settling: Updates) -> Result:
        if request.dry_run:
            return Result(Outcome.GOOD, paths=made.paths, merged=made.merged, notes=made.notes)
        draft = self._draft(candidate, made.author, made.message)
        if request.prepare:
            self._prepared.add(draft, made)
            return Result(
                Outcome.PREPARED, paths=made.paths, prepared=draft.content, merged=made.merged, notes=made.notes
            )
        return self._store(draft, made, b"", settling)

    def publish(self, content: bytes, signature: bytes, author: str) -> Result:
        """See ``Store.publish``."""
        found = self._prepared.get(content)
        if found is None:
            raise ConflictError("this manager did not prepare that commit, or long ago: prepare it again")
        draft, made = found
        if made.author != author:
            raise NotPermittedError(f"{author} cannot publish what was prepared for {made.author}")
        head = self._repository.head()
        if (head.id if head is not None else None) != draft.parent:
            raise ConflictError(f"{_name(head)} is head now, the commit was prepared on another: prepare it again")
        self._signer.check(content, signature, author)
        settling = self._settle(made.settles, _Permit(self._rules(head), author, None))
        result = self._store(draft, made, signature, settling)
        self._prepared.remove(content)
        return result

    # ------------------------------------------------------------------ asked by replication and import

    def replay(self, commit_id: CommitId, left_out: AbstractSet[str], note: str, marks: Updates) -> Result:
        """See ``Store.replay``."""
        repository = self._repository
        original = repository.commit(commit_id)
        before = self._parent(original)
        wanted = Candidate(repository, before)
        for path, _, new in repository.diff(before, original):
            if path not in left_out:
                wanted.put(path, repository.file(original, path) if new is not None else None)
        candidate, conflicts = self._onto(repository.head(), wanted)
        if conflicts:
            return Result(Outcome.CONFLICT, conflicts=conflicts)
        if not candidate.changes:
            repository.advance(marks)
            return Result(Outcome.NOTHING, commit=repository.head())
        message = _cut(f"{original.message.rstrip()}\n\n{note}: r{original.revision} {original.id}")
        faults = self._judge(candidate, original.author, message)
        if faults:
            return Result(Outcome.REFUSED, faults=faults)
        draft = self._draft(candidate, original.author, message)
        made = Prepared(original.author, message, tuple(candidate.changes))
        return self._store(draft, made, self._signer.sign(draft.content), marks)

    def adopt(self, tip: CommitId) -> Result:
        """See ``Store.adopt``."""
        repository = self._repository
        head, new = repository.head(), repository.commit(tip)
        if head is not None and new.id == head.id:
            return Result(Outcome.NOTHING, commit=head)
        if not self._continues(new, head):
            raise RefusedError(f"r{new.revision} {tip[:8]} does not continue {_name(head)} of this repository")
        paths = tuple(path for path, _, _ in repository.diff(head, new))
        unfit = [Fault(path, 0, problem) for path in paths if (problem := check_path(path)) is not None]
        if unfit:
            return Result(Outcome.REFUSED, faults=unfit[:FAULTS_MAX])
        candidate = Candidate(repository, head, {path: repository.file(new, path) for path in paths})
        faults = self._judge(candidate, new.author, new.message)
        if faults:
            return Result(Outcome.REFUSED, faults=faults)
        return self._advance(head, new, paths, {})

    def _continues(self, new: Commit, head: Commit | None) -> bool:
        at: Commit | None = new
        floor = head.revision if head is not None else 0
        while at is not None and at.revision > floor:
            at = self._parent(at)
        return (at.id if at is not None else None) == (head.id if head is not None else None)

    # ------------------------------------------------------------------ steps

    def _base(self, text: str, head: Commit | None) -> Commit | None:
        if not text:
            return head
        base = self._repository.resolve(text)
        if not self._repository.on_main(base.id):
            raise RefusedError(f"{text} is not a revision of this repository's main line: pull first")
        return base

    def _parent(self, commit: Commit) -> Commit | None:
        return self._repository.commit(commit.parent) if commit.parent is not None else None

    def _onto(self, head: Commit | None, proposal: Candidate) -> tuple[Candidate, Sequence[Conflict]]:
        """What ``proposal`` changes, three-way, on ``head``."""
        if proposal.commit == head:
            return proposal, ()
        theirs = Candidate(self._repository, head)
        changes, conflicts = merge_changes(proposal.changes, proposal.before, theirs.file, theirs.below)
        return Candidate(self._repository, head, changes), conflicts

    def _draft(self, candidate: Candidate, author: str, message: str) -> Draft:
        time_s = self._clock.wall_ns() // 10**9
        return self._repository.draft(
            candidate.commit, candidate.changes, author=author, message=message, time_s=time_s
        )

    def _store(self, draft: Draft, made: Prepared, signature: bytes, settling: Updates) -> Result:
        repository = self._repository
        commit_id, commit = repository.seal(draft.content, signature)
        repository.store.add([*draft.objects, commit])
        parent = repository.commit(draft.parent) if draft.parent is not None else None
        result = self._advance(parent, repository.commit(commit_id), made.paths, settling)
        return replace(result, merged=made.merged, notes=made.notes)

    def _advance(self, head: Commit | None, new: Commit, paths: Sequence[str], settling: Updates) -> Result:
        """The moment it counts. What nodes do not get at once is on the disk as held back before it is visible."""
        held = self._hold(self._repository, new, paths) if self._hold is not None else None
        self._repository.advance({MAIN: (head.id if head is not None else None, new.id), **settling})
        return Result(Outcome.COMMITTED, commit=new, paths=paths, held=held or "")

    # ------------------------------------------------------------------ side branches

    def _settle(self, names: Iterable[str], permit: "_Permit") -> Updates:
        """Updates that take these side branches out of sight; what they name stays named."""
        updates: Updates = {}
        for name in dict.fromkeys(names):
            tip = self._repository.ref(SIDE + name)
            if tip is None:
                raise RefusedError(f"there is no side branch {name[:200]!r}: 'eccfg status' shows them")
            permit("commit", self._side_paths(tip))
            kept = JOINED + name
            if self._repository.ref(kept) not in {None, tip}:
                kept = f"{kept}-{tip[:8]}"
            updates[kept] = (self._repository.ref(kept), tip)
            updates[SIDE + name] = (tip, None)
        return updates

    def _side_paths(self, tip: CommitId) -> list[str]:
        """What the side branch changed since it left the main line."""
        side = self._repository.commit(tip)
        at: Commit | None = side
        while at is not None and not self._repository.on_main(at.id):
            at = self._parent(at)
        return [path for path, _, _ in self._repository.diff(at, side)]

    def _without_revision(self, settling: Updates, head: Commit | None, *, dry_run: bool) -> Result:
        """The edits change nothing; side branches may be settled all the same."""
        if not settling:
            return Result(Outcome.NOTHING, commit=head)
        if dry_run:
            return Result(Outcome.GOOD, commit=head)
        self._repository.advance(settling)
        return Result(Outcome.COMMITTED, commit=head)


class _Permit:
    """Asks the rules about many paths, for one author."""

    def __init__(self, rules: Rules, author: str, scope: Scope | None) -> None:
        self._rules = rules
        self._author = author
        self._scope = scope

    def __call__(self, right: Right, paths: Iterable[str]) -> None:
        """NotPermittedError names the first of ``paths`` that the author has no ``right`` on."""
        judge = self._rules.judge(self._author, right, self._scope)
        refused = [path for path in paths if not judge(path)]
        if refused:
            more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
            raise NotPermittedError(f"{self._author} may not {right} {refused[0]}{more}: see global/access.toml")

    def shown(self, faults: Sequence[Fault], own: Container[str]) -> list[Fault]:
        """The faults, without the words of those that tell values of files that the author may not read."""
        may = self._rules.judge(self._author, "read", self._scope)

        def known(path: str) -> bool:
            return not path or path in own or may(path)

        return [fault if all(map(known, (fault.path, *fault.quotes))) else _veiled(fault) for fault in faults]


def _veiled(fault: Fault) -> Fault:
    why = "is not valid together with what other layers say, or with this change (you may not read all of it)"
    return Fault(fault.path, fault.line, why)


def _conflict(conflicts: Sequence[Conflict], permit: _Permit) -> Result:
    permit("read", [conflict.path for conflict in conflicts])  # they show what others wrote
    return Result(Outcome.CONFLICT, conflicts=conflicts)


def _message(request: CommitRequest) -> str:
    message = request.message.strip()
    if not message and not request.dry_run:
        raise RefusedError("the commit has no message: say why, with -m")
    if len(message.encode(errors="surrogatepass")) > MESSAGE_MAX:
        raise RefusedError(f"the message is longer than {MESSAGE_MAX} bytes")
    return message


def _cut(message: str) -> str:
    """The end stays: it says where the commit comes from."""
    content = message.encode()
    return message if len(content) <= MESSAGE_MAX else content[-MESSAGE_MAX:].decode(errors="ignore")


def _name(commit: Commit | None) -> str:
    return f"r{commit.revision} {commit.id[:8]}" if commit is not None else "nothing"
