"""HTTP and SIGHUP of the daemons: health is open, metrics move with the work, settings are taken or kept whole."""

import signal
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.daemon import until
from tests.support.fleet import Fleet, Tail, free_port
from tests.support.lines import block, bodies

POOL = bodies(3)


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of one request."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metric(port: int, line: str) -> float | None:
    """The value behind ``line`` in /metrics."""
    _, text = get(port, "/metrics")
    return next((float(row.split()[-1]) for row in text.splitlines() if row.startswith(line + " ")), None)


def test_health_and_metrics_of_both_daemons(tmp_path: Path) -> None:
    """/readyz of a node says which manager it misses; counters count what was read, sent and archived."""
    log = tmp_path / "app.log"
    log.write_bytes(block(b"app", 0, 500, POOL))
    ports = free_port(), free_port()
    with Fleet(tmp_path / "fleet") as fleet:
        manager = fleet.manager("m1", more=f'[http]\nlisten = "127.0.0.1:{ports[0]}"\n')
        node = fleet.node(
            "n1", [Tail("app", (str(log),))], [manager], more=f'[http]\nlisten = "127.0.0.1:{ports[1]}"\n'
        )
        node.start()
        node.ready()
        assert get(ports[1], "/healthz")[0] == 200
        status, reason = get(ports[1], "/readyz")
        assert (status, "manager 127.0.0.1:" in reason) == (503, True)
        manager.start()
        manager.ready()
        fleet.settle(20)
        until(lambda: get(ports[1], "/readyz")[0] == 200, 10, "the node is ready")
        assert get(ports[0], "/readyz")[0] == 200
        assert metric(ports[1], 'jlogd_read_records_total{journal="app"}') == 500
        assert metric(ports[1], 'jlogd_lag_records{journal="app",subscriber="m1"}') == 0
        assert metric(ports[1], 'jlogd_session_starts_total{subscriber="m1"}') == 1
        assert (metric(ports[1], 'jlogd_sent_bytes_total{subscriber="m1"}') or 0) > 1000
        assert metric(ports[0], "managerd_archived_records_total") == 500


def test_sighup_takes_new_settings_and_keeps_the_old_when_they_are_wrong(tmp_path: Path) -> None:
    """A second file is followed after SIGHUP; a wrong file changes nothing, and what needs a restart is named."""
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    for log in (first, second):
        log.write_bytes(block(log.stem.encode(), 0, 100, POOL))
    port = free_port()
    with Fleet(tmp_path / "fleet") as fleet:
        manager = fleet.manager("m1")
        more = f'[http]\nlisten = "127.0.0.1:{port}"\n'
        node = fleet.node("n1", [Tail("app", (str(first),))], [manager], more=more)
        fleet.start()
        fleet.settle(20)
        good = node.settings.read_text()
        node.settings.write_text(good + f'\n[[tail]]\njournal = "more"\npaths = ["{second}"]\n')
        node.signal(signal.SIGHUP)
        until(lambda: manager.has_archive("n1", "more"), 20, "the second journal arrives")
        fleet.settle(20)
        assert {journal["name"] for journal in node.status()["journals"]} == {"app", "more"}

        node.settings.write_text(good + "\n[jurnal]\nsync = 7\n")
        node.signal(signal.SIGHUP)
        until(lambda: metric(port, "jlogd_reload_failures_total") == 1, 20, "the reload is refused")
        assert "did you mean" in node.tail()
        assert {journal["name"] for journal in node.status()["journals"]} == {"app", "more"}

        node.settings.write_text(good.replace('name = "n1"', 'name = "n2"'))
        node.signal(signal.SIGHUP)
        until(lambda: "node.name changed: restart jlogd" in node.tail(), 20, "what needs a restart is named")
        assert node.status()["node"] == "n1"
