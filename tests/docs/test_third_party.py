"""THIRD-PARTY.md names every package that an installation brings along, with the licence that it states."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS = ("cpu", "server", "jobs")
PERMITTED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "MIT",
    "MPL-2.0",
    "PSF-2.0",
    "Zlib",
}
"""Licences that ask nothing of the users of an Apache-2.0 package. Another one wants a look."""
SPELT = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "3-Clause BSD License": "BSD-3-Clause",
}
"""Words of older metadata, as SPDX has them."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, importlib.metadata.Distribution]:
    """What our requirements lead to, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    left = project["dependencies"] + [
        each for extra in EXTRAS for each in project["optional-dependencies"][extra]
    ]
    todo, found = [Requirement(each) for each in left], {}
    while todo:
        wanted = todo.pop()
        name = plain(wanted.name)
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        for each in map(Requirement, found[name].requires or ()):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                todo.append(each)
    return found


def stated(distribution: importlib.metadata.Distribution) -> str:
    """The licence of a package's metadata: an SPDX expression, words, or a classifier, by its age."""
    metadata = distribution.metadata
    classifiers = [
        c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if c.startswith("License ::")
    ]
    fields = [metadata[name] for name in ("License-Expression", "License") if name in metadata]
    for words in (*fields, *classifiers):
        if words and "\n" not in words:
            return SPELT.get(words, words)
    return "none"


def listed() -> dict[str, str]:
    table = (ROOT / "THIRD-PARTY.md").read_text().split("\n\nThe extras for Ray")[0]
    return dict(re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+) \|", table, re.MULTILINE))


def test_every_package_is_listed_with_its_licence():
    rows = listed()
    rows.pop("package")
    assert rows == {name: stated(each) for name, each in installed().items()}


def test_licences_are_permitted():
    for name, licence in listed().items():
        if name != "package":
            assert set(re.findall(r"[A-Za-z0-9.-]+", licence)) - {"AND", "OR"} <= PERMITTED, (
                f"{name}: {licence}"
            )


def test_the_gpu_s_packages_are_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "THIRD-PARTY.md").read_text()
    for extra in ("gpu", "cuda", "tensorrt"):
        for wanted in map(Requirement, project["optional-dependencies"][extra]):
            assert wanted.name in page
