"""A manager in memory, and eccfg in this process: in a directory, without settings of whoever runs the tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from managerd.eccfg.cli import cli
from tests.support.commandline import Outcome, runner
from tests.support.config_server import ConfigServer

Eccfg = Callable[..., Outcome]

FIRST: dict[str, bytes | None] = {
    "README.md": b"# fleet\n",
    "global/app.toml": b'name = "all"\nport = 80\n',
    "global/lines.txt": b"".join(b"line %d\n" % i for i in range(20)),
    "web/default/app.toml": b"port = 8080\n",
    "web/web1/only.json": b'{"a": 1}\n',
}


@pytest.fixture
def server() -> Iterator[ConfigServer]:
    """At r1, with a few files."""
    with ConfigServer() as made:  # type: ignore[abstract]
        made.add(FIRST, "first")
        yield made


@pytest.fixture
def eccfg(
    server: ConfigServer, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Eccfg:
    """``eccfg(*words)``; in ``at`` when that is given, else in the working copy ``tmp_path/copy``."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    for name in ("MANAGER", "CERT", "KEY", "CA", "INSECURE"):
        monkeypatch.delenv(f"ECCFG_{name}", raising=False)
    run = runner(cli, capfdbinary)

    def eccfg(*words: object, at: Path | None = None) -> Outcome:
        return run("--insecure", "--manager", server.address, "-C", at or tmp_path / "copy", *words)

    return eccfg


@pytest.fixture
def copy(eccfg: Eccfg, tmp_path: Path) -> Path:
    """A working copy of r1."""
    cloned = eccfg("clone", "copy", at=tmp_path)
    assert cloned.code == 0, cloned.err
    return tmp_path / "copy"
