"""What stands around the tweet, and which two words a contrast reads?"""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from ..models.loading import has_chat_template
from ..models.registry import REGISTRY
from ..prompts.template import FORMATS, TWEET, Format, Template, is_instruct
from . import switch

WRITTEN = f"{TWEET}{Template().suffix}"
"""The usual prompt, as the field shows it."""

WORDS = ("good", "bad")
OWN_WORDS = "two words of your own, without a probe"


def template_choice(*names: str, key: str = "prompt") -> Template:
    """The prompt around the tweet, and whether it is in the model's chat template.

    Args:
        names: of the models; the chat template is offered where one of them has one.
        key: of the field; `key:format` is that of the switch.
    """
    written = st.text_input(
        "Text around the tweet",
        WRITTEN,
        key=key,
        max_chars=2000,
        persist_state="session",
        help=f"What the model reads: {TWEET} is the tweet, with text before and after it. The next "
        "word after all of it is read.",
    )
    template = Template.of(written.replace(TWEET, "", max(0, written.count(TWEET) - 1)))
    if TWEET not in written:
        st.caption(f"Without {TWEET}, the text follows the tweet.")
    if not any(map(has_chat_template, names)):
        return template
    chosen: Format = switch(
        "Prompt format",
        FORMATS,
        f"{key}:format",
        help="Chat: the tokenizer's own template. The tweet, with the text before it, is the "
        "user's turn; the text after it begins the assistant's.",
    )
    if chosen == "raw" and any(is_instruct(_full_name(name)) for name in names):
        st.caption(RECOMMENDED)
    return replace(template, format=chosen)


RECOMMENDED = (
    "This is an instruct model: its chat template is how it is used, and shows what a user of it "
    "would meet."
)


def words_choice(key: str = "contrast") -> tuple[str, str]:
    """The two words whose log-probabilities are compared.

    Args:
        key: of the fields, `key:target` and `key:distractor`.
    """
    first, second = st.columns(2)
    target, distractor = (
        place.text_input(
            label,
            default,
            key=f"{key}:{label.lower()}",
            max_chars=100,
            persist_state="session",
            help="Any next word; of one with several tokens the first is read.",
        )
        for place, label, default in zip(
            (first, second), ("Target", "Distractor"), WORDS, strict=True
        )
    )
    return target, distractor


def _full_name(name: str) -> str:
    return REGISTRY[name].hub_id if name in REGISTRY else name
