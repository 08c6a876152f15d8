"""Rows of every form of file, against rows that were written down."""

from __future__ import annotations

import contextlib
import copy
import csv
import gzip
import io
import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fuzzing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from gte_runtime.errors import InputFileError
from gte_runtime.jobs import lines, rows
from gte_runtime.jobs.row import Fields, Row
from gte_runtime.jobs.rows import open_rows

TEXTS = ["one", "two, with a comma", 'a "quoted" word', "two\nlines", "北京 😀", " spaces ", "", "tab\there"]


def read(path: Path, form: str | None = None, **fields: Any) -> list[Row]:
    return list(open_rows([str(path)], Fields(**fields), form))


def objects() -> list[dict[str, Any]]:
    return [{"id": n, "text": text, "lang": "x", "n": n / 2} for n, text in enumerate(TEXTS)]


def as_csv(delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["id", "text", "lang", "n"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(objects())
    return file.getvalue().encode()


def as_arrow(stream: bool) -> bytes:
    file, table = io.BytesIO(), pa.table(pa.Table.from_pylist(objects()))
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def as_parquet(**options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(objects()), file, **options)
    return file.getvalue()


def as_jsonl() -> bytes:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects()).encode()


FILES: dict[str, Callable[[], bytes]] = {
    "a.jsonl": as_jsonl,
    "a.json": lambda: json.dumps(objects()).encode(),
    "pretty.json": lambda: json.dumps(objects(), indent=2, ensure_ascii=False).encode(),
    "lines.json": as_jsonl,
    "a.csv": as_csv,
    "bom.csv": lambda: b"\xef\xbb\xbf" + as_csv(),
    "semicolons.csv": lambda: as_csv(";"),
    "a.tsv": lambda: as_csv("\t"),
    "a.parquet": as_parquet,
    "plain.parquet": lambda: as_parquet(use_dictionary=False, version="1.0", row_group_size=3),
    "a.arrow": lambda: as_arrow(stream=False),
    "a.arrows": lambda: as_arrow(stream=True),
}
STRINGS = {"a.csv", "bom.csv", "semicolons.csv", "a.tsv"}
"""Forms in which every value is a string."""


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FILES)
def test_every_form_has_the_same_rows(name: str, packing: str, tmp_path: Path):
    """Texts, ids with their types, and carried fields; compressed or not, named well or not at all."""
    data = FILES[name]()
    if packing and name.endswith((".parquet", ".arrow", ".arrows")):
        pytest.skip("tables are compressed inside")
    pack: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
    (tmp_path / (name + packing)).write_bytes(pack[packing](data))
    found = read(tmp_path / (name + packing), keep=("lang", "n"))
    kind: Callable[[Any], Any] = str if name in STRINGS else copy.copy
    expected = [(each["text"], kind(each["id"]), {"lang": "x", "n": kind(each["n"])}) for each in objects()]
    assert [(row.text, row.id, row.kept) for row in found] == expected
    assert [row.problem for row in found] == [None] * len(expected)


def test_lines(tmp_path: Path):
    """A text a line; line separators of Unicode are text."""
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\u2028still\x85two\n\n北京".encode())
    assert [(row.number, row.text) for row in read(tmp_path / "a.txt")] == [
        (1, "one"),
        (2, "two\u2028still\x85two"),
        (3, ""),
        (4, "北京"),
    ]


def test_several_files_and_patterns(tmp_path: Path):
    """One after the other, a pattern by names; each row says its file."""
    for name, count in (("b.jsonl", 2), ("a.jsonl", 1), ("c.txt", 1)):
        (tmp_path / name).write_bytes(b'{"text": "t"}\n' * count if name != "c.txt" else b"plain\n")
    found = open_rows([str(tmp_path / "c.txt"), str(tmp_path / "*.jsonl")])
    assert [row.place for row in found] == [
        "c.txt line 1",
        "a.jsonl line 1",
        "b.jsonl line 1",
        "b.jsonl line 2",
    ]
    assert found.total == 4
    with pytest.raises(InputFileError, match="no file has a name of this pattern"):
        open_rows([str(tmp_path / "*.csv")])


def test_a_name_that_is_a_pattern_too(tmp_path: Path):
    """A file of that very name is meant."""
    (tmp_path / "a[1].txt").write_bytes(b"here\n")
    assert [row.text for row in read(tmp_path / "a[1].txt")] == ["here"]


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_column(name: str, tmp_path: Path):
    """Before the first row, with the names that there are, for text, id and carried ones."""
    (tmp_path / name).write_bytes(FILES[name]())
    for fields, option in (
        ({"text": "body"}, "--text-field"),
        ({"id": "body", "id_is_given": True}, "--id-field"),
        ({"keep": ("body",)}, "--keep"),
    ):
        with pytest.raises(
            InputFileError, match=rf"{name}: no .*'body'.*'id', 'text', 'lang', 'n'.*{option}"
        ):
            next(iter(open_rows([str(tmp_path / name)], Fields(**fields))))


def test_a_row_without_the_field_is_one_bad_row(tmp_path: Path):
    """If others have it. Only where none of the first has it the name is wrong."""
    (tmp_path / "a.jsonl").write_bytes(b'{"other": 1}\n{"text": "a"}\n{"other": 2}\n')
    assert [row.problem for row in read(tmp_path / "a.jsonl")] == ["no field 'text'", None, "no field 'text'"]
    (tmp_path / "b.jsonl").write_bytes(b'{"other": 1}\n' * 50)
    with pytest.raises(
        InputFileError, match=r"no field 'text' in the first 10 objects; the fields are 'other'"
    ):
        read(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_bytes(b'"a"\n{"other": 1}\n')
    assert [row.problem for row in read(tmp_path / "c.jsonl")] == [None, "no field 'text'"]


BAD = {
    b"not json": "not JSON",
    b"[1]": "expected an object, found list",
    b"12": "expected an object, found int",
    b'{"text": NaN}': "NaN is no number",
    b'{"text": "\xff"}': "not valid UTF-8 at byte 10",
    b'{"id": "\\ud800", "text": "a"}': "half a surrogate pair",
    b'{"text": "a"} {"text": "b"}': "Extra data",
    b"[" * 100_000: "not JSON",
    b'{"text": "cut': "not JSON",
}


@pytest.mark.parametrize("line", BAD, ids=[str(n) for n in range(len(BAD))])
def test_bad_lines_of_json(line: bytes, tmp_path: Path):
    """Each is one row with a problem; what is around it is read."""
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line + b'\n\n{"text": "b"}')
    found = read(tmp_path / "a.jsonl")
    assert [(row.number, row.text) for row in found] == [(1, "a"), (2, None), (4, "b")]
    assert BAD[line] in str(found[1].problem)


def test_one_object(tmp_path: Path):
    """It is one row."""
    (tmp_path / "a.json").write_bytes(b'{\n "text": "a"\n}\n')
    assert [row.text for row in read(tmp_path / "a.json")] == ["a"]
    (tmp_path / "a.json").write_bytes(b'{\n "text": "a"\n}\n{}')
    with pytest.raises(InputFileError, match="after its first value there is something else"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"text": "a"}, {"text": }]', "element 2 is not JSON"),
        (b'[{"text": "a"} {"text": "b"}]', "after element 1: expected a comma"),
        (b'[{"text": "a"},', "element 2 is not JSON"),
        (b'[{"text": "a"}', "after element 1"),
        (b'[{"text": NaN}]', "element 1 is not JSON: NaN"),
        (b"[" * 50_000, "element 1 is not JSON"),
    ],
)
def test_a_broken_array(content: bytes, reason: str, tmp_path: Path):
    """There is no next row to go on with. Rows before it were given."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputFileError, match=f"a.json: {reason}"):
        read(tmp_path / "a.json", form="json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=examples(200))
@given(st.lists(VALUES, max_size=5), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_any_array(values: list[Any], size: int, indent: int | None, ascii_only: bool):
    """In pieces of any size the elements are those that json reads from the whole."""
    data = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if b"\xed\xa0" in data or any(0xD800 <= ord(c) < 0xE000 for c in data.decode("utf-8", "replace")):
        return
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "PIECE", 3)
        assert list(rows._elements(iter(pieces))) == values


CELLS = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), st.sampled_from(",;\t"), st.integers(1, 30))
def test_any_csv(cells: list[tuple[str, str]], delimiter: str, size: int):
    """What the csv module writes is read, wherever the pieces end."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([("text", "id"), *cells])
    data = file.getvalue().encode()
    pieces = iter([data[start : start + size] for start in range(0, len(data), size)])
    found = [row for row in rows._csv(None)(pieces, Fields()) if row is not None]
    assert [(row.text, row.id) for row in found] == cells


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (b"id,text\n1,a\n2\n3,b,c\n4,d\n", [None, "1 columns", "3 columns", None]),
        (b"id,text\n1,caf\xe9\n2,b\n", ["not valid UTF-8", None]),
        (b"id,text\n\n1,a\n", [None]),
    ],
)
def test_bad_rows_of_csv(content: bytes, problems: list[str | None], tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(content)
    found = read(tmp_path / "a.csv")
    assert len(found) == len(problems)
    for row, problem in zip(found, problems, strict=True):
        assert (row.problem is None) == (problem is None)
        assert problem is None or problem in str(row.problem)


def test_a_quote_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It does not swallow the rest of a large file."""
    monkeypatch.setattr(rows, "MAX_LINE", 1000)
    before = csv.field_size_limit(1000)
    try:
        (tmp_path / "a.csv").write_bytes(b'id,text\n1,"a\n' + b"2,b\n" * 1000)
        with pytest.raises(InputFileError, match="is a quote missing"):
            read(tmp_path / "a.csv")
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array(["a", None, "c"]), pa.string()),
        (pa.array(["a", None, "c"]), pa.large_string()),
        (pa.array(["a", None, "c"]).dictionary_encode(), None),
    ],
)
def test_columns_of_text(column: Any, kind: Any, tmp_path: Path):
    """Nulls are no texts, and the embedder refuses them one by one."""
    table = pa.table(
        {"text": column if kind is None else column.cast(kind), "id": pa.array([1, 2, 3], pa.int8())}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert [(row.text, row.id) for row in read(tmp_path / "a.parquet")] == [("a", 1), (None, 2), ("c", 3)]


def test_a_text_that_is_no_utf8(tmp_path: Path):
    """One row is bad; pyarrow by itself refuses all of its batch."""
    bad = pa.array([b"good", b"\xff\xfe", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    assert [(row.text, row.problem) for row in read(tmp_path / "a.parquet")] == [
        ("good", None),
        (None, "not valid UTF-8"),
        ("fine", None),
    ]


@pytest.mark.parametrize("values", [[1, 2], [b"a", b"b"], [["a"], ["b"]], [{"a": 1}, {"a": 2}], [None, None]])
def test_a_column_of_something_else(values: list[Any], tmp_path: Path):
    """Its type is named, and so are the columns."""
    pq.write_table(pa.table({"text": pa.array(values), "other": ["x", "y"]}), tmp_path / "a.parquet")
    with pytest.raises(
        InputFileError, match=r"column 'text' is .*, not text; the columns are .*'other' string"
    ):
        read(tmp_path / "a.parquet")


@settings(max_examples=60, derandomize=True)  # the footer has no checksum: not every place may be damaged
@given(st.integers(4, 2000), st.integers(0, 255))
def test_a_damaged_table(place: int, value: int):
    """The rows of the file as it was, or an error with its name; never other rows: pages have checksums."""
    data = bytearray(as_parquet(write_page_checksum=True, use_dictionary=False))
    data[place % len(data)] = value
    path = Path(os.environ["GTE_CACHE"]) / "damaged.parquet"
    path.write_bytes(data)
    with contextlib.suppress(InputFileError):
        assert [row.text for row in read(path, form="parquet")] == TEXTS


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", as_parquet()[:-9], b"PAR1" + b"\0" * 99])
def test_no_table_at_all(content: bytes, tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputFileError, match=r"a\.parquet: "):
        read(tmp_path / "a.parquet")


def test_an_empty_table(tmp_path: Path):
    """No rows are no error."""
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == []


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_compressed_data_that_is_cut(cut: int, tmp_path: Path):
    """It is an error, never a shorter input."""
    for name, pack in (("a.txt.gz", gzip.compress), ("a.txt.zst", zstandard.compress)):
        data = pack("".join(f"line {n} of many\n" for n in range(2000)).encode())
        (tmp_path / name).write_bytes(data[:-cut])
        with pytest.raises(InputFileError, match=rf"{name}: its (gzip|zstd) data is"):
            read(tmp_path / name)


def test_members_and_padding(tmp_path: Path):
    """gzip files may be joined, and padded with zeros."""
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n") + b"\0" * 100)
    assert [row.text for row in read(tmp_path / "a.gz")] == ["one", "two"]
    (tmp_path / "a.zst").write_bytes(zstandard.compress(b"one\n") + zstandard.compress(b"two\n"))
    assert [row.text for row in read(tmp_path / "a.zst")] == ["one", "two"]


def test_a_compressed_bomb_is_read_in_pieces(tmp_path: Path):
    """A line of a gigabyte is one that is too long, and never in memory as a whole."""
    small = gzip.compress(b"\n" + b"x" * 2**20, 9)
    (tmp_path / "a.txt.gz").write_bytes(
        gzip.compress(b"one") + small + gzip.compress(b"x" * 2**25) + gzip.compress(b"\nend")
    )
    assert [(row.text, row.problem is None) for row in read(tmp_path / "a.txt.gz")] == [
        ("one", True),
        (None, False),
        ("end", True),
    ]


def test_a_pipe_is_read_when_it_pauses(tmp_path: Path):
    """Rows that have arrived are given before others are sent, and the form is that of the first line."""
    os.mkfifo(tmp_path / "pipe")
    answered = threading.Event()

    def send() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(b'{"text": "a"}\n{"te')
            assert answered.wait(60)
            pipe.write(b'xt": "b"}\n')

    sender = threading.Thread(target=send)
    sender.start()
    found = open_rows([str(tmp_path / "pipe")])
    first = [row.text for row in found.until_pause()]
    answered.set()
    rest = [row.text for row in found]
    sender.join()
    assert (first, rest) == (["a"], ["b"])


def test_what_is_no_file(tmp_path: Path):
    """A directory, a missing file, a table on a pipe."""
    with pytest.raises(InputFileError, match=r"is a directory; give its files, such as"):
        open_rows([str(tmp_path)])
    with pytest.raises(InputFileError, match="No such file"):
        open_rows([str(tmp_path / "missing.txt")])
    with pytest.raises(InputFileError, match="a URL is not downloaded"):
        open_rows(["https://example.org/a.txt"])


def _lines_the_obvious_way(data: bytes, longest: int) -> list[bytes]:
    split = data.split(b"\n")
    if not split[-1]:
        split.pop()
    found = [lines.TOO_LONG if len(line) > longest else line.removesuffix(b"\r") for line in split]
    if found and found[0] is not lines.TOO_LONG:
        found[0] = split[0].removeprefix(b"\xef\xbb\xbf").removesuffix(b"\r")
    return found


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b"bcdef"])), st.integers(1, 9))
def test_lines_wherever_they_are_cut(parts: list[bytes], size: int):
    """Pieces end anywhere; a line over the limit is marked, and the next one is itself again."""
    data = b"".join(parts)
    pieces: Iterable[bytes] = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_LINE", 7)
        assert list(lines.lines_of(pieces)) == _lines_the_obvious_way(data, 7)


def test_rows_that_are_done_with_are_forgotten(tmp_path: Path):
    """Places and ids of those still to be written are known, and of no others: memory does not grow."""
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "a", "id": {n}}}\n' for n in range(6)))
    found = open_rows([str(tmp_path / "a.jsonl")])
    each = iter(found)
    for _ in range(4):
        next(each)
    found.forget(2)
    next(each)
    found.forget(1)
    assert (found.ids([3, 4]), found.place(4), found.problem(4), found.count) == ([3, 4], "line 5", None, 5)
    for index in range(3):
        with pytest.raises(KeyError):
            found.place(index)
