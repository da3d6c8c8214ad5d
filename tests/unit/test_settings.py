"""jlogd.toml and managerd.toml: examples load, rules between sections hold."""

from pathlib import Path

import pytest

import jlogd.settings
import managerd.settings
from jlogd.runtime.addresses import Address
from jlogd.runtime.errors import SettingsError

CONF = Path(__file__).parents[2] / "conf"
TLS = '[tls]\nca = "ca"\ncert = "c"\nkey = "k"\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("ca", "c", "k", "deny"):
        (tmp_path / name).write_text("pem")
    return tmp_path


def agent(home: Path, text: str) -> jlogd.settings.AgentSettings:
    (home / "jlogd.toml").write_text(text)
    return jlogd.settings.load(home / "jlogd.toml")


def manager(home: Path, text: str) -> managerd.settings.ManagerSettings:
    (home / "managerd.toml").write_text(text)
    return managerd.settings.load(home / "managerd.toml")


def faults(error: pytest.ExceptionInfo[SettingsError]) -> list[str]:
    return [fault.split(": ", 1)[1] for fault in error.value.faults]


@pytest.mark.parametrize("uncomment", [False, True])
def test_the_examples_load(tmp_path: Path, uncomment: bool) -> None:
    for name in ("ca.crt", "node.crt", "node.key", "manager.crt", "manager.key", "deny"):
        (tmp_path / name).write_text("pem")
    for name, load in (("jlogd.toml", jlogd.settings.load), ("managerd.toml", managerd.settings.load)):
        text = (CONF / name).read_text()
        if uncomment:  # every commented setting is a valid one
            lines = [line for line in text.splitlines() if "insecure" not in line]
            text = "\n".join(line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in lines)
            text = text.replace('"system"', '"audit"')
        (tmp_path / name).write_text(text)
        load(tmp_path / name)


def test_defaults_and_overrides(home: Path) -> None:
    settings = agent(
        home,
        f"""{TLS}
        [node]
        name = "n1"
        spool = "spool"
        [journal]
        segment_bytes = "1MiB"
        codec = "none"
        [journals.audit]
        codec = "zstd"
        [[tail]]
        journal = "audit"
        paths = ["logs/*.log", "/var/log/x"]
        exclude = ["*.gz", "logs/no.log"]
        [[manager]]
        address = "m:7440"
        subscriber = "m"
        """,
    )
    assert settings.directory == home / "spool" / "n1"
    options = settings.journal_options("audit")
    assert (options.segment_bytes, options.codec, options.sync) == (1 << 20, "zstd", "batch")
    assert settings.journal_options("other").codec == "none"
    assert settings.tail[0].paths == (f"{home}/logs/*.log", "/var/log/x")
    assert settings.tail[0].exclude == ("*.gz", f"{home}/logs/no.log")
    assert settings.tls.ca == home / "ca"
    assert settings.manager[0].address == Address("m", 7440)
    assert settings.journal_names() == ["audit"]


def test_rules_between_sections(home: Path) -> None:
    with pytest.raises(SettingsError) as error:
        agent(
            home,
            """
            [node]
            name = "n"
            spol = "x"
            [journals.b]
            [[tail]]
            journal = "a"
            paths = ["x"]
            [[tail]]
            journal = "c"
            paths = ["y"]
            [[manager]]
            address = "m:1"
            subscriber = "m"
            rate_limit = 5
            [[manager]]
            address = "m2:1"
            subscriber = "m"
            [config]
            """,
        )
    assert sorted(faults(error)) == [
        "journals.b: no [[tail]] writes to this journal (they write to: a, c)",
        "manager[0].rate_limit: is not available in this version",
        "node.spol: unknown key (did you mean 'spool'?)",
        "tls.ca: is required (or insecure = true, with loopback addresses only)",
        "tls.cert: is required (or insecure = true, with loopback addresses only)",
        "tls.key: is required (or insecure = true, with loopback addresses only)",
    ]
    with pytest.raises(SettingsError) as error:
        agent(home, TLS + '[[manager]]\naddress="a:1"\nsubscriber="m"\n[[manager]]\naddress="b:1"\nsubscriber="m"\n')
    assert faults(error) == ["manager[1].subscriber: 'm' is taken by an earlier [[manager]]; each manager has its own"]


def test_an_archive_is_some_managers(home: Path) -> None:
    tail = '[[tail]]\njournal = "a"\npaths = ["x"]\nstart_at = "{}"\n'
    manager = '[tls]\ninsecure = true\n[[manager]]\naddress = "localhost:1"\nsubscriber = "m"\n'
    assert agent(home, manager + tail.format("archive")).tail[0].start_at == "archive"
    with pytest.raises(SettingsError) as error:
        agent(home, tail.format("archive"))
    assert faults(error) == ['tail[0].start_at: "archive" needs a [[manager]] whose archive that is']


def test_insecure_is_for_loopback_only(home: Path) -> None:
    text = '[tls]\ninsecure = true\n[[manager]]\naddress="{}:1"\nsubscriber="m"\n[http]\nlisten = "{}:2"\n'
    agent(home, text.format("localhost", "[::1]"))
    with pytest.raises(SettingsError) as error:
        agent(home, text.format("10.0.0.1", "0.0.0.0"))
    assert faults(error) == [
        "manager[0].address: 10.0.0.1:1 is not a loopback address, which tls.insecure demands",
        "http.listen: 0.0.0.0:2 is not a loopback address, which tls.insecure demands",
    ]
    text = '[tls]\ninsecure = true\n[manager]\nname = "m"\nlisten = "{}:0"\n'
    manager(home, text.format("127.0.0.1"))
    with pytest.raises(SettingsError, match=r"managerd.toml:5: manager.listen: 0.0.0.0:0 is not a loopback address"):
        manager(home, text.format("0.0.0.0"))


def test_certificates_must_be_readable(home: Path) -> None:
    (home / "k").unlink()
    with pytest.raises(SettingsError) as error:
        manager(home, TLS + '[manager]\nname = "M"\n')
    assert faults(error)[0] == f"tls.key: {home}/k cannot be read: No such file or directory"
    assert faults(error)[1].startswith("manager.name: not a name: 'M'")


def test_a_manager_s_subscriber_is_its_name_by_default(home: Path) -> None:
    assert manager(home, TLS + '[manager]\nname = "m"\n').subscriber == "m"
    settings = manager(home, TLS + '[manager]\nname = "m"\nsubscriber = "s"\n')
    assert settings.subscriber == "s"
    assert settings.manager.listen == Address("0.0.0.0", 7440)
    with pytest.raises(SettingsError, match="is not available in this version"):
        manager(home, TLS + '[manager]\nname = "m"\n[[retention]]\n')


CONFIG = '[manager]\nname = "m1"\n' + TLS + "[config]\n"


def test_the_configuration_of_a_manager(home: Path) -> None:
    assert manager(home, '[manager]\nname = "m1"\n' + TLS).config is None
    (home / "lint").write_text("#!/bin/sh\n")
    (home / "lint").chmod(0o755)
    found = manager(home, f'{CONFIG}writer = "m2"\npeers = ["m2:7440"]\nreplicas_min = 2\nchecks = ["lint"]\n').config
    assert found is not None
    assert (found.writer, found.peers, found.replicas_min) == ("m2", (Address("m2", 7440),), 2)
    assert found.checks == (home / "lint",)
    assert (found.checks_user, found.check_timeout, found.push_timeout) == ("nobody", 10.0, 10.0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "config.writer: is required"),
        ('writer = "m2"\n', "config.peers: must say where the writer m2 listens"),
        ('writer = "m1"\nreplicas_min = 2\n', "config.replicas_min: 2 managers, but with the peers there are 1"),
        ('writer = "m1"\nreplicas_min = 0\n', "config.replicas_min: must be greater than or equal to 1, not 0"),
        ('writer = "m1"\npeers = ["a:1", "a:1"]\n', "config.peers[1]: a:1 stands there twice"),
        ('writer = "m1"\nchecks = ["none"]\n', "config.checks[0]: HOME/none is not a program that can be run"),
        ('writer = "m1"\nchecks = ["ca"]\n', "config.checks[0]: HOME/ca is not a program that can be run"),
    ],
)
def test_faults_of_the_configuration_of_a_manager(home: Path, text: str, fault: str) -> None:
    with pytest.raises(SettingsError) as error:
        manager(home, CONFIG + text)
    assert faults(error) == [fault.replace("HOME", str(home))]


def test_without_tls_the_other_managers_are_on_this_machine(home: Path) -> None:
    text = '[manager]\nname = "m1"\nlisten = "127.0.0.1:1"\n[tls]\ninsecure = true\n[config]\nwriter = "m1"\n'
    manager(home, text + 'peers = ["127.0.0.1:2"]\n')
    with pytest.raises(SettingsError) as error:
        manager(home, text + 'peers = ["127.0.0.1:2", "m2:7440"]\n')
    assert faults(error) == ["config.peers[1]: m2:7440 is not a loopback address, which tls.insecure demands"]


def test_settings_of_another_manager_are_checked_without_its_files() -> None:
    text = '[manager]\nname = "m9"\n[tls]\nca = "/nowhere"\n[config]\nwriter = "m9"\nchecks = ["/nowhere/lint"]\n'
    assert managerd.settings.check_document(text.encode()) == []
    (fault,) = managerd.settings.check_document(text.replace("m9", "M 9", 1).encode())
    assert fault[0] == 2
    assert managerd.settings.check_document(b"[manager\n")[0][0] == 1
