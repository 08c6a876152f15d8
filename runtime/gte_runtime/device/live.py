"""TODO"""

from __future__ import annotations

import atexit
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

live: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every open session: an interpreter must not leave while one runs."""


@atexit.register
def _stop_all() -> None:
    """Leaving the interpreter while a run is in flight aborts the process; so no run is left."""
    for session in list(live):
        session.close()
