"""Names, revisions, download: the only module that knows the hub. Nothing else in this package goes online.

The work is done by huggingface_hub: its cache, resumed downloads, tokens and the variables HF_HOME, HF_HUB_OFFLINE,
HF_TOKEN and HF_ENDPOINT. This module adds what a build must be able to rely on: one commit for all files, every
byte hashed before it is used, and errors that say what to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..checkpoint.modules import FILES as OPTIONAL
from ..errors import ConfigError, DownloadError, GteError
from ..format.manifest import FileRecord
from ..format.named import NamedModel

REQUIRED = ("config.json", "tokenizer.json", "model.safetensors")
"""Small ones first: what is wrong with a config shows before 600 MB are loaded."""

MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
REVISION = re.compile(r"[\w][\w./-]{0,199}")
ETAG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:+=-]{0,199}")
"""The library makes a file's name in its cache of an ETag, as the server sent it; so it must be a plain name."""

NAMES = {"etag": ETAG, "x-linked-etag": ETAG, "x-repo-commit": COMMIT}
"""Headers whose values become names of files or directories in the cache."""

ATTEMPTS = 5
WAITED_OUT = 3
LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more is told to the user instead."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checkpoint on the hub."""

    hub: str
    revision: str
    """A commit, branch or tag."""
    files: dict[str, FileRecord] = field(default_factory=dict)
    """What is known of its bytes at this commit."""
    known: NamedModel | None = None


@dataclass(frozen=True, slots=True)
class Downloaded:
    directory: Path
    """In the hub's cache; its files are links."""
    commit: str


def wanted(name: str, models: dict[str, NamedModel]) -> Wanted:
    """What NAME or OWNER/NAME, with or without @REVISION, means.

    Raises:
        ConfigError: neither a known name nor of the form of a repository's.
    """
    model, at, revision = name.partition("@")
    known = models.get(model) or next((m for m in models.values() if m.hub == model), None)
    hub = known.hub if known else model
    if not HUB_ID.fullmatch(hub) or (at and not REVISION.fullmatch(revision)) or ".." in name:
        raise ConfigError(
            f"{name[:80]!r} is neither a known model ({', '.join(models)}) nor of the form OWNER/NAME or OWNER/NAME@REVISION"
        )
    if known and (not at or revision == known.revision):
        return Wanted(hub, known.revision or MAIN, known.files, known)
    return Wanted(hub, revision or MAIN, {}, known)


def download(want: Wanted, *, wait: Callable[[float], None] = time.sleep) -> Downloaded:
    """Bring all files of one commit into the hub's cache, or find them there, and hash them.

    A download whose connection broke goes on where it stopped. After a kill this is so with releases of huggingface_hub
    that keep partial files: 0.36 does, 2.4 begins anew.

    Raises:
        DownloadError: naming the repository and what to do about it.
    """
    with _quiet(), _plain_names(want):
        commit = _commit(want, wait)
        for name in REQUIRED:
            path = _fetch(want, name, commit, wait)
            if path is None:
                raise DownloadError(
                    f"{want.hub} has no {name} at {commit[:12]}; a checkpoint that can be built has {', '.join(REQUIRED)}"
                )
            _check_hash(want, name, path)
        for name in OPTIONAL:
            if (path := _fetch(want, name, commit, wait)) is not None:
                _check_hash(want, name, path)
        return Downloaded(path_of_snapshot(want, commit), commit)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's warnings: several hundred characters for each attempt that fails. The last failure is our error."""
    import logging

    from huggingface_hub.utils import logging as library

    before = library.get_verbosity()
    library.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        library.set_verbosity(before)


@contextlib.contextmanager
def _plain_names(want: Wanted) -> Iterator[None]:
    """Refuse answers whose headers would put a file outside of the library's cache, before the library acts on them.

    An ETag of `../../x` would otherwise be written to, and removed again when its hash is wrong.
    """
    import huggingface_hub.utils

    def check(response: Any, *_: object, **__: object) -> None:
        for header, form in NAMES.items():
            value = response.headers.get(header)
            if value is not None and not form.fullmatch(value.removeprefix("W/").strip('"')):
                raise DownloadError(
                    f"{want.hub}: the hub's answer has {header} {value[:80]!r}, which cannot be a file's name; nothing was written. "
                    "Is HF_ENDPOINT a model hub that you trust?"
                )

    library: Any = huggingface_hub.utils  # it does not declare what it documents
    session: Any = library.get_session()
    # requests.Session until huggingface_hub 0.36, httpx.Client from 1.0 on.
    hooks: dict[str, list[Any]] = session.hooks if hasattr(session, "hooks") else session.event_hooks
    before = list(hooks["response"])
    _set_hooks(session, [*before, check])
    try:
        yield
    finally:
        _set_hooks(session, before)


def _set_hooks(session: Any, functions: list[Any]) -> None:
    if hasattr(session, "hooks"):
        session.hooks["response"] = functions
    else:
        session.event_hooks = {**session.event_hooks, "response": functions}


def path_of_snapshot(want: Wanted, commit: str) -> Path:
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(want.hub, REQUIRED[0], revision=commit)
    assert isinstance(found, str)
    return Path(found).parent


def _commit(want: Wanted, wait: Callable[[float], None]) -> str:
    """The commit of a branch or tag; asked once, so that all files are of the same one."""
    if COMMIT.fullmatch(want.revision):
        return want.revision
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _cached_commit(want)
    info = _attempt(
        want,
        None,
        lambda: huggingface_hub.HfApi().model_info(want.hub, revision=want.revision, timeout=20),
        wait,
    )
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise DownloadError(
            f"{want.hub}: the hub names no commit for revision {want.revision!r:.80}; is HF_ENDPOINT a model hub?"
        )
    # Asked for by the branch's name, the library notes which commit it means: that is what counts offline.
    with contextlib.suppress(_Missing):
        _attempt(
            want,
            REQUIRED[0],
            lambda: huggingface_hub.hf_hub_download(want.hub, REQUIRED[0], revision=want.revision),
            wait,
        )
    return info.sha


def _cached_commit(want: Wanted) -> str:
    """What the revision meant when it was last downloaded."""
    from huggingface_hub import constants

    folder = f"models--{want.hub.replace('/', '--')}"
    reference = Path(constants.HF_HUB_CACHE) / folder / "refs" / want.revision
    try:
        commit = reference.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = ""
    if not COMMIT.fullmatch(commit):
        raise DownloadError(
            f"HF_HUB_OFFLINE is set and revision {want.revision!r:.80} of {want.hub} was never downloaded; "
            "unset it, or copy the hub's cache from a machine that has it"
        )
    return commit


def _fetch(want: Wanted, name: str, commit: str, wait: Callable[[float], None]) -> Path | None:
    """A file's path in the cache; None when the commit has no such file."""
    import huggingface_hub
    from huggingface_hub import constants

    cached = huggingface_hub.try_to_load_from_cache(want.hub, name, revision=commit)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # the cache knows that there is none
        return None
    if constants.HF_HUB_OFFLINE:
        if name in OPTIONAL:
            return None
        raise DownloadError(
            f"HF_HUB_OFFLINE is set and {name} of {want.hub} at {commit[:12]} is not in the hub's cache; "
            "unset it, or copy the cache from a machine that has it"
        )
    try:
        return Path(
            _attempt(
                want, name, lambda: huggingface_hub.hf_hub_download(want.hub, name, revision=commit), wait
            )
        )
    except _Missing:
        return None


def _check_hash(want: Wanted, name: str, path: Path) -> None:
    """Compare a file with what is known of it, or else with the hash under which the hub stores it.

    The library checks sizes only. What is wrong is removed, so that the next attempt loads it anew.
    """
    blob = _blob(want, name, path)
    known = want.files.get(name)
    expected = known.sha256 if known else blob.name
    if not HASH.fullmatch(expected):
        return  # a mirror with names of its own, or a file system without links: there is nothing to compare with
    if (found := _hash(blob, len(expected))) == expected:
        return
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
    raise DownloadError(
        f"{name} of {want.hub}: expected hash {expected[:12]}…, the downloaded file has {found[:12]}…; it was removed. "
        "Pull again; if it stays so, a proxy or mirror changes the file"
    )


def _blob(want: Wanted, name: str, path: Path) -> Path:
    """The file that a snapshot's link leads to, which lies in the same repository's part of the cache.

    Raises:
        DownloadError: the link leads elsewhere. Nothing there is read, and nothing is removed.
    """
    repository = path.parents[len(Path(name).parts) + 1]  # models--OWNER--NAME/snapshots/COMMIT/NAME
    blob = path.resolve()
    if not blob.is_relative_to(repository.resolve()):
        raise DownloadError(
            f"{name} of {want.hub}: the hub's cache has a link there that leads out of it; it was not followed. Remove the link and pull again"
        )
    return blob


def _hash(file: Path, digits: int) -> str:
    """sha256 for the large files, which the hub stores apart; of others git's hash, which is sha1 over a header and the file."""
    with file.open("rb") as opened:
        if digits == 64:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        data = opened.read()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _Missing(Exception):
    """The commit is there, the file is not."""


def _attempt(want: Wanted, name: str | None, call: Callable[[], T], wait: Callable[[float], None]) -> T:
    """Call the hub, again after errors that pass.

    Raises:
        _Missing, DownloadError
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except GteError:
            raise
        except Exception as error:  # noqa: BLE001 - the library's errors changed their bases with its HTTP client
            pause = _pause(error, attempt, waited_out=name is not None)
            if attempt == ATTEMPTS or pause is None:
                raise _translated(want, name, error) from None
        wait(pause)
    raise AssertionError("the last attempt returns or raises")


def _pause(error: Exception, attempt: int, *, waited_out: bool) -> float | None:
    """Seconds to wait before the next attempt; None where another one would end the same.

    Where the hub was not well or not there, downloads of files have been `waited_out` by the library, by some versions of it.
    """
    status, headers = _response(error)
    if status is None:
        if not _is_network(error) or (waited_out and _is_unreachable(error)):
            return None
        return 2.0 ** (attempt - 1)
    if status != 429 and (status < 500 or (waited_out and attempt >= WAITED_OUT)):
        return None
    try:
        asked = float(headers.get("Retry-After", ""))
    except ValueError:
        asked = 2.0 ** (attempt - 1)
    return max(asked, 0.0) if asked <= LONGEST_WAIT else None


def _response(error: BaseException | None) -> tuple[int | None, Any]:
    """Status and headers of the answer at the root of an error: a failed look-up is wrapped as a file not in the cache."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code), response.headers
        error = error.__cause__
    return None, {}


def _is_network(error: BaseException | None) -> bool:
    """By name, in whichever HTTP client the library uses (requests, later httpx)."""
    words = ("Connect", "Timeout", "Protocol", "ChunkedEncoding", "ReadError", "Network", "IncompleteRead")
    while error is not None:
        if any(
            word in kind.__name__ for kind in type(error).__mro__ for word in words
        ) or "Consistency check failed" in str(error):
            return True
        error = error.__cause__
    return False


def _is_unreachable(error: BaseException | None) -> bool:
    """Nobody answered at all: no name, no route, no listener. By name and, where requests wraps it, by words."""
    words = ("NameResolutionError", "NewConnectionError", "ConnectError", "ConnectTimeout")
    while error is not None:
        if any(word in f"{type(error).__name__} {error}" for word in words):
            return True
        error = error.__cause__
    return False


def _translated(want: Wanted, name: str | None, error: Exception) -> Exception:
    from huggingface_hub import errors

    status, _ = _response(error)
    what = f"{want.hub}{f' ({name})' if name else ''}"
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadError(
            f"{want.hub} has no revision {want.revision!r:.80}; look at its branches, tags and commits on the hub"
        )
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(
            f"{want.hub} is gated: accept its terms on the hub and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return DownloadError(
            f"{want.hub} is not on the hub, or not for you: check its name, and for a private one set HF_TOKEN"
        )
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return _Missing()
    if status == 429:
        return DownloadError(
            f"{what}: the hub says that there were too many requests (429); wait some minutes and pull again"
        )
    if status is not None and status >= 500:
        return DownloadError(
            f"{what}: the hub is not well ({status}); pull again later, what is loaded is kept"
        )
    if status is not None:
        return DownloadError(f"{what}: the hub answered {status}")
    if _is_unreachable(error):
        return DownloadError(
            f"{what}: the connection failed; is this machine online? HF_ENDPOINT and HTTPS_PROXY name other ways to the hub"
        )
    if _is_network(error):
        return DownloadError(
            f"{what}: the connection broke off; pull again, the download goes on where it stopped"
        )
    if isinstance(error, OSError) and error.strerror:
        return DownloadError(f"{what}: {error.strerror}; HF_HOME names where downloads go")
    return DownloadError(f"{what}: {_line(error)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
