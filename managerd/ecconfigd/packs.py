"""Packs for nodes: made once for all that need the same objects, and kept for a while.

A change in ``global/`` needs the same few objects on every node; two hundred nodes that ask within a second cost one
pack. What is large is not kept: it is put together while it is sent, piece by piece, of fragments that all share
(``fragments``). While a node does not read, its pack holds less than 1 MiB here. How many may read large ones at the
same time is the sessions' to say (``attach_live``).
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

from jlogd.attach.messages import GIFT_MAX, Gift
from jlogd.confrepo.model import CommitId, Scope
from jlogd.confrepo.packformat import pack_pieces
from jlogd.confrepo.scope import scope_objects
from jlogd.runtime.errors import DamageError
from managerd.ecconfigd.fragments import Fragments

if TYPE_CHECKING:
    from jlogd.confrepo.repository import Repository
    from managerd.ecconfigd.store import Store

Ask = tuple[Scope, CommitId, CommitId]  # who, what he wants, what he has

KEPT_BYTES_MAX: Final = 32 << 20
GIFT_OBJECTS_MAX: Final = 200
PIECE_BYTES: Final = 128 << 10  # a few are on their way to each node, and copies of them in gRPC
PACK_KEPT_MAX: Final = 256 << 10  # larger ones are put together for each node; what a session holds without a turn
ID_BYTES: Final = 20


class Packs:
    """See the module. On the loop."""

    def __init__(self, store: "Store") -> None:
        """Nothing is kept yet."""
        self._store = store
        self._fragments = Fragments()
        self._kept: OrderedDict[bytes, Sequence[bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._making: dict[bytes, asyncio.Task[Sequence[bytes] | None]] = {}

    async def pack(
        self, scope: Scope, want: CommitId, have: Sequence[CommitId]
    ) -> Sequence[bytes] | AsyncGenerator[bytes, None]:
        """What ``want`` needs within ``scope`` and ``have`` does not bring; at least one piece.

        No sequence: it is large, and nothing is held for it before the first piece is asked for.
        """
        ids = await self._store.read(lambda repository: scope_objects(repository.store, want, scope, have))
        pieces = await self._small(ids)
        return self._stream(scope, want, have) if pieces is None else pieces

    async def gifts(self, asks: Sequence[Ask]) -> list[Gift | None]:
        """For each the pack that he would get, where it is small: one look at the repository for all of them."""
        many = await self._store.read(lambda repository: [_few_ids(repository, *ask) for ask in asks])
        found: list[Gift | None] = []
        for (_, _, have), ids in zip(asks, many, strict=True):
            pieces = await self._small(ids) if ids else None
            fits = pieces is not None and sum(map(len, pieces)) <= GIFT_MAX
            found.append(Gift(have, b"".join(pieces)) if pieces is not None and fits else None)
        return found

    async def _small(self, ids: Sequence[str]) -> Sequence[bytes] | None:
        """The pack of these objects; None when it is too large to keep."""
        key = hashlib.blake2b("".join(ids).encode(), digest_size=16).digest()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._make(key, ids))
        # Shielded: who asked first may go away while others wait.
        return await asyncio.shield(self._making[key])

    async def _make(self, key: bytes, ids: Sequence[str]) -> Sequence[bytes] | None:
        try:
            pieces = await self._store.read(lambda repository: self._small_pack(repository, ids))
        finally:
            del self._making[key]
        if pieces is not None:
            self._keep(key, pieces)
        return pieces

    def _keep(self, key: bytes, pieces: Sequence[bytes]) -> None:
        self._kept[key] = pieces
        self._kept_bytes += sum(map(len, pieces))
        while self._kept_bytes > KEPT_BYTES_MAX:
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= sum(map(len, gone))

    async def _stream(self, scope: Scope, want: CommitId, have: Sequence[CommitId]) -> AsyncGenerator[bytes, None]:
        pieces = await self._store.read(lambda repository: self._pieces(repository, scope, want, have))
        while True:
            piece = await self._store.read(lambda _: next(pieces, None))
            if piece is None:
                return
            yield piece

    def _pieces(
        self, repository: "Repository", scope: Scope, want: CommitId, have: Sequence[CommitId]
    ) -> Iterator[bytes]:
        ids = scope_objects(repository.store, want, scope, have)
        together = bytes.fromhex("".join(ids))  # held for as long as a slow node reads: of 50,000 files still 1 MB
        names = (together[at : at + ID_BYTES].hex() for at in range(0, len(together), ID_BYTES))
        return self._packed(repository, len(ids), names)

    def _packed(self, repository: "Repository", count: int, names: Iterable[str]) -> Iterator[bytes]:
        fragments = chain.from_iterable(self._fragments.of(repository.store, name) for name in names)
        return pack_pieces(count, fragments, PIECE_BYTES)

    def _small_pack(self, repository: "Repository", ids: Sequence[str]) -> Sequence[bytes] | None:
        pieces: list[bytes] = []
        for piece in self._packed(repository, len(ids), ids):
            pieces.append(piece)
            if sum(map(len, pieces)) > PACK_KEPT_MAX:
                return None
        return pieces


def _few_ids(repository: "Repository", scope: Scope, want: CommitId, have: CommitId) -> Sequence[str]:
    """None at all where many would be needed, or something is missing here: that is for a Fetch to find out."""
    try:
        ids = scope_objects(repository.store, want, scope, [have])
    except DamageError:
        return ()
    return ids if len(ids) <= GIFT_OBJECTS_MAX else ()
