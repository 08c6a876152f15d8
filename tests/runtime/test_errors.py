"""The error tree: one base, the builtin that a caller expects, a number for the shell and one for HTTP."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

import gte_runtime.errors
from gte_runtime import GteError
from gte_runtime.errors import (
    BundleCorruptError,
    BundleError,
    BundleVersionError,
    Cancelled,
    CheckpointError,
    ConfigError,
    DownloadError,
    EngineError,
    EngineMissing,
    ForkedProcessError,
    InputError,
    InputFileError,
    InputTooLongError,
    InterpreterError,
    NonFiniteOutputError,
    NoThread,
    OutOfMemory,
    OutputError,
    ProviderError,
    ProviderUnavailableError,
    ResumeMismatchError,
    SelfCheckFailed,
)

CLASSES = [
    kind for _, kind in inspect.getmembers(gte_runtime.errors, inspect.isclass) if issubclass(kind, Exception)
]

EXAMPLES: dict[type[GteError], GteError] = {
    GteError: GteError("something"),
    InputError: InputError("expected a string, found int", index=17, got="int"),
    InputTooLongError: InputTooLongError(tokens=9000, limit=8192, index=3),
    ConfigError: ConfigError("dim is 0; expected an integer from 1 to 768"),
    InterpreterError: InterpreterError("gte_runtime cannot run in a sub-interpreter"),
    NonFiniteOutputError: NonFiniteOutputError(5),
    CheckpointError: CheckpointError("no config.json in model; a checkpoint directory has one"),
    BundleError: BundleError("bundle has no manifest.json; `gte build` writes one, last of all"),
    BundleCorruptError: BundleCorruptError("weights-fp32.bin", expected="12 bytes", got="11 bytes"),
    BundleVersionError: BundleVersionError("manifest.json has format 2"),
    SelfCheckFailed: SelfCheckFailed("variant cpu-fp32 differs", cos=0.5),
    DownloadError: DownloadError(
        "org/tiny is not on the hub, or not for you: check its name, and for a private one set HF_TOKEN"
    ),
    InputFileError: InputFileError("a.csv: no column 'text'; the columns are 'id', 'body'"),
    OutputError: OutputError("out.jsonl exists already"),
    ResumeMismatchError: ResumeMismatchError("job holds a job that was begun otherwise: dim was 8 and is 9"),
    ProviderError: ProviderError("provider is 'tpu'; known: cpu, cuda, tensorrt"),
    ProviderUnavailableError: ProviderUnavailableError("cuda", ("cpu",), "pip install 'gte-runtime[gpu]'"),
    EngineMissing: EngineMissing(
        "there is no TensorRT engine for gte-mini; build it: gte engine build gte-mini"
    ),
    EngineError: EngineError("ONNX Runtime failed"),
    OutOfMemory: OutOfMemory("out of memory during a run; lower max_tokens"),
    Cancelled: Cancelled("the run was stopped"),
    NoThread: NoThread("can't start new thread"),
    ForkedProcessError: ForkedProcessError(),
}


def test_every_error_is_tried():
    """The examples here are all errors of the package."""
    assert set(EXAMPLES) == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_one_base(kind: type[Exception]):
    """A host program catches everything with one name."""
    assert issubclass(kind, GteError)


def test_the_tree_in_the_docstring_is_the_tree():
    """What the module draws is what it defines: names, parents and builtins."""
    assert gte_runtime.errors.__doc__ is not None
    drawn: dict[str, tuple[str, str | None]] = {}
    above: list[str] = []
    for line in gte_runtime.errors.__doc__.splitlines():
        if match := re.match(r"    ((?:[| ]  )*(?:[|`]- )?)([A-Z]\w+)(?: \((\w+)\))?", line):
            depth = len(match[1]) // 3
            above = [*above[:depth], match[2]]
            drawn[match[2]] = (above[depth - 1] if depth else "Exception", match[3])
    assert set(drawn) == {kind.__name__ for kind in CLASSES}
    for kind in CLASSES:
        parent, builtin = drawn[kind.__name__]
        bases = {base.__name__ for base in kind.__bases__}
        assert bases == {parent} | ({builtin} if builtin else set())


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (GteError, 1),
        (InputError, 2),
        (InputTooLongError, 2),
        (ConfigError, 2),
        (NonFiniteOutputError, 1),
        (CheckpointError, 4),
        (BundleError, 4),
        (BundleCorruptError, 4),
        (BundleVersionError, 4),
        (SelfCheckFailed, 4),
        (DownloadError, 4),
        (OutputError, 6),
        (ProviderError, 5),
        (ProviderUnavailableError, 5),
        (EngineMissing, 5),
        (EngineError, 1),
        (OutOfMemory, 1),
        (Cancelled, 1),
        (NoThread, 1),
        (ForkedProcessError, 1),
    ],
)
def test_exit_codes(kind: type[GteError], exit_code: int):
    """2 usage, 4 a bad bundle, checkpoint or input file, 5 provider, 6 output."""
    assert kind.exit_code == EXAMPLES[kind].exit_code == exit_code


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (InputError, ValueError),
        (ConfigError, ValueError),
        (CheckpointError, ValueError),
        (BundleError, OSError),
        (DownloadError, OSError),
        (OutputError, OSError),
        (ProviderError, RuntimeError),
        (EngineError, RuntimeError),
        (OutOfMemory, MemoryError),
    ],
)
def test_the_builtin_that_a_caller_expects(kind: type[GteError], builtin: type[Exception]):
    """Code that catches the builtin goes on to work."""
    assert isinstance(EXAMPLES[kind], builtin)


@pytest.mark.parametrize("kind", CLASSES)
def test_messages_are_sentences(kind: type[GteError]):
    """One line, which begins with the thing and not with a class, a number or an address."""
    message = str(EXAMPLES[kind])
    assert message
    assert "\n" not in message
    assert "0x" not in message
    assert not message.startswith(("[", "("))


def test_what_an_input_error_knows():
    """Which text, in which field, what was found."""
    error = InputError("expected a string, found int", index=17, got="int")
    assert str(error) == "texts[17]: expected a string, found int"
    assert (error.index, error.field, error.got, error.reason) == (
        17,
        "texts",
        "int",
        "expected a string, found int",
    )
    assert str(InputError("expected pairs", field="pairs")) == "pairs: expected pairs"
    assert InputError("x", index=0).index == 0
    assert str(InputError("x", index=0)) == "texts[0]: x"


def test_what_a_too_long_text_knows():
    """How many tokens, how many are allowed, and whether they were all counted."""
    error = InputTooLongError(tokens=9000, limit=8192, index=3)
    assert str(error) == "texts[3]: 9000 tokens, the limit is 8192; shorten the text or pass truncate=True"
    assert (error.tokens, error.limit, error.index) == (9000, 8192, 3)
    assert "at least 9000 tokens" in str(InputTooLongError(tokens=9000, limit=8192, index=None, exact=False))


def test_what_a_corrupt_bundle_knows():
    """Which file, what was promised, what is there, and a way out."""
    error = BundleCorruptError("a.bin", expected="12 bytes", got="11 bytes")
    assert str(error) == "a.bin: expected 12 bytes, found 11 bytes; build or download the bundle again"
    assert (error.file, error.expected, error.got) == ("a.bin", "12 bytes", "11 bytes")
    assert str(BundleCorruptError("a.bin", expected="x", got="y", hint="run z")).endswith("; run z")


def test_what_the_others_know():
    """Cosine, index, provider."""
    assert SelfCheckFailed("m", cos=0.25).cos == 0.25
    assert NonFiniteOutputError(5).index == 5
    assert "texts[5]" in str(NonFiniteOutputError(5))
    error = ProviderUnavailableError("cuda", ("cpu", "tensorrt"), "do this")
    assert (error.asked, error.available) == ("cuda", ("cpu", "tensorrt"))
    assert str(error) == "provider 'cuda' is not available (this installation has: cpu, tensorrt); do this"


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_travel_between_processes(kind: type[GteError]):
    """A worker's error reaches its parent as what it was, with its message and what it knows."""
    error = EXAMPLES[kind]
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
