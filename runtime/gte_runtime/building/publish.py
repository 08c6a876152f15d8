"""Writes a bundle into a staging directory next to its target, and renames it when it is complete.

Staging directories of builds that were killed are removed, but only those that certainly are that: the
directory has a marker file that contains the directory's own name, and no process holds the lock on the
marker. A user's `.config.bak` next to `config` has no marker, so it is never touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..format import manifest as manifests
from ..machine.files import exchange, read_regular

MARKER = ".gte-staging"

ABANDONED = 3600
"""Seconds without a change after which a staging directory whose lock is free counts as abandoned. On one
machine the lock alone would be enough, but some network file systems do not show locks to others."""


@contextlib.contextmanager
def staging(bundle: Path) -> Iterator[Path]:
    """Make an empty directory next to `bundle`, and remove it and what is left in it at the end.

    It is on the same file system as `bundle`, so a rename suffices. Abandoned staging directories of the same
    bundle are removed first.
    """
    sweep(bundle)
    directory = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.", dir=bundle.parent))
    try:
        with (directory / MARKER).open("x", encoding="utf-8") as marker:
            # Some file systems have no locks. There only ABANDONED protects a running build.
            with contextlib.suppress(OSError):
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            marker.write(directory.name)
            marker.flush()
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def sweep(bundle: Path) -> None:
    """Remove abandoned staging directories of this bundle, which builds that were killed have left."""
    for left in bundle.parent.glob(f".{glob.escape(bundle.name)}.*"):
        with contextlib.suppress(OSError):
            if _is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)


def _is_abandoned(directory: Path) -> bool:
    if directory.is_symlink() or not directory.is_dir():
        return False
    try:
        if read_regular(directory / MARKER) != directory.name.encode():
            return False
    except OSError:
        return False
    if time.time() - max(path.lstat().st_mtime for path in (directory, *directory.rglob("*"))) <= ABANDONED:
        return False
    with (directory / MARKER).open("rb") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks: the time of the last change decides
    return True


def publish(staged: Path, bundle: Path, *, overwrite: bool, keep_existing: bool) -> None:
    """Rename a complete directory to `bundle`. There is no moment without a bundle where there was one.

    Whatever else appeared under that name during the build is kept: renaming a directory onto one that has
    files fails.

    Raises:
        OSError: the name is taken and must not be replaced, or the file system refused.
    """
    staged.chmod(0o755)
    try:
        if overwrite and (bundle / manifests.FILE).exists():
            _replace(staged, bundle)
        elif bundle.exists():
            raise FileExistsError(errno.EEXIST, "something appeared there in the meantime")
        else:
            os.rename(staged, bundle)
    except OSError:
        if keep_existing and (bundle / manifests.FILE).exists():
            return
        raise
    sync(bundle.parent)


def _replace(staged: Path, bundle: Path) -> None:
    """Replace a bundle. Afterwards the old one is in the staging directory, which is removed with it."""
    try:
        exchange(staged, bundle)
        return
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
    # Where the system cannot exchange two names, rename twice. Until the new bundle is in place, the old one
    # has a name that `sweep` does not remove, so a build that is killed in between loses nothing.
    retired = bundle.with_name(f"{staged.parent.name}.old")
    os.rename(bundle, retired)
    try:
        os.rename(staged, bundle)
    except OSError:
        os.rename(retired, bundle)
        raise
    os.rename(retired, staged)


def sync(directory: Path) -> None:
    """Flush a directory, so that a rename in it survives a power failure.

    Some network file systems refuse; that is ignored.

    Raises:
        OSError: the directory cannot be opened.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError as error:
        why = "directories cannot be opened here, as on Windows, which is not supported"
        raise PermissionError(
            error.errno, error.strerror if not os.access(directory, os.R_OK) else why
        ) from None
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
