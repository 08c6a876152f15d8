"""Every error this package raises on purpose.

    GteError
    |- InterpreterError (ImportError)      a sub-interpreter, or Python started twice in one process
    |- InputError (ValueError)             a text or pair we refuse; has `index`
    |  `- InputTooLongError                more tokens than the limit, and truncation is off
    |- ConfigError (ValueError)            a parameter out of range
    |- NonFiniteOutputError                the model gave NaN or infinity for one text
    |- CheckpointError (ValueError)        a checkpoint that cannot be built
    |- BundleError (OSError)               missing, changed or not understood
    |  |- BundleCorruptError               a file is not what the manifest promises
    |  |- BundleVersionError               made for another format or a newer ONNX Runtime
    |  `- SelfCheckFailed                   the model runs but gives other vectors than when it was built
    |- DownloadError (OSError)             a checkpoint that could not be had from the hub
    |- OutputError (OSError)               a result that could not be written
    |- ProviderError (RuntimeError)        a device that failed
    |  |- ProviderUnavailableError         a device that is not there
    |  `- EngineMissing                    a TensorRT engine that was not built
    `- EngineError (RuntimeError)          a run that ended badly
       |- OutOfMemory (MemoryError)
       |- Cancelled
       `- ForkedProcessError               an engine used in a child of fork()

`exit_code` and `http_status` are plain numbers, so that neither the command line nor the
server needs a table of its own.
"""

from __future__ import annotations

from typing import Any


class GteError(Exception):
    """Base of all errors of this package."""

    exit_code: int = 1
    http_status: int = 500

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross processes whole: the constructor's arguments are not those that Exception keeps."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[GteError], args: tuple[Any, ...], state: dict[str, Any]) -> GteError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InputError(GteError, ValueError):
    """A text that cannot be embedded. `index` is its position in the input, `got` what was found."""

    exit_code = 2
    http_status = 422

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

    `tokens` counts special tokens too. It is a lower bound for texts so long that they
    were not tokenized to the end.
    """

    def __init__(
        self, *, tokens: int, limit: int, index: int | None, exact: bool = True, field: str = "texts"
    ) -> None:
        count = f"{tokens}" if exact else f"at least {tokens}"
        super().__init__(
            f"{count} tokens, the limit is {limit}; shorten the text or pass truncate=True",
            index=index,
            field=field,
            got=f"{count} tokens",
        )
        self.tokens = tokens
        self.limit = limit


class ConfigError(GteError, ValueError):
    """A parameter outside its range."""

    exit_code = 2
    http_status = 422


class NonFiniteOutputError(GteError):
    """The model gave NaN or infinity for the text at `index`."""

    http_status = 500

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
    http_status = 503


class BundleCorruptError(BundleError):
    """A file of a bundle differs from what its manifest promises."""

    def __init__(
        self, file: str, *, expected: str, got: str, hint: str = "build or download the bundle again"
    ) -> None:
        super().__init__(f"{file}: expected {expected}, found {got}; {hint}")
        self.file = file
        self.expected = expected
        self.got = got


class BundleVersionError(BundleError):
    """A bundle of a format, or for an ONNX Runtime, that this installation does not have."""


class SelfCheckFailed(BundleError):
    """The vectors of the self-check differ from those recorded at build time."""

    def __init__(self, message: str, *, cos: float | None = None) -> None:
        super().__init__(message)
        self.cos = cos


class DownloadError(GteError, OSError):
    """A checkpoint that could not be had from the hub, or came with other bytes than promised."""

    exit_code = 4
    http_status = 503


class OutputError(GteError, OSError):
    """A result that could not be written."""

    exit_code = 6


class ProviderError(GteError, RuntimeError):
    """An execution provider that failed."""

    exit_code = 5
    http_status = 503


class ProviderUnavailableError(ProviderError):
    """A provider that was asked for and is not there. There is never a silent CPU run instead."""

    def __init__(self, asked: str, available: tuple[str, ...], remedy: str) -> None:
        """`available` are the providers compiled into the installation; one of those may still lack what it needs to load."""
        state = "is installed and does not load" if asked in available else "is not available"
        super().__init__(
            f"provider {asked!r} {state} (this installation has: {', '.join(available) or 'none'}); {remedy}"
        )
        self.asked = asked
        self.available = available


class EngineMissing(ProviderError):
    """There is no TensorRT engine for this bundle on this machine, and serving builds none."""


class EngineError(GteError, RuntimeError):
    """A run that ended badly for a reason that is not the input's."""


class OutOfMemory(EngineError, MemoryError):
    """The device or the machine ran out of memory during a run."""

    http_status = 503


class Cancelled(EngineError):
    """The run was terminated from another thread, or the engine was closed."""


class ForkedProcessError(EngineError):
    """An engine was used in a process forked from the one that opened it."""

    def __init__(self) -> None:
        super().__init__(
            "this engine was opened before os.fork() and its threads do not exist here; "
            "open an engine in the child, or start workers with the 'spawn' method"
        )


class InterpreterError(GteError, ImportError):
    """The package was imported in a Python that numpy and ONNX Runtime cannot run in."""
