"""Which manager, as whom: option, else settings file, else environment; errors that say where a value came from."""

import socket
from pathlib import Path

import pytest

from jlogd.runtime.errors import SettingsError, UnavailableError
from jlogd.runtime.rpc import TlsFiles
from managerd.eccfg.connection import Connection, Found, Options, settings_path
from managerd.eccfg.index import Metadata
from tests.support.config_server import ConfigServer
from tests.support.fleet import free_port


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A person's home with certificates and settings."""
    for name in ("a", "b", "c"):
        for kind in ("ca", "cert", "key"):
            (tmp_path / f"{name}.{kind}").write_bytes(b"")
    (tmp_path / "xdg").mkdir()
    (tmp_path / "xdg/eccfg.toml").write_text(
        'manager = ["m2:7440", "m3:7440"]\nca = "../b.ca"\ncert = "../b.cert"\nkey = "../b.key"\n'
    )
    return tmp_path


def environment(home: Path, xdg: str = "xdg") -> dict[str, str]:
    return {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home / xdg), "ECCFG_MANAGER": "m4:7440,m5:7440",
        "ECCFG_CERT": str(home / "c.cert"), "ECCFG_KEY": str(home / "c.key"), "ECCFG_CA": str(home / "c.ca"),
    }  # fmt: skip


def tls(home: Path, name: str) -> TlsFiles:
    return TlsFiles(home / f"{name}.ca", home / f"{name}.cert", home / f"{name}.key")


def test_options_count_before_settings_before_environment(home: Path) -> None:
    options = Options(("m1:7440",), home / "a.cert", home / "a.key", home / "a.ca")
    given = Connection(options, home, environment=environment(home))
    assert given.managers() == Found(("m1:7440",), "--manager")
    assert given.tls() == tls(home, "a")
    file = Connection(Options(), home, environment=environment(home))
    assert file.managers() == Found(("m2:7440", "m3:7440"), str(home / "xdg/eccfg.toml"))
    assert file.tls() == tls(home, "b")
    neither = Connection(Options(), home, environment=environment(home, "none"))
    assert neither.managers() == Found(("m4:7440", "m5:7440"), "ECCFG_MANAGER")
    assert neither.tls() == tls(home, "c")


def test_each_value_is_looked_up_on_its_own(home: Path) -> None:
    mixed = Connection(Options(cert=home / "a.cert", key=home / "a.key"), home, environment=environment(home))
    assert mixed.tls() == TlsFiles(home / "b.ca", home / "a.cert", home / "a.key")


def test_a_working_copy_remembers_its_manager(home: Path) -> None:
    """From any directory in it; an option still counts before."""
    Metadata.create(home / "copy", "m9:7440")
    (home / "copy/web").mkdir()
    inside = Connection(Options(), home / "copy/web", environment=environment(home))
    assert inside.managers() == Found(("m9:7440",), "the working copy")
    assert Connection(Options(("m1:7440",)), home / "copy/web", environment=environment(home)).managers().value == (
        "m1:7440",
    )


def test_a_working_copy_knows_the_other_managers_of_its_fleet(home: Path) -> None:
    """Those that the settings file names together with the one that it was cloned from."""
    (home / "xdg/eccfg.toml").write_text('manager = ["m1:7440", "m2:7440"]\n')
    for remembered, tried in (("m2:7440", ("m2:7440", "m1:7440")), ("m9:7440", ("m9:7440",))):
        Metadata.create(home / remembered, remembered)
        inside = Connection(Options(), home / remembered, environment=environment(home))
        assert inside.managers() == Found(tried, "the working copy")


def test_what_is_missing_is_named_with_what_is_known(home: Path) -> None:
    nothing = {"HOME": str(home / "elsewhere")}
    assert settings_path(nothing) == home / "elsewhere/.config/eccfg.toml"
    with pytest.raises(SettingsError, match=r"--manager HOST:PORT.*elsewhere/.config/eccfg.toml.*ECCFG_MANAGER"):
        Connection(Options(), home, environment=nothing).managers()
    with pytest.raises(SettingsError, match=r"cert and key not given.*ca is .*a\.ca \(from --ca\)"):
        Connection(Options(ca=home / "a.ca"), home, environment=nothing).tls()
    absent = {**environment(home, "none"), "ECCFG_KEY": str(home / "absent")}
    with pytest.raises(SettingsError, match=r"absent \(from ECCFG_KEY\) does not exist"):
        Connection(Options(), home, environment=absent).tls()


def test_faults_of_the_settings_file_have_their_line(home: Path) -> None:
    (home / "xdg/eccfg.toml").write_text('manager = "m1:7440"\ncertificate = "x"\n')
    with pytest.raises(SettingsError, match=r"eccfg.toml:2: certificate: unknown key"):
        Connection(Options(), home, environment=environment(home)).managers()


def test_the_first_manager_that_answers_is_used(home: Path, server: ConfigServer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        addresses = (f"127.0.0.1:{silent.getsockname()[1]}", server.address, f"127.0.0.1:{free_port()}")
        connection = Connection(Options(addresses, insecure=True), home, environment={})
        with connection.connect() as client:
            assert client.status().head.revision == 1
        assert connection.manager == server.address


def test_when_none_answers_each_says_why(home: Path) -> None:
    ports = [free_port(), free_port()]
    addresses = tuple(f"127.0.0.1:{port}" for port in ports)
    both = Connection(Options(addresses, insecure=True), home, environment={})
    with pytest.raises(UnavailableError, match=f"{ports[0]} refuses connections.*{ports[1]} refuses"), both.connect():
        pass
    one = Connection(Options(addresses[:1], insecure=True), home, environment={})
    with pytest.raises(UnavailableError, match=r"refuses connections.*from --manager"), one.connect() as client:
        client.status()


def test_without_tls_only_loopback(home: Path) -> None:
    connection = Connection(Options(("192.0.2.1:7440",), insecure=True), home, environment={})
    with pytest.raises(SettingsError, match="not a loopback"), connection.connect():
        pass
