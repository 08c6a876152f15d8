"""Signatures of other libraries' methods, read from their source without importing it.

`python tests/signatures.py` downloads the wheels named below and writes data/signatures.json.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "data" / "signatures.json"


@dataclass(frozen=True)
class Source:
    """A class of a package: where it stands, and which methods of it we follow."""

    package: str
    version: str
    file: str
    name: str
    methods: tuple[str, ...]


SOURCES = (
    Source(
        "sentence-transformers", "6.2.0", "sentence_transformers/sentence_transformer/model.py",
        "SentenceTransformer",
        ("__init__", "encode", "encode_query", "encode_document", "similarity", "similarity_pairwise",
            "get_embedding_dimension",
         "get_sentence_embedding_dimension", "truncate_embeddings", "truncate_sentence_embeddings"),
    ),
    Source(
        "sentence-transformers", "6.2.0", "sentence_transformers/cross_encoder/model.py", "CrossEncoder",
        ("__init__", "predict", "rank"),
    ),
    Source(
        "sentence-transformers", "6.2.0", "sentence_transformers/sparse_encoder/model.py", "SparseEncoder",
        ("__init__", "encode", "encode_query", "encode_document", "similarity", "similarity_pairwise",
            "decode", "sparsity", "intersection", "get_embedding_dimension",
            "get_sentence_embedding_dimension"),
    ),
    Source(
        "FlagEmbedding", "1.4.2", "FlagEmbedding/inference/embedder/encoder_only/m3.py", "M3Embedder",
        ("__init__", "encode", "encode_queries", "encode_corpus", "compute_score",
            "compute_lexical_matching_score", "convert_id_to_token"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One parameter; `default` is source text, None where the argument must be given."""

    name: str
    keyword_only: bool
    default: str | None


Signatures = dict[str, list[Parameter]]


def read_signatures(source: str, name: str, methods: tuple[str, ...]) -> Signatures:
    """Parameters of a class's methods without `self`, `*args` and `**kwargs`; overloads are passed over."""
    found: Signatures = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for function in node.body:
                if (
                    isinstance(function, ast.FunctionDef)
                    and function.name in methods
                    and not _overloads(function)
                ):
                    found[function.name] = _parameters(function.args)
    return found


def _overloads(function: ast.FunctionDef) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in function.decorator_list)


def _parameters(args: ast.arguments) -> list[Parameter]:
    plain = args.posonlyargs + args.args
    missing = [None] * (len(plain) - len(args.defaults))
    result = [
        Parameter(a.arg, False, ast.unparse(d) if d else None)
        for a, d in zip(plain, [*missing, *args.defaults], strict=True)
    ]
    result += [
        Parameter(a.arg, True, ast.unparse(d) if d else None)
        for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    return [p for p in result if p.name != "self"]


def download(source: Source, folder: Path) -> str:
    """The source of the class, from its package's wheel. Raises OSError where no registry answers."""
    pinned = f"{source.package}=={source.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-d",
        str(folder),
        pinned,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    wheels = list(folder.glob(f"{source.package.replace('-', '_').lower()}-*.whl"))
    if done.returncode or not wheels:
        raise OSError(f"pip download {pinned} gave no wheel")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return wheel.read(source.file).decode()


def read_table() -> dict[str, Signatures]:
    """{class: {method: parameters}} as committed."""
    raw = json.loads(TABLE.read_text())
    return {
        name: {m: [Parameter(**p) for p in found] for m, found in methods.items()}
        for name, methods in raw.items()
    }


def main() -> None:
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in SOURCES:
            signatures = read_signatures(download(source, Path(folder)), source.name, source.methods)
            table[source.name] = {method: [asdict(p) for p in found] for method, found in signatures.items()}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
