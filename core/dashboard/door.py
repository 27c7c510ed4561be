"""May this work begin? What it asks of the server, held against the limits before it does anything.

Whatever a visitor has computed is a `Guarded`: its steps, and the `Request` that says which models
they load, which texts those read and how often they run. It refuses itself, wherever it is run,
before a model is looked at; tokens are counted by the tokenizers alone. `core.server.limits` says
what the limits are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ..models.loading import load_tokenizer
from ..models.registry import is_on_disk
from ..prompts.prompt import count_tokens
from ..prompts.template import Template
from ..server.job_queue import Job, Step, Work
from ..server.limits import Limits, limits
from ..tracing.result import TraceSettings


@dataclass(frozen=True)
class Texts:
    """Texts that a model is to read, each with the same suffix.

    Attributes:
        longest: those with more tokens, suffix not included, are not read after all; None: all are.
    """

    texts: Sequence[str] = field(repr=False)  # what somebody typed goes into no log
    template: Template
    longest: int | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a piece of work asks of the server.

    Attributes:
        models: that are loaded, as `load_model` takes them.
        prompts: that each of them reads; not those of the built-in data that train its probe.
        samples: noise samples of one trace.
        labelled: texts that a probe is trained on, where a visitor chooses them.
        owner: what only the server's owner may do, such as "Downloading a model"; empty: nothing.
    """

    models: tuple[str, ...]
    prompts: tuple[Texts, ...]
    samples: int
    labelled: int = 0
    owner: str = ""

    @classmethod
    def of_trace(
        cls, models: Sequence[str], text: str, template: Template, how: TraceSettings
    ) -> Request:
        """What the trace of one tweet asks, on each of some models."""
        other = () if how.counterfactual is None else (Texts((how.counterfactual,), template),)
        return cls(
            models=tuple(dict.fromkeys(models)),
            prompts=(Texts((text,), template), *other),
            samples=how.draws,
        )


NO_MODEL = Request(models=(), prompts=(), samples=0)
"""What work asks that loads no model: it reads what is kept, or waits for the network."""


@dataclass(frozen=True)
class Guarded:
    """Work that checks what it asks before it does anything; a `core.server.job_queue.Work`.

    Attributes:
        asks: all that the steps will ask of the server.
        steps: the work itself.
        fetch: brings the models to this disk, where loading them would bring others.
    """

    asks: Request
    steps: Work = field(repr=False)
    fetch: Callable[[Job], None] | None = field(default=None, repr=False)

    def __call__(self, job: Job) -> Iterator[Step]:
        """Check, then do the steps.

        Raises:
            ValueError: one sentence says which limit is passed.
        """
        allowed = limits()
        if self.asks.owner:
            allowed.check_owner(self.asks.owner)
        for name in self.asks.models:
            allowed.check_model(name, on_disk=is_on_disk(name))
        allowed.check_samples(self.asks.samples)
        allowed.check_texts(self.asks.labelled)
        if self.fetch is not None:
            self.fetch(job)
        _check_tokens(self.asks, allowed, job)
        yield from self.steps(job)


def _check_tokens(asks: Request, allowed: Limits, job: Job) -> None:
    if allowed.tokens is None or not asks.prompts:
        return
    for name in asks.models:
        tokenizer = load_tokenizer(
            name, progress=lambda done, total: job.report(done / max(total, 1))
        )
        for prompts in asks.prompts:
            counts = count_tokens(tokenizer, prompts.texts, prompts.template)
            most = max(
                (
                    count.prompt
                    for count in counts
                    if prompts.longest is None or count.tweet <= prompts.longest
                ),
                default=0,
            )
            allowed.check_tokens(most, among=len(prompts.texts))
