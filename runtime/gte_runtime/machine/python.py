"""Is this a Python that numpy and ONNX Runtime can live in? Asked before either is imported.

Both keep state per process, not per interpreter. In a sub-interpreter numpy warns and importing
onnxruntime never returns (seen with Python 3.11); after an interpreter was ended and another one
started, numpy refuses to load. A host gets one clear error instead.
"""

from __future__ import annotations

import importlib
import sys

from ..errors import InterpreterError

SUBINTERPRETER = (
    "gte_runtime cannot run in a sub-interpreter, since numpy and ONNX Runtime cannot; "
    "use the main interpreter of the process (mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
)
AGAIN = (
    "Python was ended and started again in this process, and numpy cannot be loaded a second time; "
    "start Python once and end it when the program ends"
)


def check_interpreter() -> None:
    """Raises InterpreterError in a sub-interpreter, and in an interpreter that is not the first of its process."""
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
    for name in ("_interpreters", "_xxsubinterpreters"):  # since 3.13, and before
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() != interpreters.get_main())
    return False
