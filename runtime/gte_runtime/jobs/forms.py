"""What kind of file an input is, by its first bytes and then by its name. Pure."""

from __future__ import annotations

import json
import re

from ..errors import InputFileError

FORMS = ("lines", "jsonl", "json", "csv", "tsv", "parquet", "arrow")
"""What `--input-format` accepts: lines of text, JSON lines, a JSON array, and so on. Text forms may be
compressed with gzip or zstd."""

TABLES = ("parquet", "arrow")
"""Forms that pyarrow reads. They need a file in which one can go back."""

BY_NAME = {
    ".txt": "lines",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

PACKED = {".gz": GZIP, ".gzip": GZIP, ".zst": ZSTD, ".zstd": ZSTD}
"""Suffixes of compressed files; the suffix before it says what is compressed."""

OTHERS = (
    (b"%PDF-", "a PDF; extract its text first"),
    (b"PK\x03\x04", "a ZIP archive or an Office document; unpack it or save it as CSV first"),
    (b"\xd0\xcf\x11\xe0", "an old Office document; save it as CSV first"),
    (b"{\\rtf", "a rich text document; save it as plain text first"),
    (b"BZh", "bzip2 data; unpack it first"),
    (b"\xfd7zXZ\x00", "xz data; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"SQLite format 3\x00", "an SQLite database; export a table as CSV first"),
    (b"GGUF\x02", "a GGUF model"),
    (b"GGUF\x03", "a GGUF model"),
    (b"\x7fELF", "a program"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"Obj\x01", "an Avro file; convert it to Parquet first"),
    (b"\xff\xfe\x00\x00", "UTF-32; convert it to UTF-8 first"),
    (b"\x00\x00\xfe\xff", "UTF-32; convert it to UTF-8 first"),
    (b"\xff\xfe", "UTF-16; convert it first: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16; convert it first: iconv -f UTF-16 -t UTF-8"),
    (b"\x80\x02", "a Python pickle, which is never read: it may run any code"),
    (b"\x80\x03", "a Python pickle, which is never read: it may run any code"),
    (b"\x80\x04", "a Python pickle, which is never read: it may run any code"),
    (b"\x80\x05", "a Python pickle, which is never read: it may run any code"),
)
"""(first bytes, what such a file is)"""

BINARY = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
"""Control characters that texts hardly have. Escape (1b) colours the output of programs."""
MOST_BINARY = 0.1
"""Share of them in the first line above which a file is no text."""


def packing_of(head: bytes) -> str | None:
    """How data that begins so is compressed: "gzip", "zstd" or None."""
    return "gzip" if head.startswith(GZIP) else "zstd" if head.startswith(ZSTD) else None


def inner_name(name: str) -> str:
    """The name without the suffix of a compression: "a.jsonl" for "a.jsonl.gz"."""
    suffix = _suffix(name)
    return name[: -len(suffix)] if suffix in PACKED else name


def form_of(head: bytes, name: str) -> str:
    """The form of uncompressed data.

    Args:
        head: its first bytes, at least those of the first line that is not blank, if there is one.
        name: the file's name without the suffix of a compression, or "" for a pipe.

    Raises:
        InputFileError: it is none that is read; says what it looks like.
    """
    by_name = BY_NAME.get(_suffix(name))
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1\x00\x00", b"\xff\xff\xff\xff")):  # an Arrow file, an Arrow stream
        return "arrow"
    for magic, what in OTHERS:
        if head.startswith(magic):
            raise InputFileError(f"it is {what}")
    if by_name in TABLES:
        if not head:
            raise InputFileError(f"it is empty, which no {by_name} file is")
        raise InputFileError(
            f"it is named like a {by_name} file, but is none; --input-format says what it is"
        )
    if head[257:262] == b"ustar":
        raise InputFileError("it is a tar archive; unpack it first")
    if head[1:2] == b"\0" or head[:1] == b"\0":
        raise InputFileError("it looks like UTF-16; convert it first: iconv -f UTF-16LE -t UTF-8")
    line = head.partition(b"\n")[0]
    if len(BINARY.findall(line)) > MOST_BINARY * len(line) and by_name not in ("jsonl", "json"):
        raise InputFileError("it is binary data of an unknown kind; --input-format lines reads it as text")
    if by_name in ("csv", "tsv", "jsonl"):
        return by_name
    return _of_text(head.removeprefix(b"\xef\xbb\xbf").lstrip(), by_name)


def _of_text(text: bytes, by_name: str | None) -> str:
    line = text.partition(b"\n")[0]
    if text.startswith(b"{"):
        # In a file of plain text a brace alone means nothing. Elsewhere broken JSON lines are rejected one by
        # one rather than embedded as text.
        if _is_object(line) or by_name is None:
            return "jsonl"
        return "json" if by_name == "json" else "lines"
    if re.match(rb'\[\s*([{"\]]|$)', text):
        return "json"
    if by_name != "json":
        return "lines"
    if text.startswith(b'"') and _is_json(line):
        return "jsonl"
    if text and not text.startswith(b"["):
        raise InputFileError("it is not JSON, though its name says so; --input-format lines reads it as text")
    return "json"


def _is_object(line: bytes) -> bool:
    return line.lstrip().startswith(b"{") and _is_json(line)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""
