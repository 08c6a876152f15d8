"""What a job keeps in its directory, so that it can be stopped at any moment and go on.

`job.json` says what the job is. A part is written beside its name, flushed, and renamed; then its line is
appended to `journal.jsonl` and flushed. So each line tells of a whole part, a part without a line is made
again, and the last line of the journal may be torn. `_SUCCESS` comes last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import OutputError, ResumeMismatchError
from ..machine.files import sync

JOB, JOURNAL, REJECTS, SUMMARY, SUCCESS, LOCK = (
    "job.json",
    "journal.jsonl",
    "rejects.jsonl",
    "summary.json",
    "_SUCCESS",
    ".lock",
)
FORMAT = 1
PART = re.compile(r"part-\d{5,}\.parquet")
UNFINISHED = re.compile(
    r"\.(part-\d{5,}\.parquet|job\.json|rejects\.jsonl|summary\.json|_SUCCESS)\.unfinished"
)
"""Names under which this module writes; what a killed job left under them is removed."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that was written, as a line of the journal."""

    part: int
    rows: int
    """Rows of the input."""
    written: int
    """Rows with vectors; the others are in `rejected`."""
    tokens: int
    truncated: int
    seconds: float
    """From the part before it, on this machine."""
    bytes: int
    sha256: str
    rejected: list[dict[str, Any]]
    """{"index", "file", "line", "reason"} of each row without vectors; never its text."""

    @property
    def name(self) -> str:
        return part_name(self.part)


def part_name(number: int) -> str:
    return f"part-{number:05}.parquet"


class Journal:
    """The directory of one job, while this process has its lock."""

    def __init__(self, directory: Path, parts: dict[int, Part]) -> None:
        self.directory = directory
        self.parts = parts
        """Parts that are there, by their numbers."""

    @property
    def finished(self) -> bool:
        return (self.directory / SUCCESS).exists()

    def add(self, number: int, write: Callable[[IO[bytes]], None], facts: dict[str, Any]) -> Part:
        """Write a part, then its line.

        Args:
            number: of the part.
            write: writes the part into an open file.
            facts: the fields of `Part` that the file does not show.
        """
        path = self.directory / part_name(number)
        digest, size = write_durably(path, write)
        part = Part(part=number, bytes=size, sha256=digest, **facts)
        with (self.directory / JOURNAL).open("ab") as file:
            file.write(json.dumps(asdict(part), ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.parts[number] = part
        return part

    def in_order(self) -> list[Part]:
        return [self.parts[number] for number in sorted(self.parts)]

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the rejected rows, the summary and, last, `_SUCCESS`."""
        rejected = (row for part in self.in_order() for row in part.rejected)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
        write_durably(self.directory / REJECTS, lambda file: _write(file, lines))
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        write_durably(self.directory / SUMMARY, lambda file: _write(file, text))
        write_durably(self.directory / SUCCESS, lambda file: _write(file, ""))


def _write(file: IO[bytes], text: str) -> None:
    file.write(text.encode())


def write_durably(path: Path, write: Callable[[IO[bytes]], None]) -> tuple[str, int]:
    """Write a file that appears under its name complete, and survives a power failure.

    Returns:
        Its SHA-256 and its size in bytes.
    """
    beside = path.with_name(f".{path.name}.unfinished")
    try:
        with beside.open("w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)
    return digest, size


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a job's directory, which is made if it is missing.

    Raises:
        OutputError: another process has it, the directory cannot be made, or it holds something else.
    """
    name = directory.name or str(directory)[-80:]
    try:
        directory.mkdir(exist_ok=True)
        others = [path.name for path in directory.iterdir() if path.name != LOCK]
        if others and JOB not in others and not all(UNFINISHED.fullmatch(one) for one in others):
            raise OutputError(
                f"{name} holds files that are no job, such as {min(others)[:80]!r}; name another"
            )
        lock = (directory / LOCK).open("a+", encoding="utf-8")
    except FileNotFoundError:
        raise OutputError(f"the directory of {name} is missing") from None
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"{name} is a file; name a directory") from None
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{name}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read(200).strip() or "another process"
            raise OutputError(f"{name} is in use by {holder}") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise OutputError(f"{name}: {error.strerror}") from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


def is_job(directory: Path) -> bool:
    return (directory / JOB).is_file()


def read_job(directory: Path) -> dict[str, Any]:
    """What the job is, as it was begun.

    Raises:
        OutputError: the directory holds no job, or its description is damaged or of a later version.
    """
    name = directory.name or str(directory)[-80:]
    try:
        job = json.loads((directory / JOB).read_bytes())
    except FileNotFoundError:
        raise OutputError(f"{name} holds no job") from None
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{name}/{JOB} cannot be read: {error}; begin anew with --restart") from None
    if not isinstance(job, dict) or job.get("format") != FORMAT:
        raise OutputError(f"{name}/{JOB} is of another version of gte-runtime; begin anew with --restart")
    return job


def begin(directory: Path, job: dict[str, Any]) -> Journal:
    """Begin a job, or go on with one. The lock must be held.

    Raises:
        ResumeMismatchError: the one that was begun has another input, model or other options.
    """
    _sweep(directory)
    if is_job(directory):
        compare(read_job(directory), job, directory.name)
        return Journal(directory, _whole(directory, read_parts(directory)))
    text = json.dumps({"format": FORMAT, **job}, indent=1, ensure_ascii=False) + "\n"
    write_durably(directory / JOB, lambda file: _write(file, text))
    return Journal(directory, {})


def restart(directory: Path) -> None:
    """Remove what a job wrote, and nothing else. The lock must be held."""
    _sweep(directory)
    own = {JOURNAL, REJECTS, SUMMARY, SUCCESS, JOB}
    if not is_job(directory):
        return
    for path in directory.iterdir():
        if path.name in own or PART.fullmatch(path.name):
            path.unlink()


def read_parts(directory: Path) -> dict[int, Part]:
    """The parts that the journal tells of. A torn last line is left out; where a part has several lines, the
    last one counts."""
    parts: dict[int, Part] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (directory / JOURNAL).read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError, TypeError):
                part = Part(**json.loads(line))
                parts[part.part] = part
    return parts


def _whole(directory: Path, parts: dict[int, Part]) -> dict[int, Part]:
    """Those parts whose files are what was written. The journal is cut behind its last whole line."""
    path = directory / JOURNAL
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        os.fsync(file.fileno())
    return {number: part for number, part in parts.items() if _is_whole(directory / part.name, part)}


def _is_whole(path: Path, part: Part) -> bool:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != part.bytes:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == part.sha256
    except OSError:
        return False


def _sweep(directory: Path) -> None:
    for path in directory.iterdir():
        if UNFINISHED.fullmatch(path.name):
            path.unlink()


def compare(begun: dict[str, Any], now: dict[str, Any], name: str) -> None:
    """Raises ResumeMismatchError, with the differences, for a job that is not the one that was begun."""
    differences = list(_differences(begun, now))
    if differences:
        raise ResumeMismatchError(
            f"{name} holds a job that was begun otherwise: {'; '.join(differences)}; name another directory, "
            "or begin anew with --restart"
        )


def _differences(begun: dict[str, Any], now: dict[str, Any]) -> Iterable[str]:
    for key in ("model", "options"):
        for name in sorted({*begun.get(key, {}), *now[key]}):
            before, after = begun.get(key, {}).get(name), now[key].get(name)
            if before != after:
                yield f"{name} was {_short(before)} and is {_short(after)}"
    before_inputs = {each["path"]: each for each in begun.get("inputs", [])}
    now_inputs = {each["path"]: each for each in now["inputs"]}
    for path in sorted({*before_inputs, *now_inputs}):
        if path not in now_inputs:
            yield f"input {path} is missing"
        elif path not in before_inputs:
            yield f"input {path} is new"
        elif before_inputs[path] != now_inputs[path]:
            yield f"input {path} has changed"
    if list(before_inputs) != list(now_inputs) and set(before_inputs) == set(now_inputs):
        yield "the inputs are in another order"


def _short(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]
