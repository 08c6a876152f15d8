"""Downloads checkpoints from the Hugging Face hub. No other module of this package goes online.

huggingface_hub does the work: its cache, resumed downloads, tokens, and the variables HF_HOME,
HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT. This module adds what a build relies on: all files are of one
commit, every file is hashed before it is used, errors that may pass are retried, and the others say what to
do.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..checkpoint.fetching import fetch_checkpoint
from ..errors import ConfigError, DownloadError, GteError
from ..format.manifest import FileRecord
from ..format.named import NamedModel

REQUIRED = ("config.json", "tokenizer.json", "model.safetensors")
"""Files of every checkpoint. Old releases of sentence-transformers put them into a folder, and the weights
may be several files with an index; see `checkpoint.fetching`."""

MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A git blob's sha1, or a sha256 for files that the hub keeps in large file storage."""
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
REVISION = re.compile(r"[\w][\w./-]{0,199}")
ETAG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:+=-]{0,199}")
"""huggingface_hub uses the server's ETag as a file name in its cache, so it must be a plain name."""

NAMES = {"etag": ETAG, "x-linked-etag": ETAG, "x-repo-commit": COMMIT}
"""{header whose value becomes the name of a file or directory in the cache: the form that it must have}."""

ATTEMPTS = 5
"""Attempts of one request, the first included."""
RETRIED_BY_LIBRARY = 3
"""Attempts after a server error (5xx) for requests that some releases of huggingface_hub retry themselves."""
LONGEST_WAIT = 60.0
"""Seconds. If a server asks for a longer pause (Retry-After), there is no further attempt, but an error."""

PORTAL = "open a browser and log in to this network if it asks for that, or check HF_ENDPOINT"
"""What to do about an answer that a model hub would not give."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checkpoint on the hub that is to be downloaded."""

    hub: str
    """The repository, `owner/name`."""
    revision: str
    """A commit, branch or tag."""
    files: dict[str, FileRecord] = field(default_factory=dict)
    """Sizes and hashes of its files, where they are known for this commit."""
    named: NamedModel | None = None
    """The named model of this repository, if there is one."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A checkpoint in huggingface_hub's cache."""

    directory: Path
    """The snapshot of the commit, whose files are symbolic links."""
    commit: str


def wanted(name: str, models: dict[str, NamedModel]) -> Wanted:
    """Resolve NAME or OWNER/NAME, with or without @REVISION.

    Args:
        name: what the user wrote.
        models: the named models, by name.

    Raises:
        ConfigError: it is not the name of a model and has not the form of a repository's.
    """
    model, at, revision = name.partition("@")
    named = models.get(model) or next((m for m in models.values() if m.hub == model), None)
    hub = named.hub if named else model
    if not HUB_ID.fullmatch(hub) or (at and not REVISION.fullmatch(revision)) or ".." in name:
        raise ConfigError(
            f"{name[:80]!r} is neither a known model ({', '.join(models)}) "
            "nor of the form OWNER/NAME or OWNER/NAME@REVISION"
        )
    if named and (not at or revision == named.revision):
        return Wanted(hub, named.revision or MAIN, named.files, named)
    return Wanted(hub, revision or MAIN, {}, named)


def download(want: Wanted, *, wait: Callable[[float], None] = time.sleep) -> Downloaded:
    """Download and hash all files of one commit. Those in huggingface_hub's cache are not downloaded again.

    A download whose connection broke is resumed. After the process was killed, that depends on the release of
    huggingface_hub: 0.36 keeps partial files, 2.4 starts again.

    Args:
        want: what to download.
        wait: sleeps for a number of seconds between attempts; tests pass another function.

    Raises:
        DownloadError: naming the repository and what to do about it.
    """
    with _quiet(), _plain_names(want):
        commit = _commit(want, wait)

        def fetch(name: str, required: bool = False) -> Path | None:
            path = _fetch(want, name, commit, wait, required)
            if path is not None:
                _check_hash(want, name, path)
            return path

        def require(name: str) -> Path:
            path = fetch(name, required=True)
            if path is None:
                raise DownloadError(
                    f"{want.hub} has no {name} at {commit[:12]}; "
                    f"a checkpoint that can be built has {', '.join(REQUIRED)}"
                )
            return path

        fetch_checkpoint(fetch, require)
        return Downloaded(_cache_of(want) / "snapshots" / commit, commit)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence huggingface_hub's warnings, several hundred characters for each failed attempt.

    The last failure is raised as an error anyway.
    """
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
    """Refuse responses whose headers would make huggingface_hub write outside of its cache.

    An ETag of `../../x` would name a file there, which would be written and, if its hash is wrong, removed.
    """
    import huggingface_hub.utils

    def check(response: Any, *_: object, **__: object) -> None:
        for header, form in NAMES.items():
            value = response.headers.get(header)
            if value is not None and not form.fullmatch(value.removeprefix("W/").strip('"')):
                raise DownloadError(
                    f"{want.hub}: the hub's answer has {header} {value[:80]!r}, "
                    "which cannot be a file's name; nothing was written. "
                    "Is HF_ENDPOINT a model hub that you trust?"
                )

    library: Any = huggingface_hub.utils  # get_session is documented, but not in its type hints
    session: Any = library.get_session()
    # requests.Session in huggingface_hub 0.x, a Client of httpx or httpx2 in later ones.
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


def _cache_of(want: Wanted) -> Path:
    """The repository's part of huggingface_hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{want.hub.replace('/', '--')}"


def _commit(want: Wanted, wait: Callable[[float], None]) -> str:
    """The commit of a branch or tag. It is looked up once, so that all files are of the same commit."""
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
            f"{want.hub}: the hub names no commit for revision {want.revision!r:.80}; "
            "is HF_ENDPOINT a model hub?"
        )
    # A download by the branch's name makes the library note its commit, for `_cached_commit` when offline.
    with contextlib.suppress(_Missing):
        _attempt(
            want,
            REQUIRED[0],
            lambda: huggingface_hub.hf_hub_download(want.hub, REQUIRED[0], revision=want.revision),
            wait,
        )
    return info.sha


def _cached_commit(want: Wanted) -> str:
    """The commit of the revision when it was last downloaded."""
    reference = _cache_of(want) / "refs" / want.revision
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


def _fetch(
    want: Wanted, name: str, commit: str, wait: Callable[[float], None], required: bool
) -> Path | None:
    """Download a file, or find it in the cache, and return its path; None if the commit has no such file.

    Offline it is None also for a file that is not required and of which the cache knows nothing. A build
    refuses that where the file could change the model; see `checkpoint.files`.
    """
    import huggingface_hub
    from huggingface_hub import constants

    cached = huggingface_hub.try_to_load_from_cache(want.hub, name, revision=commit)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # the cache has a note that the commit has no such file
        return None
    if constants.HF_HUB_OFFLINE:
        if not required:
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
        _note_absent(want, name, commit)
        return None


def _note_absent(want: Wanted, name: str, commit: str) -> None:
    """Note that the commit has no such file. huggingface_hub does it only where the answer names the commit,
    which a mirror's may not. A build takes a file without that note as not downloaded."""
    note = _cache_of(want) / ".no_exist" / commit / name
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _check_hash(want: Wanted, name: str, path: Path) -> None:
    """Compare a file with its known hash, or else with its ETag, which is the hash at the hub.

    huggingface_hub compares only sizes. A file with another hash is removed, so that the next attempt
    downloads it again.

    Raises:
        DownloadError: the hash differs.
    """
    blob = _blob(want, name, path)
    known = want.files.get(name)
    expected = known.sha256 if known else blob.name
    if not HASH.fullmatch(expected):
        return  # a mirror with other ETags, or a file system without links: there is nothing to compare with
    if (found := _hash(blob, len(expected))) == expected:
        return
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
    raise DownloadError(
        f"{name} of {want.hub}: expected hash {expected[:12]}…, the downloaded file has {found[:12]}…; "
        "it was removed. Pull again; if it stays so, a proxy or mirror changes the file"
    )


def _blob(want: Wanted, name: str, path: Path) -> Path:
    """The file that a snapshot's link leads to, whose name is the ETag.

    Raises:
        DownloadError: the link leads out of the repository's part of the cache. The file there is neither
            read nor removed.
    """
    repository = path.parents[len(Path(name).parts) + 1]  # models--OWNER--NAME/snapshots/COMMIT/NAME
    blob = path.resolve()
    if not blob.is_relative_to(repository.resolve()):
        raise DownloadError(
            f"{name} of {want.hub}: the hub's cache has a link there that leads out of it; "
            "it was not followed. Remove the link and pull again"
        )
    return blob


def _hash(file: Path, digits: int) -> str:
    """The hash of a file with that many hexadecimal digits: 64 for sha256, 40 for git's blob hash.

    The hub's ETag is a sha256 for files in large file storage, and git's hash, a sha1 over a header and the
    file, for all others.
    """
    with file.open("rb") as opened:
        if digits == 64:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        data = opened.read()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _Missing(Exception):
    """The commit has no such file."""


def _attempt(want: Wanted, name: str | None, call: Callable[[], T], wait: Callable[[float], None]) -> T:
    """Call the hub, and call it again after errors that may pass.

    Args:
        want: what is downloaded, for errors.
        name: the file, for errors; None for a question to the hub's API.
        call: makes the request.
        wait: sleeps for a number of seconds.

    Raises:
        _Missing: the commit has no such file.
        DownloadError: any other failure that remains.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except GteError:
            raise
        except Exception as error:  # noqa: BLE001 - the library's errors changed their bases with its HTTP client
            pause = _pause(error, attempt, retried_by_library=name is not None)
            if attempt == ATTEMPTS or pause is None:
                raise _translated(want, name, error) from None
        wait(pause)
    raise AssertionError("the last attempt returns or raises")


def _pause(error: Exception, attempt: int, *, retried_by_library: bool) -> float | None:
    """Seconds to wait before the next attempt; None where another attempt is no use.

    Args:
        error: of the last attempt.
        attempt: its number, from 1.
        retried_by_library: some releases of huggingface_hub retry such a request themselves after a server
            error or when nobody answers.
    """
    status, headers = _response(error)
    if status is None:
        if _never_passes(error) or not _broke_off(error) or (retried_by_library and _is_unreachable(error)):
            return None
        return 2.0 ** (attempt - 1)
    if status != 429 and (status < 500 or (retried_by_library and attempt >= RETRIED_BY_LIBRARY)):
        return None
    try:
        asked = float(headers.get("Retry-After", ""))
    except ValueError:
        asked = 2.0 ** (attempt - 1)
    return max(asked, 0.0) if asked <= LONGEST_WAIT else None


def _response(error: BaseException | None) -> tuple[int | None, Any]:
    """Status and headers of the response that caused an error; (None, {}) where there was no response.

    huggingface_hub raises some errors from others, such as that a file is not in its cache from that the hub
    did not answer as expected.
    """
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code), response.headers
        error = error.__cause__
    return None, {}


class ConnectionErrors(NamedTuple):
    """Exception classes of the HTTP client that the installed huggingface_hub uses."""

    broken: tuple[type[BaseException], ...]
    """There is no connection, or it broke off: another attempt may succeed."""
    unreachable: tuple[type[BaseException], ...]
    """There was never a connection: the name is unknown, there is no route, or nobody answers."""


@cache
def _connection_errors() -> ConnectionErrors:
    """The client is requests in huggingface_hub 0.x, httpx in 1.x and httpx2 in 2.x.

    Several of them may be installed. The one in use is that of the base of huggingface_hub's own HTTP error.
    """
    from huggingface_hub.errors import HfHubHTTPError

    client: Any = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    if client.__name__ != "requests":
        return ConnectionErrors((client.TransportError,), (client.ConnectError, client.ConnectTimeout))
    # requests wraps most errors of urllib3, but not all that come while a body is read.
    urllib3: Any = importlib.import_module("urllib3.exceptions")
    requests = client.exceptions
    return ConnectionErrors(
        (
            requests.ConnectionError, requests.Timeout, requests.ChunkedEncodingError,
            urllib3.ProtocolError, urllib3.TimeoutError,
        ),
        (requests.ConnectTimeout, urllib3.NewConnectionError, urllib3.ConnectTimeoutError),
    )  # fmt: skip


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors that led to it.

    Besides `__cause__`, these are arguments, in which requests and urllib3 wrap an error, and the attribute
    `reason` of urllib3's MaxRetryError.
    """
    while error is not None:
        yield error
        wrapped = [
            part for part in (*error.args, getattr(error, "reason", None)) if isinstance(part, BaseException)
        ]
        for part in wrapped:
            yield from _causes(part)
        error = error.__cause__


def _tls_failure(error: BaseException) -> str | None:
    """Why a TLS connection was not made, in the words of OpenSSL; None where that is not the cause, or may
    pass."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and not isinstance(
            cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
        ):
            words = getattr(cause, "verify_message", "") or cause.reason or str(cause)
            return words.replace("_", " ").lower()
    return None


def _proxy_answer(error: BaseException) -> str | None:
    """What a proxy said instead of making a connection, such as "407 Proxy Authentication Required"."""
    if _response(error)[0] == 407:
        return "407 Proxy Authentication Required"
    for cause in _causes(error):
        of_proxy = "Proxy" in type(cause).__name__ or "Tunnel connection failed" in str(cause)
        if of_proxy and (found := re.search(r"\b4\d\d [A-Z][\w -]{2,60}", str(cause))):
            return found[0]
    return None


def _never_passes(error: BaseException) -> bool:
    """There is no connection for a reason that stays the same."""
    return _tls_failure(error) is not None or _proxy_answer(error) is not None


def _broke_off(error: BaseException) -> bool:
    """The connection failed, before or during a response."""
    classes = (*_connection_errors().broken, ConnectionError, TimeoutError)
    return any(
        # A body that ends early is an OSError of huggingface_hub's own, which only its words tell from
        # others.
        isinstance(cause, classes) or "Consistency check failed" in str(cause)
        for cause in _causes(error)
    )


def _is_unreachable(error: BaseException) -> bool:
    """There was never a connection to the hub."""
    return any(isinstance(cause, _connection_errors().unreachable) for cause in _causes(error))


def _translated(want: Wanted, name: str | None, error: Exception) -> Exception:
    """The error to raise for a failure that remains: _Missing, or a DownloadError that says what to do."""
    from huggingface_hub import errors

    status, _ = _response(error)
    what = f"{want.hub}{f' ({name})' if name else ''}"
    if why := _proxy_answer(error):
        return DownloadError(
            f"{what}: the proxy answered {why}; HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT gives it a login"
        )
    if why := _tls_failure(error):
        remedy = "check HF_ENDPOINT and HTTPS_PROXY"
        if "certificate" in why:
            remedy = (
                "if a proxy here signs with a certificate of its own, "
                "SSL_CERT_FILE and REQUESTS_CA_BUNDLE name a file with it"
            )
        return DownloadError(f"{what}: no secure connection: {why[:80]}; {remedy}")
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadError(
            f"{want.hub} has no revision {want.revision!r:.80}; "
            "look at its branches, tags and commits on the hub"
        )
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(
            f"{want.hub} is gated: accept its terms on the hub and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return DownloadError(
            f"{want.hub} is not on the hub, or not for you: "
            "check its name, and for a private one set HF_TOKEN"
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
            f"{what}: the connection failed; is this machine online? "
            "HF_ENDPOINT and HTTPS_PROXY name other ways to the hub"
        )
    if _broke_off(error):
        return DownloadError(
            f"{what}: the connection broke off; pull again, the download goes on where it stopped"
        )
    no_hub = isinstance(error, ValueError) and not isinstance(error, errors.HFValidationError)
    if no_hub or any(isinstance(cause, errors.FileMetadataError) for cause in _causes(error)):
        return DownloadError(f"{what}: the answer is not a model hub's; {PORTAL}")
    if isinstance(error, OSError) and error.strerror:
        return DownloadError(f"{what}: {error.strerror}; HF_HOME names where downloads go")
    return DownloadError(f"{what}: {_line(error)}")


def _line(error: Exception) -> str:
    """An error's message on one line, and not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__
