"""What a node has of the repository: its objects, its views, its key. No decisions: ``jlogd.attach`` says what to run.

    <directory>/objects/     git objects of the kept revisions, the node's own layers only
    <directory>/revisions/   views, see ``view``
    <directory>/identity     the node's key: secrets are decrypted when a view is laid out, and nowhere else

Invariant: what ``prepare`` returned is whole, its files are on the disk, its name is when it is swapped in, and it is
made of objects whose ids were computed here from their bytes. Everything may be done twice. One owner thread, except
``recipient``.
"""

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from jlogd.confrepo import draft, drift, layering, signing
from jlogd.confrepo import model as m
from jlogd.confrepo.drift import Kind
from jlogd.confrepo.formats import kind_of
from jlogd.confrepo.layout import VIEW_DIR_MODE, Before, Laid, item_of, lay_out, write_file
from jlogd.confrepo.manifest import Item, Manifest, key_of
from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.scope import check_scope, kept_objects
from jlogd.confrepo.secrets import Identity
from jlogd.confrepo.trees import find, flatten
from jlogd.confrepo.view import NEW, REVISIONS, Views
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import DamageError, RefusedError, StorageError
from jlogd.runtime.fs import OS, FileSystem

log = logging.getLogger(__name__)

OBJECTS, IDENTITY = "objects", "identity"
PACK_BYTES_MAX: Final = m.TREE_BYTES_MAX + (88 << 20)  # as attach.messages: a whole view, its trees, what packs add
HAVE_MAX: Final = 4  # the manager walks the trees of each; the newest has nearly everything
SECRET_MODE: Final = 0o600
DROPPED_MAX: Final = 100  # revisions removed before the objects that only they needed are
_NAMED_MAX: Final = 3  # paths in a one-line error


class LocalChangesError(RefusedError):
    """Files of the view were changed on this machine, and the operator wants no new revision until that is undone."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator chose. ``ca``, ``deny``: for signatures."""

    local: Literal["keep", "theirs", "refuse"] = "keep"
    keep_revisions: int = 10
    signatures: Literal["off", "warn", "require"] = "off"
    ca: Path | None = None
    deny: Path | None = None


class Replica:
    """One node's. ``open`` first, ``close`` at the end."""

    def __init__(
        self, directory: Path, scope: m.Scope, policy: Policy, views: Views, store: ObjectStore, identity: Identity
    ) -> None:
        """Use ``open``."""
        self.directory = directory
        self.views = views
        self.recipient = identity.recipient
        self._scope = scope
        self._policy = policy
        self._store = store
        self._identity = identity
        self._deny = DenyList(policy.deny, fs=views.fs)
        self._complete: set[m.CommitId] = set(views.kept())  # all of their objects are here, as far as we know
        self._dropped = 0
        self._draft: draft.Draft | None = None
        self._drafted: m.CommitId | None = None  # tried once for each view: what fails would fail again

    @classmethod
    def open(cls, directory: Path, scope: m.Scope, policy: Policy, *, fs: FileSystem = OS) -> "Replica":
        """Make what is missing. StorageError, DamageError, RefusedError (a key that others can read)."""
        views = Views.open(directory, fs)
        identity = Identity.load_or_create(directory / IDENTITY, fs)
        try:
            store = ObjectStore.open(directory / OBJECTS, fs=fs, late=True)
        except DamageError as error:
            log.error("configuration: %s; everything is fetched again", error)  # noqa: TRY400 - for a person
            store = _new_store(views, fs)
        return cls(directory, scope, policy, views, store, identity)

    def close(self) -> None:
        """Let go of everything."""
        with contextlib.suppress(StorageError):  # then it is fetched again
            self._store.flush()
        self.rest()

    def rest(self) -> None:
        """Let go of memory: nothing is expected soon."""
        self._store.close()
        self.views.forget()

    # ---------------------------------------------------------------- objects

    def has(self, commit_id: m.CommitId) -> bool:
        """Whether everything that the node may read of the revision is here."""
        if commit_id in self._complete:
            return commit_id in self._store
        if commit_id not in self._store:
            return False
        with contextlib.suppress(DamageError):
            check_scope(self._store, commit_id, self._scope)
            self._complete.add(commit_id)
        return commit_id in self._complete

    def have(self) -> list[m.CommitId]:
        """Revisions to name in a Fetch, the newest first."""
        known = (name for name in self.views.kept() if name in self._complete and name in self._store)
        return list(islice(known, HAVE_MAX))

    def receive(self, commit_id: m.CommitId, pieces: Iterable[bytes], have: Collection[m.CommitId]) -> int:
        """Store the pack, and see that the revision is complete with it; how many objects came.

        DamageError when it is not, StorageError.
        """
        received = self._store.receive(pieces, bytes_max=PACK_BYTES_MAX)
        check_scope(self._store, commit_id, self._scope, list(have))
        self._complete.add(commit_id)
        return len(received)

    def doubt(self) -> None:
        """Something that should be here is not: nothing counts as complete any more."""
        self._complete.clear()

    def begin_anew(self) -> None:
        """Throw all objects away: they are damaged, and can be fetched again. The views stay. StorageError."""
        log.error("configuration: %s is damaged: all objects are fetched again", self.directory / OBJECTS)
        self._store.close()
        self._store = _new_store(self.views, self.views.fs)
        self._complete.clear()

    def check(self, commit_id: m.CommitId, revision: m.Revision) -> str:
        """The commit is what it is announced as, and signed as the policy wants. RefusedError; or a warning, or ""."""
        commit = self._store.commit(commit_id)
        if commit.revision not in {0, revision}:
            raise RefusedError(f"r{revision} is announced as {commit_id}, which is r{commit.revision}")
        if self._policy.signatures == "off":
            return ""
        try:
            ca = self._policy.ca.read_bytes() if self._policy.ca is not None else b""
            signing.verify(
                self._store.signed_content(commit_id),
                commit.signature,
                ca_pem=ca,
                denied=self._deny.denies,
                author=commit.author,
                time_s=commit.time_s,
            )
        except OSError as error:
            raise StorageError(f"{self._policy.ca}: {error.strerror}") from error
        except RefusedError as error:
            if self._policy.signatures == "require":
                raise RefusedError(f"signature of r{revision}: {error}") from error
            return f"signature: {error}"
        return ""

    # ---------------------------------------------------------------- views

    def prepare(self, commit_id: m.CommitId, revision: m.Revision) -> Manifest:
        """The view, whole beside the others, for ``Views.swap``. RefusedError, StorageError, DamageError."""
        before = self._before()
        if before is not None and before.manifest.id == commit_id:
            return before.manifest
        local = before.changes if before is not None else {}
        if local and self._policy.local == "refuse":
            raise LocalChangesError(f'{named(local)} changed on this machine, and config.local is "refuse": undo that')
        keep = bool(local) and self._policy.local == "keep"
        if not keep and (kept := self._intact(commit_id)) is not None:
            return kept
        return self._lay_out(commit_id, revision, before, keep=keep)

    def prepare_again(self, commit_id: m.CommitId, revision: m.Revision) -> Manifest:
        """A revision that ran before, to go back to: as it was, with local changes, when all of it is there."""
        manifest = self.views.manifest(commit_id)
        if manifest is not None:
            directory = str(self.views.path(commit_id))
            if manifest.files.keys() <= drift.scan(directory).keys():
                return manifest
        return self._lay_out(commit_id, revision, None, keep=False)

    def _lay_out(self, commit_id: m.CommitId, revision: m.Revision, before: Before | None, *, keep: bool) -> Manifest:
        plan, point = self._plan(commit_id), (commit_id, revision)
        laid = self._redraft(point, plan, before)
        if laid is None:
            laid = lay_out(self.views, point, plan, self._content, before, keep=keep)
        self.views.adopt(laid.manifest, laid.unsynced)
        return laid.manifest

    def _redraft(self, point: tuple[m.CommitId, m.Revision], plan: layering.Plan, before: Before | None) -> Laid | None:
        ready, self._draft = self._draft, None
        if ready is None or before is None:
            return None
        self._drafted = None  # should the view stay after all, it gets another one
        return draft.lay_out_in(self.views, ready, point, plan, self._content, before)

    def make_ready(self) -> None:
        """Do now what can be done for the next revision; costs directories and links, no content. StorageError."""
        current = self.views.current()
        if current is None or current == self._drafted:
            return
        self._draft, self._drafted = None, current
        manifest = self.views.manifest(current)
        if manifest is not None:
            self._draft = draft.make(self.views, manifest)

    def _before(self) -> Before | None:
        current = self.views.current()
        manifest = self.views.manifest(current) if current is not None else None
        if manifest is None:
            return None
        directory = str(self.views.path(manifest.id))
        found = drift.scan(directory)
        return Before(manifest, directory, found, drift.compare(manifest, found, directory))

    def _intact(self, commit_id: m.CommitId) -> Manifest | None:
        """A view that is there, just as it was laid out."""
        manifest = self.views.manifest(commit_id)
        if manifest is None:
            return None
        directory = str(self.views.path(commit_id))
        return None if drift.compare(manifest, drift.scan(directory), directory) else manifest

    def _plan(self, commit_id: m.CommitId) -> layering.Plan:
        root = self._store.commit(commit_id).tree
        layers = []
        for layer in self._scope.layers:
            entry = find(self._store, root, layer)
            if entry is not None and entry.mode not in m.MODES:
                layers.append((layer, flatten(self._store, entry.id)))
        plan = layering.plan(layers)
        clashes = layering.clashes(plan)
        if clashes:
            raise RefusedError(f"{named(clashes)} is a file in one layer and a directory in another")
        return plan

    def _content(self, path: str, entries: tuple[tuple[str, m.Entry], ...]) -> m.File:
        """What is laid out for these entries."""
        files = [(layer, m.File(self._store.blob(entry.id), entry.mode)) for layer, entry in entries]
        mode = entries[-1][1].mode
        kind = kind_of(path)
        if mode == m.SYMLINK:
            return files[-1][1]
        permissions = 0o755 if mode & 0o111 else 0o644
        if kind is None:
            return m.File(files[-1][1].content, permissions)
        made = layering.combine(path, files)
        if not made.secrets:
            return m.File(made.content, permissions)
        try:
            content = layering.replace_secrets(kind, made.content, self._identity.decrypt)
        except RefusedError as error:
            raise RefusedError(f"{path}: {error}") from error
        return m.File(content, SECRET_MODE | (permissions & 0o100))

    def tidy(self, needed: Collection[m.CommitId], *, thorough: bool = False) -> None:
        """Remove views beyond ``keep_revisions``, never ``needed`` or the current one; now and then their objects."""
        protected = {*needed, self.views.current()}
        kept = self.views.kept()
        going = [name for name in kept[self._policy.keep_revisions :] if name not in protected]
        if going:
            self.views.drop(going)
            self._complete.difference_update(going)
            self._dropped += len(going)
        if self._dropped >= (1 if thorough else DROPPED_MAX):
            self._drop_objects()
        self._store.maintain()

    def _drop_objects(self) -> None:
        try:
            kept = [name for name in self.views.kept() if name in self._store]
            self._store.keep_only(kept_objects(self._store, kept, self._scope))
        except DamageError as error:
            log.warning("configuration: objects stay that may not be needed: %s", error)
            self.doubt()
        self._dropped = 0

    # ---------------------------------------------------------------- drift

    def look(self, *, full: bool) -> dict[str, Kind]:
        """What differs between the current view and the repository. StorageError, RefusedError."""
        current = self.views.current()
        manifest = self.views.manifest(current) if current is not None else None
        if manifest is None:
            return {}
        directory = str(self.views.path(manifest.id))
        return drift.compare(manifest, drift.scan(directory), directory, full=full)

    def restore(self, changes: Mapping[str, Kind]) -> None:
        """The repository's files instead of these in the current view, one by one. StorageError, DamageError."""
        current = self.views.current()
        manifest = self.views.manifest(current) if current is not None else None
        if manifest is None:
            return
        log.warning("configuration: %s changed on this machine: the repository's again", named(changes))
        plan = self._plan(manifest.id)
        items = dict(manifest.files)
        with self.views.storing():
            for path, kind in sorted(changes.items()):
                if kind == "added":
                    self._remove(manifest.id, path)
            for path, kind in sorted(changes.items()):
                if kind != "added" and path in plan:
                    items[path] = self._restore(manifest.id, path, plan[path])
        self.views.rewrite(replace(manifest, files=items))

    def _remove(self, current: m.CommitId, path: str) -> None:
        target = self.views.path(current) / path
        self.views.fs.unlink(target, missing_ok=True)
        self.views.fs.sync_dir(target.parent)

    def _restore(self, current: m.CommitId, path: str, entries: tuple[tuple[str, m.Entry], ...]) -> Item:
        fs, target = self.views.fs, self.views.path(current) / path
        beside = self.directory / REVISIONS / (NEW + "restored")
        self._clear_way(self.views.path(current), target)
        file = self._content(path, entries)
        fs.unlink(beside, missing_ok=True)
        status = write_file(fs, str(beside), file, sync=True)
        fs.rename(beside, target)
        return item_of(status, file, key_of(entries))

    def _clear_way(self, view: Path, target: Path) -> None:
        """The file's directory is there and a directory; the file's own place is not one."""
        for parent in [*reversed(target.relative_to(view).parents[:-1])]:
            directory = view / parent
            if directory.is_symlink() or (os.path.lexists(directory) and not directory.is_dir()):
                self.views.fs.unlink(directory)
            if not os.path.lexists(directory):
                self.views.fs.make_dir(directory, VIEW_DIR_MODE)
                self.views.fs.sync_dir(directory.parent)
        if target.is_dir() and not target.is_symlink():
            self.views.fs.remove_tree(target)


def named(paths: Iterable[str]) -> str:
    """The first of them, for a one-line message."""
    names = sorted(paths)
    shown = ", ".join(names[:_NAMED_MAX])
    return f"{shown} and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else shown


def _new_store(views: Views, fs: FileSystem) -> ObjectStore:
    path = views.directory / OBJECTS
    with views.storing():
        fs.remove_tree(path)
        fs.sync_dir(views.directory)
    return ObjectStore.open(path, fs=fs, late=True)
