"""Every block of code in docs/ is run, in order, page by page; every block of output is compared.

`python` blocks of a page share their names and `sh` blocks their folder, which looks like the root of
a checkout. `text` is what the block before it prints, where `...` stands for anything within a line.
A block with `file=NAME` is written, for a later block to use. Any other block fails: nothing would run it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
PROSE = [
    *sorted((REPOSITORY / "docs" / "decisions").glob("*.md")),
    *sorted((REPOSITORY / "benchmarks").glob("*.md")),
    *(REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "deploy/README")),
    *(REPOSITORY / f"{name}.md" for name in ("RELIABILITY", "SECURITY", "THIRD-PARTY")),
]
"""Pages without blocks to run, whose links are followed all the same."""

BLOCK = re.compile(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PORT = "7997"
"""The server's port on the pages; the tests use a free one."""

TOOLS = {"cpp-host.md": ("cmake", "c++"), "server.md": ("curl",), "moving-from-servers.md": ("curl",)}
"""What a page takes for granted beside this package."""


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    file: str | None
    text: str


def blocks_of(page: Path, port: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(line, match[1], match[2], match[3].replace(PORT, port)))
    assert len(found) * 2 == len(re.findall("^```", text, re.MULTILINE)), (
        "a fence is not closed, or is indented"
    )
    return found


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


class Reader:
    """Follows a page: runs its blocks in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.printed = ""
        self.sessions: list[int] = []
        for entry in ("models", "examples", "docs", "tests"):
            (folder / entry).symlink_to(REPOSITORY / entry)
        (REPOSITORY / ".ort").mkdir(exist_ok=True)
        (folder / ".ort").symlink_to(REPOSITORY / ".ort")

    def run(self, block: Block) -> None:
        if block.file:
            target = self.folder / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            self._python(block)
        elif block.language == "sh":
            self._shell(block)
        elif block.language == "text":
            self._compare(block)
        else:
            pytest.fail(f"nothing runs a block of {block.language!r}")

    def _python(self, block: Block) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            exec(compile("\n" * block.line + block.text, "page", "exec"), self.names)
        self.printed = printed.getvalue()

    def _shell(self, block: Block) -> None:
        """Output goes to files: a server that the block leaves running would hold a pipe open."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        out, errors = self.folder / "stdout.log", self.folder / "stderr.log"
        with out.open("w") as stdout, errors.open("w") as stderr:
            command = ["bash", "-euo", "pipefail", "-c", block.text]
            environment = {**os.environ, "PATH": path}
            shell = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            self.sessions.append(shell.pid)
            code = shell.wait(timeout=240)
        self.printed = out.read_text(encoding="utf-8")
        assert code == 0, (
            f"exit code {code}\n{self.printed[-2000:]}\n{errors.read_text(encoding='utf-8')[-2000:]}"
        )

    def _compare(self, block: Block) -> None:
        wanted, found = block.text.rstrip().splitlines(), self.printed.rstrip().splitlines()
        patterns = [".*".join(re.escape(part) for part in line.split("...")) for line in wanted]
        same = len(wanted) == len(found) and all(
            re.fullmatch(p, line.rstrip()) for p, line in zip(patterns, found, strict=True)
        )
        assert same, f"the page shows\n{block.text}\nand this was printed\n{self.printed}"

    def leave(self) -> None:
        """End what the blocks left running."""
        for session in self.sessions:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, signal.SIGTERM)


def _missing(page: Path) -> str | None:
    """What this machine lacks to follow a page."""
    for tool in TOOLS.get(page.name, ()):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    if page.name == "cpp-host.md":
        fetch = ["sh", "examples/cpp_native/headers.sh", ".ort/include"]
        if subprocess.run(fetch, cwd=REPOSITORY, capture_output=True, timeout=300, check=False).returncode:
            return "no npm, or no registry, to fetch ONNX Runtime's headers with"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A reader who follows the page from top to bottom gets what it shows."""
    if lack := _missing(page):
        pytest.skip(lack)
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path)
    block = None
    try:
        for block in blocks_of(page, free_port()):
            reader.run(block)
    except BaseException as error:
        error.add_note(f"in the block at {page.name}:{block.line if block else 1}")
        raise
    finally:
        reader.leave()


@pytest.mark.parametrize("page", [*PAGES, *PROSE], ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_links_lead_somewhere(page: Path):
    """Links to files of the repository, and to headings where they name one."""
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_every_decision_is_in_the_index():
    """A page that nothing links to is not found."""
    folder = REPOSITORY / "docs" / "decisions"
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8")))
    assert listed == {page.name for page in folder.glob("*.md")} - {"README.md"}
