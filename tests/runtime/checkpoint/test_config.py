"""config.json: what a checkpoint may say, and every word that is refused rather than guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from gte_runtime.checkpoint.config import parse_config, read_config
from gte_runtime.checkpoint.rope import Rope
from gte_runtime.errors import CheckpointError
from gte_runtime.format.architecture import Architecture

Json = dict[str, Any]
MODELS = Path(__file__).parents[3] / "models"

BASE: Json = {
    "model_type": "new",
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 256,
    "vocab_size": 16384,
    "max_position_embeddings": 8192,
    "rope_theta": 20000,
    "rope_scaling": {"type": "ntk", "factor": 8.0},
}


def parsed(**changes: Any) -> Any:
    return parse_config({**BASE, **changes})


def refused(*words: str, **changes: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        parsed(**changes)
    assert type(caught.value) is CheckpointError
    for word in words:
        assert word in str(caught.value)


def test_the_config_of_the_base_model():
    """The model's own config gives the numbers of its graphs."""
    config = read_config(MODELS / "gte-multilingual-base")
    assert config.architecture == Architecture(
        layers=12,
        hidden_size=768,
        heads=12,
        intermediate_size=3072,
        vocab_size=250048,
        max_positions=8192,
        layer_norm_eps=1e-12,
    )
    assert config.architecture.head_size == 64
    assert config.rope == Rope.ntk(head_size=64, theta=20000.0, factor=8.0)
    assert (config.type_vocab_size, config.names_reranker) == (1, False)


def test_a_path_may_be_the_file_or_its_directory():
    """Both ways to name a config read the same."""
    assert read_config(MODELS / "gte-mini" / "config.json") == read_config(MODELS / "gte-mini")


def test_what_is_left_out_has_upstreams_defaults():
    """Upstream's config class leaves out what is default; so does a file that it wrote."""
    config = parse_config(
        {
            key: BASE[key]
            for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        }
    )
    a = config.architecture
    assert (a.vocab_size, a.max_positions, a.layer_norm_eps) == (30528, 2048, 1e-12)
    assert config.type_vocab_size == 1
    assert config.rope == Rope(head_size=32, theta=10000.0)
    assert config.trained_dims == ()
    assert config.notice == ""


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("model_type", "bert", "new, gte"),
        ("model_type", None, "new, gte"),
        ("model_type", ["new"], "new, gte"),
        ("layer_norm_type", "rms_norm", "layer_norm"),
        ("layer_norm_type", None, "layer_norm"),
        ("hidden_act", "gelu_new", "gelu"),
        ("hidden_act", "gelu_pytorch_tanh", "gelu"),
        ("hidden_act", "silu", "gelu"),
        ("hidden_act", None, "gelu"),
        ("position_embedding_type", "absolute", "rope"),
        ("position_embedding_type", "relative_key", "rope"),
        ("position_embedding_type", {}, "rope"),
    ],
)
def test_another_model(key: str, value: object, known: str):
    """A word of another model is refused with the words that are implemented: it would run, and be wrong."""
    refused(f"{key} is {value!r}; implemented: {known}", **{key: value})


@pytest.mark.parametrize("key", ["logn_attention_scale", "logn_attention_clip1"])
@pytest.mark.parametrize("value", [True, "true", "True", "TRUE"])
def test_logarithmic_scaling_of_attention(key: str, value: object):
    """No released model sets it and its two implementations differ, so it is refused; also as the string
    "true".
    """
    refused(f"{key} is set", "not implemented", **{key: value})


@pytest.mark.parametrize(
    "key",
    [
        "logn_attention_scale",
        "logn_attention_clip1",
        "pack_qkv",
        "unpad_inputs",
        "use_memory_efficient_attention",
    ],
)
@pytest.mark.parametrize("value", [False, "false", "False", None])
def test_flags_that_are_off(key: str, value: object):
    """Snowflake's configs hold their flags as strings."""
    assert parsed(**{key: value}) == parsed()


@pytest.mark.parametrize("key", ["pack_qkv", "unpad_inputs", "use_memory_efficient_attention"])
@pytest.mark.parametrize("value", [True, "true", "True"])
def test_switches_of_the_pytorch_code_are_no_matter(key: str, value: object):
    """They say how upstream's code runs, not what the model is; tensors say how they are packed."""
    assert parsed(**{key: value}) == parsed()


@pytest.mark.parametrize(
    "key",
    [
        "logn_attention_scale",
        "logn_attention_clip1",
        "pack_qkv",
        "unpad_inputs",
        "use_memory_efficient_attention",
    ],
)
@pytest.mark.parametrize("value", [1, 0, "yes", "1", "", [], {}])
def test_flags_that_are_none(key: str, value: object):
    """A flag is true or false, as such or in words."""
    refused(f"{key} is {value!r}; expected true or false", **{key: value})


COUNTS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


@pytest.mark.parametrize("key", COUNTS)
@pytest.mark.parametrize(
    "value", [0, -1, -96, True, False, "96", 96.0, float("nan"), 2**31, 10**30, [96], {}], ids=repr
)
def test_a_count_that_is_none(key: str, value: object):
    """A size is a positive integer; nothing is rounded, counted or read out of a string."""
    refused(key, "expected an integer of at least 1", **{key: value})


@pytest.mark.parametrize("value", [-1, True, "0", 0.0, 2**31, [0]], ids=repr)
def test_a_count_that_may_be_zero(value: object):
    """The same for the one that may be 0."""
    refused(f"type_vocab_size is {value!r}; expected an integer of at least 0", type_vocab_size=value)
    assert parsed(type_vocab_size=0).architecture == parsed().architecture


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
)
def test_a_count_that_is_missing(key: str):
    """A size that has no default is asked for by name."""
    with pytest.raises(CheckpointError, match=f"config.json has no {key}"):
        parse_config({k: v for k, v in BASE.items() if k != key})
    refused(f"config.json has no {key}", **{key: None})


@pytest.mark.parametrize(("hidden", "heads"), [(96, 5), (96, 32), (6, 96), (9, 3)])
def test_heads_that_do_not_share_the_width(hidden: int, heads: int):
    """Heads of one even size, as RoPE needs them."""
    refused(
        f"hidden_size {hidden} over num_attention_heads {heads}",
        "even",
        hidden_size=hidden,
        num_attention_heads=heads,
    )


@pytest.mark.parametrize(
    "value", [-1e-12, 1, 2.0, "1e-12", True, None, float("nan"), float("inf"), []], ids=repr
)
def test_an_epsilon_that_is_none(value: object):
    """LayerNorm's epsilon is a small number."""
    refused(f"layer_norm_eps is {value!r}; expected a small positive number", layer_norm_eps=value)


NUMBERS = [0, -1, -8.0, True, "8", None, float("nan"), float("inf"), [8]]


@pytest.mark.parametrize("value", [v for v in NUMBERS if v is not None], ids=repr)
def test_a_theta_that_is_none(value: object):
    """RoPE's theta is a positive number, at either place."""
    refused(f"rope_theta is {value!r}; expected a positive number", rope_theta=value)
    refused(f"rope_theta is {value!r}", rope_parameters={"rope_type": "default", "rope_theta": value})


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
@pytest.mark.parametrize(
    "place",
    [
        ("rope_scaling", "type", "ntk"),
        ("rope_parameters", "rope_type", "ntk"),
        ("rope_parameters", "rope_type", "linear"),
    ],
)
def test_a_factor_that_is_none(place: tuple[str, str, str], value: object):
    """A scaling without a positive factor is refused, not read as 1."""
    key, kind, name = place
    refused("factor is", "expected a positive number", **{key: {kind: name, "factor": value}})


@pytest.mark.parametrize("value", [v for v in NUMBERS if v is not None], ids=repr)
def test_a_mixed_b_that_is_none(value: object):
    """The same for the exponent of the mixed form."""
    refused(
        "mixed_b is",
        "expected a positive number",
        rope_scaling={"type": "ntk", "factor": 8.0, "mixed_b": value},
    )


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "longrope", "llama3", "NTK", None, 3])
def test_a_scaling_of_another_kind(kind: object):
    """Upstream's `rope_scaling` knows ntk only; any other kind gives other frequencies."""
    refused(f"rope_scaling has type {kind!r}; implemented: ntk", rope_scaling={"type": kind, "factor": 8.0})


@pytest.mark.parametrize("kind", ["dynamic", "yarn", "longrope", "llama3", None, 3])
def test_rope_parameters_of_another_kind(kind: object):
    """The native class's `rope_parameters` has three kinds that are implemented."""
    refused(
        f"rope_type {kind!r}; implemented: default, linear, ntk",
        rope_parameters={"rope_type": kind, "factor": 8.0},
    )


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("value", [True, 8.0, "ntk", ["ntk", 8.0]])
def test_a_scaling_that_is_no_object(key: str, value: object):
    """What is no object is told as it stands."""
    refused(f"{key} is {value!r}; expected an object", **{key: value})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_scaling": None}, Rope(head_size=32, theta=20000)),
        ({"rope_scaling": {"type": "default"}}, Rope(head_size=32, theta=20000)),
        (
            {"rope_scaling": {"rope_type": "ntk", "factor": 8.0}},
            Rope.ntk(head_size=32, theta=20000, factor=8),
        ),
        (
            {"rope_scaling": {"type": "ntk", "factor": 8, "mixed_b": 2.0}},
            Rope.ntk(head_size=32, theta=20000, factor=8, mixed_b=2),
        ),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": None},
            Rope(head_size=32, theta=20000),
        ),
        ({"rope_parameters": None, "rope_theta": 5.5}, Rope.ntk(head_size=32, theta=5.5, factor=8)),
    ],
)
def test_forms_of_rope(changes: Json, expected: Rope):
    """Every way in which the family writes its frequencies down."""
    assert parsed(**changes).rope == expected


LINEAR = {"rope_type": "linear", "factor": 8 ** (1 / 16), "rope_theta": 160000.0}
"""What the native class needs for BASE's scaling."""


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"rope_theta": 160000.0}, Rope(head_size=32, theta=160000)),
        (
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 160000},
            Rope(head_size=32, theta=160000, divisor=2),
        ),
        ({"rope_type": "ntk", "factor": 8.0, "rope_theta": 500}, Rope.ntk(head_size=32, theta=500, factor=8)),
        (LINEAR, Rope(head_size=32, theta=160000, divisor=8 ** (1 / 16))),
    ],
)
def test_forms_of_native_rope(parameters: Json, expected: Rope):
    """What transformers 5 writes, without upstream's keys."""
    native = {key: value for key, value in BASE.items() if key not in ("rope_theta", "rope_scaling")}
    assert parse_config({**native, "rope_parameters": parameters}).rope == expected


def test_both_spellings():
    """A config may hold both, as long as they give the same frequencies; the theta of rope_parameters may
    stand outside, too.
    """
    both = parsed(rope_parameters=LINEAR)
    np.testing.assert_allclose(both.rope.frequencies(), parsed().rope.frequencies(), rtol=1e-6)
    assert parsed(rope_scaling=None, rope_theta=160000.0, rope_parameters=LINEAR).rope == both.rope


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": LINEAR | {"rope_theta": 20000.0}},
        {"rope_parameters": LINEAR | {"factor": 8.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 160000.0}},
        {"rope_parameters": LINEAR, "rope_scaling": None},
        {"rope_parameters": LINEAR, "rope_scaling": {"type": "ntk", "factor": 4.0}},
    ],
)
def test_spellings_that_contradict_each_other(changes: Json):
    """Which of them the model was trained with is not guessed."""
    refused("rope_parameters contradicts rope_theta and rope_scaling", **changes)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_a_scaling_with_more(key: str):
    """A key of a kind of scaling that is not implemented, or two kinds at once."""
    refused(f"{key} has the key beta_fast", **{key: {"type": "ntk", "factor": 8.0, "beta_fast": 32}})
    refused(
        f"{key} has rope_type 'default' and type 'ntk'",
        **{key: {"rope_type": "default", "type": "ntk", "factor": 8.0}},
    )
    refused(
        f"{key} has the key partial_rotary_factor",
        **{key: {"type": "ntk", "factor": 8.0, "partial_rotary_factor": 0.5}},
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"is_decoder": True}, "is_decoder is set"),
        ({"add_cross_attention": "true"}, "add_cross_attention is set"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is set"),
        ({"head_dim": 64}, "head_dim is 64"),
    ],
)
def test_what_would_change_the_forward_pass(changes: Json, word: str):
    refused(word, **changes)


def test_keys_without_effect_and_unknown_ones():
    """What every config holds is no matter; what nobody has looked at is listed, and a build refuses it."""
    generic = {
        "id2label": {"0": "LABEL_0"},
        "use_cache": True,
        "pruned_heads": {},
        "is_decoder": False,
        "head_dim": 32,
        "dtype": "float16",
    }
    assert parsed(**generic).unknown == ()
    assert parsed(**generic, sliding_window=128, attention_bias=False).unknown == (
        "attention_bias",
        "sliding_window",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"matryoshka_dimensions": [256]}, (256,)),
        ({"matryoshka_dims": [96, 64, 32]}, (32, 64, 96)),
        ({"matryoshka_dimensions": [64, 0, -3, 97, "x"]}, (64,)),
        ({"matryoshka_dimensions": None}, ()),
    ],
)
def test_lengths_that_were_trained(changes: Json, expected: tuple[int, ...]):
    """Lengths to which vectors may be cut, where a config names them."""
    assert parsed(**{"hidden_size": 96, **changes}).trained_dims == tuple(d for d in expected if d <= 96)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["NewForSequenceClassification"], True),
        (["GteForSequenceClassification"], True),
        (["NewModel", "NewForTokenClassification"], False),
        ([], False),
        (None, False),
    ],
)
def test_a_reranker_is_told_by_its_name(names: object, expected: bool):
    """The name promises a pooler; whether it is kept, the tensors say."""
    assert parsed(architectures=names).names_reranker == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "rope_type", "factor", "mixed_b"]), inner)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("key", [*BASE, "rope_parameters", "layer_norm_eps", "pad_token_id", "notice"])
@given(value=VALUES)
def test_any_value(key: str, value: object):
    """Whatever JSON stands under a key, the config is read or refused."""
    try:
        parsed(**{key: value})
    except CheckpointError as error:
        event("refused")
        message = str(error)
    else:
        event("read")
        message = "read"
    assert message


@pytest.mark.parametrize("key", ["architectures", "matryoshka_dimensions", "matryoshka_dims"])
@pytest.mark.parametrize("value", [5, 1.5, True])
def test_a_list_that_is_none(key: str, value: object):
    """A number where a list is expected is refused like any other value."""
    refused(key, **{key: value})


@pytest.mark.parametrize("key", ["rope_theta", "rope_scaling"])
def test_a_number_beyond_all_floats(key: str):
    """An integer of 400 digits is no number to compute with."""
    refused(
        "expected a positive number",
        **{key: 10**400 if key == "rope_theta" else {"type": "ntk", "factor": 10**400}},
    )


def test_a_long_value_is_not_repeated_in_full():
    """A message shows the beginning of what somebody else wrote."""
    with pytest.raises(CheckpointError) as caught:
        parsed(hidden_act="x" * 5000)
    assert len(str(caught.value)) < 400
