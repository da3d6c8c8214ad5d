"""managerd.toml as types. What each key means is its description; ``docs/settings.md`` is made from here."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, ValidationInfo

from jlogd.runtime import settings as base
from jlogd.runtime import toml
from jlogd.runtime.addresses import Address
from jlogd.runtime.settings import (
    DirPath,
    Document,
    DurationRange,
    Fault,
    ListOf,
    Name,
    Section,
    SizeRange,
    looks_at_files,
    resolve_pattern,
)
from jlogd.settings import AddressField, HttpSettings, TlsSettings

DEFAULT_PATH = Path("/etc/jlogd/managerd.toml")


def _program(value: object, info: ValidationInfo) -> Path:
    path = Path(resolve_pattern(value, info))
    if looks_at_files(info) and not (path.is_file() and os.access(path, os.X_OK)):
        raise ValueError(f"{path} is not a program that can be run")
    return path


ProgramPath = Annotated[Path, BeforeValidator(_program)]


class ManagerSection(Section):
    """Who this manager is, where it listens and keeps the archive."""

    name: Name = Field(description="The manager's name.")
    subscriber: Name | None = Field(
        default=None, description="The subscriber name under which it consumes each node's journals. Default: `name`."
    )
    data: DirPath = Field(default=Path("/var/lib/managerd"), description="Root of the archive.")
    listen: AddressField = Field(default=Address("0.0.0.0", 7440), description="Where nodes connect to.")
    budget: Annotated[int, SizeRange(8 << 20, 1 << 40)] = Field(
        default=64 << 20, description="Bytes that all nodes together may have under way to the disk."
    )


class ConfigSection(Section):
    """The configuration repository, `<data>/config.git`: the section's presence turns it on."""

    writer: Name = Field(description="The manager that takes commits; the others pass them on to it.")
    peers: Annotated[tuple[AddressField, ...], ListOf] = Field(
        default=(), description="HOST:PORT of every other manager that keeps the repository."
    )
    replicas_min: int = Field(
        default=1,
        ge=1,
        le=9,
        description="How many managers, this one counted, must have a revision on disk before nodes get it.",
    )
    checks: Annotated[tuple[ProgramPath, ...], ListOf] = Field(
        default=(), description="Programs that every commit must pass; each gets a directory with the whole tree."
    )
    checks_user: str = Field(default="nobody", description="Whom the checks run as, when managerd runs as root.")
    check_timeout: Annotated[float, DurationRange(0.1, 600.0)] = Field(
        default=10.0, description="How long one check may take."
    )
    push_timeout: Annotated[float, DurationRange(0.1, 600.0)] = Field(
        default=10.0, description="How long a commit waits for `replicas_min` managers before it ends with exit 7."
    )


class ManagerSettings(Document):
    """A whole managerd.toml."""

    unavailable: ClassVar[frozenset[str]] = frozenset({"retention"})

    manager: ManagerSection
    tls: TlsSettings = Field(default_factory=TlsSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    config: ConfigSection | None = None

    @property
    def subscriber(self) -> str:
        """The subscriber name under which this manager consumes."""
        return self.manager.subscriber or self.manager.name

    def faults(self) -> Iterator[Fault]:
        """Faults between sections."""
        if self.config is not None:
            yield from self._config_faults(self.config)
        if not self.tls.insecure:
            yield from self.tls.missing()
            return
        listening = [(("manager", "listen"), self.manager.listen), (("http", "listen"), self.http.listen)]
        peers = self.config.peers if self.config is not None else ()
        dialled: list[tuple[toml.Path, Address]] = [(("config", "peers", n), peer) for n, peer in enumerate(peers)]
        for path, address in [*listening, *dialled]:
            if address is not None and not address.loopback:
                yield path, f"{address} is not a loopback address, which tls.insecure demands"

    def _config_faults(self, config: ConfigSection) -> Iterator[Fault]:
        if config.writer != self.manager.name and not config.peers:
            yield ("config", "peers"), f"must say where the writer {config.writer} listens"
        if config.replicas_min > len(config.peers) + 1:
            yield (
                ("config", "replicas_min"),
                f"{config.replicas_min} managers, but with the peers there are {len(config.peers) + 1}",
            )
        for number, peer in enumerate(config.peers):
            if peer in config.peers[:number]:
                yield ("config", "peers", number), f"{peer} stands there twice"


def load(path: Path) -> ManagerSettings:
    """Read managerd.toml. ``SettingsError`` has every fault."""
    return base.load(ManagerSettings, path)


def check_document(content: bytes) -> list[tuple[int, str]]:
    """What is wrong with a managerd.toml of another machine: line and problem. Types and keys only."""
    return base.check(ManagerSettings, content)
