"""`gte pull` with the hub's own client against a server on loopback that answers like the hub, well and
badly.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from golden import Golden
from hubserver import Files, Hub, Trouble, commit_of, serving, size_of
from spoil import make_old
from stlayout import MEAN, copy_of, modules, put, put_dense, shard
from tensorfile import Tensor, read_tensors, safetensors

from gte_runtime import Embedder
from gte_runtime.building.publish import MARKER
from gte_runtime.bundle.directory import Bundle
from gte_runtime.catalog.hub import wanted
from gte_runtime.catalog.locate import pulled_directory
from gte_runtime.errors import BundleError, ConfigError
from gte_runtime.format.manifest import FORMAT
from gte_runtime.format.models import models_directory
from gte_runtime.format.named import named_models

REPOSITORY = "org/tiny"
PULL = "from gte_runtime.cli import main; main()"
PATIENT = "import time; time.sleep = lambda seconds: None; "
"""Put before a program that would wait between attempts."""


class Machine:
    """A user's machine: caches of its own, and the hub at the end of its network."""

    def __init__(self, hub: Hub, folder: Path, golden: Golden) -> None:
        self.hub, self.folder, self.golden = hub, folder, golden
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        self.environment |= hub.environment(folder / "hf") | {"GTE_CACHE": str(folder / "gte")}

    def command(self, name: str, *options: str, before: str = "") -> list[str]:
        return [
            sys.executable,
            "-c",
            before + PULL,
            "pull",
            name,
            "--graphs",
            str(self.golden.graphs),
            *options,
        ]

    def pull(
        self, name: str = REPOSITORY, *options: str, before: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        command = self.command(name, *options, before=before)
        return subprocess.run(
            command,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def fails(
        self, *words: str, name: str = REPOSITORY, code: int = 4, before: str = "", **environment: str
    ) -> None:
        """One line that says what to do; no bundle, no traceback."""
        done = self.pull(name, before=before, **environment)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        message = done.stderr.strip().splitlines()[-1]
        assert message.startswith("gte: ")
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in message
        assert str(self.folder) not in message
        assert not (self.folder / "gte" / "pulled").exists()

    def works(self, name: str = REPOSITORY, *options: str, before: str = "", **environment: str) -> Path:
        done = self.pull(name, *options, before=before, **environment)
        assert done.returncode == 0, done.stderr
        bundle = Path(done.stdout.strip())
        assert bundle.is_relative_to(self.folder / "gte")
        with Embedder.open(bundle, threads=1) as gte:
            assert gte.encode("dog").dense is not None
        return bundle


@pytest.fixture
def hub(golden: Golden) -> Iterator[Hub]:
    files = {
        name: golden.checkpoint / name for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    server = Hub()
    server.add(REPOSITORY, {**files, "README.md": b"# not asked for"})
    with serving(server):
        yield server


@pytest.fixture
def machine(hub: Hub, golden: Golden, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path, golden)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def weights(machine: Machine) -> int:
    """Bytes of the two files that are downloaded from elsewhere."""
    return sum(size_of(machine.golden.checkpoint / name) for name in ("model.safetensors", "tokenizer.json"))


@pytest.mark.slow
def test_from_a_name_to_vectors(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """The bundle is found by its name, says where it came from, and opens without any request to the hub."""
    bundle = machine.works()
    manifest = Bundle.open(bundle).manifest
    assert manifest.origin == f"{REPOSITORY}@{commit_of(1)}"
    assert manifest.model == "tiny"
    assert machine.hub.sent["cdn"] == weights(machine)
    assert not [path for path in machine.hub.asked if "README" in path]
    asked = machine.hub.asked.total()
    monkeypatch.setenv("GTE_CACHE", str(machine.folder / "gte"))
    with Embedder.open(REPOSITORY, threads=1) as gte:
        assert gte.manifest.origin == manifest.origin
    assert machine.hub.asked.total() == asked


@pytest.mark.slow
def test_again(machine: Machine):
    """Nothing is downloaded or built twice; another variant joins those that are there."""
    bundle = machine.works()
    before = (bundle / "manifest.json").stat()
    assert machine.works() == bundle
    assert (bundle / "manifest.json").stat() == before
    machine.works(REPOSITORY, "--variant", "portable-fp32")
    assert set(Bundle.open(bundle).manifest.variants) == {"cpu-fp32", "portable-fp32"}
    assert machine.hub.sent["cdn"] == weights(machine)


@pytest.mark.slow
def test_a_pulled_bundle_of_an_old_form_is_built_again(machine: Machine):
    """With all the variants that it had, from files that are here."""
    bundle = machine.works(REPOSITORY, "--variant", "cpu-fp32", "--variant", "portable-fp32")
    make_old(bundle)
    assert machine.works() == bundle
    manifest = Bundle.open(bundle).manifest
    assert manifest.format == FORMAT
    assert set(manifest.variants) == {"cpu-fp32", "portable-fp32"}
    assert machine.hub.sent["cdn"] == weights(machine)


@pytest.mark.slow
@pytest.mark.parametrize("nameless", [False, True])
def test_a_fine_tune_of_sentence_transformers(machine: Machine, golden: Golden, nameless: bool):
    """Its modules, a layer's weights and shards come with it; what it lacks is known to be absent from then
    on, also where a mirror's answers do not name the commit."""
    folder = copy_of(golden.checkpoint, machine.folder / "fine-tune")
    kinds = modules("Transformer", "Pooling", "Dense")
    put(folder, {"modules.json": kinds, "1_Pooling/config.json": MEAN})
    put_dense(folder / "2_Dense", np.eye(8, 64, dtype=np.float32), None)
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    places = shard(folder, tensors, [names[::2], names[1::2]])
    put(folder, {"model.safetensors.index.json": {"weight_map": places}})
    files: Files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    machine.hub.add("org/tuned", files)
    machine.hub.trouble.nameless = nameless
    manifest = Bundle.open(machine.works("org/tuned")).manifest
    assert (manifest.pooling, manifest.dim, manifest.normalize) == (("mean",), 8, False)
    assert machine.hub.asked["GET /org/tuned/resolve/main/README.md"] == 0
    again = Bundle.open(machine.works("org/tuned", "--overwrite", HF_HUB_OFFLINE="1")).manifest
    assert again == manifest


@pytest.mark.slow
def test_a_moved_revision(machine: Machine, golden: Golden):
    """The main branch moves on: the next pull takes the new commit as a whole, and a pinned one stays what it
    was.
    """
    machine.works()
    config = json.loads((golden.checkpoint / "config.json").read_text(encoding="utf-8")) | {
        "rope_theta": 30000
    }
    files = machine.hub.repositories[REPOSITORY][commit_of(1)] | {"config.json": json.dumps(config).encode()}
    second = machine.hub.add(REPOSITORY, files, 2)
    moved = machine.works()
    assert Bundle.open(moved).manifest.origin == f"{REPOSITORY}@{second}"
    pinned = machine.works(f"{REPOSITORY}@{commit_of(1)}")
    assert pinned != moved
    manifests = [Bundle.open(bundle).manifest for bundle in (moved, pinned)]
    assert manifests[0].self_checks[0].dense != manifests[1].self_checks[0].dense
    assert machine.hub.sent["cdn"] == weights(machine)  # the weights are the same ones


@pytest.mark.slow
def test_a_revision_that_moves_meanwhile(machine: Machine, golden: Golden):
    """Pushed to while files are being downloaded: all of them are of the commit it began with."""
    files = machine.hub.repositories[REPOSITORY][commit_of(1)]

    def push() -> None:
        machine.hub.add(REPOSITORY, {**files, "model.safetensors": b"x" * 20_000}, 2)

    machine.hub.on_download = push
    assert Bundle.open(machine.works()).manifest.origin == f"{REPOSITORY}@{commit_of(1)}"


@pytest.mark.slow
def test_prompts(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """Prompts travel with the checkpoint and are put before texts by name."""
    files = machine.hub.repositories[REPOSITORY][commit_of(1)]
    said = {
        "prompts": {"query": "dog: ", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    machine.hub.add(REPOSITORY, {**files, "config_sentence_transformers.json": json.dumps(said).encode()}, 2)
    with Embedder.open(machine.works(), threads=1) as gte:
        asked = gte.encode(["fox", "cat"], prompt_name="query").dense
        np.testing.assert_array_equal(asked, gte.encode(["dog: fox", "dog: cat"]).dense)
        (part,) = gte.stream(["fox", "cat"], prompt_name="query")
        np.testing.assert_array_equal(asked, part.dense)
        with pytest.raises(ConfigError, match="tiny has no prompt 'passage'; its prompts are query"):
            gte.encode("fox", prompt_name="passage")


@pytest.mark.slow
def test_a_known_model_with_other_numbers(machine: Machine):
    """A repository that has a name here, and weights that do not give its published numbers: said, with every
    number.
    """
    snowflake = named_models(models_directory())["snowflake-arctic-embed-m-v2.0"]
    machine.hub.add(snowflake.hub, machine.hub.repositories[REPOSITORY][commit_of(1)])
    done = machine.pull(snowflake.name)
    assert done.returncode == 4
    assert "DIFFERS: token ids of 6 texts" in done.stderr
    assert "DIFFERS: states have 64 values, published are 768" in done.stderr
    assert done.stderr.splitlines()[-1] == "gte: a published value differs by more than its tolerance"
    manifest = Bundle.open(machine.folder / "gte" / "pulled" / snowflake.name).manifest
    assert (manifest.model, manifest.prompts) == (snowflake.name, {"query": "query: "})


# Downloads that break off


CHUNK = 10 * 2**20
"""The library writes downloads to disk in pieces of this size; what is in the air is lost with the
connection.
"""


@pytest.fixture(scope="module")
def large(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in a file of three such pieces: a table of positions, which is never read, fills it
    up.
    """
    tensors = read_tensors(golden.checkpoint / "model.safetensors")
    tensors["new.embeddings.position_ids"] = Tensor("I64", (1, 4 * 2**20), bytes(32 * 2**20))
    file = tmp_path_factory.mktemp("large") / "model.safetensors"
    file.write_bytes(safetensors(tensors))
    return file


@pytest.fixture
def slow_machine(machine: Machine, large: Path) -> Machine:
    machine.hub.repositories[REPOSITORY][commit_of(1)]["model.safetensors"] = large
    return machine


@pytest.mark.slow
def test_a_dropped_connection(slow_machine: Machine, large: Path):
    """Cut in the middle of a file, twice: the download goes on where it stopped."""
    hub = slow_machine.hub
    hub.trouble.cut = [200_000, 12 * 2**20, 12 * 2**20]  # the first is more than the tokenizer has
    slow_machine.works()
    assert hub.starts == [0, 0, CHUNK, 2 * CHUNK]


@pytest.mark.slow
def test_a_connection_that_never_lasts(machine: Machine):
    """Dropped before the first byte, every time."""
    machine.hub.trouble.cut = [0] * 100
    machine.fails("org/tiny", "broke off", "pull again", before=PATIENT)


kept_after_a_kill = pytest.mark.skipif(
    int(version("huggingface_hub").split(".")[0]) >= 1,
    reason="huggingface_hub keeps no partial file between processes since release 1 or 2 (seen in 2.4)",
)


@pytest.mark.slow
@kept_after_a_kill
def test_killed_while_downloading(slow_machine: Machine, large: Path):
    """kill -9 in the middle; the next pull loads only the rest."""
    hub = slow_machine.hub
    hub.trouble.slow = 0.05
    process = subprocess.Popen(
        slow_machine.command(REPOSITORY), env=slow_machine.environment, stderr=subprocess.PIPE
    )
    while hub.sent["cdn"] < 2 * CHUNK:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (kept,) = [file for file in (slow_machine.folder / "hf").rglob("*.incomplete") if file.stat().st_size]
    loaded = kept.stat().st_size
    assert loaded >= CHUNK
    assert not (slow_machine.folder / "gte" / "pulled").exists()
    hub.trouble.slow = 0
    slow_machine.works()
    assert hub.starts == [0, 0, loaded]


@pytest.mark.slow
def test_killed_while_building(machine: Machine):
    """kill -9 between download and bundle: there is nothing that opens, and the next pull builds."""
    process = subprocess.Popen(
        machine.command(REPOSITORY), env=machine.environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "building" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    pulled = machine.folder / "gte" / "pulled"
    assert not list(pulled.glob("*/manifest.json"))
    machine.works()
    assert machine.hub.sent["cdn"] == weights(machine)


@pytest.mark.slow
def test_what_a_killed_build_left(machine: Machine):
    """Gigabytes of it go when nothing in it has changed for an hour; a build that is going on is left alone,
    as is what no build made.
    """
    pulled = machine.folder / "gte" / "pulled"
    for name, age, marker in (
        (".org--tiny.old", 4000, ".org--tiny.old"),
        (".org--tiny.new", 0, ".org--tiny.new"),
        (".org--other.old", 4000, ".org--other.old"),
        (".org--tiny.bak", 4000, None),
        (".org--tiny.copy", 4000, ".org--tiny.old"),
    ):
        file = pulled / name / "0" / "weights-fp32.bin"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
        if marker:
            (pulled / name / MARKER).write_text(marker)
        for path in (*file.parent.parent.rglob("*"), file.parent.parent):
            os.utime(path, (time.time() - age,) * 2)
    machine.works()
    expected = [".org--other.old", ".org--tiny.bak", ".org--tiny.copy", ".org--tiny.new", "org--tiny"]
    assert sorted(path.name for path in pulled.iterdir()) == expected


# Answers of the hub


@pytest.mark.slow
def test_wrong_bytes(machine: Machine):
    """Of the right size and with another hash, as a broken proxy gives them: removed, and loaded anew by the
    next pull.
    """
    machine.hub.trouble.spoil = True
    machine.fails("tokenizer.json of org/tiny", "expected hash", "it was removed")
    machine.hub.trouble.spoil = False
    machine.works()


@pytest.mark.slow
@kept_after_a_kill
def test_a_partial_file_of_something_else(slow_machine: Machine):
    """What was left by a download through that proxy does not become part of a checkpoint."""
    slow_machine.hub.trouble = Trouble(spoil_large=True, cut=[200_000, 12 * 2**20, *[0] * 100])
    slow_machine.fails("broke off", before=PATIENT)
    slow_machine.hub.trouble = Trouble()
    slow_machine.fails("model.safetensors of org/tiny", "expected hash")
    slow_machine.works()


@pytest.mark.slow
def test_another_file_than_the_known_one(machine: Machine):
    """A known model at its known commit has known hashes, whatever the hub says of itself."""
    files = machine.hub.repositories[REPOSITORY][commit_of(1)]
    known = named_models(models_directory())["gte-multilingual-base"]
    machine.hub.repositories[known.hub] = {known.revision: files}
    machine.hub.branches[known.hub] = {}
    for name in (known.name, known.hub, f"{known.hub}@{known.revision}"):
        machine.fails(
            "config.json of Alibaba-NLP/gte-multilingual-base", "expected hash 711bdc81365f", name=name
        )


# A hub that means harm


@pytest.mark.slow
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
def test_a_header_that_is_a_path(machine: Machine, header: str):
    """The client names files and directories of its cache after headers: one with `..` in it would be written
    anywhere.
    """
    planted = machine.folder / "planted"
    blobs = machine.folder / "hf" / "hub" / "models--org--tiny" / "blobs"
    machine.hub.trouble.headers = {header: f'"{os.path.relpath(planted, blobs)}"'}
    machine.fails("cannot be a file's name", "a model hub that you trust")
    assert not planted.exists()


@pytest.mark.slow
def test_a_header_that_names_a_file_of_the_users(machine: Machine):
    """Of a model whose hashes are known, the file there has the wrong one. It is not removed."""
    known = named_models(models_directory())["gte-multilingual-base"]
    machine.hub.repositories[known.hub] = {known.revision: machine.hub.repositories[REPOSITORY][commit_of(1)]}
    machine.hub.branches[known.hub] = {}
    precious = machine.folder / "precious.txt"
    precious.write_text("mine")
    blobs = machine.folder / "hf" / "hub" / f"models--{known.hub.replace('/', '--')}" / "blobs"
    machine.hub.trouble.headers = {"ETag": f'"{os.path.relpath(precious, blobs)}"'}
    machine.fails("cannot be a file's name", name=known.name)
    assert precious.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["a file", "the commit's directory", "the directory of files"])
def test_a_link_that_leads_out_of_the_cache(machine: Machine, place: str):
    """Its target is neither read as part of the checkpoint nor removed."""
    machine.works()
    repository = machine.folder / "hf" / "hub" / "models--org--tiny"
    snapshot, blobs = repository / "snapshots" / commit_of(1), repository / "blobs"
    outside = machine.folder / "outside"
    if place == "a file":
        outside.mkdir()
        (outside / "config.json").write_text("mine")
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(outside / "config.json")
    else:
        linked = snapshot if place == "the commit's directory" else blobs
        shutil.copytree(linked, outside)  # files where there were links
        shutil.rmtree(linked)
        linked.symlink_to(outside)
    before = contents(outside)
    shutil.rmtree(machine.folder / "gte")
    machine.fails("config.json of org/tiny", "leads out of it", "Remove the link", HF_HUB_OFFLINE="1")
    assert contents(outside) == before


@pytest.mark.slow
def test_a_private_repository(machine: Machine):
    """401 without a token; with HF_TOKEN it works."""
    machine.hub.trouble.token = "secret"
    machine.fails("org/tiny", "HF_TOKEN")
    machine.fails("org/tiny", "HF_TOKEN", HF_TOKEN="wrong")
    machine.works(HF_TOKEN="secret")


@pytest.mark.slow
def test_a_gated_repository(machine: Machine):
    machine.hub.trouble.statuses = [("/api/", 403, {"X-Error-Code": "GatedRepo"})]
    machine.fails("is gated", "accept its terms")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/nothing", ("org/nothing", "check its name")),
        ("org/tiny@nothing", ("no revision 'nothing'",)),
        (f"org/tiny@{commit_of(9)}", ("org/tiny", "no revision")),
    ],
)
def test_what_is_not_there(machine: Machine, name: str, words: tuple[str, ...]):
    """404: repository, branch and commit are told apart."""
    machine.fails(*words, name=name)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_checkpoint_without(machine: Machine, missing: str):
    del machine.hub.repositories[REPOSITORY][commit_of(1)][missing]
    machine.fails(f"org/tiny has no {missing}")


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_trouble(machine: Machine, status: int):
    """Too many requests, or a hub that is restarted: waited out, at every kind of question."""
    where = ("/api/models", "resolve/main/config.json", "tokenizer.json", "/cdn/")
    machine.hub.trouble.statuses = [(part, status, {"Retry-After": "0"}) for part in where]
    machine.works(before=PATIENT)
    assert machine.hub.trouble.statuses == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "words"), [(429, ("too many requests", "wait")), (502, ("not well (502)",))]
)
@pytest.mark.parametrize("part", ["/api/models", "model.safetensors", "/cdn/"])
def test_a_lasting_trouble(machine: Machine, status: int, words: tuple[str, ...], part: str):
    machine.hub.trouble.statuses = [(part, status, {"Retry-After": "0"})] * 40
    machine.fails("org/tiny", *words, before=PATIENT)


@pytest.mark.slow
def test_a_hub_that_asks_for_an_hour(machine: Machine):
    """It is told, not slept."""
    machine.hub.trouble.statuses = [("/api/models", 429, {"Retry-After": "3600"})]
    machine.fails("too many requests")


@pytest.mark.slow
def test_a_renamed_repository(machine: Machine):
    """Redirected to its new name, as the hub does."""
    machine.hub.renamed = {"old/name": REPOSITORY}
    machine.works("old/name")


@pytest.mark.slow
def test_no_network(machine: Machine):
    """Nobody listens at the endpoint.

    One line says so; the library's own warnings, one for each of its attempts, do not show.
    """
    for name in (REPOSITORY, f"{REPOSITORY}@{commit_of(1)}"):
        done = machine.pull(name, before=PATIENT, HF_ENDPOINT="http://127.0.0.1:9")
        assert done.returncode == 4
        asked, failed = done.stderr.splitlines()
        assert asked.startswith(f"gte: {REPOSITORY} at ")
        assert "the connection failed; is this machine online?" in failed


@pytest.mark.slow
def test_offline(machine: Machine):
    """HF_HUB_OFFLINE: what was downloaded is enough, also by a branch's name; what was not is named."""
    machine.fails(
        "HF_HUB_OFFLINE is set",
        "main of org/tiny was never downloaded".replace("main", "'main'"),
        HF_HUB_OFFLINE="1",
    )
    machine.fails(
        "HF_HUB_OFFLINE is set", "config.json", name=f"{REPOSITORY}@{commit_of(1)}", HF_HUB_OFFLINE="1"
    )
    machine.works()
    asked = machine.hub.asked.total()
    machine.works(REPOSITORY, "--overwrite", HF_HUB_OFFLINE="1")
    assert machine.hub.asked.total() == asked


# Names


@pytest.mark.parametrize(
    "name", ["", "nonsense", "a/b/c", "../x", "org/..", "org/x@", "org/x@../y", "org/x y", "https://x.y/z"]
)
def test_what_is_no_name(name: str):
    with pytest.raises(ConfigError, match="is neither a known model"):
        wanted(name, named_models(models_directory()))


def test_names_and_places():
    """A known model is the same by its short name, its repository and its pinned commit; other commits have
    their own place.
    """
    known = named_models(models_directory())
    base = known["gte-multilingual-base"]
    for name in (base.name, base.hub, f"{base.hub}@{base.revision}", f"{base.name}@{base.revision}"):
        want = wanted(name, known)
        assert (want.hub, want.revision, want.files) == (base.hub, base.revision, base.files)
    other = wanted(f"{base.hub}@main", known)
    assert (other.revision, other.files) == ("main", {})
    assert wanted("gte-large-en-v1.5", known).revision == "main"
    assert wanted("snowflake-arctic-embed-m-v2.0", known).named.prompts == {"query": "query: "}
    assert pulled_directory(base.hub, known) == pulled_directory(base.name, known)
    assert pulled_directory(f"{base.hub}@main", known) != pulled_directory(base.name, known)
    assert pulled_directory("org/x@refs/pr/1", known).name == "org--x@refs--pr--1"


@pytest.mark.parametrize(
    "name", ["gte-multilingual-base", "Alibaba-NLP/gte-multilingual-base", "gte-large-en-v1.5"]
)
def test_a_model_that_is_not_here(name: str):
    """Opening a known model that was not pulled says which command to run, and asks nobody."""
    with pytest.raises(BundleError, match=rf"{name} is not on this machine yet; `gte pull {name}` downloads"):
        Embedder.open(name)
