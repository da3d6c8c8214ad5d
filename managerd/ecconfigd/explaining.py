"""Where each value of a file comes from, for one node: its layer, and the revision that last changed it there.

The revision is found by walking back through the revisions of the layer's file until the value is another one. A walk
is bounded; what it does not find is not known (0), never guessed.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from jlogd.confrepo import layering
from jlogd.confrepo.formats import SyntaxFault, dotted, kind_of, parse, same, split_key
from jlogd.confrepo.model import SYMLINK, Commit, Revision, Scope
from jlogd.confrepo.repository import Repository
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd.reading import layers_of
from managerd.ecconfigd.rights import Gate
from managerd.ecconfigd.wire import ANSWER_BYTES
from managerd.v1 import config_pb2 as pb

REVISIONS_MAX: Final = 500  # of one layer's file
EXPLAIN_S: Final = 5.0  # of all walks together: files may be large, and parsing is slow
UNKNOWN: Final = Revision(0)
Key = tuple[str, ...]
_ABSENT: Final = object()  # equal to nothing but itself


def explain(
    repository: Repository, commit: Commit, gate: Gate, scope: Scope, path: str, key: str, *, clock: Clock = SYSTEM
) -> list[pb.ExplainedKey]:
    """The keys of ``path`` in the node's view; ``key``: only this one, and what is in it. RefusedError."""
    found = keys_at(key, layering.explain(path, layers_of(repository, commit, gate, scope, path)))
    deadline_s = clock.monotonic_s() + EXPLAIN_S
    revisions: dict[tuple[str, Key], Revision] = {}
    for layer in dict.fromkeys(each.layer for each in found):
        keys = [each.key for each in found if each.layer == layer]
        walk = _walk(repository, commit, f"{layer}/{path}", keys, lambda: clock.monotonic_s() > deadline_s)
        revisions |= {(layer, changed): revision for changed, revision in walk.items()}
    answer = [
        pb.ExplainedKey(
            key=dotted(each.key),
            value="" if each.secret or not each.key else json.dumps(each.value, ensure_ascii=False, default=str),
            layer=each.layer,
            revision=revisions.get((each.layer, each.key), UNKNOWN),
            secret=each.secret,
        )
        for each in found
    ]
    if sum(each.ByteSize() for each in answer) > ANSWER_BYTES:
        raise RefusedError(f"{path} has too many keys for one answer: name one, as in 'explain {path} KEY'")
    return answer


def keys_at(key: str, explained: Sequence[layering.Explained]) -> list[layering.Explained]:
    """Those of ``key`` itself, or of keys in it; an empty one is above all. A part with a dot in it is quoted."""
    above = split_key(key) if key else ()
    return [each for each in explained if each.key[: len(above)] == above]


def _walk(
    repository: Repository, commit: Commit, path: str, keys: Sequence[Key], is_over: Callable[[], bool]
) -> Mapping[Key, Revision]:
    """Each key's revision: the newest one in which its value became what it is."""
    found: dict[Key, Revision] = {}
    pending = list(dict.fromkeys(keys))
    values: Mapping[Key, object] = {}
    newer: Commit | None = None
    for here in _and_nothing(repository.log(path, until=commit.id)):
        now = _values(repository, here, path, pending)
        if newer is not None:
            changed = [key for key in pending if not same(now[key], values[key])]
            found |= dict.fromkeys(changed, newer.revision)
            pending = [key for key in pending if key not in found]
        if not pending or is_over():
            break
        values, newer = now, here
    return found


def _and_nothing(commits: Iterator[Commit]) -> Iterator[Commit | None]:
    """The commits up to the bound; after the last one of all, None: before it there was nothing."""
    for count, commit in enumerate(commits):
        if count == REVISIONS_MAX:
            return
        yield commit
    yield None


def _values(repository: Repository, commit: Commit | None, path: str, keys: Sequence[Key]) -> dict[Key, object]:
    """The value of each key; the empty key stands for the file itself."""
    entry = repository.entry(commit, path) if commit is not None else None
    if entry is None:
        return dict.fromkeys(keys, _ABSENT)
    kind = kind_of(path)
    content: object = _ABSENT
    if kind is not None and entry.mode != SYMLINK and any(keys):
        try:
            content = parse(kind, repository.content(entry))
        except SyntaxFault:
            content = _ABSENT
    return {key: _value(content, key) if key else entry for key in keys}


def _value(content: object, key: Key) -> object:
    for part in key:
        if not isinstance(content, dict) or part not in content:
            return _ABSENT
        content = content[part]
    return content
