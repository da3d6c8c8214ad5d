"""Which manager eccfg talks to and as whom: options, else ``~/.config/eccfg.toml``, else ``ECCFG_*``.

Each value is looked up on its own, and every message says where it was found. A working copy remembers the address of
its manager (never a certificate): it counts before the settings file, and when that names it as one of several, the
others are tried after it. Of several managers the first that answers is used.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import click
from pydantic import BeforeValidator

from jlogd.runtime import settings
from jlogd.runtime.errors import DeadlineError, JlogdError, SettingsError, UnavailableError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import TlsFiles, open_channel
from managerd.eccfg.client import Client, UnreachableError
from managerd.eccfg.index import remembered_manager

CONNECT_TIMEOUT_S = 5.0  # for each manager: a TLS handshake over half the world takes under one second
_NO_MANAGER = (
    'no manager is known: give --manager HOST:PORT, or write manager = "HOST:PORT" to {}, or set ECCFG_MANAGER'
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """The words of the command line, as they were given."""

    managers: tuple[str, ...] = ()
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A value and where it came from, for messages."""

    value: T
    source: str


def _as_addresses(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class EccfgSettings(settings.Document):
    """``eccfg.toml``. Relative paths are relative to the file."""

    manager: Annotated[tuple[str, ...], BeforeValidator(_as_addresses)] = ()
    cert: settings.DirPath | None = None
    key: settings.DirPath | None = None
    ca: settings.DirPath | None = None
    insecure: bool = False


def settings_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the person's settings are: ``$XDG_CONFIG_HOME/eccfg.toml``, by default in ``~/.config``."""
    home = environment.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path(environment.get("HOME", "~")).expanduser() / ".config") / "eccfg.toml"


class Connection:
    """What the command line said, and what follows from it. Made once per command, not thread-safe."""

    def __init__(
        self,
        options: Options = Options(),
        directory: Path = Path(),
        *,
        environment: Mapping[str, str] = os.environ,
        fs: FileSystem = OS,
    ) -> None:
        """Nothing is read yet; commands that need no manager need no settings."""
        self.options = options
        self.directory = Path(os.path.realpath(directory))  # as after a cd: "fleet/.." is not inside of fleet
        self.environment = environment
        self.fs = fs
        self.settings_file = settings_path(environment)
        self.manager = ""  # the one that answered, after ``connect``
        self._settings: EccfgSettings | None = None
        self._of_copy = True  # whether the address that a working copy remembers counts

    def with_settings(self, settings: EccfgSettings, path: Path) -> "Connection":
        """The same options, and for the rest ``settings``, from ``path``: no working copy, file or variable counts."""
        made = Connection(self.options, self.directory, environment={}, fs=self.fs)
        made.settings_file, made._settings, made._of_copy = path, settings, False
        return made

    @contextmanager
    def connect(self) -> Iterator[Client]:
        """A client of the first manager that answers; a single one is not asked. SettingsError, UnavailableError."""
        managers = self.managers()
        tls = self.tls()
        faults: list[str] = []
        for address in managers.value:
            channel = open_channel(address, tls, fs=self.fs)
            try:
                client = Client(channel, address, tls, fs=self.fs)
                fault = _silence(client) if len(managers.value) > 1 else None
                if fault is None:
                    self.manager = address
                    yield client
                    return
                faults.append(fault)
            except UnreachableError as error:
                raise UnavailableError(f"{error} (the address is from {managers.source})") from error
            finally:
                channel.close()
        raise UnavailableError("; ".join(faults))

    # ------------------------------------------------------------------ the values

    def managers(self) -> Found[tuple[str, ...]]:
        """Addresses in the order in which they are tried. SettingsError when there is none."""
        sources: tuple[tuple[str, Callable[[], tuple[str, ...]]], ...] = (
            ("--manager", lambda: self.options.managers),
            ("the working copy", self._remembered),
            (str(self.settings_file), lambda: self.settings().manager),
            ("ECCFG_MANAGER", lambda: _words(self.environment.get("ECCFG_MANAGER", ""))),
        )
        for source, value in sources:
            found = value()
            if found:
                return Found(found, source)
        raise SettingsError([_NO_MANAGER.format(self.settings_file)])

    def _remembered(self) -> tuple[str, ...]:
        remembered = remembered_manager(self.directory) if self._of_copy else ()
        if not remembered:
            return ()
        fleet = self.settings().manager
        others = (other for other in fleet if other not in remembered)
        return (*remembered, *others) if remembered[0] in fleet else remembered

    def tls(self) -> TlsFiles | None:
        """Our certificate and the authority; None: no TLS. SettingsError naming what is missing."""
        if self.options.insecure:
            return None
        found = {name: self.file(name) for name in ("ca", "cert", "key")}
        missing = [name for name, file in found.items() if file is None]
        if missing and (self.settings().insecure or self.environment.get("ECCFG_INSECURE") == "1"):
            return None
        if missing:
            known = "".join(f"; {name} is {file.value} (from {file.source})" for name, file in found.items() if file)
            flags = " ".join(f"--{name} FILE" for name in missing)
            variables = ", ".join(f"ECCFG_{name.upper()}" for name in missing)
            what = " and ".join(missing)
            raise SettingsError([f"{what} not given: use {flags}, or {self.settings_file}, or {variables}{known}"])
        for name, file in found.items():
            if file is not None and not os.access(file.value, os.R_OK):
                why = "cannot be read" if file.value.exists() else "does not exist"
                raise SettingsError([f"{name}: {file.value} (from {file.source}) {why}"])
        ca, cert, key = (file.value for file in found.values() if file is not None)
        return TlsFiles(ca, cert, key)

    def file(self, name: str) -> Found[Path] | None:
        """One of ``ca``, ``cert``, ``key``, and where it was named."""
        sources: tuple[tuple[str, Callable[[], Path | None]], ...] = (
            (f"--{name}", lambda: getattr(self.options, name)),
            (str(self.settings_file), lambda: getattr(self.settings(), name)),
            (f"ECCFG_{name.upper()}", lambda: _path(self.environment.get(f"ECCFG_{name.upper()}", ""))),
        )
        for source, value in sources:
            found = value()
            if found is not None:
                return Found(found.expanduser().absolute(), source)
        return None

    def settings(self) -> EccfgSettings:
        """The settings file's content; empty when there is none. SettingsError."""
        if self._settings is None:
            path = self.settings_file
            self._settings = settings.load(EccfgSettings, path) if path.exists() else EccfgSettings()
        return self._settings


pass_connection = click.make_pass_decorator(Connection)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.replace(",", " ").split() if word)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _silence(client: Client) -> str | None:
    """Why the manager gives no answer; None when it does, whatever that is."""
    try:
        client.status(timeout_s=CONNECT_TIMEOUT_S)
    except (UnavailableError, DeadlineError) as error:
        return str(error)
    except JlogdError:
        return None
    return None
