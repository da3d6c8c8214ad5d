"""Disks that lie: what a manager and a node do when bytes of the configuration are not what was written."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import until
from tests.support.fleet import Fleet, Manager, Node

TREE = {
    "global/app.toml": 'greeting = "hello"\n',
    "global/motd": "welcome\n",
    "web/web1/only": "mine\n",
    "db/db1/only": "of db1\n",
}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A manager with two revisions and a node that runs the second."""
    with Fleet(tmp_path / "fleet") as made:
        m1 = made.manager("m1", config='writer = "m1"\n')
        node = made.node("web1", [], [m1], subcluster="web", config='reconcile = "1s"\nconfirm_timeout = "5s"\n')
        made.start()
        for path, text in TREE.items():
            (tmp_path / "first" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "first" / path).write_text(text)
        for words in (("bootstrap", "--from", tmp_path / "first"), ("put", "-", "global/motd", "-m", "Second")):
            done = made.eccfg(*words, stdin=b"second\n")
            assert done.code == 0, done.err
        runs(node, "motd", "second\n")
        yield made


def runs(node: Node, path: str, text: str) -> None:
    """Wait until it does."""

    def there() -> bool:
        try:
            return (node.view / path).read_text() == text
        except OSError:
            return False

    until(there, 30, f"{node.name} has {path} = {text!r}\n{node.tail()}")


def flip(file: Path) -> None:
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.chmod(0o600)
    file.write_bytes(content)


def objects(repository: Path) -> list[Path]:
    """All loose objects and packs."""
    return [path for path in (repository / "objects").rglob("*") if path.is_file() and path.suffix != ".idx"]


def truncate(file: Path) -> None:
    """Half of it is gone."""
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def unlink(file: Path) -> None:
    """All of it."""
    file.unlink()


@pytest.mark.parametrize("how", [flip, truncate, unlink], ids=lambda how: how.__name__)
def test_a_manager_whose_objects_are_damaged_says_so_and_serves_none(fleet: Fleet, how: Callable[[Path], None]) -> None:
    """Exit 5 or refused to start, naming the object or the file; a node keeps what it runs."""
    m1, node = fleet.managers["m1"], fleet.nodes["web1"]
    m1.stop()
    for file in objects(m1.repository):
        how(file)
    m1.start()
    said = outcome(fleet, m1)
    assert str(m1.repository) in said or "object" in said, said
    assert "Traceback" not in m1.log.read_text()
    assert (node.view / "motd").read_text() == "second\n"
    assert node.running


def outcome(fleet: Fleet, manager: Manager) -> str:
    """What it says when it does not start, or when somebody reads."""
    until(lambda: not manager.running or manager.answers(), 30, "it starts or ends")
    if not manager.running:
        assert manager.wait() in {1, 5}, manager.tail()
        return manager.tail()
    read = [fleet.eccfg("cat", "global/app.toml"), fleet.eccfg("cat", "db/db1/only"), fleet.eccfg("clone", "copy")]
    assert {done.code for done in read} == {5}, read
    assert all(done.out == b"" for done in read)
    return "".join(done.err for done in read)


@pytest.mark.parametrize(
    "content",
    [b"garbage\n", b"", b"f" * 40 + b"\n", b"ref: refs/heads/main\n", None],
    ids=["garbage", "empty", "unknown", "loop", "gone"],
)
def test_a_manager_whose_main_is_damaged_does_not_begin_anew(fleet: Fleet, content: bytes | None) -> None:
    """It names the file; it never takes commits on top of nothing while its history lies there."""
    m1, node = fleet.managers["m1"], fleet.nodes["web1"]
    m1.stop()
    main = m1.repository / "refs/heads/main"
    before = main.read_bytes()
    main.unlink()
    if content is not None:
        main.write_bytes(content)
    m1.start()
    until(lambda: not m1.running or m1.answers(), 30, "it starts or ends")
    if m1.running:
        done = fleet.eccfg("put", "-", "global/motd", "-m", "Third", stdin=b"third\n")
        assert done.code in {1, 5, 6}, done
        assert (node.view / "motd").read_text() == "second\n"
        m1.stop()
    else:
        assert m1.wait() in {1, 5}
        assert "main" in m1.tail()
    main.write_bytes(before)
    m1.start()
    m1.ready()
    done = fleet.eccfg("put", "-", "global/motd", "-m", "Third", stdin=b"third\n")
    assert done.code == 0, done.err
    runs(node, "motd", "third\n")


def test_one_bad_object_costs_what_is_in_it_and_no_more(fleet: Fleet) -> None:
    """Reading it is exit 5; other files are read, and commits that do not touch it are taken."""
    m1 = fleet.managers["m1"]
    listing = {path.parent.name + path.name: path for path in objects(m1.repository)}
    bad = blob_of(fleet, m1, "db/db1/only")
    m1.stop()
    flip(listing[bad])
    m1.start()
    m1.ready()
    done = fleet.eccfg("cat", "db/db1/only")
    assert done.code == 5
    assert f"{bad[:2]}/{bad[2:]}" in done.err
    assert fleet.eccfg("cat", "global/app.toml").out == b'greeting = "hello"\n'
    done = fleet.eccfg("put", "-", "global/motd", "-m", "Third", stdin=b"third\n")
    assert done.code == 0, done.err
    runs(fleet.nodes["web1"], "motd", "third\n")
    done = fleet.eccfg("put", "-", "db/db1/only", "-m", "Anew", stdin=b"of db1, anew\n")
    assert done.code == 0, done.err
    assert fleet.eccfg("cat", "db/db1/only").out == b"of db1, anew\n"


def blob_of(fleet: Fleet, manager: Manager, path: str) -> str:
    """Its object's id."""
    from tests.support.daemon import run_command  # noqa: PLC0415 - here only

    git = ["git", "-c", "safe.directory=*", "-C", str(manager.repository), "rev-parse", f"main:{path}"]
    return run_command(git).out.decode().strip()


# ---------------------------------------------------------------------- a node


def damage_objects(node: Node) -> None:
    """Every object of its store."""
    for file in objects(node.view.parent):
        flip(file)


def lose_objects(node: Node) -> None:
    """The whole store."""
    shutil.rmtree(node.view.parent / "objects")


def lose_view(node: Node) -> None:
    """What it runs, and what says what that was."""
    shutil.rmtree(node.view.parent / "revisions")


def replace_current(node: Node) -> None:
    """Something else in its place."""
    node.view.unlink()
    node.view.mkdir()
    (node.view / "motd").write_text("foreign\n")


def dangle_current(node: Node) -> None:
    """It points nowhere."""
    node.view.unlink()
    node.view.symlink_to("revisions/" + "f" * 40)


def lead_current_away(node: Node) -> None:
    """It points out of the spool."""
    node.view.unlink()
    node.view.symlink_to("/etc")


def garble_state(node: Node) -> None:
    """What it remembers of revisions and serials."""
    for name in ("state.json", *(path.name for path in (node.view.parent / "revisions").glob("*.json"))):
        place = node.view.parent / name
        place = place if place.exists() else node.view.parent / "revisions" / name
        place.write_bytes(b'{"schema": 1, "serial": 99999999999, \xff')


DAMAGES: tuple[Callable[[Node], None], ...] = (
    damage_objects, lose_objects, lose_view, replace_current, dangle_current, lead_current_away, garble_state,
)  # fmt: skip


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_node_repairs_itself(fleet: Fleet, *, running: bool) -> None:
    """It ends with the revision that it should run, whole; the next one arrives as well."""
    node = fleet.nodes["web1"]
    for number, damage in enumerate(DAMAGES):
        if not running:
            node.stop()
        damage(node)
        if not running:
            node.start()
            node.ready()
            runs(node, "motd", "second\n")
        name = damage.__name__
        done = fleet.eccfg("put", "-", f"global/{name}", "-m", name, stdin=b"later\n")
        assert done.code == 0, done.err
        runs(node, name, "later\n")
        runs(node, "motd", "second\n")
        runs(node, "only", "mine\n")
        assert len(list(node.view.iterdir())) == 3 + number + 1  # and nothing else
    waited = fleet.eccfg("wait", "HEAD", "--node", "web1", "--timeout", "30s")
    assert waited.code == 0, waited.err
    assert node.running
    assert "Traceback" not in node.log.read_text()


def test_a_deleted_file_of_the_view_is_reported_as_drift(fleet: Fleet) -> None:
    """And brought back by the next revision of that file."""
    node = fleet.nodes["web1"]
    (node.view / "motd").unlink()

    def drift() -> list[str]:
        found: list[str] = fleet.eccfg("nodes", "--json").json()["nodes"][0]["drift"]
        return found

    until(lambda: drift() == ["motd"], 30, "the drift is reported")
