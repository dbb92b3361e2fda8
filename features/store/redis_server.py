"""The connection to a Redis server, from a URL; its errors name the server and never tell the password."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from features.errors import InputError

try:
    import redis
except ModuleNotFoundError as error:
    raise InputError("an entity store on a Redis server needs the package redis: pip install 'semid[redis]'") from error

FORMS = "redis://[USER:PASSWORD@]HOST[:PORT][/DB]?name=NAME, rediss:// likewise, or unix://PATH?name=NAME[&db=DB]"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_OPTIONS = {"name", "db", "password"}
_SECONDS = 30.0  # to wait for a connection or an answer

Conflict = redis.WatchError


class Server:
    """A connected server.

    Attributes:
        client: the connection pool's client; values are bytes.
        where: the server in words, without user and password.
    """

    def __init__(self, client: Any, where: str) -> None:
        self.client, self.where = client, where

    @classmethod
    def connect(cls, url: str) -> "tuple[Server, str]":
        """The server of a URL of one of `FORMS`, and the NAME in it. Raises InputError."""
        # No cause is chained: messages about a URL may quote parts of it.
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query))
            name = options.pop("name", "")
            server_url = f"{url.partition('?')[0]}?{urlencode(options)}"
            client = redis.Redis.from_url(server_url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
        except (ValueError, TypeError):
            raise InputError(f"the URL of the entity store is not of the form {FORMS}") from None
        unknown = sorted(set(options) - _OPTIONS)
        if unknown or not _NAME.fullmatch(name):
            reason = f"there is no option '{unknown[0]}'" if unknown else "NAME is letters, digits, '_', '.' and '-'"
            raise InputError(f"the URL of the entity store is not of the form {FORMS}: {reason}")
        place = client.connection_pool.connection_kwargs
        where = (
            f"unix://{place['path']}" if "path" in place else f"{parts.scheme}://{place.get('host', 'localhost')}:{place.get('port', 6379)}"
        )
        server = cls(client, where)
        with server.told():
            client.ping()
        return server, name

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turns what the client raises into an InputError that names the server; `Conflict` is the caller's."""
        try:
            yield
        except redis.WatchError:
            raise
        except redis.AuthenticationError as error:
            raise InputError(f"{self.where}: the Redis server refuses user or password") from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise InputError(f"{self.where}: the Redis server cannot be reached ({type(error).__name__})") from error
        except redis.RedisError as error:
            raise InputError(f"{self.where}: the Redis server answers with an error ({str(error)[:200]})") from error
