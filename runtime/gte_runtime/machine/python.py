"""Checks that this package can run on this system, and numpy and ONNX Runtime in this interpreter, before
either is imported.

numpy and ONNX Runtime keep state per process, not per interpreter. In a sub-interpreter, importing numpy
warns and importing onnxruntime never returns (seen with Python 3.11). In a process that finalized Python and
initialized it again, numpy refuses to load. The check turns all of these into one error with a remedy.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from ..errors import InterpreterError

COMMANDS = ("gte", "-m")
"""Names of the program when this package is imported for the command line."""
SUBINTERPRETER = (
    "gte_runtime cannot run in a sub-interpreter, since numpy and ONNX Runtime cannot; "
    "use the main interpreter of the process (mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
)
WINDOWS = (
    "Windows is not supported; use the Windows Subsystem for Linux (`wsl --install`) or a container, "
    "or send texts to a server elsewhere"
)
AGAIN = (
    "Python was ended and started again in this process, and numpy cannot be loaded a second time; "
    "start Python once and end it when the program ends"
)


def check_interpreter() -> None:
    """Check the running interpreter.

    Raises:
        InterpreterError: the system is Windows, the interpreter is a sub-interpreter, or Python was
            initialized a second time in this process.
    """
    if sys.platform == "win32":
        if Path((getattr(sys, "argv", None) or [""])[0]).stem in COMMANDS:
            sys.exit(f"gte: {WINDOWS}")  # an error that is raised here would be shown with a traceback
        raise InterpreterError(WINDOWS)
    if _is_sub():
        raise InterpreterError(SUBINTERPRETER)
    if "numpy" not in sys.modules:
        try:
            importlib.import_module("numpy")
        except ImportError as error:
            if "more than once per process" in str(error) + str(error.__cause__):
                raise InterpreterError(AGAIN) from None
            raise


def _is_sub() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # Python 3.13 and later; before
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() != interpreters.get_main())
    return False
