"""What stands around a tweet: a suffix alone, text on both sides, or a model's own chat format?

A prompt is

    opening + before + tweet + closing + suffix

In the format "raw", opening and closing are empty: "Review: {tweet} Sentiment:" has the words
before the tweet as `before` and those after it as `suffix`. In the format "chat" they are what the
tokenizer's own template writes around a user's turn, which holds `before` and the tweet, up to the
assistant's turn, which begins with the suffix.

A tokenizer's template is a Jinja program from wherever the model comes from. transformers runs it
in Jinja's immutable sandbox, and it sees text alone. It is run once, with a mark in the tweet's
place: what it wrote is then kept with the probe, so that a template that writes the date does not
make another prompt of the same trace tomorrow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DEFAULT_SUFFIX = " I am feeling"
TWEET = "{tweet}"
"""Where the tweet goes in a template that a person writes."""

Format = Literal["raw", "chat"]
FORMATS: dict[Format, str] = {
    "raw": "Plain text",
    "chat": "The model's chat template",
}
_MARK = "6f2a1c9e4b7d4d0f"  # in the tweet's place while a chat template is run
_ANSWERS = re.compile(r"instruct|chat|(?<![a-z])(?:it|dpo|sft)(?![a-z])")


@dataclass(frozen=True)
class Template:
    """What stands around a tweet.

    Attributes:
        suffix: after the tweet; in a chat, what the assistant's turn begins with.
        before: ahead of the tweet; in a chat, in the user's turn: an instruction, for example.
        format: "raw", or "chat".
        opening, closing: what the tokenizer's template writes before and after the user's words;
            empty until it was asked (`rendered`).
    """

    suffix: str = DEFAULT_SUFFIX
    before: str = ""
    format: Format = "raw"
    opening: str = ""
    closing: str = ""

    @classmethod
    def of(cls, written: Template | str) -> Template:
        """A template as a person writes it: "Review: {tweet} Sentiment:", or a suffix alone."""
        if isinstance(written, Template):
            return written
        if not isinstance(written, str):
            raise UserError(
                f"What stands around the tweet must be text, not {written!r} "
                f"({type(written).__name__})."
            )
        before, tweet, suffix = written.partition(TWEET)
        if TWEET in suffix:
            raise UserError(f"The prompt {written!r} holds {TWEET} more than once; leave one.")
        return cls(suffix, before) if tweet else cls(written)

    @property
    def written(self) -> str:
        """As a person writes it, and as `of` reads it; a chat's own words are left out."""
        return f"{self.before}{TWEET}{self.suffix}" if self.before else self.suffix

    @property
    def asked(self) -> Template:
        """The same before any tokenizer was asked."""
        return replace(self, opening="", closing="")

    @property
    def is_plain(self) -> bool:
        """Whether it is a suffix alone."""
        return self.format == "raw" and not self.before

    @property
    def head(self) -> str:
        """All that stands ahead of the tweet."""
        return self.opening + self._lead

    @property
    def _lead(self) -> str:
        return self.before.lstrip() if self.format == "chat" else self.before

    @property
    def answer(self) -> str:
        """The suffix as it stands in the prompt: a turn of a chat does not begin with a space."""
        return self.suffix.lstrip() if self.format == "chat" else self.suffix

    def around(self, tweet: str) -> str:
        """The prompt's text."""
        return f"{self.head}{tweet}{self.closing}{self.answer}"

    def rendered(self, tokenizer: PreTrainedTokenizerFast, name: str = "This model") -> Template:
        """The same with what the tokenizer's chat template writes; as it is where it is there.

        Raises:
            UserError: the tokenizer has no template, or one that cannot be used for this.
        """
        if self.format == "raw" or self.opening or self.closing:
            return self
        if not tokenizer.chat_template:
            raise UserError(
                f"{name} has no chat template; leave the prompt's format at 'raw', or choose an "
                "instruct model."
            )
        turns = [{"role": "user", "content": f"{self.before}{_MARK}"}]
        if self.answer:
            turns.append({"role": "assistant", "content": self.answer})
        text = _run(tokenizer, name, turns)
        head, mark, tail = text.partition(_MARK)
        lead, answer = self._lead, self.answer.rstrip()  # templates may trim what is said
        if not mark or _MARK in tail or not head.endswith(lead):
            raise UserError(
                f"The chat template of {name} does not keep the user's words as they are; leave "
                "the prompt's format at 'raw'."
            )
        if not tail.rstrip().endswith(answer):
            raise UserError(
                f"The chat template of {name} does not let the assistant's turn begin with "
                f"{self.answer!r}; leave the prompt's format at 'raw'."
            )
        end = tail.rindex(answer) if answer else len(tail)
        return replace(
            self,
            opening=head[: len(head) - len(lead)],
            closing=tail[:end],
        )


def is_instruct(name: str) -> bool:
    """Whether a model's name says that it was trained to answer."""
    return _ANSWERS.search(name.lower()) is not None


def _run(tokenizer: PreTrainedTokenizerFast, name: str, turns: list[dict[str, str]]) -> str:
    from jinja2 import TemplateError

    answered = len(turns) > 1
    try:
        text = tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=not answered,
            continue_final_message=answered,
            enable_thinking=False,  # the next token is the answer's, where a template can tell
        )
    except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"The chat template of {name} cannot be run ({lines[0].rstrip('.')}); leave the "
            "prompt's format at 'raw'."
        ) from error
    return str(text)
