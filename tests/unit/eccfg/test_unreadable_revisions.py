"""Revisions of which a caller may read nothing, as ``eccfg`` shows them."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from managerd.eccfg.cli import cli
from tests.support.commandline import runner
from tests.support.config_service import Hosted

RULES = """
[[rule]]
who = ["operator:local"]
paths = ["web/**"]
allow = ["read", "commit"]

[[rule]]
who = ["operator:root"]
paths = ["**"]
allow = ["read", "commit", "rollout"]
"""
WORDS = ("operator:root", "hunter2")
HIDDEN = "(you may read nothing of what it changed)"


@pytest.fixture
def m1(tmp_path: Path) -> Iterator[Hosted]:
    with Hosted(tmp_path) as hosted:
        hosted.commit({"global/access.toml": RULES}, "hunter2 may not", author="operator:root")
        hosted.commit({"web/default/a": "1"}, "Ours", author="operator:bob")
        hosted.commit({"db/default/a": "1"}, "The password is hunter2", author="operator:root")
        yield hosted


def test_lists_have_them_without_author_and_message(
    m1: Hosted, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``log``, ``show`` and ``watch`` name them; REV counts them; null in JSON."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    eccfg = runner(cli, capfdbinary)
    words = ("--insecure", "--manager", m1.served.address)
    log = eccfg(*words, "log")
    rows = log.out.decode().splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["r3", "r2", "r1"]
    assert [HIDDEN in row for row in rows] == [True, False, True]
    assert "operator:bob" in rows[1]
    document = eccfg(*words, "log", "-n", "1", "--json").json()["revisions"][0]
    assert (document["revision"], document["author"], document["message"], document["paths"]) == (3, None, None, [])
    show = eccfg(*words, "show", "HEAD")
    assert HIDDEN in show.out.decode()
    assert eccfg(*words, "show", "HEAD~1", "--json").json()["message"] == "Ours"

    def later() -> None:
        m1.watched()
        m1.commit({"db/default/a": "2"}, "hunter2 again", author="operator:root")
        m1.told(4)
        m1.do(stop_watching())

    async def stop_watching() -> None:
        await m1.served.service.end(1.0)
        await m1.served.service.begin()

    monkeypatch.setattr("managerd.eccfg.commands.watching.GIVE_UP_S", 0.0)
    commits = threading.Thread(target=later)
    commits.start()
    watch = eccfg(*words, "watch")
    commits.join(30)
    assert HIDDEN in watch.out.decode()
    for said in (log, show, watch):
        assert not any(word in said.out.decode() + said.err for word in WORDS)
