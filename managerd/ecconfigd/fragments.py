"""Objects as they stand in packs, in fragments that all who send them share.

    content ─▶ slices of SLICE_BYTES ─▶ one zlib stream, cut after each slice ─▶ fragment 0, 1, … , the last one

Invariant: an object has the same fragments whoever made them, so one reader goes on where those of another one end. Who
sends a large file at the pace of a slow node holds one fragment and the state of a compressor (256 KiB) at most, never
the file: it is read again when it is not kept any more. What is kept of contents and fragments is for all together.
"""

import zlib
from collections.abc import Iterator
from itertools import count
from typing import Final, NamedTuple

from jlogd.confrepo.cache import Cache
from jlogd.confrepo.loose import Raw
from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.packformat import entry_header

SLICE_BYTES: Final = 128 << 10
CONTENTS_BYTES_KEPT: Final = 16 << 20  # four files of the largest size: as many as are being packed at once
FRAGMENTS_BYTES_KEPT: Final = 16 << 20  # what many nodes ask for at the same time is deflated once
_ENTRY_WEIGHT: Final = 200  # of one that is kept, beside its bytes


class Fragment(NamedTuple):
    """``last``: the object ends with it."""

    packed: bytes
    last: bool


class Fragments:
    """See the module. Any thread."""

    def __init__(self) -> None:
        """Nothing is kept."""
        self._contents: Cache[str, Raw] = Cache(CONTENTS_BYTES_KEPT)
        self._made: Cache[tuple[str, int], Fragment] = Cache(FRAGMENTS_BYTES_KEPT)

    def of(self, store: ObjectStore, name: str) -> Iterator[bytes]:
        """The object as it stands in a pack. MissingError, DamageError, StorageError."""
        maker = _Maker(self, store, name)
        for number in count():
            fragment = self._made.get((name, number)) or maker.make(number)
            yield fragment.packed
            if fragment.last:
                return

    def keep(self, name: str, number: int, fragment: Fragment) -> Fragment:
        """For the next one who needs it."""
        return self._made.put((name, number), fragment, len(fragment.packed) + _ENTRY_WEIGHT)

    def content(self, store: ObjectStore, name: str) -> Raw:
        """Type and content; large ones are kept for the next slice of them."""
        raw = self._contents.get(name)
        if raw is None:
            raw = store.raw(name)
            if len(raw[1]) > SLICE_BYTES:
                self._contents.put(name, raw, len(raw[1]))
        return raw


class _Maker:
    """Makes the fragments of one object that nobody has made lately, in order."""

    def __init__(self, fragments: Fragments, store: ObjectStore, name: str) -> None:
        self._fragments = fragments
        self._store = store
        self._name = name
        self._next = 0  # the compressor has had all slices before it
        self._machine = zlib.compressobj()

    def make(self, number: int) -> Fragment:
        """Fragment ``number``, which is not before one that was made here; it takes those before it as well."""
        kind, content = self._fragments.content(self._store, self._name)
        while True:
            fragment = self._compress(kind, content)
            self._fragments.keep(self._name, self._next, fragment)
            self._next += 1
            if self._next > number:
                return fragment

    def _compress(self, kind: int, content: bytes) -> Fragment:
        begin, end = self._next * SLICE_BYTES, (self._next + 1) * SLICE_BYTES
        packed = self._machine.compress(content[begin:end])
        if begin == 0:
            packed = entry_header(kind, len(content)) + packed
        last = end >= len(content)
        return Fragment(packed + self._machine.flush() if last else packed, last)
