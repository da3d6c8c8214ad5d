"""Values as a transcript tells them: short, without what is empty."""

import dataclasses
from enum import Enum
from typing import Any

from jlogd.attach.messages import AttachHello, Fetch, Pack, Report, Reported, Target
from jlogd.forward.messages import (
    Hello,
    JournalAck,
    JournalOffer,
    JournalResume,
    Kind,
    NodeHello,
    ReplicaEnd,
    SourcePosition,
)
from jlogd.journal.model import Term


def show(value: Any) -> str:
    """One value."""
    if isinstance(value, tuple):
        return "[" + " ".join(show(item) for item in value) + "]"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes):
        return value.decode() if value.isascii() and value.decode().isprintable() else value.hex()[:8]
    short = _short(value)
    if short is not None:
        return short
    if not dataclasses.is_dataclass(value):
        return str(value)
    pairs = [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
    if len(pairs) == 1:
        return f"{type(value).__name__}({show(pairs[0][1])})"
    inner = ", ".join(f"{name}={show(item)}" for name, item in pairs if item not in (b"", (), "", None, False))
    return f"{type(value).__name__}({inner})"


def _short(value: Any) -> str | None:
    match value:
        case Term():
            return f"{value.counter}#{value.nonce}@{value.first}"
        case JournalResume(kind=Kind.CONTINUE):
            return "CONTINUE"
        case JournalOffer():
            wants = " wants positions" if value.wants_sources else ""
            return f"{value.journal}[{value.first},{value.end})@{value.checkpoint}{wants}"
        case ReplicaEnd():
            end = f"{value.next_offset}~{show(value.chain)}~{show(value.terms)}" if value.present else "absent"
            return f"{end} with {show(value.sources)}" if value.sources else end
        case SourcePosition():
            return f"{show(value.path)} at {value.position}"
        case NodeHello():
            who = f"{value.node} on {value.host}, {show(value.instance)}"
            return f"{who}, for {value.subscriber} {show(value.journals)}"
        case Hello():
            return f"{value.manager} as {value.subscriber}, epoch {value.epoch}, protocol {value.protocol}"
        case JournalAck():
            return f"{value.journal}:{value.end}"
    return _attach(value)


def _attach(value: Any) -> str | None:
    match value:
        case AttachHello():
            return f"{value.node} of {value.subcluster} on {value.host}, {show(value.instance)}"
        case Target():
            return f"run r{value.revision}, serial {value.serial}"
        case Fetch():
            return f"{value.want[:4]} without {show(tuple(one[:4] for one in value.have))}"
        case Pack():
            return f"{value.want[:4]} {show(value.piece)}{', the last' if value.last else ''}"
        case Report():
            error = f": {value.error}" if value.error else ""
            return f"#{value.number} r{value.revision} {value.state}, runs r{value.running}{error}"
        case Reported():
            return f"#{value.number}" if value.number else "accepted"
    return None
