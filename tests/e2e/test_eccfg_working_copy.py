"""eccfg against real managers, as operators use it from the first minute on."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Result
from tests.support.fleet import Fleet, Manager, free_port

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two managers: m1 writes, m2 follows and forwards."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as made:
        ports = free_port(), free_port()
        for name, port, other in (("m1", ports[0], ports[1]), ("m2", ports[1], ports[0])):
            made.manager(name, port=port, config=f'writer = "m1"\npeers = ["127.0.0.1:{other}"]\n')
        made.start()
        done = made.eccfg("bootstrap")
        assert done.code == 0, done.err
        done = made.eccfg("put", "-", "default/n0/own.toml", "-m", "A node", stdin=b"x = 1\n")
        assert done.code == 0, done.err
        yield made


@pytest.fixture
def run(fleet: Fleet) -> Run:
    """``run(*words)``, which must succeed unless ``code`` says otherwise."""

    def run(*words: object, code: int = 0, operator: str = "alice", at: Path | None = None, **more: object) -> Result:
        done = fleet.eccfg(*words, operator=operator, directory=at, **more)  # type: ignore[arg-type]
        assert done.code == code, (words, done)
        return done

    return run


def git(manager: Manager, *words: str) -> str:
    argv = ["git", "-c", "safe.directory=*", "-C", str(manager.repository), *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """Alice's working copy."""
    run("clone", tmp_path / "copy")
    return tmp_path / "copy"


def test_a_first_day(fleet: Fleet, run: Run, copy: Path) -> None:
    """Edit, see it refused with its line, mend it, commit: git has it, by its author, signed."""
    example = copy / "global/example.toml"
    good = example.read_text()
    example.write_text(good.replace('greeting = "hello"', "greeting = 5"))
    refused = run("commit", "-m", "Not as the schema says", code=6, at=copy)
    assert "global/example.toml:2: " in refused.err
    example.write_text(good.replace("connections = 100", "connections ="))
    refused = run("check", code=6, at=copy)
    assert "global/example.toml:5: " in refused.err
    example.write_text(good.replace("connections = 100", "connections = 300"))
    assert b"good" in run("check", at=copy).out
    done = run("commit", "-m", "More guests", at=copy)
    revision, short = done.out.decode().split()
    manager = fleet.managers["m1"]
    shown = git(manager, "cat-file", "commit", "main")
    assert git(manager, "rev-parse", "main").startswith(short)
    assert "author alice <operator:alice@jlogd>" in shown
    assert f"jlogd-revision {revision[1:]}" in shown
    assert "jlogd-signature " in shown
    assert shown.endswith("\nMore guests\n")
    assert b"up to date" in run("status", at=copy).out
    assert run("commit", "-m", "again", at=copy).out == b"Nothing to commit\n"


def test_two_operators_meet(fleet: Fleet, run: Run, copy: Path, tmp_path: Path) -> None:
    """Different keys of one file merge at commit, through the other manager too; the same key is a conflict."""
    run("put", "-", "web/default/site.toml", "-m", "m", stdin=b"# site\na = 1\nb = 1\n")
    run("pull", at=copy)
    second = tmp_path / "second"
    run("clone", second, operator="bob", manager=fleet.managers["m2"])
    (copy / "web/default/site.toml").write_text("# site\na = 2\nb = 1\n")
    (second / "web/default/site.toml").write_text("# site\na = 1\nb = 2\n")
    run("commit", "-m", "a is 2", at=copy)
    merged = run("commit", "-m", "b is 2", operator="bob", manager=fleet.managers["m2"], at=second)
    assert "merged" in merged.err
    assert (second / "web/default/site.toml").read_text() == "# site\na = 2\nb = 2\n"
    (copy / "web/default/site.toml").write_text("# site\na = 7\nb = 1\n")
    (second / "web/default/site.toml").write_text("# site\na = 8\nb = 2\n")
    run("commit", "-m", "a is 8", operator="bob", at=second)
    refused = run("commit", "-m", "a is 7", code=6, at=copy)
    assert "yours   7" in refused.err
    assert "theirs  8" in refused.err
    assert run("pull", code=6, at=copy).out == b""
    run("pull", "--manual", at=copy)
    run("commit", "-m", "no", code=6, at=copy)
    (copy / "web/default/site.toml").write_text("# site\na = 9\nb = 2\n")
    run("resolve", "web/default/site.toml", at=copy)
    run("commit", "-m", "a is 9", at=copy)
    assert "a = 9" in git(fleet.managers["m1"], "show", "main:web/default/site.toml")


def test_changes_on_the_server(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    """One revision each; revert undoes one, rollback makes all as it was; the peer has the same line."""
    before = git(fleet.managers["m1"], "rev-parse", "main").strip()
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/a.txt").write_text("a\n")
    run("put", tmp_path / "tree", "db/default", "-m", "tree")
    put = json.loads(run("put", "-", "db/default/b.txt", "-m", "b", "--json", stdin=b"b\n").out)
    run("copy", "db/default", "db/db1", "-m", "copy")
    run("delete", "db/default/sub", "-m", "delete")
    run("overlay", "db/db1", "db/default", "-m", "overlay")
    run("subcluster", "copy", "db", "db-west", "--node-dirs", "-m", "second site")
    main = fleet.managers["m1"]
    files = set(git(main, "ls-tree", "-r", "--name-only", "main").split())
    assert {"db-west/default/sub/a.txt", "db-west/db1/b.txt", "db/default/sub/a.txt"} <= files
    listed = json.loads(run("subcluster", "ls", "--json").out)["subclusters"]
    assert {"name": "db", "default_files": 2, "directories": ["db1"], "nodes": []} in listed
    run("revert", f"r{put['revision']}", "-m", "no b")
    assert "db/default/b.txt" not in git(main, "ls-tree", "-r", "--name-only", "main").split()
    run("rollback", before, "-m", "as it was", manager=fleet.managers["m2"])
    assert git(main, "rev-parse", "main^{tree}") == git(main, "rev-parse", f"{before}^{{tree}}")
    assert int(git(main, "rev-list", "--count", f"{before}..main")) == 8
    run("rollback", "r99999", "-m", "m", code=6)


def test_differences(run: Run, copy: Path) -> None:
    """Between revisions, of local edits, and of what a node would get by them."""
    (copy / "default/n1").mkdir(parents=True)
    (copy / "default/n1/example.toml").write_text("[limits]\nconnections = 7\n")
    run("add", ".", at=copy)
    assert b"+connections = 7" in run("diff", at=copy).out
    local = run("diff", "--node", "n1", "--keys", at=copy).out.decode()
    assert local == "example.toml: modified\n  limits.connections: 200 → 7\n"
    run("commit", "-m", "n1", at=copy)
    assert run("diff", "--node", "n1", "HEAD~1", "HEAD", "--keys", at=copy).out.decode() == local
    assert b"+++ b/default/n1/example.toml" in run("diff", "HEAD~1", "HEAD").out


def test_the_connection_is_remembered(fleet: Fleet, run: Run) -> None:
    written = (fleet.root / "xdg/eccfg.toml").read_text()
    assert f'manager = "{fleet.managers["m1"].address}"' in written
    assert "alice.key" in written
    assert "eccfg clone" in run("bootstrap", code=6).err


def test_a_node_may_not_commit_for_others(fleet: Fleet, run: Run) -> None:
    """Rights are the manager's to check; eccfg says what it said, exit 1."""
    node = fleet.node("n9", [], [fleet.managers["m1"]])
    words = ["--cert", node.directory / "n9.crt", "--key", node.directory / "n9.key"]
    refused = run(*words, "put", "-", "global/x", "-m", "m", stdin=b"", code=1)
    assert "n9" in refused.err
