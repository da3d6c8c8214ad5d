"""Paths, symlinks, sizes and names that cannot be laid out everywhere are refused, and the layer of a path is known."""

from collections.abc import Callable, Mapping

import pytest

from jlogd.confrepo import model as m
from jlogd.confrepo import paths

GOOD = [
    "global/a",
    "web/default/x/y.toml",
    "a b/c",
    "ü/日本",
    "global/.hidden",
    "global/a..b",
    "global/git",
    "x" * 255,
    "a/" * 31 + "a",
]
PLAIN = m.File(b"x")
BAD = {
    "": "empty",
    "/etc/passwd": "absolute",
    "a//b": "empty part",
    "a/": "empty part",
    "a/../b": "part ..",
    "./a": "part .",
    "a\\b": "backslash",
    "a\nb": "control",
    "a\x7f": "control",
    "a\x9b": "control",
    "a\u2028b": "control",
    ".git/config": "git",
    "web/.GIT/x": "git",
    "a/.git": "git",
    "a/.gi\u200ct": "git",
    "a/.git ": "git",
    "a/.git. .": "git",
    "a/GIT~1": "git",
    "a/.git::$INDEX_ALLOCATION": "git",
    ".gitmodules": "git",
    "x" * 256: "255",
    "é" * 128: "255",
    "a/" * 32 + "a": "32",
    "/".join(["x" * 200] * 6): "1024",
    "a\ud800": "UTF-8",
}


@pytest.mark.parametrize("path", GOOD)
def test_paths_that_any_file_system_takes_are_good(path: str) -> None:
    assert paths.check_path(path) is None


@pytest.mark.parametrize("path", BAD)
def test_paths_that_lead_elsewhere_or_cannot_be_laid_out_are_refused(path: str) -> None:
    problem = paths.check_path(path)
    assert problem is not None
    assert BAD[path] in problem


@pytest.mark.parametrize(
    ("path", "layer", "rest"),
    [
        ("global/a/b", "global", "a/b"),
        ("web/default/a", "web/default", "a"),
        ("web/web1/a/b", "web/web1", "a/b"),
        ("schemas/a.json", "schemas", "a.json"),
        ("running/web1/a", "running/web1", "a"),
        ("default/default/a", "default/default", "a"),
        ("global", None, "global"),
        ("web/a", None, "web/a"),
        ("running/a", None, "running/a"),
        ("README.md", None, "README.md"),
        ("Web/default/a", None, "Web/default/a"),
        ("web/N1/a", None, "web/N1/a"),
    ],
)
def test_a_path_is_in_the_layer_that_its_first_directories_name(path: str, layer: str | None, rest: str) -> None:
    assert paths.layer_of(path) == layer
    assert paths.in_view(path) == rest


@pytest.mark.parametrize(
    ("path", "target", "good"),
    [
        ("global/a", b"b", True),
        ("global/a", b"./b/c", True),
        ("global/x/a", b"../b", True),
        ("web/web1/x/a", b"../b", True),
        ("web/web1/x/y/a", b"../../b", True),
        ("global/a", b"../web", False),
        ("web/web1/a", b"../default/b", False),
        ("web/web1/x/a", b"../../b", False),
        ("global/x/y/a", b"b/../c", False),
        ("global/a", b"/etc/passwd", False),
        ("global/a", b"", False),
        ("global/a", b"a\0b", False),
        ("global/a", b"a\xff", False),
        ("global/a", b"x" * 1024, False),
        ("global/.gitignore", b"x", False),
        (".profile", b"x", False),
    ],
)
def test_a_symlink_stays_inside_its_layer(path: str, target: bytes, good: bool) -> None:
    """``..`` behind a name is refused as well: the name may be a symlink to somewhere less deep."""
    assert (paths.check_target(path, target) is None) is good


def tree(*files: str) -> Callable[[str], Mapping[str, bool]]:
    """What directories hold, of a tree with these files."""

    def siblings(directory: str) -> dict[str, bool]:
        prefix = directory + "/" if directory else ""
        found: dict[str, bool] = {}
        for file in files:
            if file.startswith(prefix):
                name, slash, _ = file[len(prefix) :].partition("/")
                found[name] = found.get(name, False) or bool(slash)
        return found

    return siblings


def faults(*changed: str, beside: tuple[str, ...] = (), file: m.File = PLAIN) -> list[tuple[str, str]]:
    found = paths.tree_faults(dict.fromkeys(changed, file), tree(*changed, *beside))
    return [(fault.path, fault.problem) for fault in found]


def test_files_in_layers_and_readmes_at_the_top_are_taken() -> None:
    assert faults("global/a", "web/default/b", "web/web1/c", "schemas/a.json", "README.md", ".gitignore") == []


@pytest.mark.parametrize("path", ["a", "web/a", "running/a", "web/README.md", "global", "Web/default/a"])
def test_a_file_in_no_layer_is_refused(path: str) -> None:
    [(where, problem)] = faults(path)
    assert where == path
    assert "is in no layer" in problem


def test_a_name_that_is_no_subcluster_is_named() -> None:
    [(_, problem)] = faults("Web/default/a")
    assert "'Web'" in problem


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("global/A", "global/a"),
        ("global/Dir/x", "global/dir/y"),
        ("global/e\u0301", "global/\u00e9"),
        ("global/\u017f", "global/s"),
        ("global/straße", "global/STRASSE"),
    ],
)
def test_names_that_differ_in_case_or_form_only_are_refused(new: str, old: str) -> None:
    [(path, problem)] = faults(new, beside=(old,))
    assert path == new
    assert "in case or Unicode form only" in problem


def test_equal_names_in_different_directories_are_no_clash() -> None:
    assert faults("global/a/x", beside=("global/b/X", "web/default/A/x")) == []


def test_a_clash_of_two_changed_files_is_told_once() -> None:
    assert len(faults("global/a", "global/A")) == 1


def test_a_path_that_is_a_file_and_a_directory_is_refused() -> None:
    """As some listing tells it: for the file the directory wins, for what is below it the file."""
    both = m.File(b"x")
    above = paths.tree_faults({"global/a": both}, lambda at: {"global": True} if not at else {"a": True})
    assert [fault.problem for fault in above] == ["is a file and a directory"]
    below = paths.tree_faults(
        {"global/a/b": both}, lambda at: {"": {"global": True}, "global": {"a": False}}.get(at, {"b": False})
    )
    assert [fault.problem for fault in below] == ["global/a is a file"]


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (m.File(b"x", 0o100600), "mode"),
        (m.File(b"x", 0o160000), "mode"),
        (m.File(b"x" * (m.FILE_BYTES_MAX + 1)), "bytes"),
        (m.File(b"../../x", m.SYMLINK), "layer"),
    ],
)
def test_modes_sizes_and_targets_are_checked(file: m.File, problem: str) -> None:
    [(_, told)] = faults("global/a", file=file)
    assert problem in told


def test_what_is_deleted_breaks_no_rule() -> None:
    assert paths.tree_faults({"../x": None, "a": None}, tree()) == []


def test_a_bad_path_is_told_before_it_is_taken_apart() -> None:
    assert [path for path, _ in faults("global/a/../b", "/x")] == ["/x", "global/a/../b"]


def test_the_whole_tree_has_bounds() -> None:
    assert paths.totals_fault([1] * m.FILES_MAX) is None
    assert "files" in str(paths.totals_fault([1] * (m.FILES_MAX + 1)))
    assert paths.totals_fault([m.FILE_BYTES_MAX] * 128) is None
    assert "bytes" in str(paths.totals_fault([m.FILE_BYTES_MAX] * 128 + [1]))
