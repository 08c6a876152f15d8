"""Bytes as they arrive, and the lines and decompressed bytes that they hold. Pure but for reading.

Lines end at the newline byte only: U+2028 is part of a text.
"""

from __future__ import annotations

import os
import select
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

from ..errors import InputFileError

MAX_LINE = 16 * 2**20
"""Longest line, JSON value or CSV field that is accepted, in bytes."""
PIECE = 2**16
"""Bytes of one read."""
ZSTD_STEP = 2**10
"""Bytes of zstd data that are decompressed at once: at most 32 MiB of content."""
PAUSE_AFTER = 0.05
"""Seconds without data after which a pipe counts as paused."""

TOO_LONG, PAUSE = b"too long", b"pause"
"""Markers among lines and pieces, compared by identity."""


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a file or pipe as they arrive, with PAUSE wherever none arrive for PAUSE_AFTER seconds."""
    try:
        number = file.fileno() if os.name == "posix" else None  # on Windows select() takes sockets only
    except (OSError, AttributeError):
        number = None
    while True:
        if number is not None and not select.select([number], [], [], PAUSE_AFTER)[0]:
            yield PAUSE
        piece = file.read(PIECE) if number is None else os.read(number, PIECE)
        if not piece:
            return
        yield piece


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their line end, the first without a byte order mark; pauses are passed on. A line that is
    too long is skipped without holding it in memory."""
    mark, held, too_long = b"\xef\xbb\xbf", bytearray(), False

    def ended() -> bytes:
        nonlocal mark, too_long
        line = TOO_LONG if too_long else bytes(held).removeprefix(mark).removesuffix(b"\r")
        held.clear()
        mark, too_long = b"", False
        return line

    for piece in pieces:
        if piece is PAUSE:
            yield PAUSE
            continue
        for count, part in enumerate(piece.split(b"\n")):
            if count:
                yield ended()
            if not too_long:
                held += part
            if len(held) > MAX_LINE:
                held.clear()
                too_long = True
    if held or too_long:
        yield ended()


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line); a pause has the number of the line before it."""
    number = 0
    for line in lines:
        number += line is not PAUSE
        yield number, line


def gunzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The content of gzip data of one or more members, in pieces of bounded size; pauses are passed on.

    Raises:
        InputFileError: the data is damaged or cut.
    """
    member, fresh = zlib.decompressobj(31), True
    try:
        for piece in pieces:
            if piece is PAUSE:
                yield PAUSE
                continue
            while piece:
                if fresh and not piece.strip(b"\0"):  # padding after the last member
                    break
                fresh = False
                content = member.decompress(piece, 16 * PIECE)
                if content:
                    yield content
                if member.eof:
                    piece = member.unused_data
                    member, fresh = zlib.decompressobj(31), True
                else:
                    piece = member.unconsumed_tail
    except zlib.error as error:
        raise InputFileError(f"its gzip data is damaged: {error}") from None
    if not fresh:
        raise InputFileError("its gzip data is cut off")


def unzstd(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same for zstd data of one or more frames.

    Raises:
        InputFileError: the data is damaged or cut, or the package `zstandard` is not installed.
    """
    try:
        import zstandard
    except ImportError:
        raise InputFileError("zstd needs zstandard: pip install 'gte-runtime[jobs]'") from None
    unpacker = zstandard.ZstdDecompressor(max_window_size=2**27)
    frame, fresh = unpacker.decompressobj(), True
    try:
        for piece in pieces:
            if piece is PAUSE:
                yield PAUSE
                continue
            while piece:
                # A block of 4 bytes may stand for 128 KiB, and there is no bound on what a call gives.
                fresh = False
                content = frame.decompress(piece[:ZSTD_STEP])
                if content:
                    yield content
                piece = piece[ZSTD_STEP:]
                if frame.eof:
                    piece = frame.unused_data + piece
                    frame, fresh = unpacker.decompressobj(), True
    except zstandard.ZstdError as error:
        raise InputFileError(f"its zstd data is damaged: {error}") from None
    if not fresh:
        raise InputFileError("its zstd data is cut off")
