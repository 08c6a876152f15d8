"""The log on stderr: one JSON object per line, or plain lines.

It never holds a text, a key or a client's address.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

LOGGERS = ("gte_runtime", "uvicorn", "uvicorn.error", "asyncio")


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_facts(record, self), ensure_ascii=True, default=str)


class PlainLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = _facts(record, self)
        head = f"{facts.pop('time')} {facts.pop('level')} {one_line(facts.pop('event'))}"
        trace = facts.pop("traceback", "")
        words = " ".join(f"{name}={one_line(str(value))}" for name, value in facts.items())
        return f"{head} {words}".rstrip() + (f"\n{trace}" if trace else "")


def _facts(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, Any]:
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    facts: dict[str, Any] = {
        "time": f"{at}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "event": record.getMessage()[:500],
    }
    facts.update(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[0] is not None:
        facts["traceback"] = formatter.formatException(record.exc_info)
    return facts


def one_line(text: str) -> str:
    """The text with control characters escaped, so that a client cannot forge lines of the log."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def set_up(form: str, level: str) -> None:
    """Give our loggers and those of uvicorn and asyncio one handler.

    Args:
        form: "json" or "plain".
        level: of our loggers; the others log warnings and worse.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(level.upper() if name == "gte_runtime" else logging.WARNING)
