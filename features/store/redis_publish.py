"""Publishing to a Redis server: a new version beside the current one, then the pointer; appended items are never lost."""

import json
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE, SidContract, checked_codes, require_same_codes
from features.store.publish import Items
from features.store.redis_layout import CHUNK, Layout, Space, Version, executed
from features.store.redis_server import Server

GRACE_SECONDS = 3600  # how long a version stays after the next one, for the batches that are being read from it
_ITEMS_LATER = 60  # a version's items outlive the key that describes it: where that is still there after reading, they all were


def publish(
    server: Server, name: str, batches: Iterable[Items], contracts: Sequence[SidContract], *, grace_seconds: int = GRACE_SECONDS
) -> str:
    """Write a new version and point readers to it, as `publish.publish` does; it scans all keys of the database to remove old ones.

    Args:
        server: where to.
        name: of the store.
        batches: ids int64 [N] and, by source, codes integer [N, L].
        contracts: of the given sources.
        grace_seconds: how long the version before stays.

    Raises:
        InputError: if an id has two Semantic IDs of one source, there are no items, codes do not fit their contract, an appended item
            has another Semantic ID or, under a new contract, none; or another publisher was faster.
    """
    new = {contract.source: contract for contract in contracts}
    layout = Layout(server, name)
    with server.told():
        old = layout.current() if layout.client.exists(layout.key("current")) else None
        number = int(layout.client.incr(layout.key("versions")))
        version = Version(number, {**(old.contracts if old else {}), **new})
        copied = (
            (ids, {source: codes})
            for source in (old.contracts if old else {})
            if old is not None and source not in new
            for ids, codes in layout.space(old, source).scan()
        )
        written = 0
        for ids, codes in chain(batches, copied):
            for source, given in codes.items():
                written += layout.space(version, source).write(ids, checked_codes(ids, given, version.contracts[source]))
        if not written:
            raise InputError("entity store: there are no items to publish")
        described = {"contracts": [contract.to_json() for contract in version.contracts.values()], "records": written}
        layout.client.set(layout.key(f"v{number}"), json.dumps(described))
        while not _move(layout, old, version):
            pass
        _expire_before(layout, number, grace_seconds)
    return f"v{number:06d}"


def _move(layout: Layout, old: Version | None, new: Version) -> bool:
    """Point readers to `new`; False where something was appended meanwhile, which is to be checked too."""
    before = old.contracts if old is not None else {}
    with layout.client.pipeline() as pipe:
        pipe.watch(layout.key("current"), *(layout.members(contract) for contract in before.values()))
        if layout.client.get(layout.key("current")) != (str(old.number).encode() if old is not None else None):
            raise InputError(f"{layout.where}: another publisher was faster; publish again")
        for source, had in before.items():
            _require_appended(layout, had, layout.space(new, source))
        pipe.multi()
        pipe.set(layout.key("current"), new.number)
        return executed(pipe)


def _require_appended(layout: Layout, had: SidContract, space: Space) -> None:
    """Check a version to publish against what was appended to the one before; as `delta_view.View.settle`."""
    ids = np.array(sorted(map(int, layout.client.smembers(layout.members(had)))), np.int64)
    found = space.read(ids)
    missing = found[:, 0] == UNKNOWN_CODE
    if had == space.contract:
        codes = layout.appended(had).read(ids)
        require_same_codes(ids[~missing], codes[~missing], found[~missing], had.source, "the version to publish")
    elif missing.any():
        raise InputError(
            f"{layout.where}: {np.count_nonzero(missing)} appended items, the first {ids[missing][0]}, are not in the version to publish, "
            f"which replaces codebook {had.codebook_hash[:12]} generation {had.generation} of '{had.source}': encode them too"
        )


def _expire_before(layout: Layout, number: int, seconds: int) -> None:
    """Let all earlier versions go, abandoned ones of killed publishers too."""
    prefix = layout.key("v").encode()
    pipe = layout.client.pipeline(transaction=False)
    for key in layout.client.scan_iter(match=prefix + b"*", count=CHUNK):
        described, colon, _ = key[len(prefix) :].partition(b":")
        if described.isdigit() and int(described) < number:
            pipe.expire(key, seconds + (_ITEMS_LATER if colon else 0), nx=True)
        if len(pipe) >= CHUNK:
            pipe.execute()
    pipe.execute()
