"""A repository against a model, a list of revisions as dicts of files: commits, power cuts, git, packs for others."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jlogd.confrepo import objects
from jlogd.confrepo.model import EXECUTABLE, REGULAR, SYMLINK, Changes, CommitId, File, Revision, Scope
from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.repository import MAIN, SIDE, Repository
from jlogd.confrepo.scope import check_scope, kept_objects
from tests.support.power_cut_fs import PowerCutFs
from tests.support.revisions import NOON, fsck, git

LIMIT = 16 << 20
SCOPE = Scope("web", "web1")
# No name is a file in one path and a directory in another one: what that means is for ``paths`` to say.
DIRECTORIES = ("global", "global/deep/er", "web/default", "web/web1", "web/web1/sub", "web/web2", "schemas", "a-b")
PATHS = st.builds("{}/{}".format, st.sampled_from(DIRECTORIES), st.sampled_from(["f", "f.toml", "f-1", "ä"]))
FILES = st.builds(File, st.binary(max_size=20), st.sampled_from([REGULAR, EXECUTABLE, SYMLINK]))
CHANGES = st.dictionaries(PATHS, st.none() | FILES, min_size=1, max_size=8)

Tree = dict[str, File]


def changed(tree: Tree, changes: Changes) -> Tree:
    """The tree with the changes made."""
    after = {path: file for path, file in tree.items() if path not in changes}
    return after | {path: file for path, file in changes.items() if file is not None}


class RepositoryMachine(RuleBasedStateMachine):
    """The model: the trees of main, and those of side branches."""

    @initialize()
    def begin(self) -> None:
        """Empty, on a disk whose power can be cut; a peer and a node that hear of it now and then."""
        self.root = Path(tempfile.mkdtemp())
        self.fs = PowerCutFs(self.root / "side")
        self.main: list[tuple[CommitId, Tree]] = []
        self.branches = 0
        self.sides: dict[str, tuple[CommitId, Tree]] = {}
        self.known: dict[CommitId, Tree] = {}  # every commit that was ever made
        self.peer = Repository.open(self.root / "peer.git")
        self.node = ObjectStore.open(self.root / "node" / "objects")
        self.fetched: list[CommitId] = []
        self.repo = Repository.open(self.root / "config.git", fs=self.fs)

    def _head(self) -> tuple[CommitId | None, Tree]:
        return self.main[-1] if self.main else (None, {})

    def _stored(self, parent: CommitId | None, changes: Changes, message: str) -> CommitId:
        before = None if parent is None else self.repo.commit(parent)
        draft = self.repo.draft(before, changes, author="operator:alice", message=message, time_s=NOON)
        tree = self.known[parent] if parent else {}
        assert draft.empty == (changed(tree, changes) == tree)
        commit_id, commit = self.repo.seal(draft.content)
        self.repo.store.add([*draft.objects, commit])
        self.known[commit_id] = changed(tree, changes)
        return commit_id

    @rule(changes=CHANGES)
    def commit(self, changes: Changes) -> None:
        """A revision."""
        head, _ = self._head()
        commit_id = self._stored(head, changes, f"r{len(self.main) + 1}")
        self.repo.advance({MAIN: (head, commit_id)})
        self.main.append((commit_id, self.known[commit_id]))

    @rule(changes=CHANGES)
    def commit_in_vain(self, changes: Changes) -> None:
        """Objects that nothing points to."""
        self._stored(self._head()[0], changes, "vain")

    @precondition(lambda self: len(self.main) > 1)
    @rule(changes=CHANGES, back=st.integers(1, 4))
    def take_over_another_line(self, changes: Changes, back: int) -> None:
        """Main continues from an earlier revision; what was there is kept on a side branch."""
        back = min(back, len(self.main) - 1)
        head, tree = self.main[-1]
        self.branches += 1
        name = f"{SIDE}m{self.branches}-r{len(self.main)}"
        commit_id = self._stored(self.main[-1 - back][0], changes, "other")
        self.repo.advance({name: (None, head), MAIN: (head, commit_id)})
        self.sides[name] = (head, tree)
        self.main = [*self.main[:-back], (commit_id, self.known[commit_id])]

    @precondition(lambda self: self.sides)
    @rule()
    def settle(self) -> None:
        """A side branch goes."""
        name = min(self.sides)
        self.repo.advance({name: (self.sides.pop(name)[0], None)})

    @rule()
    def maintain(self) -> None:
        """Loose objects and packs are packed."""
        self.repo.maintain()

    @precondition(lambda self: self.main)
    @rule(prune=st.booleans())
    def let_git_pack(self, prune: bool) -> None:
        """Somebody runs git's own maintenance in it."""
        git(self.repo.path, "gc", "-q", *(["--prune=now"] if prune else []))

    @rule()
    def reopen(self) -> None:
        """A new process."""
        self.repo.close()
        self.repo = Repository.open(self.root / "config.git", fs=self.fs)

    @rule(seed=st.integers(0, 1 << 20))
    def cut_the_power(self, seed: int) -> None:
        """What was not synced goes; what an advance returned for does not."""
        self.fs.cut(seed)
        self.fs = PowerCutFs(self.root / "side")
        self.repo = Repository.open(self.root / "config.git", fs=self.fs)

    @precondition(lambda self: self.main)
    @rule()
    def peer_takes_over(self) -> None:
        """Another manager gets what it lacks, and nothing is missing."""
        head = self.main[-1][0]
        had = self.peer.ref(MAIN)
        self.peer.receive(self.repo.pack([head], [had] if had else []), bytes_max=LIMIT)
        self.peer.advance({MAIN: (had, head)})
        assert [found.id for found in self.peer.log()] == [commit_id for commit_id, _ in reversed(self.main)]

    @precondition(lambda self: self.main)
    @rule(number=st.integers(0, 20), keep=st.integers(1, 3))
    def node_fetches(self, number: int, keep: int) -> None:
        """A node gets its own files of some revision, given what it has; and forgets older ones."""
        commit_id, tree = self.main[min(number, len(self.main) - 1)]
        self.node.receive(self.repo.pack([commit_id], self.fetched, SCOPE), bytes_max=LIMIT)
        check_scope(self.node, commit_id, SCOPE)
        self.fetched = [*self.fetched, commit_id][-keep:]
        self.node.keep_only(kept_objects(self.node, self.fetched, SCOPE))
        files = self.repo.files(self.repo.commit(commit_id))
        assert {path: self.node.blob(files[path].id) for path in tree if SCOPE.covers(path)} == {
            path: file.content for path, file in tree.items() if SCOPE.covers(path)
        }

    @precondition(lambda self: self.main)
    @rule(first=st.integers(0, 20), second=st.integers(0, 20))
    def compare_two(self, first: int, second: int) -> None:
        """What differs between any two revisions, in the order of paths."""
        (a, before), (b, after) = (self.main[min(number, len(self.main) - 1)] for number in (first, second))
        found = [
            (path, old and File(self.repo.content(old), old.mode), new and File(self.repo.content(new), new.mode))
            for path, old, new in self.repo.diff(self.repo.commit(a), self.repo.commit(b))
        ]
        paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        assert found == [(path, before.get(path), after.get(path)) for path in paths]

    @rule(path=PATHS | st.sampled_from(DIRECTORIES))
    def history_of(self, path: str) -> None:
        """Which revisions changed a file or directory."""

        def below(tree: Tree) -> Tree:
            return {name: file for name, file in tree.items() if name == path or name.startswith(path + "/")}

        trees = [{}, *(tree for _, tree in self.main)]
        expected = [number for number in range(1, len(trees)) if below(trees[number]) != below(trees[number - 1])]
        assert [found.revision for found in self.repo.log(path)] == expected[::-1]

    @invariant()
    def refs_and_files_are_the_models(self) -> None:
        """Head, its files, numbers."""
        head, tree = self._head()
        refs = {name: commit_id for name, (commit_id, _) in self.sides.items()}
        assert self.repo.refs() == refs | ({MAIN: head} if head else {})
        found = self.repo.head()
        assert {
            path: File(self.repo.content(entry), entry.mode) for path, entry in self.repo.files(found).items()
        } == tree
        assert found is None or found.revision == len(self.main)
        if self.main:
            middle = len(self.main) // 2
            assert self.repo.at(Revision(middle + 1)).id == self.main[middle][0]

    def teardown(self) -> None:
        """Everything reachable is there and right, also in git's eyes."""
        if hasattr(self, "repo"):
            for commit_id in self.repo.refs().values():
                check_scope(self.repo.store, commit_id, None)
            fsck(self.repo.path)
            fsck(self.peer.path)
            self.repo.close()
            self.peer.close()
            shutil.rmtree(self.root)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that packs come and go within a run."""
    monkeypatch.setattr(objects, "LOOSE_BATCH_MAX", 5)
    monkeypatch.setattr(objects, "LOOSE_MAX", 12)
    monkeypatch.setattr(objects, "PACKS_MAX", 2)


TestRepository = RepositoryMachine.TestCase
TestRepository.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
