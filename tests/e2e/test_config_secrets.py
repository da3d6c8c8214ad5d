"""A secret's way from an operator's keyboard to one file on one node, and everywhere else that it must not be."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import run_command, until
from tests.support.fleet import ECCFG, REPOSITORY, Fleet

WORD = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A manager, the node that may know, and one that may not."""
    home = tmp_path_factory.mktemp("secrets")
    with Fleet(home) as made:
        m1 = made.manager("m1", config='writer = "m1"\n')
        made.node("web1", [], [m1], subcluster="web", config=f'reload = "{home}/tell"\n')
        (home / "tell").write_text("#!/bin/sh\ncat app.toml; ! grep password app.toml\n")
        (home / "tell").chmod(0o755)
        made.node("web2", [], [m1], subcluster="web", config="")
        made.start()
        (home / "first/web/web1").mkdir(parents=True)
        (home / "first/web/web1/app.toml").write_text('[db]\nuser = "app"\n')
        assert made.eccfg("bootstrap", "--from", home / "first").code == 0
        for name in ("web1", "web2"):
            done = made.eccfg("wait", "r1", "--node", name, "--timeout", "20s")
            assert done.code == 0, done.err
        done = made.eccfg(
            "secret", "set", "app.toml", "db.password", "--node", "web1", "-m", "Secret", stdin=WORD.encode() + b"\n"
        )
        assert done.code == 0, done.err
        assert WORD not in done.out.decode() + done.err
        told = made.eccfg("wait", "r2", "--node", "web1", "--timeout", "20s")
        assert told.code == 6, "the reload command prints the file, and fails"
        assert WORD not in told.err
        (home / "tell").write_text("#!/bin/sh\ncat app.toml\n")
        done = made.eccfg("put", "-", "global/next", "-m", "The command is right now")
        assert done.code == 0, done.err
        until(lambda: WORD in (made.nodes["web1"].view / "app.toml").read_text(), 20, "it is laid out")
        yield made


def test_it_is_in_one_file_that_its_owner_alone_reads(fleet: Fleet) -> None:
    """0600 in the view; nowhere else below the whole fleet's directories: logs, state, objects, reports, manifests."""
    holders: list[Path] = []
    for place in fleet.root.rglob("*"):
        if place.is_file() and not place.is_symlink() and WORD.encode() in place.read_bytes():
            holders.append(place)
            assert stat.S_IMODE(place.stat().st_mode) & 0o077 == 0, place
    config = fleet.nodes["web1"].view.parent
    assert fleet.nodes["web1"].view.resolve() / "app.toml" in holders
    outputs = {config / "reload.log", config / "reload.failed.log"}  # what the command printed, and nobody else did
    assert {place.name for place in holders if place not in outputs} == {"app.toml"}
    assert all(place.is_relative_to(config) for place in holders)


@pytest.mark.parametrize(
    "words",
    [
        ("cat", "web/web1/app.toml"), ("cat", "app.toml", "--node", "web1"),
        ("cat", "app.toml", "--node", "web1", "--json"),
        ("explain", "app.toml", "--node", "web1"), ("explain", "app.toml", "--node", "web1", "--json"), ("show", "r2"),
        ("show", "r2", "--json"), ("blame", "web/web1/app.toml"), ("diff", "r1", "r2"), ("diff", "r1", "r2", "--keys"),
        ("diff", "r1", "r2", "--node", "web1", "--json"), ("nodes", "--json"), ("log", "--json"),
        ("effective", "--node", "web1", "--json"), ("wait", "--timeout", "1s", "--json"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_nobody_is_shown_it(fleet: Fleet, words: tuple[str, ...]) -> None:
    """Not even who set it."""
    done = fleet.eccfg(*words)
    assert WORD not in done.out.decode() + done.err
    if words[0] == "explain" and "--json" not in words:
        assert b"set (secret)" in done.out


def test_status_and_what_the_reload_command_said_do_not_tell_it(fleet: Fleet) -> None:
    """A command that prints the file: its output stays on the node, in a file of its owner."""
    for daemon in fleet.daemons():
        done = daemon.command("status", "--json")
        assert done.code == 0
        assert WORD not in done.out.decode() + done.err
        assert WORD not in daemon.log.read_text()


def test_no_argument_of_any_process_is_the_secret(fleet: Fleet) -> None:
    """It is read from a file, a terminal or stdin; there is no option for it."""
    help_ = fleet.eccfg("secret", "set", "--help").out.decode()
    assert "--value " not in help_
    tls = fleet.operator("alice")
    whom = ("--manager", fleet.managers["m1"].address, "--ca", tls.ca, "--cert", tls.cert, "--key", tls.key)
    argv = [*ECCFG, *map(str, whom), "secret", "set", "other.toml", "k", "--node", "web1", "-m", "x"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert WORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.communicate(WORD.encode(), timeout=30)
    assert process.returncode == 0


def test_another_node_cannot_read_it_and_says_no_word_of_it(fleet: Fleet) -> None:
    """The ciphertext in another's layer: refused there, with the file's name; the old view stays."""
    done = fleet.eccfg("copy", "web/web1/app.toml", "web/web2/app.toml", "-m", "Copied")
    assert done.code == 0, done.err
    waited = fleet.eccfg("wait", "HEAD", "--node", "web2", "--timeout", "20s")
    assert waited.code == 6
    assert "app.toml" in waited.err
    assert WORD not in waited.err
    done = fleet.eccfg("delete", "web/web2/app.toml", "-m", "Away")
    assert fleet.eccfg("wait", "HEAD", "--node", "web2", "--timeout", "20s").code == 0


def test_a_setting_that_is_a_secret_and_wrong_is_reported_without_it(fleet: Fleet) -> None:
    """Its own settings may come from the view; what is wrong with a secret one is said without its value."""
    done = fleet.eccfg(
        "secret", "set", "jlogd.toml", "http.listen", "--node", "web2", "-m", "x", stdin=WORD.encode() + b"\n"
    )
    if done.code == 0:
        waited = fleet.eccfg("wait", "HEAD", "--node", "web2", "--timeout", "20s")
        assert WORD not in waited.err + fleet.eccfg("nodes", "--json").out.decode()
        assert WORD not in fleet.nodes["web2"].log.read_text()
        assert fleet.eccfg("delete", "web/web2/jlogd.toml", "-m", "Away").code == 0
    else:
        assert done.code == 6


def test_put_running_leaves_it_out(fleet: Fleet, tmp_path: Path) -> None:
    """The node's copy of what it runs has everything else."""
    node = fleet.nodes["web1"]
    (node.view / "local").write_text("mine\n")
    argv = [*ECCFG, "put-running", "-c", str(node.settings), "-m", "Running"]
    environment = {"PYTHONPATH": str(REPOSITORY), "XDG_CONFIG_HOME": str(tmp_path)}
    done = run_command(argv, cwd=tmp_path, environment=environment)
    assert done.code == 0, done.err
    assert "app.toml" in done.err
    assert WORD not in done.out.decode() + done.err
    assert fleet.eccfg("cat", "running/web1/local").out == b"mine\n"
    assert fleet.eccfg("cat", "running/web1/app.toml").code == 6
