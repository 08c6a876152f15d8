"""The manifest as a value: what is written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from fuzzing import examples
from hypothesis import event, given, settings
from hypothesis import strategies as st
from spoil import signed

from gte_runtime.errors import BundleCorruptError, BundleError, BundleVersionError
from gte_runtime.format.architecture import Architecture
from gte_runtime.format.manifest import (
    BOUNDS,
    FORMATS,
    MAX_BYTES,
    MAX_GRAPH,
    MAX_TOKENIZER,
    DenseRecord,
    FileRecord,
    Manifest,
    PairCheck,
    SelfCheck,
    TokenizerRecord,
    Variant,
    parse_manifest,
)

Json = dict[str, Any]


@pytest.fixture(scope="module")
def data(mini_bundle: Path) -> bytes:
    return (mini_bundle / "manifest.json").read_bytes()


@pytest.fixture
def raw(data: bytes) -> Json:
    """The manifest of the default model as JSON, to change."""
    value: Json = json.loads(data)
    return value


def parse(raw: Json) -> Manifest:
    return parse_manifest(signed(raw))


def test_what_is_written_is_read(data: bytes):
    """Reading and writing are inverse, to the byte."""
    manifest = parse_manifest(data)
    assert manifest.to_json().encode() == data
    assert parse_manifest(manifest.to_json().encode()) == manifest


def test_what_a_manifest_says(data: bytes, raw: Json):
    """Values come out as they stand in the file."""
    manifest = parse_manifest(data)
    assert manifest.model == "gte-mini"
    assert manifest.architecture.layers == 3
    assert manifest.sparse
    assert set(manifest.variants) == {"cpu-fp32", "portable-fp32", "cpu-int8", "portable-fp16"}
    assert manifest.files_of("cpu-fp32") == (
        "tokenizer.json",
        "cpu-fp32.onnx",
        "table-fp16.bin",
        "weights-fp32.bin",
    )
    assert manifest.self_checks[0].ids == tuple(raw["self_checks"][0]["ids"])
    assert manifest.self_checks[0].vector().tolist() == pytest.approx(raw["self_checks"][0]["dense"])


def test_a_manifest_is_text_for_people(data: bytes):
    """Texts of the self-check stand there as they are, not as escapes."""
    assert "北京".encode() in data


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 2 * MAX_BYTES])
def test_a_manifest_too_large(size: int):
    """B-44: anything above the cap is refused unread."""
    with pytest.raises(
        BundleCorruptError, match=f"manifest.json: expected at most {MAX_BYTES} bytes, found {size}"
    ):
        parse_manifest(b" " * size)


@pytest.mark.parametrize("text", ['{"format": 1, "format": 1}', '{"format": 1, "files": {"a": 1, "a": 2}}'])
def test_a_key_that_stands_twice(text: str):
    """B-44: two readers could take two different values, so none is taken, at any depth."""
    with pytest.raises(BundleCorruptError, match=r"manifest.json: .*a key stands twice"):
        parse_manifest(text.encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 5000])
def test_a_number_that_is_none(data: bytes, number: str):
    """A tolerance without bound would let every vector pass the self-check."""
    raw = {**json.loads(data), "format": 1}  # which has no checksum that would tell first
    del raw["sha256"]
    text, count = re.subn(r'"tolerance": [^,]+', f'"tolerance": {number}', json.dumps(raw), count=1)
    assert count == 1
    with pytest.raises(BundleCorruptError, match=r"^manifest.json: "):
        parse_manifest(text.encode())


@pytest.mark.parametrize("version", [None, 0, FORMATS[-1] + 1, str(FORMATS[-1]), True, 1.5])
def test_another_format(raw: Json, version: object):
    """Another format number is told before anything else of the file is judged."""
    with pytest.raises(
        BundleVersionError,
        match=f"manifest.json has format {version!r}, this version of gte-runtime reads 1 and 2",
    ):
        parse({**raw, "format": version, "unknown": 1})


FIELDS = (
    *("model", "made_by", "source", "notice", "architecture", "sparse", "smallest_dim", "tokenizer",
        "files", "variants", "self_checks"),
    *("pair_checks", "origin", "prompts", "default_prompt", "unicode"),
    *("pooling", "dense", "normalize", "max_length", "truncate_dim", "similarity", "activation"),
    *("expansion", "query_weights"),
    *(("architecture", field) for field in ("layers", "hidden_size", "heads", "intermediate_size",
        "vocab_size", "max_positions")),
    ("architecture", "layer_norm_eps"),
    *(("tokenizer", field) for field in ("drop_ids", "longest_piece", "splits_on_whitespace")),
    *(("files", "tokenizer.json", field) for field in ("size", "sha256")),
    *(
        ("variants", "cpu-fp32", field)
        for field in ("graph", "weights", "batch", "inputs", "outputs", "min_onnxruntime", "tolerance",
            "flash_from")
    ),
    *(("self_checks", 0, field) for field in ("text", "ids", "dense", "token_weights", "norm")),
    *(("self_checks", 0, field) for field in ("expanded_ids", "expanded_weights")),
)  # fmt: skip
PATHS = [(field,) if isinstance(field, str) else field for field in FIELDS]
LATER = [
    ("pair_checks",),
    ("origin",),
    ("prompts",),
    ("default_prompt",),
    ("unicode",),
    ("variants", "cpu-fp32", "outputs"),
    ("pooling",),
    ("dense",),
    ("normalize",),
    ("max_length",),
    ("truncate_dim",),
    ("similarity",),
    ("activation",),
    ("self_checks", 0, "norm"),
    ("expansion",),
    ("query_weights",),
    ("self_checks", 0, "expanded_ids"),
    ("self_checks", 0, "expanded_weights"),
]
"""Fields that came to the format with rerankers, the hub, text forms, other poolings and sparse encoders."""


def name_of(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


def parent(raw: Json, path: tuple[str | int, ...]) -> Any:
    found: Any = raw
    for step in path[:-1]:
        found = found[step]
    return found


def test_every_field_is_tried(raw: Json):
    """The list above is that of the format."""

    one = {"files": "tokenizer.json", "variants": "cpu-fp32", "self_checks": 0}
    expected: set[tuple[Any, ...]] = {(field,) for field in raw} - {("format",), ("sha256",)}
    expected |= {(name, field) for name in ("architecture", "tokenizer") for field in raw[name]}
    expected |= {(name, key, field) for name, key in one.items() for field in raw[name][key]}
    assert set(PATHS) == expected


@pytest.mark.parametrize("path", [path for path in PATHS if path not in LATER], ids=name_of)
def test_a_field_that_is_missing(raw: Json, path: tuple[str | int, ...]):
    """A manifest without one of its fields is refused, and the field is named."""
    del parent(raw, path)[path[-1]]
    with pytest.raises(BundleCorruptError, match=rf"^manifest.json: .*{path[-1]}"):
        parse(raw)


def test_fields_that_came_later(raw: Json):
    """A bundle from before there were rerankers is an embedding model's."""
    for path in LATER:
        del parent(raw, path)[path[-1]]
    read = parse(raw)
    assert not read.reranker
    assert read.variants["cpu-fp32"].outputs == ("cls", "token_weights")


def test_a_reranker_needs_pair_checks(raw: Json):
    """Variants of one bundle are all of one kind, and its self-checks are of that kind."""
    variants = raw["variants"]
    variants["cpu-fp32"]["outputs"] = ["logits"]
    if len(variants) > 1:
        with pytest.raises(BundleCorruptError, match=r"^manifest.json: .*(outputs|self-check)"):
            parse(raw)
    for variant in variants.values():
        variant["outputs"] = ["logits"]
    with pytest.raises(BundleCorruptError, match="at least one self-check"):
        parse(raw)
    raw["pair_checks"] = [{"query": "a", "document": "b", "ids": [0, 1, 2], "logit": 0.5}]
    assert parse(raw).reranker


@pytest.mark.parametrize("path", PATHS, ids=name_of)
@pytest.mark.parametrize(
    "value", [None, True, 7, -1, 1.5, "odd", "", ["odd"], [1.5], [None], {"odd": 1}, [], {}], ids=repr
)
def test_a_field_of_another_type(raw: Json, path: tuple[str | int, ...], value: object):
    """A field of another type is refused when the manifest is read, and never fails later."""
    parent(raw, path)[path[-1]] = value
    if _same_kind(value, path):
        assert parse(raw).to_json()
    else:
        with pytest.raises(BundleError, match=r"^manifest.json: "):
            parse(raw)


def _same_kind(value: object, path: tuple[str | int, ...]) -> bool:
    """What each field may hold, of the values above."""
    texts = {"model", "made_by", "source", "notice", "text", "origin"}
    numbers = {
        "smallest_dim",
        "longest_piece",
        "flash_from",
        "layers",
        "intermediate_size",
        "max_length",
        "truncate_dim",
    }
    name = path[-1]
    if name in texts:
        return isinstance(value, str)
    if name in {"sparse", "splits_on_whitespace", "normalize"}:
        return isinstance(value, bool)
    if name in {"drop_ids", "pair_checks", "expanded_ids", "expanded_weights"} or path == ("dense",):
        return value == []
    if name == "expansion":
        return value == ""
    if name == "norm":
        return value in (7, 1.5) and not isinstance(value, bool)
    if name in {"prompts", "default_prompt"}:
        return value == ({} if name == "prompts" else "")
    if name == "inputs":
        return value == ["odd"]  # the graph then has others
    if name == "tolerance":
        return False  # more than 1 accepts any vector
    if name == "size":
        return value == 7  # the file is then of another size
    return name in numbers and value == 7


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("architecture",),
        ("tokenizer",),
        ("files", "tokenizer.json"),
        ("variants", "cpu-fp32"),
        ("self_checks", 0),
    ],
    ids=name_of,
)
def test_a_field_that_we_do_not_know(raw: Json, path: tuple[str | int, ...]):
    """A reader refuses what it does not understand, by name."""
    parent(raw, (*path, "new_field"))["new_field"] = 1
    with pytest.raises(BundleCorruptError, match=r"^manifest.json: .*new_field"):
        parse(raw)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["self_checks"][0]["dense"].pop(),
        lambda raw: raw["self_checks"][0]["dense"].append(0.0),
        lambda raw: raw["self_checks"][0]["token_weights"].pop(),
        lambda raw: raw["self_checks"][0]["ids"].append(2),
        lambda raw: raw["self_checks"].clear(),
        lambda raw: raw["architecture"].update(hidden_size=48),
    ],
    ids=["dense shorter", "dense longer", "weights shorter", "ids longer", "no self-check", "other width"],
)
def test_a_self_check_that_does_not_fit(raw: Json, change: Callable[[Json], object]):
    """B-54: a self-check has one value per dimension and one weight per token, and there is at least one."""
    change(raw)
    with pytest.raises(BundleCorruptError, match=r"^manifest.json: .*self"):
        parse(raw)


def test_no_variants(raw: Json):
    """A bundle that runs nothing is none."""
    with pytest.raises(BundleCorruptError, match="at least one variant"):
        parse({**raw, "variants": {}})


@pytest.mark.parametrize("name", ["", "cpu fp32", "../cpu-fp32", "n" * 101, "\u202ecpu"])
def test_a_name_of_a_variant_is_plain(raw: Json, name: str):
    """Names of variants stand in messages and on command lines."""
    raw["variants"][name] = raw["variants"]["cpu-fp32"]
    with pytest.raises(BundleCorruptError, match="plain names of variants") as caught:
        parse(raw)
    assert "n" * 81 not in str(caught.value)


def test_a_way_to_batch_that_we_do_not_know(raw: Json):
    """A bundle of a later kind is told apart from a damaged one."""
    raw["variants"]["cpu-fp32"]["batch"] = "paged"
    with pytest.raises(
        BundleError, match=r"manifest.json: variant cpu-fp32 has batches of kind 'paged'"
    ) as caught:
        parse(raw)
    assert type(caught.value) is BundleError


@pytest.mark.parametrize("version", ["", "one", "1", "1.x", "1.24.0.dev", "-1.2", "1." + "9" * 5000])
def test_a_version_that_is_none(raw: Json, version: str):
    """The needed ONNX Runtime is a version that can be compared."""
    raw["variants"]["cpu-fp32"]["min_onnxruntime"] = version
    with pytest.raises(BundleCorruptError, match=r"^manifest.json: .*min_onnxruntime"):
        parse(raw)


def test_a_file_that_is_not_listed(raw: Json):
    """B-47: every file that a variant needs has its size and hash."""
    del raw["files"]["weights-fp32.bin"]
    with pytest.raises(
        BundleCorruptError, match=r"manifest.json: expected weights-fp32.bin in the list of files"
    ):
        parse(raw)


def test_a_bundle_without_tokenizer(raw: Json):
    """B-47: the tokenizer, too."""
    del raw["files"]["tokenizer.json"]
    with pytest.raises(BundleCorruptError, match=r"tokenizer.json in the list of files"):
        parse(raw)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "g" * 64, "A" * 64])
def test_a_hash_that_is_none(raw: Json, digest: str):
    """A hash is 64 small hexadecimal digits, so that no file can have another spelling of it."""
    raw["files"]["tokenizer.json"]["sha256"] = digest
    with pytest.raises(BundleCorruptError, match=r"^manifest.json: .*sha256"):
        parse(raw)


@pytest.mark.parametrize(
    "path",
    [("model",), ("notice",), ("self_checks", 0, "text"), ("variants", "cpu-fp32", "graph")],
    ids=name_of,
)
def test_half_a_character(raw: Json, path: tuple[str | int, ...]):
    """A lone surrogate, which JSON can spell and no file or tokenizer takes, is refused here and not where it
    is used.
    """
    parent(raw, path)[path[-1]] = "a\ud800b"
    with pytest.raises(BundleCorruptError, match=r"^manifest.json: .*surrogates not allowed"):
        parse(raw)


OTHER_CHARACTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    '0123456789abcdef"\\,:{}[] \n\t-.eE'
)


@settings(max_examples=examples(300))
@given(where=st.integers(min_value=0), character=OTHER_CHARACTERS)
def test_another_character_anywhere(data: bytes, where: int, character: str):
    """Wherever a character of a manifest is another one, even a space between values, it is refused."""
    text = data.decode()
    where %= len(text)
    changed = text[:where] + character + text[where + 1 :]
    if changed == text:
        return
    with pytest.raises(BundleError, match=r"^manifest.json"):
        parse_manifest(changed.encode())


def test_every_digit_and_the_ends(data: bytes):
    """What random places hardly ever meet: the format's number, every digit of the checksum, both ends."""
    text = data.decode()
    checksum = json.loads(text)["sha256"]
    start = text.index(checksum)
    others = [text.replace('"format": 2', f'"format": {other}', 1) for other in (1, 3)]
    others += [
        text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :] for at in range(start, start + 64)
    ]
    others += [text[:-1], text[1:], text + "\n", " " + text, text.replace(checksum, checksum.upper())]
    for other in others:
        with pytest.raises(BundleError, match=r"^manifest.json"):
            parse_manifest(other.encode())


def test_the_checksum_is_what_the_format_says(data: bytes):
    """models/README.md: the sha256 of the file in which the 64 digits of `sha256` are zeros."""
    recorded = json.loads(data)["sha256"].encode()
    assert list(json.loads(data))[-1] == "sha256"
    assert data.count(recorded) == 1
    assert hashlib.sha256(data.replace(recorded, b"0" * 64)).hexdigest().encode() == recorded


@pytest.mark.parametrize("checksum", [None, "", "0" * 64, "A" * 64, 7, ["odd"]])
def test_a_checksum_that_is_none(raw: Json, checksum: object):
    """A manifest of format 2 without a checksum is no old one: it lost it."""
    raw["sha256"] = checksum
    if checksum is None:
        del raw["sha256"]
    with pytest.raises(BundleCorruptError, match=r"^manifest.json: expected .*sha256"):
        parse_manifest(json.dumps(raw).encode())


def test_a_manifest_from_before_there_were_checksums(raw: Json):
    """Format 1, as gte-runtime 0.1.0 wrote it, is read, and stays what it is when it is written again."""
    expected = parse(raw)
    old = {**raw, "format": 1}
    del old["sha256"]
    text = json.dumps(old, ensure_ascii=False, indent=1) + "\n"
    manifest = parse_manifest(text.encode())
    assert manifest == replace(expected, format=1)
    assert manifest.to_json() == text
    with pytest.raises(BundleCorruptError, match="an unknown sha256"):
        parse_manifest(json.dumps({**raw, "format": 1}).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_random_bytes(data: bytes):
    """Whatever the bytes, reading them ends in a BundleError."""
    with pytest.raises(BundleError):
        parse_manifest(data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(path=st.sampled_from(PATHS), value=VALUES)
def test_random_values(data: bytes, path: tuple[str | int, ...], value: object):
    """Whatever stands in a field, the manifest is read or refused as a BundleError."""
    raw = json.loads(data)
    parent(raw, path)[path[-1]] = value
    try:
        parse(raw).to_json()
    except BundleError as error:
        message = str(error)
        event("refused")
    else:
        message = ""
        event("read")
    assert len(message) < 400


def test_every_number_has_bounds():
    """No number of the format is left out: each decides how much is read or computed."""
    numbers = {
        (kind, name)
        for kind in (Architecture, FileRecord, Variant, TokenizerRecord, DenseRecord, SelfCheck, PairCheck)
        for name, hint in get_type_hints(kind).items()
        if {int, float} & {hint, *get_args(hint)}
    }
    assert numbers == set(BOUNDS)


ONE = {
    Architecture: ("architecture",),
    FileRecord: ("files", "tokenizer.json"),
    Variant: ("variants", "cpu-fp32"),
    TokenizerRecord: ("tokenizer",),
    SelfCheck: ("self_checks", 0),
}


@pytest.mark.parametrize("kind", ONE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("beyond", [1, 10, 2**40, 2**62, 1e300])
def test_a_number_out_of_bounds(raw: Json, kind: type, beyond: float):
    """One below the least or above the most is refused, and so is one that would overflow what is computed
    from it."""
    raw["self_checks"][0] |= {"expanded_ids": [1], "expanded_weights": [0.5]}
    for (owner, name), (least, most) in BOUNDS.items():
        if owner is not kind:
            continue
        for number in (least - beyond, most + beyond):
            changed = json.loads(json.dumps(raw))
            place = parent(changed, (*ONE[kind], name))
            integer = isinstance(place[name], int) or (
                isinstance(place[name], list) and isinstance(place[name][0], int)
            )
            value = int(number) if integer else number
            place[name] = [value, *place[name][1:]] if isinstance(place[name], list) else value
            with pytest.raises(BundleCorruptError, match=name):
                parse(changed)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("variants", "cpu-fp32", "flash_from"), 4097, "4096"),
        (("architecture", "max_positions"), 100, "flash_from up to 100"),
        (("files", "tokenizer.json", "size"), MAX_TOKENIZER + 1, f"size up to {MAX_TOKENIZER}"),
        (("files", "cpu-fp32.onnx", "size"), MAX_GRAPH + 1, f"size up to {MAX_GRAPH}"),
        (("files", "other.bin"), {"size": 5, "sha256": "1" * 64}, "only files that a variant uses"),
        (("architecture", "vocab_size"), 2, "ids below 2"),
    ],
)
def test_a_number_that_does_not_fit_the_others(
    raw: Json, path: tuple[str, ...], value: object, expected: str
):
    """The bounds that depend on other fields."""
    parent(raw, path)[path[-1]] = value
    with pytest.raises(BundleCorruptError, match=expected):
        parse(raw)


def test_too_many_checks_and_variants(raw: Json):
    """What runs when a bundle opens is bounded in number, too."""
    with pytest.raises(BundleCorruptError, match="at most 16 self-checks"):
        parse({**raw, "self_checks": raw["self_checks"][:1] * 17})
    variants = {f"v{number}": raw["variants"]["cpu-fp32"] for number in range(65)}
    with pytest.raises(BundleCorruptError, match="at most 64 variants"):
        parse({**raw, "variants": raw["variants"] | variants})
    one = raw["self_checks"][0]
    long = {**one, "ids": one["ids"][:1] * 2049, "token_weights": [0.0] * 2049}
    with pytest.raises(BundleCorruptError, match="1 to 2048 ids"):
        parse({**raw, "self_checks": [long]})


FIRST = re.compile(r"`[^`]+`( - 1)?|[-+.e\d]+|the same")
"""The bound in a cell of the table, without what is said about it."""


def test_the_bounds_are_documented():
    """models/README.md names every number with its bounds, in a row of its own, and no other number."""
    text = (Path(__file__).parents[3] / "models" / "README.md").read_text(encoding="utf-8")
    table = text.split("| number | type | least | most |\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    documented = {
        (name.rpartition(".")[2], of): (least, FIRST.match(most)[0])
        for names, _, least, most in rows
        for of in [names.partition(" of ")[2]]
        for name in re.findall(r"`([^`]+)`", names.partition(" of ")[0])
    }
    ids = "`vocab_size` - 1"
    bounds = {(name, ""): (f"{least:g}", shown(most)) for (_, name), (least, most) in BOUNDS.items()}
    assert documented == {
        **bounds,
        **dict.fromkeys((("ids", ""), ("drop_ids", ""), ("expanded_ids", "")), ("0", ids)),
        ("smallest_dim", ""): ("1", "`dim`"),
        ("max_length", ""): ("0", "`max_positions`"),
        ("truncate_dim", ""): ("0", "`dim`"),
        ("size", "a layer"): ("4 x `outputs` x (`inputs` + 1)", "the same"),
        ("size", "`tokenizer.json`"): ("0", shown(MAX_TOKENIZER)),
        ("size", "a graph"): ("0", shown(MAX_GRAPH)),
    }


def shown(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


@pytest.mark.parametrize("form", ["NFKC", "nfc", ""])
def test_a_text_form_that_nobody_knows(raw: Json, form: str):
    """A reader that took it for another one would give other vectors."""
    assert parse({**raw, "unicode": "NFC"}).unicode == "NFC"
    with pytest.raises(BundleCorruptError, match=r"expected unicode to be exact or NFC, found "):
        parse({**raw, "unicode": form})
