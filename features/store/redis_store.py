"""The entity store on a Redis server: the look-ups, appends and versions of the folder's, for readers without a shared disk."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.semantic_id import UNKNOWN_CODE, SidContract, checked_codes, require_same_codes
from features.store.publish import Items
from features.store.redis_layout import Layout, executed
from features.store.redis_publish import GRACE_SECONDS, publish
from features.store.redis_server import Server
from features.store.snapshot import Lookup


class RedisStore:
    """One named store on a server; see `EntityStore` for what the methods do. A batch sees one version. Threads may share it."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name, self._layout = server, name, Layout(server, name)

    @classmethod
    def open(cls, url: str) -> "RedisStore":
        """Connect.

        Args:
            url: redis://[USER:PASSWORD@]HOST[:PORT][/DB]?name=NAME, rediss:// likewise with TLS, or unix://PATH?name=NAME[&db=DB].

        Raises:
            InputError: if it is no such URL, or naming the server that cannot be reached; never with the password.
        """
        return cls(*Server.connect(url))

    @property
    def version(self) -> str:
        """Name of the current version, e.g. "v000003"."""
        with self._server.told():
            return f"v{self._layout.current().number:06d}"

    def contract(self, source: str | None = None) -> SidContract:
        """The contract of one source, or of the only one. Raises InputError naming the sources where there is no telling which."""
        with self._server.told():
            return self._layout.contract(self._layout.current(), source)

    def lookup(self, ids: npt.NDArray[np.int64], source: str | None = None) -> Lookup:
        """Codes of a batch of ids int64 [N], as `EntityStore.lookup`."""
        return self.lookups(ids, [source])[0]

    def lookups(self, ids: npt.NDArray[np.int64], sources: Sequence[str | None]) -> list[Lookup]:
        """`lookup` for several sources, all of one version."""
        distinct, positions = np.unique(ids, return_inverse=True)
        with self._server.told():
            while True:
                version = self._layout.current()
                contracts = [self._layout.contract(version, source) for source in sources]
                found = [self._layout.space(version, contract.source).read(distinct) for contract in contracts]
                # A version that was removed while we read is followed by another.
                if self._layout.client.exists(self._layout.key(f"v{version.number}")):
                    break
            for contract, codes in zip(contracts, found, strict=True):
                missing = np.flatnonzero(codes[:, 0] == UNKNOWN_CODE)
                codes[missing] = self._layout.appended(contract).read(distinct[missing])
        answers = [codes[positions] for codes in found]
        return [Lookup(codes, int(np.count_nonzero(codes[:, 0] == UNKNOWN_CODE))) for codes in answers]

    def get(self, item_id: int, source: str | None = None) -> tuple[int, ...] | None:
        """Codes of one item, or None."""
        answer = self.lookup(np.array([item_id], np.int64), source)
        return None if answer.misses else tuple(answer.codes[0].tolist())

    def items_with_prefix(self, prefix: Sequence[int], source: str | None = None) -> npt.NDArray[np.int64]:
        """Reverse look-up: ids of all items whose codes begin with `prefix`, int64, ascending; slow, it scans all keys of the database."""
        found = [np.empty(0, np.int64)]
        with self._server.told():
            version = self._layout.current()
            contract = self._layout.contract(version, source)
            for space in (self._layout.space(version, contract.source), self._layout.appended(contract)):
                for ids, codes in space.scan():
                    found.append(ids[(codes[:, : len(prefix)] == np.array(prefix)).all(axis=1)])
        return np.unique(np.concatenate(found))

    def append(self, ids: npt.NDArray[np.int64], codes: Mapping[str, npt.NDArray[Any]], contracts: Sequence[SidContract]) -> None:
        """Add new items as `EntityStore.append`, but one source after the other, each all or none."""
        for contract in contracts:
            given = checked_codes(ids, codes[contract.source], contract)
            distinct, first, positions = np.unique(ids, return_index=True, return_inverse=True)
            require_same_codes(ids, given, given[first][positions], contract.source, "the same call")
            with self._server.told():
                while not self._append(distinct, given[first], contract):
                    pass

    def publish(self, batches: Iterable[Items], contracts: Sequence[SidContract], *, grace_seconds: int = GRACE_SECONDS) -> str:
        """Write a new version and point readers to it; see `redis_publish.publish`."""
        return publish(self._server, self._name, batches, contracts, grace_seconds=grace_seconds)

    def _append(self, ids: npt.NDArray[np.int64], codes: npt.NDArray[np.uint16], contract: SidContract) -> bool:
        """False where another append or publish came between, and nothing was written."""
        space, members = self._layout.appended(contract), self._layout.members(contract)
        with self._layout.client.pipeline() as pipe:
            pipe.watch(self._layout.key("current"), members)
            version = self._layout.current()
            self._layout.contract(version, contract.source).require_same(contract, self._layout.where, "the items to append")
            known = self._layout.space(version, contract.source).read(ids)
            missing = np.flatnonzero(known[:, 0] == UNKNOWN_CODE)
            known[missing] = space.read(ids[missing])
            new = known[:, 0] == UNKNOWN_CODE
            require_same_codes(ids[~new], codes[~new], known[~new], contract.source, self._layout.where)
            if not new.any():
                return True
            pipe.multi()
            pipe.mset(space.pairs(ids[new], codes[new]))
            pipe.sadd(members, *ids[new].tolist())
            return executed(pipe)
