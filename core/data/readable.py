"""Which texts of a data set can a model read, and why not the others?

One text that is longer than the model's window must not end the work on thousands of others: it is
left out, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from ..prompts.prompt import why_unreadable
from ..prompts.template import DEFAULT_SUFFIX, Template
from ..prompts.tokenizer import ReadsText
from .labels import excerpt
from .tables import Refusal, amount, reasons

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ReadableTexts:
    """The rows of a data set that a model can read, and why it cannot read the others.

    ``frame`` has the columns that were given; where rows are left out also row, the number that
    each had before.
    """

    frame: pd.DataFrame
    refused: tuple[Refusal, ...]
    model: str

    def describe(self) -> str:
        """Say in one sentence how many texts are left out and why; "" where none is."""
        if not self.refused:
            return ""
        one = len(self.refused) == 1
        texts = amount(len(self.frame) + len(self.refused), "text")
        return (
            f"{len(self.refused):,} of {texts} {'is' if one else 'are'} left out, which "
            f"{self.model} cannot read: {reasons(self.refused)}."
        )


def readable_texts(
    model: ReadsText,
    tweets: pd.DataFrame,
    template: Template | str = DEFAULT_SUFFIX,
    *,
    most: int | None = None,
) -> ReadableTexts:
    """Leave out the texts that make no prompt for a model: too long for it, or nothing to read.

    Args:
        tweets: a column `text`; all others are kept.
        template: what stands around each text.
        most: tokens that a prompt may have, where that is less than the model reads.

    Returns:
        The rows that are left, and why the others are not.

    Raises:
        ValueError: there is no text that the model can read.
    """
    rows = tweets["row"].to_numpy() if "row" in tweets else np.arange(len(tweets))
    texts = tweets["text"].tolist()
    template = Template.of(template).rendered(model.tokenizer, model.name)
    why = [why_unreadable(model, text, template, most) for text in texts]
    if not any(why):
        return ReadableTexts(tweets, (), model.name)
    refused = tuple(
        Refusal(int(row), 0, reason, excerpt(str(text)))
        for row, text, reason in zip(rows, texts, why, strict=True)
        if reason
    )
    if len(refused) == len(texts):
        raise UserError(
            f"{model.name} can read none of {amount(len(texts), 'text')}: {reasons(refused)}; "
            "choose other texts or another model."
        )
    readable = [not reason for reason in why]
    return ReadableTexts(
        tweets.assign(row=rows)[readable].reset_index(drop=True), refused, model.name
    )
