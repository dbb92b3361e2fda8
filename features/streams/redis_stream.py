"""A Redis stream as a source of micro-batches: each entry carries some record batches; nothing on the server says what was read."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from features.errors import InputError

try:
    import redis
except ModuleNotFoundError as error:
    raise InputError("following a Redis stream needs the package redis: pip install 'semid[redis]'") from error
from features.store.redis_server import Server
from features.streams.micro_batch import MicroBatch

FORM = "redis://[USER:PASSWORD@]HOST[:PORT]/STREAM, or rediss:// likewise"
_ENTRIES = 16  # per read; each may have megabytes
_SECONDS = 30.0  # to wait for a connection or an answer
_END_OF_IPC = b"\xff\xff\xff\xff\0\0\0\0"
_BEGINNING: dict[str, Any] = {"entry": "0-0", "entries": 0}


class RedisStream:
    """Entries of a Redis stream, in order. Each has one field, "batch": an Arrow IPC stream, whose rows are one micro-batch.

    An entry with the field "end" ends the stream. The position is the last entry taken and how many were ever added up to it: it lies with
    the rows and not on the server, so that there is no consumer group, and entries that were trimmed or deleted before they were read
    are told apart from those trimmed after. An IPC stream has no checksum: what changes a value on its way is not seen.
    """

    def __init__(self, url: str, *, wait_seconds: float = 1.0) -> None:
        """Connect.

        Args:
            url: of `FORM`.
            wait_seconds: that a read waits for new entries, before the caller is given a chance to do something else.

        Raises:
            InputError: if the URL is malformed or the server cannot be reached; the message does not tell the password.
        """
        # No cause is chained: messages about a URL may quote parts of it.
        try:
            parts = urlsplit(url)
            self._stream = unquote(parts.path[1:])
            where = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"
            fits = parts.scheme in ("redis", "rediss") and parts.hostname and self._stream and not parts.query and not parts.fragment
        except ValueError:
            fits = False
        if not fits:
            raise InputError(f"the URL of the stream is not of the form {FORM}")
        client = redis.Redis.from_url(f"{parts.scheme}://{parts.netloc}", socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
        self._server, self._milliseconds = Server(client, where), max(1, round(wait_seconds * 1000))
        with self._server.told():
            client.ping()

    def __str__(self) -> str:
        return f"{self._server.where}/{self._stream}"

    def arrivals(self, position: dict[str, Any] | None) -> Iterator[MicroBatch | None]:
        """The source's micro-batches (`features.streams.micro_batch.Source`).

        Raises:
            InputError: naming an entry that is malformed; if entries were trimmed away or deleted before they were read, or the stream is
                not the one that was read; if the server cannot be reached or is older than Redis 7.
        """
        position = position or _BEGINNING
        while True:
            entries = self._entries_after(**position)
            for entry, fields in entries:
                if b"end" in fields and b"batch" not in fields:
                    return
                position = {"entry": entry.decode(), "entries": position["entries"] + 1}
                yield self._micro_batch(fields, position)
            if not entries:
                yield None
                with self._server.told():
                    self._server.client.xread({self._stream: position["entry"]}, count=1, block=self._milliseconds)

    def _entries_after(self, entry: str, entries: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """The next ones, read in one transaction with what the server says of the whole stream."""
        with self._server.told():
            together = self._server.client.pipeline(transaction=True)
            together.xinfo_stream(self._stream)
            together.xrange(self._stream, f"({entry}", "+", _ENTRIES)
            info, found = together.execute(raise_on_error=False)
            if isinstance(info, redis.ResponseError) and "no such key" in str(info):
                info = {"entries-added": 0, "length": 0, "max-deleted-entry-id": b"0-0", "last-generated-id": entry.encode()}
            for answer in (info, found):
                if isinstance(answer, redis.RedisError):
                    raise answer
        self._require_whole(info, entry, entries)
        return found

    def _require_whole(self, info: dict[str, Any], entry: str, entries: int) -> None:
        """Refuse a stream that lacks entries after `entry`, of which and up to which `entries` were added.

        Redis remembers the greatest entry that XDEL removed, but not what XTRIM did; it also counts the entries ever added, and the
        difference is what there must still be.
        """
        if "entries-added" not in info:
            raise InputError(f"{self}: Redis 7 or later is needed; an older server does not tell whether entries were trimmed away")
        to_come, length, position = info["entries-added"] - entries, info["length"], _order(entry.encode())
        all_to_come = length == 0 or _order(info["recorded-first-entry-id"]) > position
        if to_come < 0 or (all_to_come and length > to_come) or _order(info["last-generated-id"]) < position:
            raise InputError(f"{self}: not the stream whose entries up to {entry} were taken; it was deleted or written anew")
        if _order(info["max-deleted-entry-id"]) > position or (all_to_come and length < to_come):
            raise InputError(f"{self}: entries after {entry} were trimmed away or deleted before they were taken")

    def _micro_batch(self, fields: dict[bytes, bytes], position: dict[str, Any]) -> MicroBatch:
        origin = f"{self}, entry {position['entry']}"
        if fields.keys() != {b"batch"}:
            names = ", ".join(sorted(name.decode(errors="replace") for name in fields))
            raise InputError(f"{origin}: has the fields {names}, not 'batch' or 'end' alone")
        data = fields[b"batch"]
        if not data.endswith(_END_OF_IPC):
            raise InputError(f"{origin}: the Arrow IPC stream has no end; its writer was not closed")
        try:
            with pa.ipc.open_stream(data) as reader:
                schema, batches = reader.schema.remove_metadata(), list(reader)
            _ = schema.names  # decodes them; they may be damaged too
            for batch in batches:
                batch.validate(full=True)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{origin}: not an Arrow IPC stream ({' '.join(str(error).split())[:200]})") from error
        return MicroBatch(origin, schema, batches, position)


def _order(entry: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)
