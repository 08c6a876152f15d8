"""`gte job`: a corpus to vectors, by a job that can be stopped at any moment and resumed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import form_of, gpu_options, input_options, max_length_option, model_options, unicode_option
from .terminal import escaped, show, show_json, tell

if TYPE_CHECKING:
    from ..jobs.run import Progress


@click.group()
def command() -> None:
    """Embed a corpus: parts of Parquet in a directory, resumed by running the same command again."""


@command.command()
@click.option(
    "-i",
    "--input",
    "sources",
    multiple=True,
    required=True,
    help="A file or a pattern such as 'data/*.jsonl.gz'. May be given several times.",
)
@click.option(
    "-o", "--output", "directory", required=True, type=click.Path(path_type=Path), help="The job's directory."
)
@input_options
@click.option("--keep", multiple=True, help="A further field or column to carry to the output.")
@click.option("--sparse/--no-sparse", default=False, help="Give sparse vectors too.")
@click.option("--dense/--no-dense", default=True, help="Give dense vectors.")
@click.option("--dim", type=int, help="Cut dense vectors to this many values, then normalise.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    default="float32",
    show_default=True,
    help="How dense vectors are stored: int8 is 127 times the value, binary the signs, eight in a byte.",
)
@click.option("--sparse-top", type=click.IntRange(min=1), help="Keep the largest weights of a sparse vector.")
@click.option("--truncate/--no-truncate", default=True, help="Cut texts over --max-length, or reject them.")
@click.option("--prompt-name", help="The prompt of the model to put before every text, such as query.")
@click.option("--rows-per-part", type=click.IntRange(min=1), default=16384, show_default=True)
@click.option("--max-rejects", type=click.IntRange(min=0), help="Stop when more rows have no vectors.")
@click.option("--restart", is_flag=True, help="Remove what the job in the directory wrote, and begin anew.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This process, or actors of Ray.",
)
@click.option("--address", help="The address of a Ray cluster. Default: a local one.")
@click.option("--actors", type=click.IntRange(min=1), help="Actors of Ray. Default: as many as fit.")
@click.option(
    "--progress",
    type=click.Choice(["bar", "json", "none"]),
    default="bar",
    show_default=True,
    help="A bar on a terminal, or lines of JSON on stdout.",
)
@max_length_option
@unicode_option
@model_options
@gpu_options
def run(
    sources: tuple[str, ...],
    directory: Path,
    input_form: str | None,
    text_field: str,
    id_field: str | None,
    keep: tuple[str, ...],
    sparse: bool,
    dense: bool,
    dim: int | None,
    dtype: str,
    sparse_top: int | None,
    truncate: bool,
    prompt_name: str | None,
    rows_per_part: int,
    max_rejects: int | None,
    restart: bool,
    engine: str,
    address: str | None,
    actors: int | None,
    progress: str,
    max_length: int | None,
    nfc: bool | None,
    model: str,
    variant: str | None,
    provider: str,
    threads: int | None,
    devices: tuple[int, ...],
    gpu_mem_limit: int | None,
) -> int:
    """Do a job, or what is left of it.

    It can be stopped at any moment; the same command goes on. The directory has a part-NNNNN.parquet for each
    so many rows, rejects.jsonl with the rows that have no vectors and why, summary.json, and _SUCCESS at the
    end. The exit code is 3 if rows were rejected.
    """
    if not (dense or sparse):
        raise click.UsageError("--no-dense without --sparse leaves nothing to write")
    if engine == "local" and (address or actors):
        raise click.UsageError("--address and --actors need --engine ray")

    from ..jobs.operator import Place, Wanted
    from ..jobs.row import Fields
    from ..jobs.run import Request, run_job

    request = Request(
        sources,
        directory,
        model,
        Fields(text_field, id_field or "id", id_field is not None, keep),
        input_form,
        Wanted(dense, sparse, dim, dtype, sparse_top, max_length, truncate, prompt_name, form_of(nfc)),
        Place(variant, provider, threads, devices, gpu_mem_limit),
        rows_per_part,
        max_rejects,
        restart,
    )
    chosen = None
    if engine == "ray":
        from ..jobs.ray import on_ray

        chosen = on_ray(address, actors)
    with _Shown(progress) as report:
        try:
            summary = run_job(request, report, chosen)
        except (KeyboardInterrupt, SystemExit):
            tell("stopped; the same command goes on where it was")
            raise
    if progress == "json":
        show_json({"summary": summary})
    else:
        _tell_summary(summary)
    return 3 if summary["rejected"] else 0


def _tell_summary(summary: dict[str, Any]) -> None:
    rate = f", {summary['rows_per_second']} rows/s" if "rows_per_second" in summary else ""
    tell(
        f"{summary['written']} of {summary['rows']} rows have vectors, {summary['tokens']} tokens, "
        f"{summary['truncated']} texts cut{rate}"
    )
    if summary["rejected"]:
        tell(f"{summary['rejected']} rows were rejected; rejects.jsonl says which and why")


class _Shown:
    """Shows progress: a bar on stderr, or lines of JSON on stdout."""

    def __init__(self, how: str) -> None:
        self._how = how if how == "json" or (how == "bar" and sys.stderr.isatty()) else "none"
        self._bar: Any = None

    def __enter__(self) -> Any:
        return {"json": self._line, "bar": self._update, "none": lambda progress: None}[self._how]

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line(self, progress: Progress) -> None:
        from dataclasses import asdict

        show_json(asdict(progress))
        sys.stdout.flush()

    def _update(self, progress: Progress) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=progress.total, initial=progress.resumed, unit="row", file=sys.stderr)
        self._bar.n = progress.rows
        self._bar.set_postfix(rejected=progress.rejected, refresh=False)
        self._bar.refresh()


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(directory: Path, form: str) -> None:
    """How far the job in DIRECTORY is. It may be running."""
    from ..jobs.run import status as read

    found = read(directory)
    if form == "json":
        show_json(found)
        return
    for name, value in found.items():
        show(f"{name:10} {escaped(value) if not isinstance(value, dict) else json.dumps(value)}")


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["npy", "npz", "lance"]), required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Default: merged.FORMAT in the job's directory."
)
def merge(directory: Path, form: str, output: Path | None) -> None:
    """Write all vectors of a finished job as one file or dataset, in input order."""
    from ..jobs.merge import merge as written

    for path in written(directory, form, output):
        show(path)
