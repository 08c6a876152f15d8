"""ONNX Runtime itself: its import, its providers, its errors in our words."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import Cancelled, EngineError, OutOfMemory, ProviderError, ProviderUnavailableError
from ..machine.native import native
from ..machine.tasks import aside, in_main_thread

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""ONNX Runtime's name of each provider."""

SILENT, WARNINGS = 4, 2
"""Severities of ONNX Runtime's logger; the second is its default."""

NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"

# ONNX Runtime tells failures apart only in words.
MEMORY_WORDS = (
    "failed to allocate memory",
    "bad allocation",
    "std::bad_alloc",
    "out of memory",
    "smaller than requested bytes",
)


def available_providers() -> tuple[str, ...]:
    """Providers compiled into this installation; whether their libraries load shows when a session opens."""
    return _names(runtime().get_available_providers())


def runtime() -> Any:
    """The module `onnxruntime`, imported with its telemetry off.

    From 1.29 on, its wheels for Linux and macOS send descriptions of graphs and sessions to Microsoft and
    store an identifier of the machine in the user's cache, unless ORT_DISABLE_TELEMETRY is set before the
    import. The thread that sends them also keeps a child of fork() from ending. A user who wants the reports
    sets the variable to 0.

    Raises:
        ProviderUnavailableError: ONNX Runtime is not installed, or its installation is broken.
    """
    if not _imported:
        # In the main thread a signal can interrupt the import. Its exception comes out as an ImportError, and
        # the module can never be imported again in this process ("already registered", seen in 1.32).
        _imported.append(aside(_import, "gte-import") if in_main_thread() else _import())
    return _imported[0]


_imported: list[Any] = []
_importing = threading.Lock()


def _import() -> Any:
    with _importing, native():
        return _import_silently()


def _import_silently() -> Any:
    asked = os.environ.get(NO_TELEMETRY)
    try:
        if asked is None and "onnxruntime" not in sys.modules:
            os.environ[NO_TELEMETRY] = "1"
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise _broken(error) from None
        raise ProviderUnavailableError(
            "cpu", (), "install ONNX Runtime: pip install 'gte-runtime[cpu]' or 'gte-runtime[gpu]'"
        ) from None
    except ImportError as error:
        raise _broken(error) from None
    finally:
        if asked is None:
            os.environ.pop(NO_TELEMETRY, None)  # the environment belongs to the host program
    if asked != "0":
        onnxruntime.disable_telemetry_events()  # the host program may have imported it before
    return onnxruntime


def _broken(error: ImportError) -> ProviderUnavailableError:
    return ProviderUnavailableError(
        "cpu",
        ("cpu",),
        f"importing ONNX Runtime failed: {message_of(error)}; mend it, or install it again: "
        "pip install --force-reinstall --no-deps onnxruntime (on a GPU: onnxruntime-gpu)",
    )


def require_provider(provider: str) -> str:
    """ONNX Runtime's name of a provider. Raises ProviderUnavailableError where this installation was compiled
    without it."""
    available = runtime().get_available_providers()
    if provider not in PROVIDERS:
        raise ProviderError(f"provider is {provider!r}; known: {', '.join(PROVIDERS)}")
    wanted = PROVIDERS[provider]
    if wanted not in available:
        raise ProviderUnavailableError(provider, _names(available), _remedy(provider))
    return wanted


def _remedy(provider: str) -> str:
    if provider == "cpu":
        return "pip install 'gte-runtime[cpu]'"
    return (
        "in an environment without the package onnxruntime: pip install 'gte-runtime[gpu]'; "
        "`gte doctor` shows what else is needed"
    )


def _names(providers: list[str]) -> tuple[str, ...]:
    short = {long: name for name, long in PROVIDERS.items()}
    return tuple(short.get(name, name) for name in providers)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence ONNX Runtime's logger, which is one for the whole process, while a GPU session opens.

    It logs a warning about plug-ins for every provider that is not a plug-in. Failures reach us as
    exceptions.
    """
    runtime().set_default_logger_severity(SILENT)
    try:
        yield
    finally:
        runtime().set_default_logger_severity(WARNINGS)


def new_run_options() -> Any:
    """Options of one run. They are not used again: terminated options fail every later run."""
    return runtime().RunOptions()


def translated(error: Exception, terminated: bool) -> EngineError:
    """An exception of ONNX Runtime as one of ours. `terminated` says that the run was stopped on purpose."""
    if terminated:
        return Cancelled("the run was stopped")
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in MEMORY_WORDS):
        return OutOfMemory("out of memory during a run; lower max_tokens")
    return EngineError(f"ONNX Runtime failed: {message_of(error)}")


def knows_operator(kind: str) -> bool:
    """Whether the installed ONNX Runtime has an operator, given as `domain::Type` or `Type`. True if it does
    not say."""
    domain, _, name = kind.rpartition("::")
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    except ImportError:
        return True
    return any((schema.domain, schema.name) == (domain, name) for schema in get_all_operator_schema())


def message_of(error: Exception) -> str:
    """The text of an exception of ONNX Runtime, without places in its source and without directories, at most
    300 characters."""
    reason = " ".join(str(error).rsplit("[ONNXRuntimeError] : ", 1)[-1].split())
    reason = re.sub(r"^\d+ : \w+ : |\S+\.(cc|h):\d+ \S+ ", "", reason)
    if failure := re.search(r"CUDA failure \d+: [^;]+", reason):
        return failure[0].strip()  # the rest holds the machine's name
    reason = re.sub(r"[^\s'\"]*/([^\s/'\"]*)", r"\1", reason)
    return reason[:300] or type(error).__name__


def release_of(version: str) -> tuple[int, ...]:
    """Major and minor number of a version."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])
