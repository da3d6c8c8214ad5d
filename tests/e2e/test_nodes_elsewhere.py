"""Nodes that know one manager only, and another manager that must know of them: real daemons, killed in between."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import Result, until
from tests.support.fleet import Fleet, Manager, free_port

DEADLINE_S = 60.0
POLICY = '[[require]]\npaths = ["web/**"]\nstages = ["100%"]\nhold = "1s"\nhealth = ["bin/healthy"]\n'
HEALTHY = '#!/bin/sh\nif grep -q broken "${0%/bin/healthy}/app.conf"; then echo "app.conf is broken"; exit 3; fi\n'


class Site:
    """m1, the writer, which web1 knows; m2, which web2 knows."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        ports = {"m1": free_port(), "m2": free_port()}
        for name, port in ports.items():
            (other,) = (each for each in ports.values() if each != port)
            fleet.manager(name, port=port, config=f'writer = "m1"\npeers = ["127.0.0.1:{other}"]\n')
        self.m1, self.m2 = fleet.managers.values()
        for node, manager in (("web1", self.m1), ("web2", self.m2)):
            fleet.node(node, [], [manager], subcluster="web", config='reconcile = "2s"\n')

    def eccfg(self, *words: object, at: Manager | None = None, code: int = 0, stdin: str = "") -> Result:
        done = self.fleet.eccfg(*words, manager=at, stdin=stdin.encode())
        assert done.code == code, (words, done)
        return done

    def put(self, path: str, text: str) -> None:
        self.eccfg("put", "-", path, "-m", f"{path} is {text}", stdin=text + "\n")

    def nodes(self, at: Manager) -> dict[str, tuple[str, int | None, list[str]]]:
        """What that manager says of each: state, revision, via whom."""
        rows = self.document(at)["nodes"]
        return {row["name"]: (row["state"], row["revision"], row["via"]) for row in rows}

    def document(self, at: Manager) -> Any:
        return self.eccfg("nodes", "--json", at=at).json()

    def rollout(self) -> Any:
        return self.eccfg("rollout", "status", "--json").json()["rollout"]

    def sees(self, at: Manager, node: str, state: str) -> None:
        """Wait until that manager says so."""
        until(lambda: self.nodes(at).get(node, ("",))[0] == state, DEADLINE_S, f"{at.name} sees {node} {state}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both nodes run r1."""
    home = tmp_path_factory.mktemp("site")
    with Fleet(home) as fleet:
        made = Site(fleet)
        fleet.start()
        first = home / "first"
        for path, text in {"global/rollout.toml": POLICY, "web/default/app.conf": "one\n"}.items():
            (first / path).parent.mkdir(parents=True, exist_ok=True)
            (first / path).write_text(text)
        (first / "global/bin").mkdir()
        (first / "global/bin/healthy").write_text(HEALTHY)
        (first / "global/bin/healthy").chmod(0o755)
        made.eccfg("bootstrap", "--from", first, "-m", "First")
        made.eccfg("wait", "r1", "--node", "web2", "--timeout", "60s", at=made.m2)
        yield made


def test_each_manager_shows_every_node(site: Site) -> None:
    """And via which managers it knows; `wait` at the writer waits for a node that only the follower has."""
    for manager in (site.m1, site.m2):
        site.eccfg("wait", "r1", "--node", "web1", "--node", "web2", "--timeout", "30s", at=manager)
        assert site.nodes(manager) == {"web1": ("applied", 1, ["m1"]), "web2": ("applied", 1, ["m2"])}
        assert site.document(manager)["silent"] == []


def test_a_failure_at_the_follower_takes_the_rollout_back(site: Site) -> None:
    """The writer's own node is well, the follower's is not: both go back by themselves."""
    site.put("web/web2/app.conf", "broken")
    site.eccfg("rollout", "start", "HEAD")
    until(lambda: site.rollout()["state"] != "running", DEADLINE_S, "the rollout ends")
    shown = site.rollout()
    assert shown["state"] == "failed", shown
    assert shown["failed"] == ["web2"]
    assert "app.conf is broken" in shown["errors"][0]["error"]
    site.eccfg("revert", "HEAD", "-m", "Not this")
    site.eccfg("wait", "HEAD", "--timeout", "30s")


def test_a_rollout_is_of_all_nodes(site: Site) -> None:
    """It is over when the follower's node has it as well."""
    site.put("web/default/app.conf", "two")
    site.eccfg("rollout", "start", "HEAD", at=site.m2)
    until(lambda: site.rollout()["state"] != "running", DEADLINE_S, "the rollout ends")
    shown = site.rollout()
    assert (shown["state"], shown["nodes"], shown["applied"]) == ("done", 2, ["web1", "web2"])


@pytest.mark.parametrize(("killed", "left", "node"), [("m2", "m1", "web2"), ("m1", "m2", "web1")])
def test_a_killed_manager_takes_its_nodes_away(site: Site, killed: str, left: str, node: str) -> None:
    """What was known last stays; who is silent is said. When it is back, so are they, and nothing else is needed."""
    gone, here = site.fleet.managers[killed], site.fleet.managers[left]
    before = site.nodes(here)[node]
    gone.kill()
    site.sees(here, node, "offline")
    assert site.nodes(here)[node] == ("offline", *before[1:])
    assert site.document(here)["silent"] == [killed]
    assert f"manager {killed} tells nothing" in site.eccfg("nodes", at=here).err
    gone.start()
    gone.ready()
    for manager in (here, gone):
        for each in ("web1", "web2"):
            site.sees(manager, each, "applied")
    assert site.document(here)["silent"] == []
