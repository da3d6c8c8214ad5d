"""A working copy whose base the manager does not have: every command says the same, and what to do."""

from pathlib import Path

import pytest

from tests.support.config_server import ConfigServer
from tests.unit.eccfg.conftest import Eccfg

APP = "global/app.toml"
COMMANDS = (["pull"], ["pull", "--theirs"], ["commit", "-m", "m"], ["check"], ["diff", "HEAD"])


@pytest.mark.parametrize("since", [0, 1, 3])
def test_an_older_history_was_restored(copy: Path, eccfg: Eccfg, server: ConfigServer, since: int) -> None:
    """Also when that has as many revisions again, or more: what counts is the base's id."""
    server.add({APP: b"port = 2\n"}, "lost")
    assert eccfg("pull").code == 0
    base = eccfg("status", "--json").json()["id"]
    (copy / APP).write_bytes(b"port = 3\n")
    server.revisions.pop()
    for number in range(since):
        server.add({"global/other": b"%d\n" % number}, f"after {number}")
    says = f"the manager is at r{1 + since} and does not have r2 {base[:8]}, on which this working copy is based: "
    shown = eccfg("status")
    assert f"based on r2 {base[:8]}: {says}" in shown.out.decode()
    assert "up to date" not in shown.out.decode()
    document = eccfg("status", "--json").json()
    assert (document["behind"], says in document["error"]) == (None, True)
    for words in COMMANDS:
        refused = eccfg(*words)
        assert (refused.code, refused.out) == (6, b""), words
        assert refused.err.startswith(f"error: {says}"), words
        assert "'eccfg clone' anew" in refused.err
        assert base not in refused.err
    assert eccfg("diff").code == 0
    assert (copy / APP).read_bytes() == b"port = 3\n"
    assert len(server.revisions) == 1 + since


def test_a_manager_that_lost_everything(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    server.revisions.clear()
    assert b"has no revision at all and does not have r1 " in eccfg("status").out
    refused = eccfg("pull")
    assert (refused.code, "'eccfg clone' anew" in refused.err) == (6, True)


def test_another_refusal_is_told_as_it_is(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """The base is there: nothing is explained away."""
    server.add({APP: b"port = 2\n"})
    refused = eccfg("diff", "r99")
    assert (refused.code, refused.err) == (6, "error: no revision r99\n")
    assert eccfg("status", "--json").json()["error"] is None
