"""Every error this package raises on purpose.

    GteError
    |- InterpreterError (ImportError)      a sub-interpreter, or Python initialized twice in one process
    |- InputError (ValueError)             a text or pair that is refused; has `index`
    |  `- InputTooLongError                more tokens than the limit, and truncation is off
    |- ConfigError (ValueError)            a parameter out of range
    |- NonFiniteOutputError                the model returned NaN or infinity for one text
    |- CheckpointError (ValueError)        a checkpoint that cannot be built
    |- BundleError (OSError)               a bundle that is missing, incomplete or not understood
    |  |- BundleCorruptError               a file differs from what the manifest records
    |  |- BundleVersionError               another format version, or it needs a newer ONNX Runtime
    |  `- SelfCheckFailed                  the model runs, but its vectors differ from the recorded ones
    |- DownloadError (OSError)             a checkpoint that could not be downloaded from the hub
    |- InputFileError (OSError)            an input file that cannot be read, or not as it is asked for
    |- OutputError (OSError)               a result that could not be written
    |  `- ResumeMismatchError              a job that was begun with another input, model or other options
    |- ProviderError (RuntimeError)        an execution provider that failed
    |  |- ProviderUnavailableError         an execution provider that this installation does not have
    |  `- EngineMissing                    a TensorRT engine that was not built
    `- EngineError (RuntimeError)          a run that failed for another reason than its input
       |- OutOfMemory (MemoryError)        the device or the machine ran out of memory
       |- Cancelled                        the run was cancelled, or the engine was closed
       |- NoThread                         the system gave no thread
       `- ForkedProcessError               an engine used in a child of fork()

`exit_code` is the exit code of the command line. The server has a table of its own (`server.refusals`),
because each of its dialects has other statuses for the same error.
"""

from __future__ import annotations

from typing import Any


class GteError(Exception):
    """Base of all errors of this package."""

    exit_code: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle every attribute, so that errors can be sent between processes.

        Exception's own method would call the constructor with `args`, which holds the finished message.
        """
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[GteError], args: tuple[Any, ...], state: dict[str, Any]) -> GteError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InputError(GteError, ValueError):
    """A text or pair that is refused. `index` is its position in the input, `got` what was found there."""

    exit_code = 2

    def __init__(
        self, reason: str, *, index: int | None = None, field: str = "texts", got: str | None = None
    ) -> None:
        where = field if index is None else f"{field}[{index}]"
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.index = index
        self.field = field
        self.got = got


class InputTooLongError(InputError):
    """A text of more than `limit` tokens, with truncation switched off.

    `tokens` includes the special tokens. It is a lower bound where a text was so long that only a part of it
    was tokenized. Where `characters` is given, the text has too many of them to be tokenized as a whole, and
    `limit` counts characters.
    """

    def __init__(
        self,
        *,
        tokens: int,
        limit: int,
        index: int | None,
        exact: bool = True,
        field: str = "texts",
        characters: int | None = None,
    ) -> None:
        count = f"{tokens} tokens" if exact else f"at least {tokens} tokens"
        if characters is not None:
            count = f"{characters} characters that can only be tokenized together"
        super().__init__(
            f"{count}, the limit is {limit}; shorten the text or pass truncate=True",
            index=index,
            field=field,
            got=count,
        )
        self.tokens = tokens
        self.limit = limit


class ConfigError(GteError, ValueError):
    """A parameter outside its range."""

    exit_code = 2


class NonFiniteOutputError(GteError):
    """The model returned NaN or infinity for the text at `index`."""

    def __init__(self, index: int, field: str = "texts") -> None:
        super().__init__(
            f"{field}[{index}]: the model gave a result that is not finite; `gte verify` checks the bundle"
        )
        self.index = index


class CheckpointError(GteError, ValueError):
    """A checkpoint directory that cannot be turned into a bundle."""

    exit_code = 4


class BundleError(GteError, OSError):
    """A bundle that is missing, incomplete or not understood."""

    exit_code = 4


class BundleCorruptError(BundleError):
    """A file of a bundle differs from what its manifest records."""

    def __init__(
        self, file: str, *, expected: str, got: str, hint: str = "build or download the bundle again"
    ) -> None:
        super().__init__(f"{file}: expected {expected}, found {got}; {hint}")
        self.file = file
        self.expected = expected
        self.got = got


class BundleVersionError(BundleError):
    """A bundle of another format version, or one that needs a newer ONNX Runtime than the installed one."""


class SelfCheckFailed(BundleError):
    """The vectors of the self-check differ from those recorded at build time."""

    def __init__(self, message: str, *, cos: float | None = None, distance: float | None = None) -> None:
        super().__init__(message)
        self.cos = cos
        self.distance = distance
        """In the unit of the variant's tolerance; None if it is not known."""


class DownloadError(GteError, OSError):
    """A checkpoint that could not be downloaded from the hub, or a file with another hash than expected."""

    exit_code = 4


class InputFileError(GteError, OSError):
    """An input file that cannot be read, or has another form or other columns than expected."""

    exit_code = 4


class OutputError(GteError, OSError):
    """A result that could not be written."""

    exit_code = 6


class ResumeMismatchError(OutputError):
    """The directory holds a job that was begun with another input, model or other options."""


class ProviderError(GteError, RuntimeError):
    """An execution provider that failed."""

    exit_code = 5


class ProviderUnavailableError(ProviderError):
    """A requested provider that is not available. The CPU never runs in its place silently."""

    def __init__(self, asked: str, available: tuple[str, ...], remedy: str) -> None:
        """Compose the message.

        Args:
            asked: the provider that was requested.
            available: the providers compiled into the installed ONNX Runtime. `asked` may be one of them and
                lack a library that it needs to load.
            remedy: what to do about it.
        """
        state = "is installed and does not load" if asked in available else "is not available"
        super().__init__(
            f"provider {asked!r} {state} (this installation has: {', '.join(available) or 'none'}); {remedy}"
        )
        self.asked = asked
        self.available = available


class EngineMissing(ProviderError):
    """There is no TensorRT engine for this bundle on this machine. Opening a bundle does not build one."""


class EngineError(GteError, RuntimeError):
    """A run that failed for another reason than its input."""


class OutOfMemory(EngineError, MemoryError):
    """The device or the machine ran out of memory during a run."""


class Cancelled(EngineError):
    """The run was cancelled from another thread, or the engine was closed."""


class NoThread(EngineError):
    """The system gave no thread: the user or the container is at its limit of processes and threads."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"a thread could not be started ({reason}); raise the limit of processes and threads "
            "(ulimit -u, or pids.max of the container), or start fewer"
        )


class ForkedProcessError(EngineError):
    """An engine was used in a process forked from the one that opened it."""

    def __init__(self) -> None:
        super().__init__(
            "this engine was opened before os.fork() and its threads do not exist here; "
            "open an engine in the child, or start workers with the 'spawn' method"
        )


class InterpreterError(GteError, ImportError):
    """The package was imported in an interpreter in which numpy and ONNX Runtime cannot run."""
