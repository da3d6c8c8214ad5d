"""Rollouts with real daemons: a manager, three nodes, health checks that run there, a manager that is killed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import Result, until
from tests.support.fleet import Fleet

NODES = ("web1", "web2", "web3")
DEADLINE_S = 60.0
POLICY = '[[require]]\npaths = ["web/**"]\nstages = ["1", "100%"]\nhold = "1s"\nhealth = ["bin/healthy"]\n'
HEALTHY = '#!/bin/sh\nif grep -q broken "${0%/bin/healthy}/app.conf"; then echo "app.conf is broken"; exit 3; fi\n'


class Site:
    """The fleet as its operator sees it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.manager = fleet.managers["m1"]

    def eccfg(self, *words: object, code: int = 0, stdin: str = "") -> Result:
        done = self.fleet.eccfg(*words, stdin=stdin.encode())
        assert done.code == code, (words, done)
        return done

    def put(self, path: str, text: str) -> str:
        """A commit of one file; what stderr says."""
        return self.eccfg("put", "-", path, "-m", f"{path} is {text}", stdin=text + "\n").err

    def shows(self, node: str) -> str:
        """The file in the node's view."""
        file = self.fleet.nodes[node].view / "app.conf"
        return file.read_text().strip() if file.exists() else ""

    def reads(self, text: str) -> bool:
        return all(self.shows(node) == text for node in NODES)

    def rollout(self) -> dict[str, Any]:
        shown = json.loads(self.eccfg("rollout", "status", "--json").out)["rollout"]
        assert isinstance(shown, dict)
        return shown

    def ended(self, state: str) -> None:
        until(lambda: self.rollout()["state"] not in {"running", "paused"}, DEADLINE_S, "the rollout ends")
        assert self.rollout()["state"] == state, self.rollout()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three nodes that run r1."""
    home = tmp_path_factory.mktemp("site")
    with Fleet(home) as fleet:
        m1 = fleet.manager("m1", config='writer = "m1"\n')
        for node in NODES:
            fleet.node(node, [], [m1], subcluster="web", config='reconcile = "2s"\n')
        fleet.start()
        first = home / "first"
        for path, text in {"global/rollout.toml": POLICY, "web/default/app.conf": "one\n"}.items():
            (first / path).parent.mkdir(parents=True, exist_ok=True)
            (first / path).write_text(text)
        (first / "global/bin").mkdir()
        (first / "global/bin/healthy").write_text(HEALTHY)
        (first / "global/bin/healthy").chmod(0o755)
        done = fleet.eccfg("bootstrap", "--from", first, "-m", "First")
        assert done.code == 0, done.err
        made = Site(fleet)
        until(lambda: made.reads("one"), DEADLINE_S, "all nodes run r1")
        yield made


def test_one_node_first_then_all(site: Site) -> None:
    """The commit waits; the first node tries it alone; then everybody has it."""
    assert "eccfg rollout start r2" in site.put("web/default/app.conf", "two")
    site.eccfg("put", "-", "db/default/x", "-m", "behind it", stdin="x")
    site.eccfg("wait", "r1", "--timeout", "20s")
    assert site.reads("one")
    site.eccfg("rollout", "start", "r2", "--hold", "3s")
    until(lambda: any(site.shows(node) == "two" for node in NODES), DEADLINE_S, "the first node has it")
    assert sorted(map(site.shows, NODES)) == ["one", "one", "two"]
    site.ended("done")
    until(lambda: site.reads("two"), DEADLINE_S, "all nodes run r2")
    site.eccfg("wait", "r3", "--timeout", "20s")


def test_a_health_check_takes_it_back_from_all(site: Site) -> None:
    """One node would break: whoever had the revision goes back, and its own words are shown."""
    site.put("web/web2/app.conf", "broken")
    before = {node: site.shows(node) for node in NODES}
    site.eccfg("rollout", "start", "HEAD", "--stages", "2")
    site.ended("failed")
    shown = site.rollout()
    assert shown["failed"] == ["web2"]
    assert "app.conf is broken" in shown["errors"][0]["error"]
    until(lambda: {node: site.shows(node) for node in NODES} == before, DEADLINE_S, "all went back")
    done = site.eccfg("delete", "web/web2/app.conf", "-m", "Not this")
    assert "held" not in done.err
    site.eccfg("wait", "HEAD", "--timeout", "20s")
    assert {node: site.shows(node) for node in NODES} == before


def test_a_killed_manager_goes_on(site: Site) -> None:
    """With the nodes that it had released, and none more until they are back and well."""
    before = site.shows("web1")
    site.put("web/default/app.conf", "three")
    site.eccfg("rollout", "start", "HEAD", "--hold", "4s")
    until(lambda: any(site.shows(node) == "three" for node in NODES), DEADLINE_S, "the first node has it")
    site.manager.kill()
    assert sorted(map(site.shows, NODES)) == sorted([before, before, "three"])
    site.manager.start()
    site.manager.ready()
    site.ended("done")
    until(lambda: site.reads("three"), DEADLINE_S, "all nodes run it")


def test_abort_brings_everybody_back(site: Site) -> None:
    """At once, and what was aborted stays held back."""
    before = site.shows("web1")
    site.put("web/default/app.conf", "four")
    site.eccfg("rollout", "start", "HEAD", "--hold", "10m", "--stages", "2,100%")
    until(lambda: [site.shows(node) for node in NODES].count("four") == 2, DEADLINE_S, "two nodes have it")
    site.eccfg("rollout", "pause")
    site.eccfg("rollout", "abort")
    until(lambda: site.reads(before), DEADLINE_S, "all went back")
    assert "rollout" in site.put("global/motd", "hello")
    assert site.rollout()["state"] == "aborted"
    site.eccfg("rollout", "resume", code=6)
