"""The entity store: item id to Semantic ID codes, for serving. New items are appended to it, and it follows the versions as they come.

The files of a store, and where they are described:
    store/CURRENT, store/v000002/   the versions, immutable, one of which training opens: store/versions.py, store/snapshot.py
    store/delta/                    items appended since, in LMDB: store/delta.py; `fold` makes a version of both: store/publish.py
A Redis server can stand in for the folder: features/store/redis_store.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from features.semantic_id import UNKNOWN_CODE, SidContract, checked_codes
from features.store.delta_view import DELTA, DELTA_LIMIT, View
from features.store.publish import KEEP, Items, fold, publish
from features.store.snapshot import Lookup, Snapshot
from features.store.versions import Follower, number_of, one_publisher, open_snapshot

if TYPE_CHECKING:
    from features.store.delta import Delta
    from features.store.redis_store import RedisStore


class SemanticIds(Protocol):
    """Whatever answers with Semantic IDs: one version (`Snapshot`), the store that follows its versions, or a Redis server."""

    def contract(self, source: str | None = None) -> SidContract:
        """The contract of one source, or of the only one."""

    def lookup(self, ids: npt.NDArray[np.int64], source: str | None = None) -> Lookup:
        """Codes of ids int64 [N], all of one version."""

    def lookups(self, ids: npt.NDArray[np.int64], sources: Sequence[str | None]) -> list[Lookup]:
        """The same for several sources, all of one version."""


def open_store(target: str | Path, *, verify: bool = True) -> "EntityStore | RedisStore":
    """Open the store in a folder, or the one that a redis://, rediss:// or unix:// URL names."""
    if str(target).startswith(("redis://", "rediss://", "unix://")):
        from features.store.redis_store import RedisStore

        return RedisStore.open(str(target))
    return EntityStore(Path(target), verify=verify)


class EntityStore:
    """The store in a folder: answers from the current version and, for what that lacks, from the delta.

    A batch sees one version and one state of the delta, which together lack nothing that was published or appended before: the delta says
    which version it is relative to, and a reader whose version is older opens the newer one first. Threads may share a store.
    """

    def __init__(self, path: Path, *, verify: bool = True, delta_limit: int = DELTA_LIMIT) -> None:
        """Open the current version.

        Args:
            path: the folder.
            verify: compare the sha256 of every file of each version that is opened (reads every byte).
            delta_limit: bytes of the pages that hold the delta's records; `append` is refused beyond it, until a fold.

        Raises:
            InputError: naming the file that is missing or damaged.
        """
        self.path, self._delta_limit = path, delta_limit
        self._versions = Follower(path, verify=verify)
        self._opened_delta: Delta | None = None
        self._settled: tuple[Snapshot | None, bytes | None, str | None, str] = (None, None, None, "")  # the last answer of `_beside`

    def snapshot(self) -> Snapshot:
        """The current version; one `stat` where it has not changed."""
        return self._versions.snapshot()

    @property
    def version(self) -> str:
        """Name of the current version, e.g. "v000001"."""
        return self.snapshot().path.name

    def contract(self, source: str | None = None) -> SidContract:
        """The contract of one source, or of the only one. Raises InputError where there is no telling which."""
        return self._versions.snapshot().contract(source)

    def lookup(self, ids: npt.NDArray[np.int64], source: str | None = None) -> Lookup:
        """Codes of a batch of ids.

        Args:
            ids: int64 [N], in any order, with repetitions.
            source: whose codes; not needed where the store has one source.

        Raises:
            InputError: naming the damaged file and item, or both sides where delta and version are of different codebooks.
        """
        return self.lookups(ids, [source])[0]

    def lookups(self, ids: npt.NDArray[np.int64], sources: Sequence[str | None]) -> list[Lookup]:
        """`lookup` for several sources, all of one version and one state of the delta."""
        current = snapshot = self._versions.snapshot()
        answers = snapshot.lookups(ids, sources)
        delta = self._delta() if any(answer.misses for answer in answers) else None
        if delta is None:
            return answers
        with delta.reading() as view:
            appended = []
            for source in sources:
                current, name = self._beside(view, current, source)
                appended.append(name)
            if current is not snapshot:
                answers = current.lookups(ids, sources)
            for number, name in enumerate(appended):
                if name is not None:
                    codes = answers[number].codes
                    view.fill(ids, codes, name)
                    answers[number] = Lookup(codes, int(np.count_nonzero(codes[:, 0] == UNKNOWN_CODE)))
        return answers

    def get(self, item_id: int, source: str | None = None) -> tuple[int, ...] | None:
        """Codes of one item, or None."""
        snapshot = self._versions.snapshot()
        found = snapshot.get(item_id, source)
        delta = self._delta() if found is None else None
        if delta is None:
            return found
        with delta.reading() as view:
            current, appended = self._beside(view, snapshot, source)
            if current is not snapshot:
                found = current.get(item_id, source)
            if found is None and appended is not None:
                found = view.get(item_id, appended)
        return found

    def items_with_prefix(self, prefix: Sequence[int], source: str | None = None) -> npt.NDArray[np.int64]:
        """Reverse look-up: ids of all items whose codes begin with `prefix`, int64, ascending; reads the whole delta."""
        snapshot, delta = self._versions.snapshot(), self._delta()
        if delta is None:
            return snapshot.items_with_prefix(prefix, source)
        with delta.reading() as view:
            snapshot, appended = self._beside(view, snapshot, source)
            items = snapshot.items_with_prefix(prefix, source)
            if appended is None:
                return items
            ids, codes = view.all_records()[appended]
            return np.union1d(items, ids[(codes[:, : len(prefix)] == np.array(prefix)).all(axis=1)])

    def append(self, ids: npt.NDArray[np.int64], codes: Mapping[str, npt.NDArray[Any]], contracts: Sequence[SidContract]) -> None:
        """Add new items, all or none; durable when it returns, and seen by every reader's next batch.

        Args:
            ids: int64 [N]. An item that the store has already must have the same codes, and nothing is done for it.
            codes: source to integer [N, L], each in [0, K).
            contracts: what these codes mean, one per source; they must be those of the store.

        Raises:
            InputError: naming both sides of a contract that differs, the item that has other codes, codes that do not fit, or what is full.
        """
        self._versions.snapshot()  # a new version is verified before the write begins, which others wait for
        given = {contract.source: checked_codes(ids, codes[contract.source], contract) for contract in contracts}
        with self._made_delta().writing() as view:
            # Versions change inside such a write alone, so this one stays current until ours ends.
            snapshot = self._versions.snapshot()
            if view.base < number_of(snapshot.path.name):
                view.settle(snapshot, number_of(snapshot.path.name))
            for contract in contracts:
                snapshot.contract(contract.source).require_same(contract, str(self.path), "the items to append")
                view.append(ids, given[contract.source], contract, snapshot)

    def publish(self, batches: Iterable[Items], contracts: Sequence[SidContract], *, keep: int = KEEP) -> str:
        """Make a version of given items; returns its name. `features.store.publish.publish` says how, and makes a store's first one too."""
        return publish(self.path, batches, contracts, keep=keep)

    def fold(self, *, keep: int = KEEP) -> str:
        """Make a version of the current one and the delta; returns its name."""
        return fold(self.path, keep=keep, delta_limit=self._delta_limit)

    def verify(self) -> None:
        """Read and check everything: the pointer, every file of the current version, every record of the delta. Raises InputError."""
        open_snapshot(self.path, verify=True)
        if (delta := self._delta()) is not None:
            with delta.reading() as view:
                view.verify()

    def _beside(self, view: View, snapshot: Snapshot, source: str | None) -> tuple[Snapshot, str | None]:
        """A version that is not older than the one that the delta is relative to, and the source's name if the delta has items of it."""
        asked = (snapshot, view.described, source)
        settled = self._settled  # once, since threads share it
        if asked == settled[:3]:
            return snapshot, settled[3]
        number = number_of(snapshot.path.name)
        if view.base > number:
            snapshot = self._versions.snapshot()
            number = number_of(snapshot.path.name)
            view.require_base(number)
        contract = snapshot.contract(source)
        appended = view.contracts.get(contract.source)
        # A publisher of a new codebook that was killed before it emptied the delta leaves old codes there; its version has new ones of
        # all those items.
        if appended is None or (appended != contract and view.base < number):
            return snapshot, None
        contract.require_same(appended, str(snapshot.path), str(view.path))
        if asked[0] is snapshot:
            self._settled = (*asked, contract.source)
        return snapshot, contract.source

    def _delta(self) -> "Delta | None":
        if self._opened_delta is None and (self.path / DELTA).exists():
            from features.store.delta import open_delta

            self._opened_delta = open_delta(self.path, self._delta_limit)
        return self._opened_delta

    def _made_delta(self) -> "Delta":
        from features.store.delta import make_delta

        found = self._delta()
        if found is None:
            # A publisher must not overlook a delta that is made meanwhile.
            with one_publisher(self.path):
                found = self._opened_delta = make_delta(self.path, self._delta_limit)
        return found
