"""Every error that a person or a peer can see, with its stable reason, gRPC status and exit code.

One root, ``JlogdError``. ``reason`` is the machine's word (JSON, wire): it never
changes once released; the message is for people: what, where, what to do next.
Peers map errors back by ``reason``, never by text.

    JlogdError            internal     exit 1
    ├── UsageError        usage        exit 2   the call's words are off
    ├── SettingsError     settings     exit 3   a settings file is wrong (all faults at once)
    ├── LockedError       locked       exit 4   somebody else owns the spool, archive or journal
    ├── DamageError       damage       exit 5   bytes on disk or on the wire are not what was written
    │   └── FormatError   format       exit 5   newer version, or an unknown required feature
    ├── ConflictError     conflict     exit 6   compare-and-set lost; redo read-modify-write
    ├── RefusedError      refused      exit 6   the other side says no, and says why
    ├── NotPermittedError not_permitted exit 1  the certificate's rights do not cover it
    ├── DeadlineError     deadline     exit 7
    ├── StorageError      storage      exit 1   the disk said no (full, I/O error); same call again may help
    └── UnavailableError  unavailable  exit 1   nobody answers; same call again may help
"""

from typing import ClassVar


class JlogdError(Exception):
    """Root of all errors of this project."""

    reason: ClassVar[str] = "internal"
    status: ClassVar[str] = "INTERNAL"  # name of a grpc.StatusCode; this layer does not import grpc
    exit_code: ClassVar[int] = 1


class UsageError(JlogdError):
    """The arguments do not make sense together."""

    reason, status, exit_code = "usage", "INVALID_ARGUMENT", 2


class SettingsError(JlogdError):
    """One or more faults in a settings file; ``faults`` holds one line for each."""

    reason, status, exit_code = "settings", "FAILED_PRECONDITION", 3

    def __init__(self, faults: list[str]) -> None:
        """Keep each ``file:line: section.key: problem`` line of ``faults``."""
        super().__init__("\n".join(faults))
        self.faults = faults


class LockedError(JlogdError):
    """Another process owns the thing; the message names the holder."""

    reason, status, exit_code = "locked", "FAILED_PRECONDITION", 4


class DamageError(JlogdError):
    """Bytes fail their checksum, their limits or their order."""

    reason, status, exit_code = "damage", "DATA_LOSS", 5


class FormatError(DamageError):
    """Written by a newer version, or with a required feature this version does not know."""

    reason, status, exit_code = "format", "FAILED_PRECONDITION", 5


class ConflictError(JlogdError):
    """A compare-and-set found another value: read again, then decide again."""

    reason, status, exit_code = "conflict", "ABORTED", 6


class RefusedError(JlogdError):
    """The other side refuses for a reason that a person must act on."""

    reason, status, exit_code = "refused", "FAILED_PRECONDITION", 6


class NotPermittedError(JlogdError):
    """Whoever calls may not: the message names the right and the path."""

    reason, status, exit_code = "not_permitted", "PERMISSION_DENIED", 1


class DeadlineError(JlogdError):
    """The time given was not enough."""

    reason, status, exit_code = "deadline", "DEADLINE_EXCEEDED", 7


class StorageError(JlogdError):
    """The file system refused (full, read-only, I/O error). Nothing that was confirmed is lost."""

    reason, status, exit_code = "storage", "UNAVAILABLE", 1


class UnavailableError(JlogdError):
    """Nobody answers; the same call may succeed later."""

    reason, status, exit_code = "unavailable", "UNAVAILABLE", 1
