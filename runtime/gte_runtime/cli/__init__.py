"""The command line: one file for each command, imported when the command is called.

Data goes to stdout, messages to stderr. Exit codes: 0 done; 2 wrong usage; 3 done, but some rows were
rejected; 4 bad bundle, checkpoint or input file; 5 provider; 6 output or disk; 130 and 143 for SIGINT and
SIGTERM.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any

import click

from ..errors import GteError, NoThread
from ..machine.threads import NO_MEMORY, no_threads
from . import interrupts
from .terminal import escape_what_stdout_lacks, tell

COMMANDS = {
    "demo": "Embed the model card's texts and show what comes out.",
    "embed": "Texts to vectors.",
    "job": "A corpus to vectors, stopped and resumed at any moment.",
    "search": "The best texts of a file for a query.",
    "score": "Hybrid scores of documents for a query.",
    "rerank": "Rank documents by how well they answer a query.",
    "tokens": "Tokens of a text and their sparse weights.",
    "pull": "Download a checkpoint from the hub and build it.",
    "build": "Turn a checkpoint into a bundle.",
    "verify": "Hash a bundle and compare it with its recorded vectors.",
    "info": "What is installed, and what a bundle holds.",
    "doctor": "What this machine can run, and the command that fixes what it cannot.",
    "engine": "TensorRT engines, built in advance.",
    "serve": "Vectors, scores and ranks over HTTP.",
    "bench": "How fast a bundle is on this machine.",
}


class LazyGroup(click.Group):
    """Commands are listed without being imported: `gte --help` loads nothing else."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __name__).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderLeft from None  # click would exit with a code of its own

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


class _ReaderLeft(Exception):
    """The reader of stdout has closed it, as `head` does."""


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gte-runtime", prog_name="gte")
def gte() -> None:
    """Dense, sparse and hybrid vectors of gte-multilingual-base and its family, without PyTorch."""


def main() -> None:
    """Entry point. A failure gives one line on stderr and a documented exit code."""
    interrupts.watch()
    try:
        code = _exit_code()
    finally:
        interrupts.leave()
    sys.exit(code)


def _exit_code() -> int:
    _open_missing_streams()
    escape_what_stdout_lacks()
    warnings.showwarning = _show_warning
    try:
        code = gte.main(standalone_mode=False)
        sys.stdout.flush()
    except GteError as error:
        _complain(str(error))
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except (BrokenPipeError, _ReaderLeft):
        _close_stdout()  # no message: the reader has left
        code = 6
    except MemoryError:
        _complain(NO_MEMORY)
        code = 1
    except RuntimeError as error:
        if not no_threads(error):
            raise
        _complain(str(NoThread(str(error))))
        code = 1
    except OSError as error:
        _complain(f"{error.strerror or error}")
        _close_stdout()
        code = 6
    return code if isinstance(code, int) else 0


def _complain(message: str) -> None:
    tell(" ".join(message.split()))


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _complain(f"warning: {message}")


def _open_missing_streams() -> None:
    """Open stdout and stderr where the parent process closed them.

    Python has None for a closed stream, and print(file=None) writes to stdout, so messages would get among
    the data. Data for a closed stdout fails with EBADF, as in other programs; messages for a closed stderr
    are dropped.
    """
    if sys.stdout is None:
        sys.stdout = os.fdopen(_at(1, os.open(os.devnull, os.O_RDONLY)), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(_at(2, os.open(os.devnull, os.O_WRONLY)), "w", encoding="utf-8")


def _at(number: int, descriptor: int) -> int:
    """Move a descriptor to the number of its stream, so that no file that is opened later gets this
    number."""
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    return number


def _close_stdout() -> None:
    """Keep the interpreter from flushing, at its exit, what can no longer be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
