"""Secrets, with a real manager and two nodes: readable where they are meant to be, and nowhere else."""

import json
from pathlib import Path

from tests.support.daemon import until
from tests.support.fleet import Fleet

TEXT = "correct horse"


def test_a_secret_is_read_by_its_node_alone(tmp_path: Path) -> None:
    """Set for one node: its view has the text, mode 0600; nobody else, and no command, shows it."""
    with Fleet(tmp_path) as fleet:
        manager = fleet.manager("m1", config='writer = "m1"')
        nodes = [fleet.node(name, [], [manager], config="") for name in ("web1", "web2")]
        fleet.start()
        start = tmp_path / "app.toml"
        start.write_text("# ours\n[db]\nhost = 'h'\n")
        assert fleet.eccfg("put", start, "default/default/app.toml", "-m", "first").code == 0
        until(
            lambda: len(json.loads(fleet.eccfg("nodes", "--json").out)["nodes"]) == 2, 20, "both nodes told their keys"
        )
        done = fleet.eccfg(
            "secret", "set", "app.toml", "db.password", "--node", "web1", "-m", "s", stdin=f"{TEXT}\n".encode()
        )
        assert done.code == 0, done.err
        assert fleet.eccfg("wait", "HEAD", "--timeout", "20s").code == 0
        place = nodes[0].view / "app.toml"
        assert TEXT in place.read_text()
        assert place.stat().st_mode & 0o777 == 0o600
        assert (nodes[1].view / "app.toml").read_text() == start.read_text()
        for words in (
            ("explain", "app.toml", "--node", "web1"),
            ("cat", "app.toml", "--node", "web1"),
            ("show", "HEAD"),
            ("effective", "--node", "web1", "--json"),
            ("log", "--json"),
        ):
            shown = fleet.eccfg(*words)
            assert shown.code == 0, shown.err
            assert TEXT.encode() not in shown.out
        key = json.loads(fleet.eccfg("explain", "app.toml", "db.password", "--node", "web1", "--json").out)["keys"][0]
        assert (key["secret"], key["value"]) == (True, None)
        assert "set (secret)" in fleet.eccfg("explain", "app.toml", "--node", "web1").out.decode()
        for daemon in fleet.daemons():
            assert TEXT not in daemon.log.read_text()


def test_for_whom_a_secret_cannot_be(tmp_path: Path) -> None:
    """A node that nobody heard of, no node at all, a file without keys, a path of its own layer."""
    with Fleet(tmp_path) as fleet:
        manager = fleet.manager("m1", config='writer = "m1"')
        fleet.node("web1", [], [manager], config="")
        fleet.start()
        until(lambda: json.loads(fleet.eccfg("nodes", "--json").out)["nodes"], 20, "the node told its key")
        words = ("secret", "set", "app.toml", "k", "-m", "s")
        assert fleet.eccfg(*words, stdin=b"x").code == 2
        unknown = fleet.eccfg(*words, "--node", "web9", stdin=b"x")
        assert (unknown.code, "never heard of node web9" in unknown.err) == (6, True)
        assert fleet.eccfg("secret", "set", "app.txt", "k", "--node", "web1", "-m", "s", stdin=b"x").code == 2
        named = fleet.eccfg("secret", "set", "default/web1/a.toml", "k", "--node", "web1", "-m", "s", stdin=b"x")
        assert named.code == 0, named.err
        assert fleet.eccfg("cat", "default/web1/a.toml").code == 0


def test_a_node_that_joins_a_subcluster_says_which_secret_it_lacks(tmp_path: Path) -> None:
    """In ``nodes`` and in its own status: file, key and command; once that was done it runs what all run."""
    with Fleet(tmp_path) as fleet:
        manager = fleet.manager("m1", config='writer = "m1"')
        fleet.node("web1", [], [manager], config="")
        fleet.start()
        until(lambda: json.loads(fleet.eccfg("nodes", "--json").out)["nodes"], 20, "the first node told its key")
        words = ("secret", "set", "app.toml", "db.password", "--subcluster", "default", "-m", "s")
        assert fleet.eccfg(*words, stdin=TEXT.encode()).code == 0
        assert fleet.eccfg("wait", "HEAD", "--timeout", "20s").code == 0
        late = fleet.node("web2", [], [manager], config="")
        late.start()
        waited = fleet.eccfg("wait", "HEAD", "--node", "web2", "--timeout", "20s")
        assert waited.code == 6
        shown = {node["name"]: node["error"] for node in json.loads(fleet.eccfg("nodes", "--json").out)["nodes"]}
        status = late.command("status", "--json").out.decode()
        for said in (waited.err, shown["web2"], status):
            for word in ("app.toml: db.password: ", "not encrypted for this node", "eccfg secret set FILE db.password"):
                assert word in said
        assert shown["web1"] is None
        assert fleet.eccfg(*words, stdin=b"another").code == 0
        assert fleet.eccfg("wait", "HEAD", "--node", "web1", "--node", "web2", "--timeout", "20s").code == 0
        assert "another" in (late.view / "app.toml").read_text()
