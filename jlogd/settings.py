"""jlogd.toml as types. What each key means is its description; ``docs/settings.md`` is made from here."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from jlogd.journal.model import Codec, JournalOptions, Sync
from jlogd.runtime import settings as base
from jlogd.runtime.addresses import Address, parse_address
from jlogd.runtime.names import JOURNALS_MAX
from jlogd.runtime.settings import (
    DirPath,
    Document,
    DurationRange,
    Fault,
    ListOf,
    Name,
    Pattern,
    ReadableFile,
    Section,
    SizeRange,
    resolve_pattern,
)

DEFAULT_PATH = Path("/etc/jlogd/jlogd.toml")
# Linux writes dirty pages after 30 s (vm.dirty_expire_centisecs): twice that covers what a power cut takes away.
PROOF_AGE_S = 60.0

AddressField = Annotated[Address, BeforeValidator(parse_address)]


def _short_host_name() -> str:
    return socket.gethostname().partition(".")[0].lower()


def _exclude_pattern(value: object, info: ValidationInfo) -> object:
    return resolve_pattern(value, info) if isinstance(value, str) and "/" in value else value


class NodeSettings(Section):
    """Who this node is, and where it keeps its journals."""

    name: Name = Field(
        default_factory=_short_host_name,
        description="Unique in the fleet. Default: the short host name.",
        validate_default=True,
    )
    subcluster: Name = Field(default="default", description="The group that the node belongs to.")
    spool: DirPath = Field(
        default=Path("/var/lib/jlogd"),
        description="Root of the journals; the node uses `<spool>/<name>/`. May be a mount.",
    )


class TlsSettings(Section):
    """Mutual TLS; `managerd pki` makes the files. Required unless `insecure` is set."""

    ca: ReadableFile | None = Field(
        default=None, description="Certificate of the authority that signed every peer, PEM."
    )
    cert: ReadableFile | None = Field(default=None, description="Our own certificate, PEM.")
    key: ReadableFile | None = Field(default=None, description="Our own key, PEM.")
    deny: ReadableFile | None = Field(default=None, description="Fingerprints of revoked certificates, one a line.")
    insecure: bool = Field(default=False, description="No TLS at all; only with loopback addresses.")

    def missing(self) -> Iterator[Fault]:
        """One fault for each file that TLS needs and that is not named."""
        for key in ("ca", "cert", "key"):
            if getattr(self, key) is None:
                yield ("tls", key), "is required (or insecure = true, with loopback addresses only)"


class HttpSettings(Section):
    """HTTP: `/healthz` and `/readyz` are open, `/metrics` needs a client certificate where TLS is spoken."""

    listen: AddressField | None = Field(
        default=None, description="Off by default. Plain HTTP on loopback addresses, else TLS."
    )


class JournalSettings(Section):
    """How journals are written; `[journals.NAME]` has the same keys for one journal."""

    unavailable: ClassVar[frozenset[str]] = frozenset({"max_bytes", "max_age", "keep_bytes", "keep_age", "policy"})

    segment_bytes: Annotated[int, SizeRange(64 << 10, 1 << 40)] = Field(
        default=64 << 20, description="Size at which a segment file ends."
    )
    segment_age: Annotated[float, DurationRange(1.0)] = Field(
        default=3600.0, description="Age at which a segment file ends."
    )
    codec: Codec = Field(default="zstd", description="Compression of frames, on disk and on the wire.")
    sync: Sync = Field(
        default="batch",
        description="`batch`: a line counts once it is on the disk. `interval`, `os`: the last second, or more, may go "
        "with the power; never with a killed process.",
    )
    commit_delay: Annotated[float, DurationRange(0.0, 10.0)] = Field(
        default=0.02,
        description="How long lines are gathered before they are written and sent; up to 200ms when they trickle.",
    )


class TailSettings(Section):
    """Files to follow into one journal."""

    journal: Name = Field(description="The journal that the lines go to.")
    paths: Annotated[tuple[Pattern, ...], ListOf] = Field(min_length=1, description="Paths or globs; `**` works.")
    exclude: Annotated[tuple[Annotated[str, BeforeValidator(_exclude_pattern)], ...], ListOf] = Field(
        default=(), description="Globs that are not followed: a path, or a file name without a slash."
    )
    start_at: Literal["beginning", "end", "archive"] = Field(
        default="beginning",
        description="Where to begin in files that exist at the very first start: `beginning`, `end`, or `archive`: "
        "wait for a manager and go on where its archive of an earlier spool of this node ends, else at the beginning.",
    )
    max_line: Annotated[int, SizeRange(64, 1 << 20)] = Field(
        default=1 << 20, description="Longer lines are kept in pieces."
    )
    rotate_wait: Annotated[float, DurationRange(0.0, 3600.0)] = Field(
        default=5.0, description="How long a rotated file is watched for late lines before it counts as final."
    )


class ManagerLink(Section):
    """A manager that gets every journal."""

    unavailable: ClassVar[frozenset[str]] = frozenset({"rate_limit"})

    address: AddressField = Field(description="HOST:PORT.")
    subscriber: Name = Field(description="The manager's subscriber name; each manager has its own.")


class AgentSettings(Document):
    """A whole jlogd.toml."""

    unavailable: ClassVar[frozenset[str]] = frozenset({"config"})

    node: NodeSettings = Field(default_factory=NodeSettings)
    tls: TlsSettings = Field(default_factory=TlsSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    journal: JournalSettings = Field(default_factory=JournalSettings)
    journals: dict[Name, JournalSettings] = Field(default_factory=dict)
    tail: Annotated[tuple[TailSettings, ...], ListOf] = ()
    manager: Annotated[tuple[ManagerLink, ...], ListOf] = ()

    @property
    def directory(self) -> Path:
        """This node's part of the spool."""
        return self.node.spool / self.node.name

    def journal_names(self) -> list[str]:
        """Every journal that something writes to, sorted."""
        return sorted({tail.journal for tail in self.tail})

    def journal_settings(self, name: str) -> JournalSettings:
        """``[journal]`` with what ``[journals.NAME]`` changes."""
        override = self.journals.get(name)
        if override is None:
            return self.journal
        changes = {key: getattr(override, key) for key in override.model_fields_set}
        return self.journal.model_copy(update=changes)

    def journal_options(self, name: str) -> JournalOptions:
        """How the journal ``name`` writes."""
        chosen = self.journal_settings(name)
        return JournalOptions(
            segment_bytes=chosen.segment_bytes,
            segment_age_s=chosen.segment_age,
            codec=chosen.codec,
            sync=chosen.sync,
            subcluster=self.node.subcluster,
            proof_age_s=PROOF_AGE_S,
        )

    def faults(self) -> Iterator[Fault]:
        """Faults between sections."""
        yield from self._transport_faults()
        yield from self._tail_faults()
        subscribers: set[str] = set()
        for number, link in enumerate(self.manager):
            if link.subscriber in subscribers:
                yield (
                    ("manager", number, "subscriber"),
                    f"{link.subscriber!r} is taken by an earlier [[manager]]; each manager has its own",
                )
            subscribers.add(link.subscriber)

    def _transport_faults(self) -> Iterator[Fault]:
        needs_tls = bool(self.manager)
        if self.tls.insecure:
            for number, link in enumerate(self.manager):
                if not link.address.loopback:
                    yield (
                        ("manager", number, "address"),
                        f"{link.address} is not a loopback address, which tls.insecure demands",
                    )
            needs_tls = False
        if self.http.listen is not None and not self.http.listen.loopback:
            if self.tls.insecure:
                yield ("http", "listen"), f"{self.http.listen} is not a loopback address, which tls.insecure demands"
            needs_tls = not self.tls.insecure
        if needs_tls:
            yield from self.tls.missing()

    def _tail_faults(self) -> Iterator[Fault]:
        names = self.journal_names()
        if len(names) > JOURNALS_MAX:
            yield ("tail",), f"{len(names)} journals: a node has at most {JOURNALS_MAX}; several paths may share one"
        for name in self.journals:
            if name not in names:
                yield (
                    ("journals", name),
                    f"no [[tail]] writes to this journal (they write to: {', '.join(names) or 'none'})",
                )
        followed: dict[str, int] = {}
        for number, tail in enumerate(self.tail):
            if tail.start_at == "archive" and not self.manager:
                yield ("tail", number, "start_at"), '"archive" needs a [[manager]] whose archive that is'
            for index, path in enumerate(tail.paths):
                if followed.setdefault(path, number) != number:
                    yield ("tail", number, "paths", index), f"{path} is followed by tail[{followed[path]}] already"


def load(path: Path) -> AgentSettings:
    """Read jlogd.toml. ``SettingsError`` has every fault."""
    return base.load(AgentSettings, path)
