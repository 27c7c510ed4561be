"""Features: equal to plain forward passes, computed once, safe when killed, bounded in size."""

import os
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import start
from tiny_models import VARIANTS, make_model

from core.probes import encoding as features
from core.probes.encoding import encode, features_folder, tweet_embedding_std
from core.prompts.prompt import build_prompt

TEXTS = ["good day", "terrible service, bad bad", "I love waiting", "great!", "@name awful #tag"]
MANY = [f"{text} {number}" for number in range(8) for text in TEXTS]

pytestmark = pytest.mark.usefixtures("own_home")


def small_chunks(monkeypatch: pytest.MonkeyPatch, model, texts: int) -> None:
    monkeypatch.setattr(features, "CHUNK", texts * model.layers * model.width * 4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_states_and_words_equal_one_plain_forward_pass_per_prompt(variant, monkeypatch):
    monkeypatch.setattr(features, "TOKENS_PER_BATCH", 40)  # several batches
    model = make_model(variant)
    small_chunks(monkeypatch, model, 2)
    texts = TEXTS * 2
    encoding = encode(model, texts)
    found = encoding.log_probs(model, [17, 290])
    for number, text in enumerate(texts):
        plain = model.network(
            torch.tensor([build_prompt(model, text).ids]), output_hidden_states=True
        )
        expected = plain.logits[0, -1].log_softmax(-1)[[17, 290]]
        np.testing.assert_allclose(found[number], expected, rtol=1e-4)
        # transformers gives the state after the last block with its norm applied.
        for layer in range(model.layers - 1):
            np.testing.assert_allclose(
                encoding.states(layer)[number],
                plain.hidden_states[layer + 1][0, -1],
                rtol=1e-3,
                atol=1e-4,
            )
    np.testing.assert_allclose(
        model.log_probs(torch.from_numpy(encoding.states(model.layers - 1)), [17, 290]),
        found,
        rtol=1e-4,
    )


def test_words_that_were_not_thought_of_need_no_block(monkeypatch):
    model = make_model("gpt2")
    encode(model, MANY)
    calls = model.block_calls
    encoding = encode(model, MANY)
    read = encoding.log_probs(model, range(model.embedding_matrix.shape[0]))
    np.testing.assert_allclose(np.exp(read).sum(axis=1), 1, rtol=1e-4)
    assert model.block_calls == calls


def test_order_and_repetition_of_texts_do_not_matter():
    model = make_model("llama")
    forward = encode(model, MANY)
    calls = model.block_calls
    backward = encode(model, MANY[::-1] + MANY)
    assert model.block_calls == calls
    np.testing.assert_array_equal(backward.states(2)[: len(MANY)], forward.states(2)[::-1])
    np.testing.assert_array_equal(backward.states(2)[len(MANY) :], forward.states(2))
    assert len(backward) == 2 * len(MANY)


def test_other_weights_suffix_or_dtype_are_encoded_anew():
    model = make_model("gpt2")
    encode(model, TEXTS)
    encode(model, TEXTS, template=" I am feeling")  # the default
    encode(model, TEXTS, template=" I feel")
    encode(make_model("gpt2", seed=1), TEXTS)
    encode(make_model("gpt2", dtype="float64"), TEXTS)
    assert len(list(features_folder().iterdir())) == 4


def test_the_embedding_deviation_is_that_of_all_tweet_tokens_together():
    model = make_model("gpt2")
    texts = [*TEXTS, TEXTS[0]]  # a repeated text counts again
    prompts = [build_prompt(model, text) for text in texts]
    embedded = [model.embed(prompt.ids)[list(prompt.tweet_span)] for prompt in prompts]
    expected = float(torch.cat(embedded).double().std(correction=0))
    assert tweet_embedding_std(model, prompts) == pytest.approx(expected)
    assert encode(model, texts).embedding_std == pytest.approx(expected)


class Enough(Exception):
    pass


def test_an_encoding_that_was_ended_goes_on_where_it_stopped(monkeypatch):
    model = make_model("gpt2")
    small_chunks(monkeypatch, model, 10)
    monkeypatch.setattr(features, "TOKENS_PER_BATCH", 1)  # a batch is a text
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 25:
            raise Enough

    with pytest.raises(Enough):
        encode(model, MANY, progress=stop)
    assert seen == [(done, 40) for done in range(1, 26)]
    whole = sorted(path.name for path in next(features_folder().iterdir()).iterdir())
    assert whole == ["00000.safetensors", "00001.safetensors"]
    calls, seen = model.block_calls, []
    encoding = encode(model, MANY, progress=lambda done, total: seen.append((done, total)))
    assert seen[:3] == [(10, 40), (20, 40), (21, 40)]
    assert seen[-1] == (40, 40)
    assert model.block_calls - calls == 20 * model.layers
    fresh = make_model("gpt2")
    fresh.identity = "the same weights under another name"
    np.testing.assert_array_equal(encode(fresh, MANY).states(3), encoding.states(3))


def encode_sixty(home: Path, line: Connection, held_at: int | None) -> None:
    os.environ["SENTITRACE_HOME"] = str(home)
    model = make_model("gpt2")
    features.CHUNK = 10 * model.layers * model.width * 4
    features.TOKENS_PER_BATCH = 1
    texts = [f"good day number {n}" for n in range(60)]

    def progress(done: int, total: int) -> None:
        line.send(done)
        if done == held_at:
            line.recv()

    line.send(float(encode(model, texts, progress=progress).states(2).sum()))


def start_encoder(home: Path, *, held_at: int | None = None):
    """A process that encodes, and its line; there it waits for a word when so many are done."""
    ours, theirs = Pipe()
    process = start(encode_sixty, home, theirs, held_at)
    theirs.close()
    return process, ours


def heard(process, line: Connection) -> list[float]:
    """How many texts were done, time after time, and a sum of their states."""
    said = []
    with suppress(EOFError):
        while True:
            said.append(line.recv())
    process.join()
    assert process.exitcode == 0
    return said


def test_a_killed_process_leaves_whole_chunks_that_the_next_one_uses(own_home):
    killed, line = start_encoder(own_home, held_at=35)
    while line.recv() != 35:
        pass
    killed.kill()
    killed.join()
    said = heard(*start_encoder(own_home))
    assert said[:4] == [10, 20, 30, 31]  # chunks found, then texts encoded
    (folder,) = features_folder().iterdir()
    assert len(list(folder.iterdir())) == 6  # no leftovers either


def test_two_processes_encode_once_between_them(own_home):
    first, line = start_encoder(own_home, held_at=1)
    assert line.recv() == 1
    second, other = start_encoder(own_home)
    assert other.recv() == 0  # it waits for the first
    line.send("go on")
    *encoded, own = heard(first, line)
    *found, same = heard(second, other)
    assert encoded == list(range(2, 61))
    assert [done for done in found if done] == [10, 20, 30, 40, 50, 60]  # chunks
    assert own == same


def test_waiting_for_another_process_can_be_ended(monkeypatch):
    model = make_model("gpt2")
    encode(model, TEXTS)
    (folder,) = features_folder().iterdir()

    def stop(done: int, total: int) -> None:
        raise Enough

    with features._lock(folder.name), pytest.raises(Enough):
        encode(model, TEXTS, progress=stop)


def test_a_damaged_chunk_is_made_again():
    model = make_model("gpt2")
    expected = encode(model, TEXTS).states(1)
    (path,) = next(features_folder().iterdir()).iterdir()
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(encode(model, TEXTS).states(1), expected)


def test_what_was_used_least_recently_makes_room(monkeypatch):
    model = make_model("gpt2")
    sets = [[f"{word} {n}" for n in range(10)] for word in ("good", "bad", "great", "awful")]
    monkeypatch.setattr(features, "SPACE", int(3.5 * 10 * model.layers * model.width * 4))
    names = []
    for texts in sets[:3]:
        encode(model, texts)
        (name,) = {path.name for path in features_folder().iterdir()} - set(names)
        names.append(name)
        os.utime(features_folder() / name, (len(names), len(names)))  # long ago, in this order
    first = encode(model, sets[0])  # used again: now the second is the oldest
    encode(model, sets[3])
    left = {path.name for path in features_folder().iterdir()}
    assert names[1] not in left
    assert {names[0], names[2]} < left
    # What is open stays readable even when it has to go.
    for word in ("happy", "sad", "love"):
        encode(model, [f"{word} {n}" for n in range(10)])
    assert names[0] not in {path.name for path in features_folder().iterdir()}
    assert np.isfinite(first.states(3)).all()


def test_what_another_process_is_encoding_is_not_removed(monkeypatch):
    model = make_model("gpt2")
    encode(model, TEXTS)
    (folder,) = features_folder().iterdir()
    monkeypatch.setattr(features, "SPACE", 6 * model.layers * model.width * 4)
    with features._lock(folder.name):
        encode(model, MANY[:5])
    assert folder.is_dir()


def test_more_texts_than_there_may_be_room_for_are_refused(monkeypatch):
    model = make_model("gpt2")
    monkeypatch.setattr(features, "SPACE", 1000)
    with pytest.raises(ValueError, match="use fewer texts"):
        encode(model, TEXTS)
    with pytest.raises(ValueError, match="at least one"):
        encode(model, [])


def test_a_folder_that_cannot_be_written_is_one_sentence(own_home, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "save_file", full)
    with pytest.raises(ValueError, match="No space left on device"):
        encode(make_model("gpt2"), TEXTS)
