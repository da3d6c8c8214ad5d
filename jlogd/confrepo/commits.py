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

import re
from typing import Final

from dulwich.objects import Commit, ShaFile

from jlogd.confrepo import model as m
from jlogd.runtime.errors import DamageError, RefusedError

REVISION_HEADER: Final = b"jlogd-revision"
SIGNATURE_HEADER: Final = b"jlogd-signature"
SIGNATURE_MAX: Final = 16 << 10  # a certificate of ours is about 600 bytes, a signature 72
COMMIT_BYTES_MAX: Final = 256 << 10  # of a plain git history as well; ours are far smaller
_FOLD: Final = 76  # characters of base64 on a line
_ID: Final = re.compile(rb"[0-9a-f]{40}")
_OURS: Final = re.compile(r"[a-z]+:[^\s<>@:\x00-\x1f]+")  # ROLE:NAME
_GIT: Final = re.compile(r"[^<>\n\x00]* <[^<>\n\x00]*>")
_PERSON: Final = re.compile(rb"(?P<name>[^<>\n]*?) ?<(?P<email>[^<>\n]*)> (?P<time>\d{1,12}) [+-]\d{4}")

Header = tuple[bytes, bytes]


def author_line(author: str, time_s: int) -> bytes:
    """``alice <operator:alice@jlogd> 1764000000 +0000``. RefusedError for an author that could not be read back."""
    if time_s < 0 or time_s >= 10**11:
        raise RefusedError(f"{time_s} s is not a time that a commit can carry: set the clock")
    if _OURS.fullmatch(author):
        who = f"{author.partition(':')[2]} <{author}@jlogd>"
    elif _GIT.fullmatch(author):
        who = author  # of a plain git history, kept when such a commit is made again
    else:
        raise RefusedError(f"{author!r} cannot be a commit's author: it is not ROLE:NAME")
    return _utf8(who, "author") + b" %d +0000" % time_s


def compose(tree: m.ObjectId, parent: m.Commit | None, author: str, time_s: int, message: str) -> bytes:
    """The unsigned content of the revision after ``parent``. RefusedError for an author or message git refuses."""
    person = author_line(author, time_s)
    text = _utf8(message.rstrip(), "message")
    if len(text) > m.MESSAGE_MAX or b"\0" in text:
        raise RefusedError(f"the message has a NUL, or more than {m.MESSAGE_MAX} bytes: shorten it")
    lines = [b"tree " + tree.encode()]
    if parent is not None:
        lines.append(b"parent " + parent.id.encode())
    number = parent.revision + 1 if parent is not None else 1
    lines += [b"author " + person, b"committer " + person, REVISION_HEADER + b" %d" % number]
    return b"\n".join(lines) + b"\n\n" + text + b"\n"


def sealed(content: bytes, signature: bytes) -> tuple[m.CommitId, ShaFile]:
    """The commit object with its id; ``signature`` may be empty. RefusedError when the content is not a commit."""
    try:
        if parse_commit(content).signature or b"\n\n" not in content:
            raise RefusedError("the commit is signed already, or has no message")
    except DamageError as error:
        raise RefusedError(f"what is to be stored is not a commit: {error}") from error
    commit = Commit.from_raw_string(Commit.type_num, with_signature(content, signature) if signature else content)
    return m.CommitId(commit.id.decode()), commit


def with_signature(content: bytes, signature: bytes) -> bytes:
    """``content`` with the signature as its last header. RefusedError for one that is not base64."""
    if len(signature) > SIGNATURE_MAX or not re.fullmatch(rb"[A-Za-z0-9+/]+={0,2}", signature):
        raise RefusedError("the signature is not base64, or too long")
    folded = b"\n ".join(signature[at : at + _FOLD] for at in range(0, len(signature), _FOLD))
    head, _, message = content.partition(b"\n\n")
    return head + b"\n" + SIGNATURE_HEADER + b" " + folded + b"\n\n" + message


def without_signature(content: bytes) -> bytes:
    """What was signed: the content as it was before ``with_signature``."""
    head, gap, message = content.partition(b"\n\n")
    kept: list[bytes] = []
    inside = False
    for line in head.split(b"\n"):
        inside = line.startswith(b" ") if inside else False
        inside = inside or line.startswith(SIGNATURE_HEADER + b" ")
        if not inside:
            kept.append(line)
    return b"\n".join(kept) + gap + message


def parents_of(content: bytes) -> list[m.CommitId]:
    """Every parent; the first one is the line's. DamageError."""
    return [_id(value) for name, value in _headers(content)[0] if name == b"parent"]


def tree_of(content: bytes) -> m.ObjectId:
    """The root tree. DamageError."""
    return m.ObjectId(_id(content[5:45]))


def parse_commit(content: bytes, commit_id: m.CommitId | None = None) -> m.Commit:
    """From a commit object's content; the id is computed when it is not given. DamageError."""
    headers, message = _headers(content)
    if not headers or headers[0][0] != b"tree":
        raise DamageError("a commit does not begin with its tree")
    by_name: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (SIGNATURE_HEADER, REVISION_HEADER, b"author") and name in by_name:
            raise DamageError(f"a commit has two headers {name.decode()}")
        by_name.setdefault(name, value)  # of several parents the first is the line's
    author, time_s = _person(by_name.get(b"author", b""))
    parent = by_name.get(b"parent")
    return m.Commit(
        id=commit_id or m.CommitId(Commit.from_raw_string(Commit.type_num, content).id.decode()),
        revision=_revision(by_name.get(REVISION_HEADER)),
        parent=None if parent is None else _id(parent),
        tree=m.ObjectId(_id(by_name[b"tree"])),
        author=author,
        time_s=time_s,
        message=message.decode(errors="replace").removesuffix("\n"),
        signature=by_name.get(SIGNATURE_HEADER, b"").replace(b"\n", b""),
    )


def _headers(content: bytes) -> tuple[list[Header], bytes]:
    """The headers, continuation lines joined by newlines, and the message."""
    if len(content) > COMMIT_BYTES_MAX:
        raise DamageError(f"a commit object has {len(content)} bytes, {COMMIT_BYTES_MAX} are allowed")
    head, _, message = content.partition(b"\n\n")
    found: list[Header] = []
    for line in head.split(b"\n"):
        if line.startswith(b" ") and found:
            found[-1] = (found[-1][0], found[-1][1] + b"\n" + line[1:])
            continue
        name, space, value = line.partition(b" ")
        if not space:
            raise DamageError("a commit's header has no value")
        found.append((name, value))
    return found, message


def _revision(value: bytes | None) -> m.Revision:
    if value is None:
        return m.Revision(0)
    if not re.fullmatch(rb"[1-9]\d{0,14}", value):
        raise DamageError("a commit's jlogd-revision is not a number from 1")
    return m.Revision(int(value))


def _person(value: bytes) -> tuple[str, int]:
    found = _PERSON.fullmatch(value)
    if found is None:
        raise DamageError("a commit's author is not NAME <EMAIL> TIME ZONE")
    name, email = found["name"].decode(errors="replace"), found["email"].decode(errors="replace")
    ours = email.removesuffix("@jlogd")
    if email.endswith("@jlogd") and _OURS.fullmatch(ours) and ours.partition(":")[2] == name:
        return ours, int(found["time"])
    return f"{name} <{email}>", int(found["time"])


def _id(value: bytes) -> m.CommitId:
    if not _ID.fullmatch(value):
        raise DamageError("a commit names something that is not an object id")
    return m.CommitId(value.decode())


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(f"the {what} is not Unicode text") from error
