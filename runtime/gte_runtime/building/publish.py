"""A bundle is written in a staging directory beside its target, and takes the target's name when it is complete.

What other builds left behind is removed only where it is certain to be a build's and dead: the directory holds a
marker that names the directory itself, and nobody holds the marker's lock. A user's `.config.bak` beside `config` has
no marker, so it is never touched, whatever it is called and however old it is.
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
"""Seconds without a change after which a staging directory whose lock is free counts as abandoned. The lock alone would
do on one machine; on some network file systems it does not reach other machines."""


@contextlib.contextmanager
def staging(bundle: Path) -> Iterator[Path]:
    """An empty directory beside `bundle`, on the same file system, removed at the end with all that is left in it.

    Abandoned staging directories of the same bundle are removed first.
    """
    sweep(bundle)
    directory = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.", dir=bundle.parent))
    try:
        with (directory / MARKER).open("x", encoding="utf-8") as marker:
            # Some file systems have no locks; there ABANDONED protects a build that is running.
            with contextlib.suppress(OSError):
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            marker.write(directory.name)
            marker.flush()
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def sweep(bundle: Path) -> None:
    """Remove the staging directories that killed builds of this bundle have left."""
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
            pass  # no locks here: the time has decided
    return True


def publish(staged: Path, bundle: Path, *, overwrite: bool, keep_existing: bool) -> None:
    """Give a complete directory its name. There is no moment without a bundle where there was one before.

    What appeared under that name while we built is left alone: a rename onto a directory with files in it fails.

    Raises:
        OSError: the name is taken and is not to be replaced, or the file system refused.
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
    """Afterwards the old bundle lies where the new one was staged, and goes with the staging directory."""
    try:
        exchange(staged, bundle)
        return
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
    # Two renames, where the system cannot exchange. Until the new bundle is in place the old one lies under a name that no
    # sweep removes: whoever is killed in between finds it beside the target.
    retired = bundle.with_name(f"{staged.parent.name}.old")
    os.rename(bundle, retired)
    try:
        os.rename(staged, bundle)
    except OSError:
        os.rename(retired, bundle)
        raise
    os.rename(retired, staged)


def sync(directory: Path) -> None:
    """Make a rename last through a power cut. Some network file systems refuse; then there is nothing to do."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
