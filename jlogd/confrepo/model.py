"""The words of the configuration repository, and its limits. No behaviour beyond what follows from a field.

    global/…                    every node's
    <subcluster>/default/…      every node's of the subcluster
    <subcluster>/<node>/…       one node's
    schemas/…, running/<node>/… in no view: JSON Schema files, and what nodes saved of what they really run

The more specific layer wins. A *view* has the layers' paths without the layers' directories.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NewType

Revision = NewType("Revision", int)  # 1, 2, …; 0 = none
CommitId = NewType("CommitId", str)  # 40 lower-case hex digits
ObjectId = NewType("ObjectId", str)  # of a blob or tree, same form
Serial = NewType("Serial", int)  # orders what nodes are told to run

REGULAR: Final = 0o100644
EXECUTABLE: Final = 0o100755
SYMLINK: Final = 0o120000  # the content is the target
MODES: Final = frozenset({REGULAR, EXECUTABLE, SYMLINK})

GLOBAL: Final = "global"
DEFAULT: Final = "default"
SCHEMAS: Final = "schemas"
RUNNING: Final = "running"
RESERVED: Final = frozenset({GLOBAL, SCHEMAS, RUNNING})  # not subclusters
ACCESS_FILE: Final = "global/access.toml"
ROLLOUT_FILE: Final = "global/rollout.toml"

# Limits: what a person would call configuration, and what a node can lay out in a second.
FILE_BYTES_MAX: Final = 4 << 20
FILES_MAX: Final = 50_000
TREE_BYTES_MAX: Final = 512 << 20
PATH_BYTES_MAX: Final = 1024
NAME_BYTES_MAX: Final = 255  # NAME_MAX of the kernel's file systems
DEPTH_MAX: Final = 32
MESSAGE_MAX: Final = 16 << 10
CHANGED_FILES_MAX: Final = FILES_MAX  # of one commit: a bootstrap brings everything

SECRET_PREFIX: Final = "$age:"  # noqa: S105 - begins a value that only its recipients can read: base64 of an age file
UNSET_KEY: Final = "$unset"  # {"$unset" = true}: as if no less specific layer had the key

_COMMIT_ID = re.compile(r"[0-9a-f]{40}")


def is_commit_id(text: str) -> bool:
    """Whether ``text`` is a whole id."""
    return _COMMIT_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file by reference: what a tree holds."""

    mode: int
    id: ObjectId


@dataclass(frozen=True, slots=True)
class File:
    """A file by content."""

    content: bytes
    mode: int = REGULAR


Files = Mapping[str, File]  # path → file
Changes = Mapping[str, File | None]  # path → new file, None = deleted


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Why a commit is refused. ``line`` from 1; 0 = the whole file. ``path`` is in the repository; "" = all of it.

    ``quotes``: other paths of the repository whose contents ``problem`` may repeat.
    """

    path: str
    line: int
    problem: str
    quotes: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        if not self.path:
            return self.problem
        return f"{self.path}:{self.line}: {self.problem}" if self.line else f"{self.path}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Commit:
    """One revision. ``author`` is ``ROLE:NAME`` from the certificate. ``signature`` empty: unsigned."""

    id: CommitId
    revision: Revision
    parent: CommitId | None
    tree: ObjectId
    author: str
    time_s: int
    message: str
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Scope:
    """What one node may read: its own layers."""

    subcluster: str
    node: str

    @property
    def layers(self) -> tuple[str, str, str]:
        """Directories of the layers, the least specific first."""
        return GLOBAL, f"{self.subcluster}/{DEFAULT}", f"{self.subcluster}/{self.node}"

    def covers(self, path: str) -> bool:
        """Whether ``path`` is in one of the layers."""
        return any(path.startswith(layer + "/") for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Both sides of a file that could not be merged. ``keys``: dotted, empty = the file as a whole. None = deleted."""

    path: str
    keys: tuple[str, ...]
    base: bytes | None
    mine: bytes | None
    theirs: bytes | None
