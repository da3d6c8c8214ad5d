"""jlogd.toml as types. What each key means is its description; ``docs/settings.md`` is made from here.

A node with ``[config]`` may have a second file, the *overlay*: ``jlogd.toml`` of the view that it runs. The file that
jlogd was started with is then the *boot file*: its ``[node]``, ``[tls]``, ``[config]`` and first ``[[manager]]`` always
win, so that no revision can take away what reaches the next one. The other sections merge key by key, the
overlay's keys over the boot file's (``jlogd.overlay``).
"""

import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from jlogd.journal.model import Codec, JournalOptions, Sync
from jlogd.overlay import Overlaid
from jlogd.runtime import settings as base
from jlogd.runtime.addresses import Address, parse_address
from jlogd.runtime.errors import SettingsError
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

OVERLAY_FILE = "jlogd.toml"  # of a view
DEFAULT_PATH = Path("/etc/jlogd/jlogd.toml")
# Linux writes dirty pages after 30 s (vm.dirty_expire_centisecs): twice that covers what a power cut takes away.
PROOF_AGE_S = 60.0

AddressField = Annotated[Address, BeforeValidator(parse_address)]


def _short_host_name() -> str:
    return socket.gethostname().partition(".")[0].lower()


def _exclude_pattern(value: object, info: ValidationInfo) -> object:
    return resolve_pattern(value, info) if isinstance(value, str) and "/" in value else value


def _command(value: object) -> object:
    words = value
    if isinstance(value, str):
        words = shlex.split(value)  # ValueError names an unclosed quote
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words) and words[0]):
        raise ValueError(f"not a command: {value!r}; give a text or an array of words")
    if "\0" in "".join(words):
        raise ValueError("a command has no NUL")
    return value if isinstance(value, str) else tuple(words)


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


class ConfigSettings(Section):
    """The fleet's configuration on this node, laid out in `<spool>/<name>/config/current/`; the section turns it on."""

    reload: Annotated[str | tuple[str, ...] | None, BeforeValidator(_command)] = Field(
        default=None,
        description="Run in the new view after each change, without a shell: a command, a list of words, or "
        "`NAME.service`, which systemd reloads or restarts. When it fails, the node goes back to the revision before.",
    )
    reload_timeout: Annotated[float, DurationRange(0.1, 3600.0)] = Field(
        default=30.0, description="How long it may take."
    )
    local: Literal["keep", "theirs", "refuse"] = Field(
        default="keep",
        description="Files of the view that were changed on this machine: `keep`: they stay, and go into the next "
        "view. `theirs`: the repository's come back. `refuse`: no new revision until they are as they were.",
    )
    keep_revisions: int = Field(
        default=10, ge=1, le=1000, description="How many revisions stay laid out, the one that runs included."
    )
    confirm_timeout: Annotated[float, DurationRange(1.0, 3600.0)] = Field(
        default=60.0,
        description="A new revision with which no manager hears from this node within this time is taken back.",
    )
    signatures: Literal["off", "warn", "require"] = Field(
        default="off", description="Whether revisions must be signed by their authors."
    )
    reconcile: Annotated[float, DurationRange(1.0, 86400.0)] = Field(
        default=60.0, description="How often the view is compared with what was laid out; a fifth more or less."
    )

    @property
    def reload_argv(self) -> tuple[str, ...]:
        """Words of the reload command; empty: none."""
        words = tuple(shlex.split(self.reload)) if isinstance(self.reload, str) else self.reload or ()
        if len(words) == 1 and words[0].endswith(".service") and "/" not in words[0]:
            return "systemctl", "reload-or-restart", words[0]
        return words


class AgentSettings(Document):
    """A whole jlogd.toml."""

    node: NodeSettings = Field(default_factory=NodeSettings)
    tls: TlsSettings = Field(default_factory=TlsSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    journal: JournalSettings = Field(default_factory=JournalSettings)
    journals: dict[Name, JournalSettings] = Field(default_factory=dict)
    tail: Annotated[tuple[TailSettings, ...], ListOf] = ()
    manager: Annotated[tuple[ManagerLink, ...], ListOf] = ()
    config: ConfigSettings | None = None

    @property
    def directory(self) -> Path:
        """This node's part of the spool."""
        return self.node.spool / self.node.name

    @property
    def overlay(self) -> Path:
        """Where the overlay is, when there is one."""
        return self.directory / "config" / "current" / OVERLAY_FILE

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
        yield from self._config_faults()
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

    def _config_faults(self) -> Iterator[Fault]:
        if self.config is None:
            return
        if not self.manager:
            yield ("config",), "needs a [[manager]] that has the configuration"
        if self.config.signatures != "off" and self.tls.ca is None:
            yield ("config", "signatures"), "needs tls.ca: the authority of those who sign"

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


def load(path: Path, overlay: Path | None = None) -> AgentSettings:
    """Read jlogd.toml, with the overlay over it. ``SettingsError`` has every fault."""
    boot = base.read(path)
    directory = path.absolute().parent
    if overlay is None:
        return base.build(AgentSettings, boot.tables, boot.where, directory)
    over = base.read(overlay)
    both = Overlaid(boot, over, overlay.absolute().parent)
    return base.build(AgentSettings, both.tables, both.where, directory)


def load_running(path: Path) -> tuple[AgentSettings, str]:
    """Settings as an agent runs with them, and what is wrong with the overlay, which then does not count.

    The fleet's configuration never keeps a node from starting. ``SettingsError`` for the boot file alone.
    """
    boot = load(path)
    if boot.config is None or not boot.overlay.is_file():
        return boot, ""
    try:
        return load(path, boot.overlay), ""
    except SettingsError as error:
        return boot, "; ".join(error.faults)


def check_overlay(content: bytes) -> list[tuple[int, str]]:
    """What is wrong with an overlay: line and problem. Types and keys only; no file of this machine is looked at."""
    return base.check(AgentSettings, content)
