"""The three steps of `encode`, one by one: tokens, run, collect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import FromIds, poisoned
from golden import Golden

from gte_runtime import Embedder
from gte_runtime.errors import ConfigError, InputError, NonFiniteOutputError
from gte_runtime.inference.engine import Engine
from gte_runtime.sparse import by_string
from gte_runtime.steps import Steps


@pytest.fixture(scope="module")
def gte(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle, threads=1) as opened:
        yield opened


def steps_with(gte: Embedder, **changes: Any) -> Steps:
    """The model's steps with another manifest."""
    return Steps(replace(gte.manifest, **changes), gte.tokenizer, gte.engine)


def test_three_steps_are_encode(gte: Embedder, golden: Golden):
    """Bit for bit, whole and cut."""
    steps = gte.steps
    for dim in (None, 32):
        tokens = steps.tokens(golden.texts)
        found = steps.collect(tokens, steps.run(tokens), dim=dim)
        expected = gte.encode(golden.texts, dim=dim)
        assert np.array_equal(found.dense, expected.dense)
        assert [v.as_dict() for v in found.sparse] == [v.as_dict() for v in expected.sparse]
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert found.index.tolist() == list(range(len(golden.texts)))


def test_only_what_is_asked_for(gte: Embedder):
    """Of vectors, and of the states of tokens."""
    steps = gte.steps
    tokens = steps.tokens("a b")
    states = steps.run(tokens)
    assert steps.collect(tokens, states, dense=False).dense is None
    assert steps.collect(tokens, states, sparse=False).sparse is None
    assert states.token_states == []
    (of_tokens,) = steps.run(tokens, token_states=True).token_states
    assert of_tokens.shape == (len(tokens[0].ids), steps.dim)


def test_tokens_are_checked_and_cut(gte: Embedder):
    """As `encode` does: limits, bad texts by their place, truncation."""
    steps = gte.steps
    with pytest.raises(InputError, match=r"texts\[1\]"):
        steps.tokens(["a", "half \ud800"])
    assert len(steps.tokens(["half \ud800"], errors="replace")) == 1
    with pytest.raises(ConfigError, match="max_length"):
        steps.tokens("a", 2)
    (cut,) = steps.tokens("dog " * 50, 20)
    assert (len(cut.ids), cut.truncated) == (20, True)


def test_prompts(gte: Embedder):
    """By name; None is the model's default, "" is none; a name that is not there says which are."""
    steps = steps_with(gte, prompts={"query": "fox: "}, default_prompt="query")
    plain = [tokens.ids.tolist() for tokens in steps.tokens(["fox: a", "a"], prompt_name="")]
    assert [tokens.ids.tolist() for tokens in steps.tokens("a", prompt_name=None)] == plain[:1]
    assert [tokens.ids.tolist() for tokens in steps.tokens("a", prompt_name="query")] == plain[:1]
    assert [tokens.ids.tolist() for tokens in steps.tokens("a")] == plain[1:]
    wrong: list[Any] = ["other", 3]
    for name in wrong:
        with pytest.raises(ConfigError, match="its prompts are query"):
            steps.prompt(name)
    with pytest.raises(ConfigError, match="it has none"):
        gte.steps.prompt("query")


def test_weights_by_string(gte: Embedder, golden: Golden):
    """Under the decoded token, or under what a caller makes of its id; dropped tokens have no weight."""
    steps = gte.steps
    tokens = steps.tokens(golden.texts[0])
    states = steps.run(tokens)
    (found,) = steps.weights_by_string(tokens, states)
    assert found == gte.token_weights(golden.texts[0])[0]
    (by_id,) = steps.weights_by_string(tokens, states, str)
    drop = gte.manifest.tokenizer.drop_ids
    assert by_id == by_string(tokens[0].ids, states.token_weights[0], drop, str)
    assert not set(by_id) & {str(token) for token in drop}


@pytest.mark.parametrize(("value", "kept"), [(None, 64), (1, 1), (64, 64), (np.int64(40), 40)])
def test_dimensions(gte: Embedder, value: object, kept: int):
    """None is all of them; numpy's integers count."""
    assert steps_with(gte, smallest_dim=1).check_dim(value) == kept


@pytest.mark.parametrize("asked", [None, True, False])
def test_sparse_is_what_the_checkpoint_has(gte: Embedder, asked: bool | None):
    """By default where there is a sparse head; asked for without one, it is refused."""
    assert gte.steps.check_sparse(asked) is (asked is not False)
    dense = steps_with(gte, sparse=False)
    if asked:
        with pytest.raises(ConfigError, match="no sparse head"):
            dense.check_sparse(asked)
    else:
        assert dense.check_sparse(asked) is False


def test_a_part_of_a_stream(gte: Embedder, golden: Golden):
    """Rows are numbered from the part's first text; refused and non-finite texts are listed in order."""
    poison = golden.ids(2)[1]
    engine = Engine(poisoned(gte.engine.session, poison), gte.engine.variant, gte.dim)
    steps = Steps(gte.manifest, gte.tokenizer, engine)
    good, bad, last = steps.tokens([golden.texts[0], golden.texts[2], golden.texts[1]])
    refused = InputError("no text", index=101)
    part = steps.run_part(100, [good, refused, bad, last], True, True, 64)
    assert part.index.tolist() == [100, 103]
    assert [(one.index, type(one.error)) for one in part.rejected] == [
        (101, InputError),
        (102, NonFiniteOutputError),
    ]
    assert np.array_equal(part.dense, gte.encode([golden.texts[0], golden.texts[1]]).dense)
    empty = steps.run_part(7, [refused], True, True, 64)
    assert (len(empty), empty.dense.shape, len(empty.rejected)) == (0, (0, 64), 1)


def test_progress_is_that_of_the_engine(gte: Embedder, capsys: pytest.CaptureFixture[str]):
    """Asked for, but stderr is no terminal: the texts run, and nothing is printed."""
    session = FromIds()
    steps = Steps(gte.manifest, gte.tokenizer, Engine(session, gte.engine.variant, FromIds.width))
    assert len(steps.run(steps.tokens(["a", "b"]), show_progress=True)) == 2
    assert capsys.readouterr().err == ""
