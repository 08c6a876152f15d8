"""Compares an SBOM (CycloneDX, JSON) with the packages of the environment that runs this: the same names and
versions, nothing more or less.

    python tests/sbom.py dist/gte-runtime.cdx.json

The standard library alone, since it runs where only the wheel is installed.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from pathlib import Path


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(path: str) -> None:
    listed = json.loads(Path(path).read_text(encoding="utf-8"))
    assert listed["bomFormat"] == "CycloneDX"
    root = listed["metadata"]["component"]
    components = [*listed["components"], root]
    found = {plain(each["name"]): each.get("version") for each in components}
    here = {plain(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}
    assert found == here, f"only one of them: {sorted(set(found.items()) ^ set(here.items()))}"
    assert plain(root["name"]) == "gte-runtime"
    print(f"{path}: {len(components)} components")


if __name__ == "__main__":
    main(sys.argv[1])
