"""Git bundles, version 2: refs, the commits that they need, a pack. ``git clone FILE`` takes them.

# v2 git bundle
-<id of a commit that the receiver must have> <comment>
<id> <ref>
(an empty line)
PACK…
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from jlogd.confrepo.model import CommitId, is_commit_id
from jlogd.runtime.errors import DamageError, RefusedError

_SIGNATURE: Final = b"# v2 git bundle"
_HEAD_BYTES_MAX: Final = 1 << 20
_MAIN_NAMES: Final = ("refs/heads/main", "refs/heads/master", "HEAD")


def pieces(refs: Mapping[str, CommitId], pack: Iterable[bytes]) -> Iterator[bytes]:
    """A bundle of ``refs`` that needs nothing."""
    lines = [_SIGNATURE.decode(), *(f"{commit_id} {name}" for name, commit_id in refs.items()), "", ""]
    yield "\n".join(lines).encode()
    yield from pack


def opened(stream: Iterable[bytes]) -> tuple[dict[str, CommitId], list[CommitId], Iterator[bytes]]:
    """The refs, the needed commits, and the pack's pieces. DamageError."""
    rest = iter(stream)
    head = bytearray()
    while b"\n\n" not in head:
        piece = next(rest, None)
        if piece is None or len(head) > _HEAD_BYTES_MAX:
            raise DamageError("not a git bundle, or cut off in its header")
        head += piece
    text, _, begin = bytes(head).partition(b"\n\n")
    first, *lines = text.split(b"\n")
    if first != _SIGNATURE:
        raise DamageError("not a git bundle of version 2: make one with git bundle create, or eccfg export")
    refs: dict[str, CommitId] = {}
    needs: list[CommitId] = []
    for line in lines:
        commit_id, _, name = line.removeprefix(b"-").decode(errors="replace").partition(" ")
        if not is_commit_id(commit_id):
            raise DamageError("a line of the bundle's header is not an id and a ref")
        if line.startswith(b"-"):
            needs.append(CommitId(commit_id))
        else:
            refs[name] = CommitId(commit_id)
    return refs, needs, _joined(begin, rest)


def _joined(begin: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield begin
    yield from rest


def main_of(refs: Mapping[str, CommitId]) -> CommitId:
    """The commit that becomes main: of that name, or the only one. RefusedError."""
    for name in _MAIN_NAMES:
        if name in refs:
            return refs[name]
    if len(set(refs.values())) != 1:
        raise RefusedError(f"the bundle has {len(refs)} refs and none is called main: export one branch")
    return next(iter(refs.values()))
