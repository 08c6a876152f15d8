"""Whatever one client sends, others are answered, and memory is bounded by what it becomes.

Bounds of time are generous, because machines are shared; what was measured is in RELIABILITY.md.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import json
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import orjson
import pytest
from fuzzing import examples
from hypothesis import given, settings, strategies
from serving import Process, eventually, gated, in_threads, request

from gte_runtime.server.app import PIECE
from gte_runtime.server.body import _check_syntax, _check_values, parse
from gte_runtime.server.dialects.native import EncodeRequest
from gte_runtime.server.dialects.openai import EmbeddingsRequest
from gte_runtime.server.refusals import Refusal

BODY = 16 * 2**20 - 4096
"""Bytes of the texts of a body that is just within --max-body."""
SLOWEST = 2.0
"""Seconds in which /health/live is answered at the latest. It takes 0.2 on a machine without other work."""
PER_BYTE = 30
"""Bytes of memory that a request may add for each byte sent, beyond FIXED."""
FIXED = 400 * 2**20


@pytest.fixture(scope="module")
def busy(
    tiny_bundle: Path, reranker_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    process = Process(
        tmp_path_factory.mktemp("busy"),
        *(
            "--model",
            str(tiny_bundle),
            "--model",
            str(reranker_bundle),
            "--threads",
            "2",
            "--accept-token-ids",
        ),
    )
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log_text()


class Live:
    """Asks /health/live every few milliseconds on one connection, and keeps the longest wait."""

    def __init__(self, server: Process) -> None:
        self._server = server
        self._stop = threading.Event()
        self.worst = 0.0
        self.count = 0

    def __enter__(self) -> Live:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        eventually(lambda: self.count)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=120, trust_env=False) as client:
            while not self._stop.wait(0.005):
                begun = time.monotonic()
                assert client.get("/health/live").status_code == 200
                self.worst = max(self.worst, time.monotonic() - begun)
                self.count += 1


def peak(server: Process, reset: bool = False) -> int:
    """Bytes of the highest resident memory of the process, since the last reset."""
    if reset:
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) * 1024


def send_while_asked(
    server: Process, path: str, body: bytes, *, clients: int = 1, **headers: str
) -> list[int]:
    before = peak(server, reset=True)
    with Live(server) as live:
        answers = in_threads(lambda _: server.post(path, body, headers=headers).status_code, clients)
    grown = peak(server) - before
    print(f"{path} {len(body)} {answers} live {live.worst:.3f} s, memory {grown / 2**20:.0f} MiB")
    assert live.worst < SLOWEST
    assert grown < FIXED + clients * PER_BYTE * len(body)
    return answers


SCRIPTS = {
    "Latin": "ab ",
    "one word": "x",
    "Thai": "ภาษาไทยเป็นภาษาที่สวยงาม",
    "Devanagari": "यह एक लंबा पाठ है ",
    "Khmer": "ភាសាខ្មែរ",
    "Chinese": "北京是首都",
    "Hangul": "한국어",
    "jamo": "\u1112\u1161\u11ab",
    "Arabic": "مرحبا ",
    "18 characters of one": "\ufdfa",
    "18 of one, with a mark": "\ufdfa\u0301",
    "squared kana": "\u3300",
    "marks": "\u0301",
    "emoji": "😀",
    "joined emoji": "👩\u200d👩\u200d👧",
    "flags": "\U0001f1e9\U0001f1ea",
    "private": "\U0010fffd",
    "unknown words": "\U0010fffd" * 500 + " a ",
    "no character": "\uffff",
    "controls": "\x7f\x85\u200b\u202e",
    "spaces": " \t",
    "ideographic spaces": "\u3000",
    "special tokens": "</s>",
    "astral letters": "\U00010480",
    "half-width": "ｶﾞ",
}


def repeated(piece: str, size: int) -> str:
    return piece * (size // len(json.dumps(piece, ensure_ascii=False).encode()[1:-1]))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_text_of_any_script_stops_nobody(busy: Process, script: str):
    """16 MB of it are cut to three tokens that are listed, to the last 64, and to the first 64."""
    text = repeated(SCRIPTS[script], BODY)
    for path, fields in (
        ("/v1/encode", {"input": text, "tokens": True, "sparse": True, "max_length": 3}),
        ("/v2/embed", {"texts": [text], "truncate": "START", "max_tokens": 64}),
        ("/v1/encode", {"input": text, "max_length": 64}),
    ):
        body = json.dumps(fields, ensure_ascii=False).encode()
        assert send_while_asked(busy, path, body) == [200]


def filled(start: bytes, piece: bytes, end: bytes, size: int = BODY) -> bytes:
    """A body with as many of the pieces as fit, separated by commas."""
    return start + b",".join([piece] * (size // (len(piece) + 1))) + end


def words(count: int, each: int) -> bytes:
    return json.dumps(["word " * (each // 5)] * count).encode()


BODIES: dict[str, tuple[str, Callable[[], bytes], set[int]]] = {
    "numbers": ("/v1/encode", lambda: filled(b'{"input":[', b"1", b"]}"), {413}),
    "lists": ("/v1/embeddings", lambda: filled(b'{"input":[', b"[1]", b"]}"), {413}),
    "empty lists": ("/embed", lambda: filled(b'{"inputs":[', b"[]", b"]}"), {413}),
    "strings": ("/embed", lambda: filled(b'{"inputs":[', b'""', b"]}"), {413}),
    "quotes": ("/embed", lambda: filled(b'{"inputs":[', rb'"\",[\\"', b"]}"), {413}),
    "an ignored list": ("/v1/embeddings", lambda: filled(b'{"input":"a","user":[', b"{}", b"]}"), {413}),
    "an ignored list, just small enough": (
        "/v1/embeddings",
        lambda: filled(b'{"input":"a","user":[', b'{"a":[]}', b"]}", 3 * 2**20),
        {200, 413},
    ),
    "an unknown list": ("/v1/embeddings", lambda: filled(b'{"input":"a","x":[', b"[]", b"]}", 2**20), {200}),
    "an unknown list, not JSON at the end": (
        "/v1/embeddings",
        lambda: filled(b'{"input":"a","x":[', b"[]", rb',"\ud800"]}', 2**20),
        {400},
    ),
    "a list of a wrong type": ("/v1/encode", lambda: filled(b'{"input":[', b"[]", b",{}]}", 2**20), {422}),
    "as many strings as may be": (
        "/v1/encode",
        lambda: filled(b'{"input":[', b'"abcdefghij"', b"]}", 12 * 10**6),
        {422},
    ),
    "an unknown text": ("/v1/embeddings", lambda: b'{"input":"a","x":"' + b"x" * BODY + b'"}', {200}),
    "a long name": ("/v1/embeddings", lambda: b'{"input":"a","' + b"x" * BODY + b'":1}', {200}),
    "nested": ("/v1/encode", lambda: b'{"input":' + b"[" * BODY, {413}),
    "escapes": (
        "/v1/encode",
        lambda: b'{"max_length":64,"input":"' + rb"\u0e01" * (BODY // 6) + b'"}',
        {200},
    ),
    "half a pair": ("/v1/encode", lambda: b'{"input":"' + b"x" * BODY + rb'\ud800"}', {422}),
    "commas in a text": ("/v1/encode", lambda: b'{"max_length":64,"input":"' + b"," * BODY + b'"}', {200}),
    "not JSON at the end": ("/v1/encode", lambda: b'{"input":"' + b"x" * BODY + b'"', {400}),
    "not UTF-8 at the end": ("/v1/encode", lambda: b'{"input":"' + b"x" * BODY + b'\xff"}', {400}),
    "2048 texts": ("/v1/encode", lambda: b'{"max_length":8,"input":' + words(2048, 8100) + b"}", {200}),
    "too many tokens": ("/v1/encode", lambda: b'{"input":' + words(340, 49_000) + b"}", {422}),
    "token ids": ("/v1/encode", lambda: b'{"input":' + json.dumps([[5] * 9000] * 40).encode() + b"}", {422}),
    "ids to text": ("/decode", lambda: filled(b'{"ids":[', b"5", b"]}", 600_000), {200}),
    "tokens": ("/tokenize", lambda: b'{"inputs":' + words(5, 60_000) + b"}", {200, 422}),
    "a long text to list": ("/tokenize", lambda: b'{"inputs":' + words(1, 290_000) + b"}", {422}),
    "a query of megabytes": (
        "/v2/rerank",
        lambda: b'{"query":"' + b"ab " * (BODY // 6) + b'","documents":' + words(100, BODY // 200) + b"}",
        {200, 400, 413},
    ),
    "documents that are returned": (
        "/v2/rerank",
        lambda: b'{"query":"a","return_documents":true,"documents":["' + b"x" * BODY + b'"]}',
        {200},
    ),
    "texts that are returned": (
        "/v2/embed",
        lambda: b'{"max_tokens":64,"texts":' + words(2, BODY // 2) + b"}",
        {200},
    ),
    "one text in pairs": (
        "/score",
        lambda: b'{"max_length":16,"text_1":"' + b"x" * BODY + b'","text_2":["a","b"]}',
        {200},
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_of_any_shape_stops_nobody(busy: Process, name: str):
    path, body, statuses = BODIES[name]
    assert set(send_while_asked(busy, path, body())) <= statuses
    assert busy.post("/v1/encode", {"input": "a"}).status_code == 200


def test_compressed_bodies_stop_nobody(busy: Process):
    body = gzip.compress(b'{"max_length":16,"input":"' + b"ab " * (BODY // 3) + b'"}')
    before = peak(busy, reset=True)
    with Live(busy) as live:
        answers = in_threads(
            lambda _: busy.post("/v1/encode", body, headers={"content-encoding": "gzip"}).status_code, 4
        )
    assert answers == [200] * 4
    assert live.worst < SLOWEST
    assert peak(busy) - before < FIXED + 4 * PER_BYTE * BODY


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b'{"input":"a"}', 1),
        (b'{"input":["a","b"]}', 3),
        (rb'{"input":"a,[{\",[{","user":[{},{}]}', 6),
        (b'{"input":"' + b"," * 20_000 + b'"}', 1),
        (b'{"input":"' + rb"\"\\" * 20_000 + b'","user":' + b"[1," * 3, 8),
        (b'{"input":' + b'"",' * 3 + b'"\\', 4),
    ],
)
def test_values_of_a_body_are_counted_before_they_are_made(body: bytes, values: int):
    """What is inside a string is no value. One value more than the limit is refused, by the option's name."""
    _check_values(body, values)
    with pytest.raises(Refusal, match="--max-values"):
        _check_values(body, values - 1)


def test_no_garbage_is_collected_while_a_body_becomes_objects():
    """The collector walks over all of them again and again, and holds the interpreter's lock. Afterwards it
    works as before, also after a body that is refused."""
    collections: list[str] = []
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    try:
        with pytest.raises(Refusal):
            parse(b'{"input":[[1],', EncodeRequest, False, 10**6)
        assert gc.isenabled()
        collections.clear()
        request, _ = parse(filled(b'{"input":[', b"[1]", b"]}", 200_000), EncodeRequest, False, 10**6)
    finally:
        gc.callbacks.pop()
    assert gc.isenabled()
    assert len(request.input) > 40_000
    assert len(collections) < 8


@pytest.mark.parametrize("end", [b"]}", b",]}", rb',"\ud800"]}', b"]"])
def test_a_body_of_a_wrong_shape_becomes_no_objects(end: bytes):
    """Nor does one that is no JSON: orjson and `json` hold the interpreter's lock while they make them."""
    body = filled(b'{"input":"a","x":[', b"[]", end, 200_000)
    tracemalloc.start()
    with contextlib.suppress(Refusal):
        parse(body, EmbeddingsRequest, False, 10**6)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * len(body)  # as objects they take 20 times as much


@given(strategies.data())
@settings(max_examples=examples(100))
def test_syntax_is_judged_as_orjson_judges_it(data: strategies.DataObject):
    """Valid bodies with a few bytes changed: what orjson does not read is refused, whatever its size."""
    value = strategies.recursive(
        strategies.none()
        | strategies.booleans()
        | strategies.integers(-9, 10**6)
        | strategies.text(max_size=5),
        lambda some: (
            strategies.lists(some, max_size=3) | strategies.dictionaries(strategies.text(max_size=3), some)
        ),
        max_leaves=6,
    )
    body = bytearray(json.dumps(data.draw(value), ensure_ascii=data.draw(strategies.booleans())).encode())
    for _ in range(data.draw(strategies.integers(0, 2))):
        place = data.draw(strategies.integers(0, len(body)))
        body[place : place + data.draw(strategies.integers(0, 1))] = data.draw(
            strategies.sampled_from(
                [b",", b'"', b"\\", b"]", b"}", b"u", b"0", b"-", b"\n", b"\xc3", b"\\ud8"]
            )
        )
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refused = error.msg != "number is infinity when parsed as double"
    else:
        refused = False
    for few in (0, 10**6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gte_runtime.server.body.FEW_VALUES", few)
            with pytest.raises(Refusal) if refused else contextlib.nullcontext():
                _check_syntax(bytes(body))


def test_an_ignored_field_becomes_no_objects(busy: Process):
    """A field that is accepted and not used may hold anything that is JSON, and is not read."""
    body = filled(b'{"input":"a","user":[', b"{}", b"]}", 900_000)
    tracemalloc.start()
    request, _ = parse(body, EmbeddingsRequest, False, 10**6)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert request.user is None
    assert most < 3 * len(body)  # as objects they take 24 times as much
    assert busy.post("/v1/embeddings", body).status_code == 200
    for bad, code in ((b'"\xff"', "invalid_utf8"), (b"[1,]", "invalid_json"), (b"NaN", "invalid_json")):
        answer = busy.post("/v1/embeddings", b'{"input":"a","user":' + bad + b"}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_texts_that_are_returned_count_as_memory(tiny_bundle: Path):
    """What is sent back is counted with what was sent, before it is run: --max-held holds for both."""
    body = json.dumps({"texts": ["x" * 60_000], "max_tokens": 16})
    with gated(tiny_bundle, max_held=100_000) as (here, _):
        assert here.post(
            "/v1/encode", body.replace("texts", "input").replace("max_tokens", "max_length").encode()
        ).is_success
        refused = here.post("/v2/embed", body.encode())
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert here.server.held_bytes == 0
    with gated(tiny_bundle, max_held=150_000) as (here, _):
        assert here.post("/v2/embed", body.encode()).json()["texts"] == ["x" * 60_000]
        assert here.server.held_bytes == 0


def test_an_answer_that_nobody_reads_is_counted_until_it_is_dropped(tiny_bundle: Path):
    """It is not in the connection's buffer, and is dropped when the client reads nothing for a while."""
    text = "x" * BODY
    body = json.dumps({"texts": [text], "max_tokens": 16}).encode()
    with gated(tiny_bundle, write_timeout=2.0) as (here, _), socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", here.port))
        line.sendall(request("/v2/embed", body))
        eventually(lambda: here.metric("gte_texts_total") >= 1)
        begun = time.monotonic()
        eventually(lambda: here.server.held_bytes == len(text) or time.monotonic() > begun + 1)
        assert here.server.held_bytes >= len(text)
        transports = [c.transport for c in list(here._server.server_state.connections)]
        assert max(t.get_write_buffer_size() for t in transports) < 2 * PIECE
        eventually(lambda: here.server.held_bytes == 0)
        assert here.metric("gte_refused_connections_total") == 1


def test_a_slow_reader_gets_all_of_a_large_answer(tiny_bundle: Path):
    """As long as some of it is read within --write-timeout, however long all of it takes."""
    text = "x" * (2 * 2**20)
    body = json.dumps({"texts": [text], "max_tokens": 16}).encode()
    with gated(tiny_bundle, write_timeout=1.0) as (here, _), here.connect() as line:
        line.sendall(request("/v2/embed", body, "connection: close"))
        received = b""
        while piece := line.recv(256 * 1024):
            received += piece
            time.sleep(0.1)
    assert json.loads(received.partition(b"\r\n\r\n")[2])["texts"] == [text]
