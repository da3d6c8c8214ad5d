"""A power cut takes back only what was never synced, and over the seeds all of what it may."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jlogd.runtime.fs import FileSystem
from jlogd.spool.owner import Owner
from tests.support import power_cut
from tests.support.power_cut_fs import PowerCutFs

SEEDS = 60


def outcomes(tmp_path: Path, work: Callable[[FileSystem, Path], None]) -> list[dict[str, bytes]]:
    """Every file's content after ``work`` and a power cut, for many seeds."""
    found: list[dict[str, bytes]] = []
    for seed in range(SEEDS):
        home = tmp_path / f"{seed}" / "home"
        home.mkdir(parents=True)
        fs = PowerCutFs(tmp_path / f"{seed}" / "side")
        work(fs, home)
        fs.cut(seed)
        found.append({str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()})
        assert not fs.side.exists()
    return found


def test_synced_bytes_stay_and_appended_ones_may_go(tmp_path: Path) -> None:
    synced, appended = b"s" * 1000, b"a" * 3000

    def work(fs: FileSystem, home: Path) -> None:
        with fs.create(home / "f") as file:
            file.pwrite([synced], 0)
            file.datasync()
            fs.sync_dir(home)
            file.pwrite([appended[:1500], appended[1500:]], 1000)

    found = outcomes(tmp_path, work)
    assert all(files["f"].startswith(synced) for files in found)
    rests = {files["f"][1000:] for files in found}
    assert {b"", appended} <= rests
    assert any(0 < len(rest) < 3000 for rest in rests)
    assert any(b"\0" in rest for rest in rests)
    assert any(set(rest) - set(b"a\0") for rest in rests)  # garbage


def test_bytes_overwritten_in_place_are_old_or_new_by_sector(tmp_path: Path) -> None:
    def work(fs: FileSystem, home: Path) -> None:
        with fs.create(home / "f") as file:
            file.pwrite([b"o" * 2048], 0)
            file.datasync()
            fs.sync_dir(home)
            file.pwrite([b"n" * 1024], 512)

    found = {files["f"] for files in outcomes(tmp_path, work)}
    for content in found:
        assert len(content) == 2048
        assert content[:512] + content[1536:] == b"o" * 1024
        assert all(len(set(content[at : at + 512])) == 1 for at in range(0, 2048, 512))
    assert len(found) == 4


def test_unsynced_names_may_go(tmp_path: Path) -> None:
    def work(fs: FileSystem, home: Path) -> None:
        fs.create(home / "kept").close()
        fs.sync_dir(home)
        fs.create(home / "new").close()
        fs.unlink(home / "kept")

    assert {frozenset(files) for files in outcomes(tmp_path, work)} == {
        frozenset({"kept", "new"}), frozenset({"kept"}), frozenset({"new"}), frozenset(),
    }  # fmt: skip


def test_a_removed_name_comes_back_with_its_content(tmp_path: Path) -> None:
    def work(fs: FileSystem, home: Path) -> None:
        fs.replace_bytes(home / "f", b"one")
        fs.unlink(home / "f")

    assert {files.get("f") for files in outcomes(tmp_path, work)} == {b"one", None}


def test_replace_is_atomic_and_durable(tmp_path: Path) -> None:
    def work(fs: FileSystem, home: Path) -> None:
        fs.make_dirs(home / "a" / "b")
        for content in (b"one", b"two"):
            fs.replace_bytes(home / "a" / "b" / "f", content)

    assert all(files["a/b/f"] == b"two" for files in outcomes(tmp_path, work))


def test_an_unsynced_rename_may_be_undone(tmp_path: Path) -> None:
    class Careless(PowerCutFs):
        def sync_dir(self, path: Path) -> None:
            if path.name != "home":
                super().sync_dir(path)

    seen = set()
    for seed in range(SEEDS):
        home = tmp_path / f"{seed}" / "home"
        home.mkdir(parents=True)
        (home / "f").write_bytes(b"before")
        (home / "n").write_bytes(b"after")
        fs = Careless(tmp_path / f"{seed}" / "side")
        fs.rename(home / "n", home / "f")
        fs.cut(seed)
        seen.add(((home / "f").read_bytes(), (home / "n").exists()))
    assert seen == {(b"before", True), (b"after", False)}


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3000), st.binary(min_size=1, max_size=1500)),
        st.tuples(st.just("truncate"), st.integers(0, 3000), st.none()),
        st.tuples(st.just("sync"), st.none(), st.none()),
        st.tuples(st.just("reopen"), st.none(), st.none()),
    ),
    max_size=12,
)


@given(operations, st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_without_unsynced_changes_nothing_moves_and_size_stays_within_bounds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int | None, bytes | None]], seed: int
) -> None:
    home = tmp_path_factory.mktemp("cut")
    fs = PowerCutFs(home / "side")
    file = fs.create(home / "f")
    fs.sync_dir(home)
    synced, now = b"", b""
    for step, position, content in steps:
        if step == "write" and position is not None and content is not None:
            file.pwrite([content], position)
            now = now.ljust(position, b"\0")
            now = now[:position] + content + now[position + len(content) :]
        elif step == "truncate" and position is not None:
            file.truncate(position)
            now = now[:position].ljust(position, b"\0")
        elif step == "sync":
            file.datasync()
            synced = now
        else:  # a process that ends and starts again knows what its predecessor did not sync
            file.close()
            fs.log.close()
            fs = PowerCutFs(home / "side")
            file = fs.open_write(home / "f")
    file.close()
    assert (home / "f").read_bytes() == now
    events = power_cut.read_events(fs.side)
    durable = bytearray(now)
    pending = list(power_cut.Unsynced.of(events).content.values())
    for items in pending:
        for _, event in reversed(items):
            power_cut._revert(durable, event)
    assert bytes(durable) == synced
    fs.cut(seed)
    size = (home / "f").stat().st_size
    assert min(len(synced), len(now)) <= size <= max(len(synced), len(now))
    if not any(pending):
        assert (home / "f").read_bytes() == now


@pytest.mark.parametrize("seed", range(20))
def test_an_owner_s_epoch_survives_every_power_cut(tmp_path: Path, seed: int) -> None:
    epoch = 0
    for round_number in range(3):
        fs = PowerCutFs(tmp_path / "side")
        with Owner.acquire(tmp_path / "spool", "n", fs=fs) as owner:
            assert owner.epoch > epoch
            epoch = owner.epoch
        fs.cut(seed + 100 * round_number)


DAEMON = """
import sys
from pathlib import Path
from jlogd.runtime.fs import OS

def append(path, fs=OS):
    fs.make_dirs(path.parent)
    with fs.create(path) as file:
        fs.sync_dir(path.parent)
        file.pwrite([b"synced"], 0)
        file.datasync()
        file.pwrite([b"lost?"], 6)
        print("written", flush=True)
        sys.stdin.read()

def main():
    append(Path(sys.argv[1]))
"""


def test_a_killed_daemon_can_be_cut_from_outside(tmp_path: Path) -> None:
    package = tmp_path / "code" / "victim"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(DAEMON)
    root = Path(__file__).parents[3]
    left = set()
    for seed in range(12):
        home = tmp_path / f"{seed}"
        with subprocess.Popen(
            [sys.executable, "-m", "tests.support.power_cut", "run", home / "side", "--", "victim", home / "d" / "f"],
            cwd=root, env={"PYTHONPATH": f"{root}:{package.parent}"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == b"written\n"
            process.kill()
        done = power_cut.cut(home / "side", seed)
        assert any("1 unsynced changes" in line for line in done)
        left.add((home / "d" / "f").read_bytes())
    assert all(content.startswith(b"synced") for content in left)
    assert {b"synced", b"syncedlost?"} <= left


@pytest.mark.parametrize("synced", [False, True])
def test_names_in_a_directory_that_was_renamed_go_as_well(tmp_path: Path, synced: bool) -> None:
    """Links, symlinks and files made in ``new/`` are found in ``view/``: gone when they were never synced."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_bytes(b"old")
    left: set[tuple[str, ...]] = set()
    for seed in range(12):
        fs = PowerCutFs(tmp_path / f"side-{seed}")
        new = root / "new"
        fs.make_dir(new)
        fs.link(root / "old", new / "linked")
        fs.symlink("linked", new / "symlink")
        with fs.create(new / "file") as file:
            file.pwrite([b"content"], 0)
            file.datasync()
        if synced:
            fs.sync_dir(new)
        fs.rename(new, root / "view", sync=False)
        fs.sync_dir(root)
        fs.cut(seed)
        left.add(tuple(sorted(path.name for path in (root / "view").iterdir())))
        fs.remove_tree(root / "view")
    assert (left == {("file", "linked", "symlink")}) == synced


def test_a_symlink_that_was_replaced_may_come_back(tmp_path: Path) -> None:
    """Old or new, never none, and never what it points to."""
    seen = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for seed in range(12):
        fs = PowerCutFs(tmp_path / f"side-{seed}")
        current = tmp_path / "current"
        current.unlink(missing_ok=True)
        fs.symlink("a", current)
        fs.sync_dir(tmp_path)
        fs.symlink("b", tmp_path / "beside")
        fs.rename(tmp_path / "beside", current, sync=False)
        fs.cut(seed)
        seen.add(str(current.readlink()))
        (tmp_path / "beside").unlink(missing_ok=True)
    assert seen == {"a", "b"}
