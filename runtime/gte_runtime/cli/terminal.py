"""Writes lines for people and lines of JSON, in which nothing can control a terminal.

Names of tensors, prompts and files, notices, tokens and documents come from files, and may hold escape
sequences that move the cursor, set the window's title, or reverse the order of what is read.
"""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any

CONTROLS = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but the tab, line separators, marks that change the direction of text, and lone
surrogates."""


def escaped(text: object) -> str:
    """A text whose control characters are shown with backslashes, such as `\\x1b`."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def tell(message: object) -> None:
    """Write a message to stderr, as one line."""
    print(f"gte: {escaped(message)}", file=sys.stderr, flush=True)


def show(line: object) -> None:
    """Write a line for people to stdout."""
    print(escaped(line), flush=True)


def show_json(value: Any, indent: int | None = None) -> None:
    """Write a value to stdout as JSON; where stdout's encoding has not all of its characters, as ASCII."""
    text = json_text(value, indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    print(text, flush=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON in which the control characters that JSON itself allows are escaped, too."""
    return CONTROLS.sub(_unicode_escape, json.dumps(value, ensure_ascii=False, indent=indent))


def escape_what_stdout_lacks() -> None:
    """Show characters that stdout's encoding lacks, such as cp1252, with backslashes, as stderr does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _unicode_escape(found: re.Match[str]) -> str:
    return found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}"
