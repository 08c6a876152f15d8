"""Bad requests: each gets the error the table promises, in its dialect, and the next good one succeeds."""

from __future__ import annotations

import gzip
import json
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Process, answers, read_all, request

from gte_runtime import Embedder

GOOD = b'{"input": "good"}'
DIALECTS = {
    "native": "/v1/encode",
    "openai": "/v1/embeddings",
    "infinity": "/embeddings",
    "tei": "/embed",
    "cohere": "/v2/embed",
}


@pytest.fixture(autouse=True)
def _the_next_request_succeeds(server: Process, gte: Embedder) -> Iterator[None]:
    """Whatever a test sent: the server then answers a good request with the right vector."""
    yield
    item = server.post("/v1/encode", GOOD).json()["data"][0]
    np.testing.assert_array_equal(np.array(item["embedding"], np.float32), gte.encode("good").dense[0])


def code(server: Process, body: bytes, path: str = "/v1/encode", **options: Any) -> tuple[int, str]:
    answer = server.post(path, body, **options)
    error = answer.json()["error"]
    check_message(error["message"])
    return answer.status_code, error["code"]


def check_message(message: str) -> None:
    """One line, no path, no address, not more than a little of the input."""
    assert len(message) < 300
    assert message.isprintable()
    assert not re.search(r"/(?:home|root|tmp|usr|work)\b|0x[0-9a-f]{6}|site-packages", message)


# B-23, B-24, B-25
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"input":"a",}',
        b"{'input':'a'}",
        b'{"input":"a"} // words',
        b'{"input":"a"} {}',
        b'{"input":"a" "b"}',
        b'{"input":NaN}',
        b'{"input":"a","dimensions":Infinity}',
        b'{"input":"a","dimensions":1e400}',
        b'{"input":"a","dimensions":' + b"1" * 5000 + b"}",
        b'{"input":"a","dimensions":-1e999}',
        b"[" * 100_000,
        b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
        b'{"input":"a","unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"input":"\x00"}',
        b'{"input":"\n"}',
    ],
    ids=lambda b: repr(b[:24]),
)
def test_no_json(server: Process, body: bytes):
    assert code(server, body) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", b'{"input":"a","user":%b}'),
        ("/embed", b'{"inputs":"a","x":%b}'),
        ("/", b'{"inputs":"a","options":%b}'),
    ],
)
@pytest.mark.parametrize(("depth", "statuses"), [(90, {200}), (1010, {200, 400}), (100_000, {400})])
def test_no_field_is_nested_without_end(
    server: Process, path: str, body: bytes, depth: int, statuses: set[int]
):
    """Refused in a field of any type and in an unknown one. The limit, 100 to 1024, is the interpreter's."""
    for left, right in ((b"[", b"]"), (b'{"a":', b"}")):
        answer = server.post(path, body % (left * depth + b"1" + right * depth))
        assert answer.status_code in statuses
        assert answer.status_code == 200 or "not JSON" in answer.text or "nested too deeply" in answer.text


def test_where_the_json_ends_is_told(server: Process):
    message = server.post("/v1/encode", b'{"input": "SECRET WORDS",}').json()["error"]["message"]
    assert "column 25" in message or "column 26" in message
    assert "SECRET" not in message


# B-26
@pytest.mark.parametrize(
    "body",
    [
        b'{"input":"\xed\xa0\x80"}',
        b'{"input":"\xc0\xaf"}',
        '{"input":"é"}'.encode("latin-1"),
        '{"input":"a"}'.encode("utf-16"),
        b"\xef\xbb\xbf" + GOOD,
        b'{"input":"a","user":"\xff"}',
        b'{"\xff":1,"input":"a"}',
    ],
    ids=repr,
)
def test_no_utf8(server: Process, body: bytes):
    assert code(server, body) == (400, "invalid_utf8")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"input":"\\ud800"}', "input"),
        (b'{"input":["a","b \\udfff c"]}', "input[1]"),
        (b'{"input":"a","model":"\\ud83d"}', "model"),
        (b'{"input":"a","x":{"y":["\\ud800"]}}', "x.y[0]"),
    ],
)
def test_half_a_surrogate_pair_is_named(server: Process, body: bytes, where: str):
    """It is what no UTF-8 can hold, so no text can be made of it; the error says in which field."""
    answer = server.post("/v1/encode", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "invalid_unicode", where)


def test_a_field_s_long_name_is_not_repeated(server: Process):
    error = server.post("/v1/encode", b'{"input":"a","%b\\n":"\\ud800"}' % (b"K" * 5000)).json()["error"]
    assert error["code"] == "invalid_unicode"
    assert len(error["param"]) < 80
    check_message(error["message"])


# B-27
def test_a_key_that_stands_twice_counts_as_last_written(server: Process):
    both = server.post("/v1/encode", b'{"input":"a","input":"good"}').json()
    assert both["data"][0]["embedding"] == server.post("/v1/encode", GOOD).json()["data"][0]["embedding"]


# B-1, B-4, B-14, B-15, B-16, B-20, B-22, B-28, B-36, B-37
SHAPES = [
    (b"null", 422, "invalid_type", None),
    (b'"x"', 422, "invalid_type", None),
    (b"[]", 422, "invalid_type", None),
    (b"{}", 422, "missing_field", "input"),
    (b'{"input":null}', 422, "invalid_type", "input"),
    (b'{"input":7}', 422, "invalid_type", "input"),
    (b'{"input":{"a":1}}', 422, "invalid_type", "input"),
    (b'{"input":["a",null]}', 422, "invalid_type", "input[1]"),
    (b'{"input":["a",7]}', 422, "invalid_type", "input[1]"),
    (b'{"input":["a",true]}', 422, "invalid_type", "input[1]"),
    (b'{"input":[["a"]]}', 422, "invalid_type", "input[0][0]"),
    (b'{"input":["a",{"image":"x"}]}', 422, "invalid_type", "input[1]"),
    (b'{"input":[1,2,3]}', 422, "invalid_type", "input"),
    (b'{"input":[[1,2],[3]]}', 422, "invalid_type", "input[0]"),
    (b'{"input":[]}', 422, "empty_input", "input"),
    (b'{"input":""}', 422, "empty_input", "input"),
    (b'{"input":["a",""]}', 422, "empty_input", "input[1]"),
    (b'{"input":"a","dimensions":0}', 422, "invalid_dimensions", "dimensions"),
    (b'{"input":"a","dimensions":-1}', 422, "invalid_dimensions", "dimensions"),
    (b'{"input":"a","dimensions":100000}', 422, "invalid_dimensions", "dimensions"),
    (b'{"input":"a","dimensions":1.5}', 422, "invalid_dimensions", "dimensions"),
    (b'{"input":"a","dimensions":"768"}', 422, "invalid_dimensions", "dimensions"),
    (b'{"input":"a","dimensions":"many"}', 422, "invalid_type", "dimensions"),
    (b'{"input":"a","dimensions":true}', 422, "invalid_type", "dimensions"),
    (b'{"input":"a","encoding_format":"evil"}', 422, "invalid_value", "encoding_format"),
    (b'{"input":"a","sparse_format":"csr"}', 422, "invalid_value", "sparse_format"),
    (b'{"input":"a","max_length":0}', 422, "invalid_value", "max_length"),
    (b'{"input":"a","max_length":2}', 422, "invalid_value", "max_length"),
    (b'{"input":"a","max_length":-1}', 422, "invalid_value", "max_length"),
    (b'{"input":"a","max_length":8193}', 422, "invalid_value", "max_length"),
    (b'{"input":"a","max_length":9223372036854775807}', 422, "invalid_value", "max_length"),
    (b'{"input":"a","max_length":true}', 422, "invalid_type", "max_length"),
    (b'{"input":"a","prompt":"query"}', 422, "unknown_prompt", "prompt"),
    (b'{"input":"a","dense":false}', 422, "invalid_value", "dense"),
    (b'{"input":"a","truncate":"yes"}', 422, "invalid_type", "truncate"),
    (b'{"input":"a b c d e f g","truncate":false,"max_length":3}', 422, "text_too_long", "input"),
    (b'{"input":[' + b'"a",' * 2048 + b'"a"]}', 422, "too_many_inputs", "input"),
]


@pytest.mark.parametrize(("body", "status", "name", "param"), SHAPES, ids=[repr(s[0][:40]) for s in SHAPES])
def test_wrong_in_meaning(server: Process, body: bytes, status: int, name: str, param: str | None):
    answer = server.post("/v1/encode", body)
    error = answer.json()["error"]
    check_message(error["message"])
    assert (answer.status_code, error["code"], error["param"]) == (status, name, param)
    assert error["type"] == "invalid_request_error"
    assert error["request_id"] == answer.headers["x-request-id"]


def test_the_same_error_in_every_dialect(server: Process):
    """OpenAI and Cohere fold 422 into 400; TEI has its own words. One field is an empty list, everywhere."""
    got = {
        name: server.post(
            path, {("inputs" if name == "tei" else "texts" if name == "cohere" else "input"): []}
        )
        for name, path in DIALECTS.items()
    }
    assert {name: answer.status_code for name, answer in got.items()} == {
        "native": 422, "openai": 400, "infinity": 400, "tei": 400, "cohere": 400,
    }  # fmt: skip
    for name in ("native", "openai", "infinity"):
        assert got[name].json()["error"].keys() == {"message", "type", "param", "code", "request_id"}
    assert got["tei"].json().keys() == {"error", "error_type"}
    assert got["tei"].json()["error_type"] == "Empty"
    assert got["cohere"].json().keys() == {"id", "message", "detail", "code", "error"}
    assert got["cohere"].json()["error"].keys() == got["openai"].json()["error"].keys()


@pytest.mark.parametrize(
    "path",
    [*DIALECTS.values(), "/", "/rerank", "/v2/rerank", "/v1/score", "/similarity", "/tokenize", "/decode"],
)
def test_every_route_answers_bad_bodies_in_its_dialect(server: Process, path: str):
    """Wrong JSON, wrong type and wrong method, on every route: never a framework's page."""
    for answer in (
        server.post(path, b"{"),
        server.post(path, b"[]"),
        server.post(path, b"{}", headers={"content-type": "text/plain"}),
    ):
        assert answer.headers["content-type"] == "application/json"
        assert answer.status_code in (400, 415, 422)
        body = answer.json()
        assert ("error_type" in body) or ("detail" in body and "code" in body) or "code" in body["error"]
    if path != "/":
        wrong = server.get(path)
        assert wrong.status_code == 405
        assert wrong.headers["allow"] == "POST"


def test_lists_have_a_limit_on_every_route(server: Process):
    """2049 texts are refused wherever a list is taken."""
    many = ["a"] * 2049
    bodies: dict[str, Any] = {
        "/v1/encode": {"input": many},
        "/v1/embeddings": {"input": many},
        "/embeddings": {"input": many},
        "/embed": {"inputs": many},
        "/": {"inputs": many},
        "/embed_sparse": {"inputs": many},
        "/similarity": {"inputs": {"source_sentence": "a", "sentences": many}},
        "/tokenize": {"inputs": many},
        "/v2/embed": {"texts": many},
        "/rerank": {"query": "a", "texts": many},
        "/v1/rerank": {"query": "a", "documents": many},
        "/v2/rerank": {"query": "a", "documents": many},
        "/score": {"text_1": "a", "text_2": many},
        "/v1/score": {"text_1": many, "text_2": many},
    }
    for path, body in bodies.items():
        answer = server.post(path, body)
        assert answer.status_code in (400, 422), path
        assert "the limit is" in answer.text, path


def test_too_many_tokens_together(server: Process):
    """300,000 tokens are the limit of a request; the error names the flag."""
    answer = server.post("/v1/encode", {"input": ["a " * 8000] * 40})
    assert answer.json()["error"]["code"] == "request_too_large"
    assert "--max-request-tokens" in answer.json()["error"]["message"]


def test_a_text_of_two_megabytes_is_cut(server: Process):
    item = server.post("/v1/encode", {"input": "word " * 400_000, "max_length": 64}).json()["data"][0]
    assert (item["tokens"], item["truncated"]) == (64, True)


# B-35, B-36
def test_names_that_would_break_a_log(server: Process):
    """A name with a line break, a huge name and a huge user change nothing and write no line of their own."""
    assert server.post("/v1/embeddings", {"input": "a", "model": 'x\n{"event":"forged"}'}).status_code == 200
    assert (
        server.post(
            "/v1/embeddings", {"input": "a", "model": "m" * 1_000_000, "user": "u" * 1_000_000}
        ).status_code
        == 200
    )
    assert server.post("/v1/encode", {"input": "a", 'f\n{"event":"forged"}': 1}).status_code == 200
    assert server.get("/v1/models/x%0a%7b").status_code == 404
    assert "forged" not in [line["event"] for line in server.log_lines()]
    assert all(line.startswith(("{", "gte: serving")) for line in server.log_text().splitlines() if line)


# B-31, B-32
@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
    ],
)
def test_content_types(server: Process, kind: str):
    assert code(server, GOOD, headers={"content-type": kind}) == (415, "unsupported_media_type")


def test_no_content_type(server: Process):
    raw = (
        b"POST /v1/encode HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 17\r\n\r\n"
        + GOOD
    )
    assert answers(server.raw(raw))[0][0] == 415


def test_content_types_that_are_fine(server: Process):
    for kind in ("application/json", "Application/JSON;charset=UTF-8", 'application/json; charset="utf-8"'):
        assert server.post("/v1/encode", GOOD, headers={"content-type": kind}).status_code == 200


def test_compressed_bodies(server: Process):
    for name, packed in (("gzip", gzip.compress(GOOD)), ("deflate", zlib.compress(GOOD))):
        assert server.post("/v1/encode", packed, headers={"content-encoding": name}).status_code == 200
    assert code(server, GOOD, headers={"content-encoding": "br"}) == (415, "unsupported_media_type")
    assert code(server, GOOD, headers={"content-encoding": "gzip"}) == (400, "invalid_request")
    assert code(server, gzip.compress(GOOD)[:-6], headers={"content-encoding": "gzip"}) == (
        400,
        "invalid_request",
    )
    assert code(server, gzip.compress(GOOD) + b"x", headers={"content-encoding": "gzip"}) == (
        400,
        "invalid_request",
    )


def peak(server: Process) -> int:
    """The most memory that the server ever had, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def test_a_bomb_is_counted_decompressed(server: Process):
    """250 kB that would be 256 MB: refused at 16 MiB, without the memory."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b" " * 2**20) for _ in range(256)) + packer.flush()
    before = peak(server)
    for _ in range(2):
        assert code(server, bomb, headers={"content-encoding": "gzip"}) == (413, "payload_too_large")
    assert peak(server) - before < 80e6


# B-33, B-43
@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/../etc/passwd", 404),
        ("/v1/../../etc/passwd", 404),
        ("//v1/encode", 200),
        ("/v1//encode", 200),
        ("/v1/encode/", 200),
        ("/v1/encode/.", 404),
        ("/V1/encode", 404),
        ("/%2e%2e/etc/passwd", 404),
        ("/v1%2fencode", 404),
        ("/v1/%65ncode", 404),
        ("/v1/encode%00", 404),
        ("/v1/encode;x=1", 404),
        ("/static/../page.html", 404),
        ("/" + "a" * 8000, 404),
        ("/" + "a" * 65536, 431),
        ("/v1/encode?x=1", 200),
        ("http://evil.example/v1/encode", 200),
    ],
    ids=lambda v: str(v)[:30],
)
def test_paths_are_taken_as_they_are(server: Process, target: str, status: int):
    """Only slashes are collapsed, nothing is decoded or redirected; of an address the path counts."""
    found = answers(server.raw(request(target, GOOD, "connection: close")))
    assert [answer[0] for answer in found] == [status]
    assert found[0][1]["content-type"] == "application/json"
    assert b"root:" not in found[0][2]


@pytest.mark.parametrize(
    "first",
    ["GET /v1/encode", "PUT /v1/encode", "DELETE /v1/models", "OPTIONS /embed", "TRACE /", "PATCH /rerank"],
)
def test_other_methods(server: Process, first: str):
    found = answers(server.raw(f"{first} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()))
    assert found[0][0] == 405
    assert "allow" in found[0][1]


def settled(server: Process) -> str:
    """The log once nothing more is added: a line is written after its answer."""
    before = None
    while before != (text := server.log_text()):
        before = text
        time.sleep(0.1)
    return text


@pytest.mark.parametrize(
    "data",
    [
        b"FOO / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        bytes(range(256)) * 20,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/2.0\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n folded: b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=[
        "method",
        "zero byte",
        "cut off",
        "TLS",
        "all bytes",
        "version",
        "0.9",
        "no version",
        "2.0",
        "no colon",
        "folded",
        "HTTP 2",
    ],
)
def test_what_is_no_http(server: Process, data: bytes):
    """400 or nothing, and the connection is closed; the log has no more than a line of it."""
    lines = len(settled(server).splitlines())
    found = answers(server.raw(data, timeout=1))
    assert all(status == 400 for status, _, _ in found)
    assert len(settled(server).splitlines()) <= lines + 1
    for _, _, body in found:
        check_message(json.loads(body)["error"]["message"])


def test_a_malformed_host_changes_nothing(server: Process):
    for host in ("a b", "/v1/encode", "evil@x:99999", "[::1", "x" * 4000, ""):
        data = (
            f"POST /v1/encode HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            "content-length: 17\r\nconnection: close\r\n\r\n"
        )
        assert answers(server.raw(data.encode() + GOOD))[0][0] in (400, 403)


# B-29
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
HEAD = b"POST /v1/encode HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 17\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 17\r\n\r\n0\r\n\r\n",
        b"content-length: 17\r\ncontent-length: 0\r\n\r\n",
        b"content-length: 17\r\ncontent-length: 17\r\n\r\n" + GOOD,
        b"content-length: -1\r\n\r\n",
        b"content-length: +17\r\n\r\n" + GOOD,
        b"content-length: 0x11\r\n\r\n" + GOOD,
        b"content-length: 12345678901234567890123\r\n\r\n",
        b"content-length: 17, 17\r\n\r\n" + GOOD,
        b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: identity\r\n\r\n" + GOOD,
        b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\nZZ\r\n" + GOOD,
        b"transfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n11\r\n" + GOOD + b"no line end",
    ],
    ids=repr,
)
def test_the_length_of_a_body_is_told_once(server: Process, framing: bytes):
    """400 or 413, and what follows on the connection is not run as a request."""
    received = server.raw(HEAD + framing + SMUGGLED, timeout=5)
    found = answers(received)
    assert found[0][0] in (400, 413)
    assert b"404" not in received.replace(b"content-length: 404", b"")
    assert len(found) == 1


UPGRADE = (
    b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
)


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 17\r\n\r\n" + GOOD,
        b"transfer-encoding: chunked\r\n\r\n11\r\n" + GOOD + b"\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 300, 100_000])
def test_another_protocol_is_not_spoken(server: Process, framing: bytes, size: int):
    """Java's client asks for HTTP/2 with its first request, and goes on in HTTP/1.1 if answered so.

    The body and the next request are read.
    """
    sent = HEAD + UPGRADE + framing
    sent = sent * 2 + request("/v1/encode", GOOD, "connection: close")
    with server.connect() as line:
        for start in range(0, len(sent), size):
            line.sendall(sent[start : start + size])
        assert [status for status, _, _ in answers(read_all(line))] == [200] * 3


def test_a_body_after_such_a_request_is_not_run(server: Process):
    """It comes by itself, and looks like a request."""
    with server.connect(2) as line:
        line.sendall(HEAD + UPGRADE + b"content-length: %d\r\n\r\n" % len(SMUGGLED))
        time.sleep(0.2)
        line.sendall(SMUGGLED)
        assert [status for status, _, _ in answers(read_all(line))] == [400]


def test_what_stands_behind_a_body_is_no_header(server: Process):
    """A type or a deadline there changes nothing; too many of them are too many."""
    head = (
        b"POST /v1/encode HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n"
    )
    body = b"\r\n11\r\n" + GOOD + b"\r\n0\r\n"
    kind = b"content-type: application/json\r\n"
    assert answers(server.raw(head + body + kind + b"\r\n"))[0][0] == 415
    assert answers(server.raw(head + kind + body + b"x-request-timeout-ms: -1\r\n\r\n"))[0][0] == 200
    for many in (b"x: 1\r\n" * 101, b"x: " + b"a" * 17_000 + b"\r\n"):
        assert answers(server.raw(head + kind + body + many + b"\r\n"))[0][0] == 431


def test_a_body_over_the_limit_is_not_read(server: Process):
    """Refused by its content-length, before a byte of it, without `100 Continue`; without one, on the way."""
    over = HEAD + b"content-length: 16777217\r\nexpect: 100-continue\r\n\r\n"
    found = server.raw(over)
    assert answers(found)[0][0] == 413
    assert b"100 Continue" not in found
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with server.connect() as line:
        line.sendall(
            HEAD
            + b"transfer-encoding: chunked\r\n\r\n"
            + chunk * 18
            + b"0\r\n\r\n"
            + request("/v1/encode", GOOD, "connection: close")
        )
        assert [status for status, _, _ in answers(read_all(line))] == [
            413,
            200,
        ]  # what is left of it is thrown away, not run


def test_a_body_at_the_limit_is_read(server: Process):
    body = b'{"input": "good"' + b" " * (16 * 2**20 - 18) + b" }"
    assert len(body) == 16 * 2**20
    assert server.post("/v1/encode", body).status_code == 200
    assert server.post("/v1/encode", body + b" ").status_code == 413


def test_expect_100_continue_works(server: Process):
    with server.connect() as line:
        line.sendall(HEAD + b"content-length: 17\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 100")
        line.sendall(GOOD)
        assert line.recv(100).startswith(b"HTTP/1.1 200")


def test_a_million_tiny_chunks(server: Process):
    """The pieces of a body do not add up to more than the body."""
    body = b'{"input": "good"' + b" " * 100_000 + b"}"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    received = server.raw(
        HEAD + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n" + chunks, timeout=20
    )
    assert answers(received)[0][0] == 200


# B-30
@pytest.mark.parametrize(
    "headers",
    [
        b"x: " + b"a" * 2**20 + b"\r\n",
        b"x: " + b"a" * 17_000 + b"\r\n",
        b"x: 1\r\n" * 3000,
        b"x: 1\r\n" * 101,
        b"x" * 2**20,
    ],
    ids=["1 MB", "17 kB", "3000", "101", "no end"],
)
def test_heads_have_a_limit(server: Process, headers: bytes):
    found = answers(server.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + headers + b"\r\n"))
    assert [status for status, _, _ in found] == [431]
    assert json.loads(found[0][2])["error"]["code"] == "headers_too_large"


def test_heads_within_the_limit(server: Process):
    headers = b"x: " + b"a" * 150 + b"\r\n"
    assert (
        answers(server.raw(b"GET /health HTTP/1.1\r\nconnection: close\r\n" + headers * 90 + b"\r\n"))[0][0]
        == 200
    )


def test_requests_one_after_the_other(server: Process):
    """Pipelined good requests are answered in order, and the limit on heads counts each by itself."""
    data = request("/v1/encode", GOOD, "x: " + "a" * 5000) * 6 + request(
        "/nope", b"", "connection: close", method="GET"
    )
    assert [status for status, _, _ in answers(server.raw(data, timeout=20))] == [200] * 6 + [404]


def test_a_bad_request_behind_a_good_one(server: Process):
    """The good one is answered, the connection closed, the rest thrown away."""
    received = server.raw(request("/v1/encode", GOOD) + b"\x00\x01garbage\r\n\r\n" + SMUGGLED, timeout=5)
    assert answers(received)[0][0] == 200
    assert b" 404 " not in received


# B-39
@pytest.mark.parametrize("value", ["-1", "0", "1.5", "soon", "999999999999999999", "", "1e3"])
def test_deadlines_that_are_none(server: Process, value: str):
    answer = server.post("/v1/encode", GOOD, headers={"x-request-timeout-ms": value})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_a_deadline_that_is_long_enough(server: Process):
    assert server.post("/v1/encode", GOOD, headers={"x-request-timeout-ms": "20000"}).status_code == 200
