"""Opens a bundle's directory and checks its files against the manifest. It runs no model.

Only regular files in the directory itself are opened: reading a named pipe would block for ever, and a
symbolic link could lead anywhere. A file is hashed when this machine first sees it. The result is kept in
the cache with the file's identity (device, inode, size, times of modification and of change), so that a later
start needs only a few stat calls.

Files stay open as long as they are in use, and identities are those of the open files, so a file that is put
in the place of another one under the same name is never taken for it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import BundleCorruptError, BundleError
from ..format import manifest as manifests
from ..format.manifest import Manifest
from ..machine.cache import recall, remember

Verify = Literal["auto", "always"]

CHUNK = 1 << 20
LFS_POINTER = b"version https://git-lfs"
HTML = (b"<!doc", b"<html")
DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", 0)
"""How directories are opened. O_PATH, on Linux, needs no permission to list them."""
AGAIN = "build or download the bundle again"
"""The remedy for a file whose fault is not known more precisely."""
NOTHING = "nothing"
"""What a path that does not exist leads to, in error messages."""
VERIFIED = "verified"
"""The kind of cache note that holds the identities of hashed files."""


class Identity(NamedTuple):
    """A file's identity, which changes when the file is replaced or written to."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    """The system sets it at every change. A program can put back `mtime_ns`, but not this one."""

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity in the result of a stat call."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class OpenFiles:
    """Files of a bundle that were found to be what the manifest records, held open until this object goes.

    ONNX Runtime maps weight files, so a write to them later would change the model while it runs, and
    cutting them off would kill the process (SIGBUS). `check` looks for that.
    """

    def __init__(self, directory: Path, records: dict[str, manifests.FileRecord]) -> None:
        """Open files of a directory.

        Args:
            directory: the bundle.
            records: {name: size and hash that the manifest records}.

        Raises:
            BundleCorruptError: a file is absent, not a regular file, or of another size than recorded.
        """
        self.fresh = False
        """Some were hashed just now. Otherwise this machine had hashed all of them before."""
        self._records = records
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()
        self._written: str | None = None
        """The name of a file that was written to."""
        # At the interpreter's end the system closes them, after the last thread that may use them.
        weakref.finalize(self, _close, self._descriptors).atexit = False
        try:
            self._directory = self._descriptors["."] = _open_directory(directory)
            for name in records:
                self._descriptors[name] = _open(directory, name, self._directory)
            self.identities = {name: self._identity(name) for name in records}
        except BaseException:
            self.close()  # at once: the error's traceback would keep this object
            raise
        through = Path(f"/proc/self/fd/{self._directory}")  # on Linux
        self.directory = through if through.exists() else directory
        """Leads to the directory that was opened, even if another one has its name since."""

    def hash(self, names: Iterable[str]) -> None:
        """Hash files. Raises BundleCorruptError where the hash differs from the recorded one."""
        for name in names:
            self.fresh = True
            found, head = self._sha256(name)
            _compare(name, self._records[name], found, head)

    def check(self) -> None:
        """Check that no file was written to since it was hashed.

        A file whose identity changed is hashed again: another name for it, or other permissions, do no harm.

        Raises:
            BundleError: a file was written to. From then on, every call raises this.
        """
        if self._written is None and all(
            Identity.of(os.fstat(self._descriptors[name])) == identity
            for name, identity in self.identities.items()
        ):
            return
        with self._lock:
            for name, identity in self.identities.items():
                now = Identity.of(os.fstat(self._descriptors[name]))
                if self._written is None and now != identity:
                    record = self._records[name]
                    if now.size != record.size or self._sha256(name)[0] != record.sha256:
                        self._written = name
                    self.identities = {**self.identities, name: now}
        if self._written is not None:
            raise BundleError(
                f"{self._written} was written to while it was in use; open the bundle again, and replace "
                "bundles as a whole, as `gte build --overwrite` and `gte pull` do"
            )

    def close(self) -> None:
        """Close all files."""
        _close(self._descriptors)

    def keep(self, names: Collection[str]) -> None:
        """Close all files but these."""
        for name in self.identities.keys() - set(names):
            os.close(self._descriptors.pop(name))
        self.identities = {name: self.identities[name] for name in names}

    def check_names(self) -> None:
        """Check that the names in the directory still lead to these files, after ONNX Runtime opened them by
        name.

        Raises:
            BundleCorruptError: a file was replaced, or written to.
        """
        # Where `directory` is a path and not the open directory, another one may have been put there.
        for name, identity in self.identities.items():
            try:
                found = Identity.of(os.stat(self.directory / name, follow_symlinks=False))
            except OSError:
                found = None
            if found != identity or Identity.of(os.fstat(self._descriptors[name])) != identity:
                raise BundleCorruptError(
                    name,
                    expected="the file that was checked",
                    got="another one",
                    hint="it was replaced while loading; open the bundle again",
                )

    def _identity(self, name: str) -> Identity:
        status = os.fstat(self._descriptors[name])
        if status.st_size != self._records[name].size:
            head = os.pread(self._descriptors[name], 32, 0)
            raise BundleCorruptError(
                name,
                expected=f"{self._records[name].size} bytes",
                got=_describe(head, status.st_size),
                hint=_hint(head),
            )
        return Identity.of(status)

    def _sha256(self, name: str) -> tuple[str, bytes]:
        """The hash of an open file, and its first bytes."""
        digest, place, head = hashlib.sha256(), 0, b""
        while chunk := os.pread(self._descriptors[name], CHUNK, place):
            head = head or chunk[:32]
            digest.update(chunk)
            place += len(chunk)
        return digest.hexdigest(), head


def _close(descriptors: dict[str, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


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
        manifest = manifests.parse_manifest(data)
        if manifest.format < manifests.FORMAT:
            warnings.warn(
                f"{name} was built before manifests had a checksum, so damage of {manifests.FILE} would not "
                "be noticed; build the bundle again",
                stacklevel=1,  # the same for every caller, so that it is shown once for each bundle
            )
        return cls(directory, manifest, hashlib.sha256(data).hexdigest())

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
    ) -> OpenFiles:
        """Open files and check them against the manifest: their kind, their size and, if they are new or
        changed, their hash.

        Args:
            files: names of files of the bundle.
            verify: "always" hashes every file again.
            before: called before anything is hashed, if anything is to be: the check of a graph, which is
                small, bounds the sizes of the weight files, which may be terabytes.

        Raises:
            BundleCorruptError: a file is absent, not a regular file, or of another size or content.
        """
        memory = {} if verify == "always" else _recall(self.digest)
        # Identities are taken before hashing, so that a file that is written to at any time after this is
        # noticed.
        opened = OpenFiles(self.directory, {name: self.manifest.files[name] for name in files})
        try:
            fresh = [
                name for name, known in opened.identities.items() if memory.get(self._key(name)) != known
            ]
            if fresh and before is not None:
                before()
            opened.hash(fresh)
        except BaseException:
            opened.close()
            raise
        return opened

    def remember(self, checked: OpenFiles) -> None:
        """Note in the cache that these files need no hashing until they change.

        To be called after all other checks, because a later start takes this note to mean that those passed,
        too.
        """
        if checked.fresh:
            known = {self._key(name): identity for name, identity in checked.identities.items()}
            _remember(self.digest, _recall(self.digest) | known)

    def read(self, name: str) -> bytes:
        """Read a small file (a graph, the tokenizer) and check the hash of the bytes that are returned.

        Raises:
            BundleCorruptError: the file is absent, not a regular file, or of other content.
        """
        data = _read(self.directory, name, limit=self.manifest.files[name].size)
        _compare(name, self.manifest.files[name], hashlib.sha256(data).hexdigest(), data[:32])
        return data

    def pieces(self, name: str, offset: int, length: int) -> Iterator[bytes]:
        """Read a part of a file in pieces."""
        with open(_open(self.directory, name), "rb") as file:
            end = offset + length
            while offset < end and (piece := os.pread(file.fileno(), min(CHUNK, end - offset), offset)):
                yield piece
                offset += len(piece)

    def _key(self, name: str) -> str:
        return os.path.abspath(self.directory / name)


def _compare(name: str, record: manifests.FileRecord, found: str, head: bytes) -> None:
    if found != record.sha256:
        raise BundleCorruptError(
            name, expected=f"sha256 {record.sha256[:12]}…", got=f"{found[:12]}…", hint=_hint(head)
        )


def _open_directory(directory: Path) -> int:
    try:
        return os.open(directory, DIRECTORY)
    except OSError as error:
        raise BundleError(
            f"{directory.name[:80]} cannot be entered: {error.strerror}; "
            "give this user the permission, or build the bundle again"
        ) from None


def _open(directory: Path, name: str, directory_descriptor: int | None = None) -> int:
    """A descriptor of a regular file, opened without following a symbolic link or blocking on a pipe.

    Raises:
        BundleCorruptError: there is no such file, or it is not a regular one.
    """
    path = directory / name if directory_descriptor is None else name
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_descriptor
        )
    except FileNotFoundError:
        raise BundleCorruptError(name, expected="a file", got="nothing") from None
    except OSError as error:
        raise BundleCorruptError(
            name, expected="a regular file of the bundle", got=_kind(directory / name, error)
        ) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise BundleCorruptError(name, expected="a regular file", got=_kind_of_mode(mode))
    return descriptor


def _read(directory: Path, name: str, limit: int) -> bytes:
    with open(_open(directory, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise BundleCorruptError(name, expected=f"at most {limit} bytes", got=f"{size}")
        return file.read(size)


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
    remember(VERIFIED, digest, dict(identities))
