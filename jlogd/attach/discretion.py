"""Keeps decrypted values out of what is told: messages of programs and of settings go to logs, status and managers.

A program may print the file that it cannot read, and a settings error repeats the value. So every text that stands in a
file with decrypted values is taken out; that is more than the secrets themselves, and never less.
"""

from collections.abc import Iterator
from typing import Final

from jlogd.confrepo.formats import SyntaxFault, kind_of, parse
from jlogd.confrepo.model import FILE_BYTES_MAX, CommitId
from jlogd.confrepo.view import Views
from jlogd.runtime.errors import JlogdError

HIDDEN: Final = "(secret)"
LENGTH_MIN: Final = 4  # what is shorter is in every message, and no secret
_UNSEEN: Final = "the message is not shown: the configuration has secrets, and what they are cannot be read"


def without_secrets(text: str, views: Views, *commits: CommitId) -> str:
    """``text`` without anything that stands in files with decrypted values of these views."""
    try:
        found = {word for commit in commits for word in _words(views, commit)}
    except (JlogdError, OSError, SyntaxFault, UnicodeError):
        return _UNSEEN
    for word in sorted(found, key=len, reverse=True):  # a word that holds another one goes first
        text = text.replace(word, HIDDEN)
    return text


def _words(views: Views, commit: CommitId) -> Iterator[str]:
    manifest = views.manifest(commit)
    for path, item in manifest.files.items() if manifest is not None else ():
        kind = kind_of(path)
        if item.secret and kind is not None:
            with views.fs.open_read(views.path(commit) / path) as file:
                yield from _texts(parse(kind, file.pread(FILE_BYTES_MAX, 0)))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield from (word for word in {value, *value.splitlines()} if len(word) >= LENGTH_MIN)
