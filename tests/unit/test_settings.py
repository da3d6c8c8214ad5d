"""jlogd.toml and managerd.toml: examples load, rules between sections hold."""

from pathlib import Path

import pytest

import jlogd.overlay
import jlogd.runtime.names
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


# ---------------------------------------------------------------------- [config] and the overlay


BOOT = f"""{TLS}
[node]
name = "n1"
spool = "spool"
[config]
reload = "systemctl reload 'my app'"
[journal]
codec = "none"
sync = "os"
[journals.a]
sync = "batch"
[[tail]]
journal = "a"
paths = ["boot.log"]
[[manager]]
address = "m1:7440"
subscriber = "m1"
[[manager]]
address = "m2:7440"
subscriber = "m2"
"""


def overlaid(home: Path, text: str, boot: str = BOOT) -> jlogd.settings.AgentSettings:
    (home / "jlogd.toml").write_text(boot)
    (home / "view").mkdir(exist_ok=True)
    (home / "view/jlogd.toml").write_text(text)
    return jlogd.settings.load(home / "jlogd.toml", home / "view/jlogd.toml")


def test_sections_of_the_overlay_merge_over_the_boot_file_s(home: Path) -> None:
    """Key by key; relative paths are relative to the file that they stand in; [[tail]] entries are added."""
    settings = overlaid(
        home,
        """
        [journal]
        codec = "zstd"
        [journals.a]
        segment_age = "2h"
        [[tail]]
        journal = "a"
        paths = ["*.log", "/abs/x"]
        exclude = ["*.gz", "d/no.log"]
        """,
    )
    options = settings.journal_options("a")
    assert (options.codec, options.sync, options.segment_age_s) == ("zstd", "batch", 7200)
    assert settings.journal.sync == "os"
    assert [tail.paths for tail in settings.tail] == [(f"{home}/boot.log",), (f"{home}/view/*.log", "/abs/x")]
    assert settings.tail[1].exclude == ("*.gz", f"{home}/view/d/no.log")
    assert [link.subscriber for link in settings.manager] == ["m1", "m2"]
    assert overlaid(home, "").tail[0].paths == (f"{home}/boot.log",)


def test_the_boot_file_s_node_tls_config_and_first_manager_always_win(home: Path) -> None:
    settings = overlaid(
        home,
        """
        [node]
        name = "other"
        spool = "/elsewhere"
        [tls]
        insecure = true
        [config]
        local = "theirs"
        [[manager]]
        address = "m3:7440"
        subscriber = "m3"
        [[manager]]
        address = "bad:1"
        subscriber = "m1"
        [[manager]]
        address = "m1:7440"
        subscriber = "m9"
        """,
    )
    assert (settings.node.name, settings.node.spool, settings.tls.insecure) == ("n1", home / "spool", False)
    assert settings.config is not None
    assert (settings.config.local, settings.config.reload_argv) == ("keep", ("systemctl", "reload", "my app"))
    assert [str(link.address) for link in settings.manager] == ["m1:7440", "m3:7440"]


def test_faults_name_the_file_and_line_that_they_come_from(home: Path) -> None:
    with pytest.raises(SettingsError) as error:
        overlaid(
            home,
            '[journal]\ncodec = "zip"\n[http]\nlisen = "x"\n[[manager]]\naddress = "m1:7440"\nsubscriber = "m1"\n'
            '[[manager]]\naddress = "m3"\nsubscriber = "m3"\n[[tail]]\njournal = "b"\n',
            BOOT.replace('sync = "os"', 'sync = "so"'),
        )
    found = [fault.replace(str(home), "") for fault in error.value.faults]
    assert [fault.split(": ")[:2] for fault in found] == [
        ["/jlogd.toml:13", "journal.sync"],
        ["/view/jlogd.toml:2", "journal.codec"],
        ["/view/jlogd.toml:4", "http.lisen"],
        ["/view/jlogd.toml:9", "manager[1].address"],
        ["/view/jlogd.toml:11", "tail[0].paths"],
    ]
    with pytest.raises(SettingsError, match=r"/view/jlogd\.toml:2: file: not TOML"):
        overlaid(home, "a = 1\n[")
    with pytest.raises(SettingsError, match=r"/view/jlogd\.toml:1: manager: must be an array"):
        overlaid(home, "manager = 1\n")
    with pytest.raises(
        SettingsError, match=r"/view/jlogd\.toml:1: journals\.b: no \[\[tail\]\] writes to this journal"
    ):
        overlaid(home, '[journals.b]\nsync = "os"\n')
    with pytest.raises(SettingsError, match=r"/view/jlogd\.toml:3: tail\[0\]\.paths\[0\]: .*boot\.log is followed by"):
        overlaid(home, f'[[tail]]\njournal = "b"\npaths = ["{home}/boot.log"]\n')


def test_no_overlay_takes_a_tail_away(home: Path) -> None:
    """What a node follows by its boot file it follows under every revision; the same entry twice counts once."""
    same = overlaid(home, '[[tail]]\njournal = "a"\npaths = ["boot.log"]\n[[tail]]\njournal = "b"\npaths = ["x"]\n')
    assert [(tail.journal, tail.paths) for tail in same.tail] == [
        ("a", (f"{home}/boot.log",)),
        ("b", (f"{home}/view/x",)),
    ]
    assert jlogd.overlay.without_effect(home / "view/jlogd.toml") == []
    (home / "view/jlogd.toml").write_text('[node]\nname = "evil"\n[journal]\n')
    notes = jlogd.overlay.without_effect(home / "view/jlogd.toml")
    assert notes == ["[node] of jlogd.toml has no effect: the boot file's counts"]


def test_a_bad_overlay_does_not_count_at_the_start(home: Path) -> None:
    (home / "jlogd.toml").write_text(BOOT)
    boot = jlogd.settings.load(home / "jlogd.toml")
    assert jlogd.settings.load_running(home / "jlogd.toml") == (boot, "")
    boot.overlay.parent.mkdir(parents=True)
    boot.overlay.write_text('[journal]\ncodec = "zstd"\n')
    settings, problem = jlogd.settings.load_running(home / "jlogd.toml")
    assert (settings.journal.codec, problem) == ("zstd", "")
    boot.overlay.write_text('[journal]\ncodec = "zip"\n')
    settings, problem = jlogd.settings.load_running(home / "jlogd.toml")
    assert settings == boot
    assert problem.startswith(f"{boot.overlay}:2: journal.codec: ")
    (home / "jlogd.toml").write_text(BOOT.replace("[config]", "[http]").replace("reload", "#"))
    assert jlogd.settings.load_running(home / "jlogd.toml")[1] == ""


def test_an_overlay_is_checked_for_another_machine(home: Path) -> None:
    """Types and keys, with lines; files of this machine, and rules that need the boot file, do not count."""
    good = b"""
[tls]
ca = "nowhere.crt"
[journals.x]
codec = "none"
[[manager]]
address = "m3:7440"
subscriber = "m3"
"""
    assert jlogd.settings.check_overlay(good) == []
    assert jlogd.settings.check_overlay(b"") == []
    assert jlogd.settings.check_overlay(b'[journal]\nsync = "so"\n[[tail]]\njournal = "A"\npaths = 3\nx = 1\n') == [
        (2, "journal.sync: must be 'batch', 'interval' or 'os', not 'so'"),
        (4, "tail[0].journal: not a name: 'A'; " + jlogd.runtime.names.NAME_RULE),
        (5, "tail[0].paths: must be an array, not 3"),
        (6, "tail[0].x: unknown key"),
    ]
    for bad, line in ((b"x = \xff", 1), (b"a = 1\nb = ", 2), (b"a = " + b"[" * 10_000, 1)):
        ((found, problem),) = jlogd.settings.check_overlay(bad)
        assert (found, problem.startswith("not ")) == (line, True)


@pytest.mark.parametrize(
    ("reload", "argv"),
    [
        ('"nginx -s reload"', ("nginx", "-s", "reload")),
        ("\"sh -c 'a b; c'\"", ("sh", "-c", "a b; c")),
        ('["a b", "c;d"]', ("a b", "c;d")),
        ('"my.service"', ("systemctl", "reload-or-restart", "my.service")),
        ('["./my.service"]', ("./my.service",)),
    ],
)
def test_reload_commands(home: Path, reload: str, argv: tuple[str, ...]) -> None:
    settings = agent(home, BOOT.replace("\"systemctl reload 'my app'\"", reload))
    assert settings.config is not None
    assert settings.config.reload_argv == argv


@pytest.mark.parametrize("reload", ['""', "[]", '["a", 1]', '"a \'b"', "7", '["", "x"]', '"a\\u0000b"'])
def test_no_reload_commands(home: Path, reload: str) -> None:
    with pytest.raises(SettingsError, match=r"^\S+/jlogd\.toml:10: config\.reload: [^\n]+$"):
        agent(home, BOOT.replace("\"systemctl reload 'my app'\"", reload))


def test_config_needs_a_manager_and_an_authority(home: Path) -> None:
    with pytest.raises(SettingsError) as error:
        agent(home, '[config]\nkeep_revisions = 0\nconfirm_timeout = "0.5s"\n')
    assert [fault.split(": ")[0] for fault in faults(error)] == ["config.keep_revisions", "config.confirm_timeout"]
    with pytest.raises(SettingsError) as error:
        agent(home, '[tls]\ninsecure = true\n[config]\nsignatures = "require"\n')
    assert faults(error) == [
        "config: needs a [[manager]] that has the configuration",
        "config.signatures: needs tls.ca: the authority of those who sign",
    ]
