"""managerd.toml as types. What each key means is its description; ``docs/settings.md`` is made from here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from jlogd.runtime import settings as base
from jlogd.runtime.addresses import Address
from jlogd.runtime.settings import DirPath, Document, Fault, Name, Section, SizeRange
from jlogd.settings import AddressField, HttpSettings, TlsSettings

DEFAULT_PATH = Path("/etc/jlogd/managerd.toml")


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


class ManagerSettings(Document):
    """A whole managerd.toml."""

    unavailable: ClassVar[frozenset[str]] = frozenset({"retention", "config"})

    manager: ManagerSection
    tls: TlsSettings = Field(default_factory=TlsSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)

    @property
    def subscriber(self) -> str:
        """The subscriber name under which this manager consumes."""
        return self.manager.subscriber or self.manager.name

    def faults(self) -> Iterator[Fault]:
        """Faults between sections."""
        if not self.tls.insecure:
            yield from self.tls.missing()
            return
        for path, address in ((("manager", "listen"), self.manager.listen), (("http", "listen"), self.http.listen)):
            if address is not None and not address.loopback:
                yield path, f"{address} is not a loopback address, which tls.insecure demands"


def load(path: Path) -> ManagerSettings:
    """Read managerd.toml. ``SettingsError`` has every fault."""
    return base.load(ManagerSettings, path)
