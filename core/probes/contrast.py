"""How is anything but a sentiment traced? By two words: log P(target) - log P(distractor).

The contrast of two next words is what most papers on activation patching trace (Wang et al. 2023,
"Interpretability in the Wild"; Zhang and Nanda 2024): no labelled data and no fitting. Here it is a
probe whose coefficients are 1 and -1, so that all that is done with probes is done with it. Its
log-odds are the difference of the words' log-probabilities, and its "probability" is the target's
share of the two.

A word of several tokens is read by its first one.
"""

from __future__ import annotations

import warnings

from ..errors import UserError
from ..models.model import Model
from ..prompts.prompt import first_token
from ..prompts.template import DEFAULT_SUFFIX, Template
from .probe import CONTRAST, Probe


def contrast(
    model: Model,
    target: str = " good",
    distractor: str = " bad",
    template: Template | str = DEFAULT_SUFFIX,
) -> Probe:
    """A contrast of two next words, for `core.trace` and all else that takes a probe.

    Args:
        model: the model that is read.
        target, distractor: as they stand in the text, most often with a space ahead of them. Of a
            word of several tokens the first is read, and a warning says so.
        template: what stands around the text: a suffix, a text such as "Review: {tweet}
            Sentiment:", or a `core.Template`.

    Raises:
        UserError: a word is empty or not in the vocabulary, or both begin with the same token.
    """
    template = Template.of(template).rendered(model.tokenizer, model.name)
    if first_token(model, target)[0] == first_token(model, distractor)[0]:
        raise UserError(
            f"The words {target!r} and {distractor!r} begin with the same token of {model.name}, "
            "so that their difference is 0; choose others."
        )
    said = read_by_first(model, target, distractor)
    if said:
        warnings.warn(said, stacklevel=2)
    return Probe(
        features=CONTRAST,
        model_name=model.name,
        model_identity=model.identity,
        model_revision=model.revision,
        suffix=template.suffix,
        before=template.before,
        prompt_format=template.format,
        opening=template.opening,
        closing=template.closing,
        words_positive=(target,),
        words_negative=(distractor,),
        layer=None,
        mean=(0.0, 0.0),
        scale=(1.0, 1.0),
        coefficients=(1.0, -1.0),
        intercept=0.0,
        report=None,
        dataset="",
        dataset_hash="",
        # The noise rule has no data set to be taken over.
        embedding_std=float(model.embedding_matrix.double().std()),
        seed=0,
        read_as=said,
    )


def read_by_first(model: Model, *words: str) -> str:
    """One sentence on the words that are read by the first of their tokens; "" where none is."""
    said = []
    for word in words:
        _, label, count = first_token(model, word)
        if count > 1:
            said.append(f'"{word.strip()}" is {count} tokens and read by the first, "{label}"')
    return f"{'; '.join(said)}." if said else ""
