"""What stands around a tweet: texts of one's own, and tokenizers' chat templates."""

import copy

import pytest
from tiny_models import CHAT, make_model, make_tokenizer

from core.errors import UserError
from core.prompts.prompt import build_prompt, count_tokens, resolve_span
from core.prompts.template import Template, is_instruct
from core.prompts.token_roles import in_order, roles_of, title_of

TWEET = "bad day, so sad"
ASKED = Template(" I am feeling", "How is it? ", "chat")

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMED = (
    "<|begin|>{% for m in messages %}<|h|>{{ m['role'] }}<|/h|>\n\n{{ m['content'] | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
SPACED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DATED = "{{ strftime_now('%Y') }}" + CHATML
TEMPLATES = {"chatml": CHATML, "trimmed": TRIMMED, "spaced": SPACED, "thinking": THINKING}


def with_template(template):
    tokenizer = copy.copy(make_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def with_chat():
    """A tiny model whose tokenizer has a chat template."""
    model = copy.copy(make_model("llama", layers=2))
    model.tokenizer = with_template(CHAT)
    return model


@pytest.mark.parametrize(
    ("written", "before", "suffix"),
    [
        (" I am feeling", "", " I am feeling"),
        ("Review: {tweet} Sentiment:", "Review: ", " Sentiment:"),
        ("{tweet}", "", ""),
        ("Is it {tweet}", "Is it ", ""),
        ("", "", ""),
    ],
)
def test_a_template_is_read_as_it_is_written(written, before, suffix):
    template = Template.of(written)
    assert (template.before, template.suffix, template.format) == (before, suffix, "raw")
    assert Template.of(template.written) == template
    assert template.around("so sad") == f"{before}so sad{suffix}"


@pytest.mark.parametrize(("written", "says"), [("{tweet}{tweet}", "more than once"), (3, "text")])
def test_a_template_that_cannot_be_read_is_refused(written, says):
    with pytest.raises(UserError, match=says):
        Template.of(written)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tweet", [TWEET, "\U0001f622 :-( <b>{x}</b>", "line\nline"])
def test_a_chat_is_what_the_tokenizers_own_template_writes(name, tweet):
    tokenizer = with_template(TEMPLATES[name])
    turns = [
        {"role": "user", "content": f"How is it? {tweet}"},
        {"role": "assistant", "content": "I am feeling"},
    ]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
    template = ASKED.rendered(tokenizer)
    assert template.around(tweet) == expected
    assert template.head.endswith("How is it? ")
    assert template.rendered(with_template(None)) == template  # it is asked once


def test_without_a_suffix_the_assistants_turn_is_empty():
    tokenizer = with_template(THINKING)
    turns = [{"role": "user", "content": TWEET}]
    expected = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert Template("", format="chat").rendered(tokenizer).around(TWEET) == expected


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('no ' ~ messages[0].content) }}", "cannot be run .no How"),
        ("{{ messages[0].content.__class__.__mro__ }}", "cannot be run .*unsafe"),
        ("{{ messages.append(1) }}", "cannot be run"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "cannot be run|keep"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "does not keep"),
        ("{% for m in messages %", "cannot be run"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(template, says):
    with pytest.raises(UserError, match=says):
        ASKED.rendered(with_template(template), "tiny")


def test_a_date_in_a_template_stays_what_it_was():
    template = ASKED.rendered(with_template(DATED))
    assert template.opening[:4].isdecimal()
    assert template.rendered(with_template(CHATML)) == template


def test_a_chats_tokens_have_their_parts_and_roles():
    model = with_chat()
    prompt = build_prompt(model, TWEET, ASKED)
    assert list(prompt.ids) == model.tokenizer(prompt.text, add_special_tokens=False).input_ids
    roles = roles_of(prompt)
    first, last = prompt.tweet_span[0], prompt.tweet_span[-1]
    spoken = prompt.text[prompt.tokens[first].start : prompt.tokens[last].end]
    assert spoken.strip() == TWEET
    assert set(roles[:first]) == {None}
    closing = roles[last + 1 : prompt.suffix_start]
    assert closing == tuple(f"template:{number}" for number in range(len(closing)))
    assert closing
    after = roles[prompt.suffix_start :]
    assert after == (*(f"suffix:{number}" for number in range(len(after) - 1)), "last")
    words = "".join(token.label for token in prompt.tokens[prompt.suffix_start :])
    assert words.replace("·", " ").strip() == "I am feeling"
    assert roles_of(prompt, "paper")[first] == "subject_first"
    (count,) = count_tokens(model.tokenizer, [TWEET], ASKED)
    assert (count.prompt, count.tweet) == (len(prompt), len(prompt.tweet_span))


@pytest.mark.parametrize("template", [" I am feeling", "How sad: {tweet} Mood:", ASKED])
def test_words_of_the_tweet_have_the_same_numbers_under_every_prompt(template):
    model = with_chat()
    prompt = build_prompt(model, TWEET, template)
    assert [word.text for word in prompt.words[:5]] == ["bad", "day", ",", "so", "sad"]
    assert [word.in_tweet for word in prompt.words].count(True) == 5
    span = resolve_span(prompt, "word:4")
    assert prompt.text[prompt.tokens[span[0]].start : prompt.tokens[span[-1]].end].strip() == "sad"
    assert [prompt.text[word.start : word.end] for word in prompt.words] == [
        word.text for word in prompt.words
    ]
    with pytest.raises(UserError, match="choose a word from 0 to 4"):
        resolve_span(prompt, "word:5")


def test_template_tokens_stand_before_the_suffix_in_a_figure():
    mixed = ["last", "suffix:0", "template:1", "middle", "template:0"]
    assert in_order(mixed) == ["middle", "template:0", "template:1", "suffix:0", "last"]
    assert title_of("template:1", ["I"], ["<|im_end|>", "user"]) == 'Template token "user"'


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("google/gemma-3-270m-it", True),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", True),
        ("allenai/OLMo-2-0425-1B", False),
        ("openai-community/gpt2", False),
        ("itan/bit", False),
    ],
)
def test_an_instruct_model_is_known_by_its_name(name, expected):
    assert is_instruct(name) == expected
