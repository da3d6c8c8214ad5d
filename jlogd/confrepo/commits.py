"""Commit objects: their bytes and back.

    tree <id>
    parent <id>                                   (not in the first revision)
    author alice <operator:alice@jlogd> 1764000000 +0000
    committer (the same)
    jlogd-revision 7
    jlogd-signature <base64 …>                    (signed ones; continuation lines begin with a space)

    <message>

A commit of a plain git history has neither of the two last headers: its ``revision`` is 0 here, and the repository
numbers it by its place on the line of first parents; its author is what git shows, ``Bob <bob@example.org>``.
"""

from typing import Final

from jlogd.confrepo import model as M  # noqa: N812 - the words of the configuration, as everywhere in this package

REVISION_HEADER: Final = b"jlogd-revision"
SIGNATURE_HEADER: Final = b"jlogd-signature"
SIGNATURE_MAX: Final = 16 << 10  # a certificate of ours is about 600 bytes, a signature 72
COMMIT_BYTES_MAX: Final = 128 << 10  # message, signature, headers
_FOLD: Final = 76  # characters of base64 on a line


def author_line(author: str, time_s: int) -> bytes:
    """``alice <operator:alice@jlogd> 1764000000 +0000``. RefusedError for an author that git could not read back."""
    raise NotImplementedError


def parse_commit(content: bytes, commit_id: M.CommitId | None = None) -> M.Commit:
    """From a commit object's content; the id is computed when it is not given. DamageError."""
    raise NotImplementedError


def parents_of(content: bytes) -> list[M.CommitId]:
    """Every parent, the first one is the line's."""
    raise NotImplementedError


def compose(tree: M.ObjectId, parent: M.Commit | None, author: str, time_s: int, message: str) -> bytes:
    """The unsigned content of the revision after ``parent``."""
    raise NotImplementedError


def with_signature(content: bytes, signature: bytes) -> bytes:
    """``content`` with the signature's header."""
    raise NotImplementedError


def without_signature(content: bytes) -> bytes:
    """What was signed: the content as it was before ``with_signature``."""
    raise NotImplementedError
