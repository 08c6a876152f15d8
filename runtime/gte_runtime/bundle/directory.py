"""Opens a bundle's directory and checks its files against the manifest. It runs no model.

Only regular files in the directory itself are opened: reading a named pipe would block for ever, and a
symbolic link could lead anywhere. A file is hashed when this machine first sees it. The result is kept in
the cache with the file's identity (device, inode, size and time of modification), so that a later start
needs only a few stat calls.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import BundleCorruptError, BundleError
from ..format import manifest as manifests
from ..format.manifest import Manifest
from ..machine.cache import recall, remember

Verify = Literal["auto", "always"]

CHUNK = 1 << 20
LFS_POINTER = b"version https://git-lfs"
HTML = (b"<!doc", b"<html")
AGAIN = "build or download the bundle again"
"""The remedy for a file whose fault is not known more precisely."""
NOTHING = "nothing"
"""What a path that does not exist leads to, in error messages."""
VERIFIED = "verified"
"""The kind of cache note that holds the identities of hashed files."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A file's identity, which changes when the file is replaced or written to."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity in the result of a stat call."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Checked:
    """Files that were found to be what the manifest records, with their identities at that time."""

    identities: dict[str, Identity]
    fresh: bool
    """Some were hashed just now. Otherwise this machine had hashed all of them before."""


class Bundle:
    """A bundle directory whose manifest was read. Other files are checked only when they are needed."""

    def __init__(self, directory: Path, manifest: Manifest, digest: str) -> None:
        self.directory = directory
        self.manifest = manifest
        self.digest = digest
        """sha256 of manifest.json. It identifies all files, since the manifest has their hashes."""

    @classmethod
    def open(cls, directory: Path) -> Bundle:
        """Read the manifest.

        Raises:
            BundleError: there is no such directory, or no manifest in it.
            BundleCorruptError: manifest.json is not a manifest.
            BundleVersionError: the manifest is of another format version.
        """
        name = (directory.name or directory.absolute().name)[:80]
        if (found := _what(directory)) != "a directory":
            raise BundleError(f"{name}: expected a bundle directory, found {found}")
        if _what(directory / manifests.FILE) == NOTHING:
            hint = (
                "this is a checkpoint: `gte build CHECKPOINT BUNDLE` makes a bundle of it"
                if (directory / "config.json").exists()
                else "`gte build` writes one, last of all"
            )
            raise BundleError(f"{name} has no {manifests.FILE}; {hint}")
        data = _read(directory, manifests.FILE, limit=manifests.MAX_BYTES)
        if (hint := _hint(data[:32])) != AGAIN:
            raise BundleCorruptError(
                manifests.FILE, expected="JSON", got=_describe(data[:32], len(data)), hint=hint
            )
        return cls(directory, manifests.parse_manifest(data), hashlib.sha256(data).hexdigest())

    def variant(self, name: str) -> manifests.Variant:
        """Return the record of a variant.

        Raises:
            BundleError: there is no such variant; the message names those that there are.
        """
        if name not in self.manifest.variants:
            raise BundleError(
                f"{self.directory.name} has no variant {name!r:.80}; "
                f"it has {', '.join(self.manifest.variants)}. "
                "`gte build` and `gte pull` make those that --variant names"
            )
        return self.manifest.variants[name]

    def check(
        self, files: tuple[str, ...], verify: Verify = "auto", before: Callable[[], object] | None = None
    ) -> Checked:
        """Check files against the manifest: their kind, their size and, if they are new or changed, their
        hash.

        Args:
            files: names of files of the bundle.
            verify: "always" hashes every file again.
            before: called before anything is hashed, if anything is to be: the check of a graph, which is
                small, bounds the sizes of the weight files, which may be terabytes.

        Raises:
            BundleCorruptError: a file is absent, not a regular file, or of another size or content.
        """
        memory = {} if verify == "always" else _recall(self.digest)
        # Before hashing, so that a file that is replaced at any time after this is noticed.
        identities = {name: self.identity(name) for name in files}
        fresh = {
            name: identity for name, identity in identities.items() if memory.get(self._key(name)) != identity
        }
        if fresh and before is not None:
            before()
        for name in fresh:
            self._hash(name)
        return Checked(identities, bool(fresh))

    def identity(self, name: str) -> Identity:
        """The identity of a file.

        Raises:
            BundleCorruptError: it is absent, not a regular file, or of another size than the manifest
                records.
        """
        with _Opened(self.directory, name) as descriptor:
            status = os.fstat(descriptor.fd)
            expected = self.manifest.files[name].size
            if status.st_size != expected:
                head = os.read(descriptor.fd, 32)
                raise BundleCorruptError(
                    name, expected=f"{expected} bytes", got=_describe(head, status.st_size), hint=_hint(head)
                )
            return Identity.of(status)

    def remember(self, checked: Checked) -> None:
        """Note in the cache that these files need no hashing until they change.

        To be called after all other checks, because a later start takes this note to mean that those passed,
        too.
        """
        if checked.fresh:
            known = {self._key(name): identity for name, identity in checked.identities.items()}
            _remember(self.digest, _recall(self.digest) | known)

    def unchanged(self, checked: Checked) -> None:
        """Check that files are still those that were checked.

        ONNX Runtime opens weight files by their names after they were hashed, so they are compared again
        after that.

        Raises:
            BundleCorruptError: a file was replaced or written to since.
        """
        for name, identity in checked.identities.items():
            if self.identity(name) != identity:
                raise BundleCorruptError(
                    name,
                    expected="the file that was checked",
                    got="another one",
                    hint="it was replaced while loading; open the bundle again",
                )

    def read(self, name: str) -> bytes:
        """Read a small file (a graph, the tokenizer) and check the hash of the bytes that are returned.

        Raises:
            BundleCorruptError: the file is absent, not a regular file, or of other content.
        """
        data = _read(self.directory, name, limit=self.manifest.files[name].size)
        self._compare(name, hashlib.sha256(data).hexdigest(), data[:32])
        return data

    def pieces(self, name: str, offset: int, length: int) -> Iterator[bytes]:
        """Read a part of a file in pieces."""
        with _Opened(self.directory, name) as descriptor:
            end = offset + length
            while offset < end and (piece := os.pread(descriptor.fd, min(CHUNK, end - offset), offset)):
                yield piece
                offset += len(piece)

    def _hash(self, name: str) -> None:
        digest = hashlib.sha256()
        with _Opened(self.directory, name) as descriptor:
            head = b""
            while chunk := os.read(descriptor.fd, CHUNK):
                head = head or chunk[:32]
                digest.update(chunk)
        self._compare(name, digest.hexdigest(), head)

    def _compare(self, name: str, found: str, head: bytes) -> None:
        expected = self.manifest.files[name].sha256
        if found != expected:
            raise BundleCorruptError(
                name, expected=f"sha256 {expected[:12]}…", got=f"{found[:12]}…", hint=_hint(head)
            )

    def _key(self, name: str) -> str:
        return os.path.abspath(self.directory / name)


class _Opened:
    """A descriptor of a regular file, opened without following a symbolic link or blocking on a pipe.

    Raises:
        BundleCorruptError: there is no such file, or it is not a regular one.
    """

    def __init__(self, directory: Path, name: str) -> None:
        try:
            self.fd = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BundleCorruptError(name, expected="a file", got="nothing") from None
        except OSError as error:
            raise BundleCorruptError(
                name, expected="a regular file of the bundle", got=_kind(directory / name, error)
            ) from None
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.fd)
            raise BundleCorruptError(name, expected="a regular file", got=_kind_of_mode(status.st_mode))

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _read(directory: Path, name: str, limit: int) -> bytes:
    with _Opened(directory, name) as descriptor:
        size = os.fstat(descriptor.fd).st_size
        if size > limit:
            raise BundleCorruptError(name, expected=f"at most {limit} bytes", got=f"{size}")
        parts = []
        while chunk := os.read(descriptor.fd, CHUNK):
            parts.append(chunk)
        return b"".join(parts)


def _what(path: Path) -> str:
    """What a path leads to, in words for an error message."""
    try:
        return _kind_of_mode(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return NOTHING
    except OSError as error:
        return _words(error)


def _kind(path: Path, error: OSError) -> str:
    """Why a path could not be opened: the kind of file if it is not a regular one, else the error."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return _words(error)
    return _words(error) if stat.S_ISREG(mode) else _kind_of_mode(mode)


def _kind_of_mode(mode: int) -> str:
    kinds = {
        stat.S_ISREG: "a file",
        stat.S_ISDIR: "a directory",
        stat.S_ISLNK: "a symbolic link",
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISSOCK: "a socket",
    }
    return next((name for test, name in kinds.items() if test(mode)), "a device")


def _words(error: OSError) -> str:
    return f"an error ({error.strerror or type(error).__name__})"


def _describe(head: bytes, size: int) -> str:
    """What a file is that is not the expected one, from its first bytes."""
    if head.startswith(LFS_POINTER):
        return "a Git LFS pointer"
    if head.lower().lstrip().startswith(HTML):
        return "an HTML page"
    return f"{size} bytes"


def _hint(head: bytes) -> str:
    """What to do about such a file."""
    if head.startswith(LFS_POINTER):
        return "this is a Git LFS pointer, run git lfs pull"
    if head.lower().lstrip().startswith(HTML):
        return "this is an HTML page, the download went to an error page; download the bundle again"
    return AGAIN


def _recall(digest: str) -> dict[str, Identity]:
    try:
        return {name: Identity(*values) for name, values in recall(VERIFIED, digest).items()}
    except TypeError:
        return {}  # a note of another version: hash again


def _remember(digest: str, identities: dict[str, Identity]) -> None:
    remember(
        VERIFIED, digest, {name: [i.device, i.inode, i.size, i.mtime_ns] for name, i in identities.items()}
    )
