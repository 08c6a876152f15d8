"""A fair counting semaphore over processors: no more threads compute than there are processors, however many
callers run."""

from __future__ import annotations

import threading
from collections import deque


class ProcessorSemaphore:
    """Processors are handed out in order of arrival."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def acquire(self, least: int, most: int) -> int:
        """Wait for `least` processors and take them; or `most`, if they are free and nobody else waits. How
        many were taken."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= least)
                taken = most if self._free >= most and len(self._waiting) == 1 else least
                self._free -= taken
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        return taken

    def release(self, taken: int) -> None:
        with self._changed:
            self._free += taken
            self._changed.notify_all()
