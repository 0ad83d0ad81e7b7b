"""The key-value table of this engine."""

from collections.abc import Iterable

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.model import AtomicWrite, Mutation
from kvqueue_fastapi.store.key_table import KeyTable, Row, looked_at
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import Session
from kvqueue_fastapi.store.postgres.sends import columns


class Keys(KeyTable):
    """The key-value table as the writes of one transaction see it, under the versions' lock."""

    async def load(self, session: Session, writes: Iterable[AtomicWrite]) -> None:
        """Read at once all that these writes will look at, and the last version."""
        wanted = list({key for write in writes for key in looked_at(write)})
        self._seen = dict.fromkeys(wanted)
        if wanted:
            for key, *fields in await session.fetch(sql.READ_KEYS, wanted):
                self._seen[key] = Row(*fields)
        self._version = (await session.fetch(sql.LAST_VERSION))[0][0]

    async def store(self, session: Session) -> None:
        """Write down what was accepted."""
        if self._changed:
            await self._write_changed(session)
        if self._accepted:
            expiring = sum(
                row is not None and row[3] is not None for row in map(self._seen.get, self._changed)
            )
            slice_of_old = 2 * expiring + 2
            await session.fetch(sql.SET_LAST_VERSION, self._version, self._now_ms, slice_of_old)

    def change(self, mutations: list[Mutation]) -> None:
        """Plan and accept mutations that cannot fail, as one write of its own."""
        changes = self.plan(AtomicWrite(mutations=mutations))
        if changes is not None:
            self.accept(changes)

    def _read(self, keys: Iterable[bytes]) -> None:
        msg = f"keys {list(keys)!r} were not loaded"
        raise StoreError(msg)

    def _stored_version(self) -> int:
        msg = "the last version was not loaded"
        raise StoreError(msg)

    async def _write_changed(self, session: Session) -> None:
        gone = [key for key in self._changed if self._seen[key] is None]
        if gone:
            await session.fetch(sql.DELETE_KEYS, gone)
        there = [(key, *row) for key in self._changed if (row := self._seen[key]) is not None]
        if there:
            await session.fetch(sql.SET_KEYS, *columns(there, 5))
