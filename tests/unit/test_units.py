"""The systemd units fit the daemons: known keys, the right exit codes, enough time to stop."""

import configparser
from pathlib import Path

import pytest

from jlogd.runtime.daemon import STOP_TIMEOUT_S
from jlogd.runtime.errors import LockedError, SettingsError

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("name", ["jlogd", "managerd"])
def test_unit(name: str) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(CONF / f"{name}.service")
    service = parser["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"].endswith(f"/{name} run -c /etc/jlogd/{name}.toml")
    assert service["RestartPreventExitStatus"].split() == [str(SettingsError.exit_code), str(LockedError.exit_code)]
    assert float(service["TimeoutStopSec"].removesuffix("s")) > STOP_TIMEOUT_S
    assert service["KillMode"] == "mixed"  # one SIGTERM, to the daemon
    assert {"NoNewPrivileges", "ProtectSystem", "MemoryDenyWriteExecute", "SystemCallFilter"} <= set(service)
