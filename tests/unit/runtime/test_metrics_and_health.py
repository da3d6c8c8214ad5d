"""Probes are open, metrics need a certificate over TLS, slow and bad peers harm nobody."""

import http.client
import io
import json
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from jlogd.runtime import logs, metrics
from jlogd.runtime.addresses import Address
from jlogd.runtime.errors import SettingsError
from jlogd.runtime.health import HealthServer, Readiness, TlsFiles
from jlogd.runtime.metrics import Kind, Metrics
from managerd import pki

LOOPBACK = Address("127.0.0.1", 0)


def get(server: HealthServer, path: str, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    host, port = server.address.host, server.address.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=20, context=context)
        if context
        else http.client.HTTPConnection(host, port, timeout=20)
    )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class Answers:
    def __init__(self) -> None:
        self.readiness = Readiness(ready=True)
        self.failures: list[BaseException] = []
        self.denied = False

    def server(self, address: Address = LOOPBACK, tls: TlsFiles | None = None) -> HealthServer:
        server = HealthServer(
            address,
            readiness=lambda: self.readiness,
            metrics=lambda: b"m 1\n",
            on_failure=self.failures.append,
            tls=tls,
            permitted=lambda certificate: bool(certificate) and not self.denied,
        )
        server.start()
        return server


@pytest.fixture
def answers() -> Iterator[Answers]:
    answers = Answers()
    yield answers
    assert answers.failures == []


def test_plain_on_loopback(answers: Answers) -> None:
    server = answers.server()
    assert get(server, "/healthz") == (200, "ok\n")
    assert get(server, "/readyz?x") == (200, "ready\n")
    answers.readiness = Readiness(ready=False, reason="the disk is full")
    assert get(server, "/readyz") == (503, "the disk is full\n")
    assert get(server, "/metrics") == (200, "m 1\n")
    assert get(server, "/etc/passwd") == (404, "not found\n")
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        get(server, "/healthz")


def test_plain_elsewhere_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"http.listen: 0.0.0.0:0 is not a loopback address"):
        HealthServer(
            Address("0.0.0.0", 0),
            readiness=lambda: Readiness(ready=True),
            metrics=lambda: b"",
            on_failure=lambda _: None,
        )


def test_tls_metrics_need_our_certificate(answers: Answers, tmp_path: Path) -> None:
    pki.init(tmp_path / "pki")
    pki.init(tmp_path / "foreign")
    own = pki.issue("manager", "m1", tmp_path / "pki")
    operator = pki.issue("operator", "ann", tmp_path / "pki")
    stranger = pki.issue("operator", "eve", tmp_path / "foreign")
    server = answers.server(tls=TlsFiles(tmp_path / "pki" / "ca.crt", own.certificate, own.key))

    def context(client: pki.Issued | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=tmp_path / "pki" / "ca.crt")
        if client:
            made.load_cert_chain(client.certificate, client.key)
        return made

    assert get(server, "/healthz", context(None)) == (200, "ok\n")
    assert get(server, "/metrics", context(None)) == (403, "a client certificate is needed\n")
    assert get(server, "/metrics", context(operator)) == (200, "m 1\n")
    with pytest.raises(OSError, match=r".+"):  # the alert, or the reset after it
        get(server, "/healthz", context(stranger))
    answers.denied = True
    assert get(server, "/metrics", context(operator))[0] == 403
    server.stop()


def test_silent_connections_are_bounded_and_cut(answers: Answers) -> None:
    server = answers.server()
    peers = [socket.create_connection((server.address.host, server.address.port), timeout=20) for _ in range(16)]
    with socket.create_connection((server.address.host, server.address.port), timeout=20) as one_too_many:
        assert one_too_many.recv(1) == b""
    peers.pop().close()
    for _ in range(1000):  # its slot comes back as soon as its thread has seen the end
        try:
            answer = get(server, "/healthz")
            break
        except (ConnectionError, http.client.BadStatusLine):
            continue
    assert answer == (200, "ok\n")
    server.stop()
    for peer in peers:
        with peer:
            assert peer.recv(1) == b""


def test_metrics_as_prometheus_reads_them() -> None:
    values = Metrics(metrics.AGENT)
    values.count(metrics.READ_RECORDS, 5, "web")
    values.count(metrics.READ_RECORDS, 2, "web")
    values.observe(metrics.COMMIT_SECONDS, 0.004, "web")
    values.observe(metrics.COMMIT_SECONDS, 99, "web")
    values.before_reading(lambda: values.set(metrics.SESSION_UP, 1, 'm"1'))
    lines = values.text().decode().splitlines()
    for line in (
        'jlogd_read_records_total{journal="web"} 7.0',
        'jlogd_commit_seconds_bucket{journal="web",le="0.0025"} 0.0',
        'jlogd_commit_seconds_bucket{journal="web",le="0.005"} 1.0',
        'jlogd_commit_seconds_bucket{journal="web",le="+Inf"} 2.0',
        'jlogd_commit_seconds_count{journal="web"} 2.0',
        'jlogd_session_up{subscriber="m\\"1"} 1.0',
        "jlogd_reload_failures_total 0.0",
    ):
        assert line in lines
    with pytest.raises(KeyError):
        values.count(metrics.REFUSALS, 1, "x")


def test_every_metric_has_one_name_and_a_unit_of_its_own() -> None:
    names = [metric.name for metric in metrics.AGENT + metrics.MANAGER]
    assert len(names) == len(set(names))
    assert not any(name.endswith("_total") for name in names)
    assert all(m.name.endswith("_seconds") for m in metrics.AGENT + metrics.MANAGER if m.kind is Kind.HISTOGRAM)


@pytest.fixture
def quiet_root() -> Iterator[None]:
    root = logging.getLogger()
    before, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.raiseExceptions = raising


@pytest.mark.usefixtures("quiet_root")
def test_log_lines_stay_lines() -> None:
    text = io.StringIO()
    logs.setup("info", stream=text)
    log = logging.getLogger("jlogd.x")
    log.debug("not shown")
    log.info("file %s", "a\nforged\x1b[0m ä \udcff")
    (line,) = text.getvalue().splitlines()
    assert line.endswith("Z INFO jlogd.x: file a\\nforged\\x1b[0m ä \\udcff")
    text = io.StringIO()
    logs.setup("debug", "json", text)
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it\nbroke")
    event = json.loads(text.getvalue())
    assert (event["level"], event["message"], event["logger"]) == ("error", "it\nbroke", "jlogd.x")
    assert "ValueError: why" in event["traceback"]
