"""Files and folders wherever pyarrow.fs reaches: local paths, s3://, gs://, hdfs:// and the like."""

import hashlib
import os
import posixpath
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from features.errors import InputError
from features.files import fsync_path, sha256_file


@dataclass(frozen=True)
class Location:
    """A file or folder on some file system.

    Attributes:
        filesystem: where.
        path: in it, without the scheme.
        uri: what `of` makes it of again, in another process say.
    """

    filesystem: fs.FileSystem
    path: str
    uri: str

    @classmethod
    def of(cls, where: "str | Path | Location") -> "Location":
        """A local path, or a URI that pyarrow knows: credentials and endpoints come from it or from the environment.

        Raises:
            InputError: if the URI's scheme is unknown or the URI is malformed.
        """
        if isinstance(where, Location):
            return where
        if "://" not in str(where):
            return cls(fs.LocalFileSystem(), os.path.abspath(where), os.path.abspath(where))
        try:
            filesystem, path = fs.FileSystem.from_uri(str(where))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{_shown(str(where))}: not a place that pyarrow.fs reaches ({error})") from error
        return cls(filesystem, path, str(where))

    def __str__(self) -> str:
        return _shown(self.uri)

    def __reduce__(self) -> tuple[Any, ...]:
        """By its URI, so that another machine reaches it with credentials of its own."""
        return Location.of, (self.uri,)

    def __truediv__(self, name: str) -> "Location":
        place, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Location(self.filesystem, posixpath.join(self.path, name), posixpath.join(place, name) + mark + options)

    @property
    def local(self) -> Path | None:
        """The path, where the file system is this machine's."""
        return Path(self.path) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def size(self) -> int | None:
        """Bytes of a file; None where there is no file."""
        info = self.filesystem.get_file_info(self.path)
        return info.size if info.is_file else None

    def files(self) -> list[str]:
        """Names of the files of a folder, ascending; none where there is no folder."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.is_file)

    def read(self) -> pa.Buffer:
        """A file's bytes. Raises FileNotFoundError where there is none."""
        with self.filesystem.open_input_file(self.path) as file:
            return file.read_buffer()

    def sha256(self) -> str:
        """Hex sha256 of a file's bytes."""
        return sha256_file(self.local) if self.local is not None else hashlib.sha256(self.read()).hexdigest()

    def write(self, data: bytes) -> None:
        """Write a file so that it is whole or absent, whenever the machine stops."""
        scratch = self.scratch()
        try:
            scratch.write_bytes(data)
            self.put(scratch)
        finally:
            scratch.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete a file, if it is there."""
        if self.size() is not None:
            self.filesystem.delete_file(self.path)

    def scratch(self) -> Path:
        """A local path for a file that `put` is to make this one; hidden beside it on a local file system, which makes `put` a rename."""
        name = f".{posixpath.basename(self.path)}.{uuid.uuid4().hex}.tmp"
        if self.local is None:
            return Path(tempfile.gettempdir()) / name
        self.local.parent.mkdir(parents=True, exist_ok=True)
        return self.local.parent / name

    def put(self, file: Path) -> None:
        """Make a finished local file this one, durably; whoever looks finds the whole of it or nothing.

        On a local file system that is a rename; elsewhere a copy, as object stores show no object before its last byte.
        """
        if self.local is not None:
            fsync_path(file)
            file.rename(self.local)
            fsync_path(self.local.parent)
        else:
            fs.copy_files(str(file), self.path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=self.filesystem)
            file.unlink()


def _shown(uri: str) -> str:
    """Without options and credentials."""
    place = uri.partition("?")[0]
    scheme, mark, rest = place.rpartition("://")
    host, slash, path = rest.partition("/")
    return scheme + mark + host.rpartition("@")[2] + slash + path if mark else uri
