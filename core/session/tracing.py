"""How is a trace asked for, made in the background, and drawn?

What was asked stands in the page's address, so that a link asks it again; what was traced before is
then read from what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from core import figures
from core.counterfactuals import propose
from core.findings import by_words, cells
from core.jobs import Job, Step, Work
from core.limits import limits
from core.probes import Features, Probe
from core.prompts import Prompt, build_prompt
from core.registry import REGISTRY, availability, default_model
from core.results import PROXIES, Corruption, Proxy, TraceResult, TraceSettings
from core.rows import Labels, Rows
from core.runs import KINDS, Kind
from core.session import loaded_for, model, plain, theme
from core.session.charts import show_chart
from core.session.probing import choice_of, probes_of, trained_for
from core.trace import trace_progressively

if TYPE_CHECKING:
    import pandas as pd

SPANS = {"tweet": "Whole tweet", "words": "Words", "tokens": "Tokens"}
HOW: dict[Corruption, str] = {
    "noise": "Gaussian noise",
    "uniform": "Uniform noise",
    "mean": "Mean embedding",
    "counterfactual": "Another tweet",
}
EXPLAINED: dict[Corruption, str] = {
    "noise": "The paper's: it hides the words, but may take the model out of what it has seen.",
    "uniform": "As strong as Gaussian noise, of another shape: a real site does not mind.",
    "mean": "Every token becomes the average one: no chance in it, and one sample is all.",
    "counterfactual": "Only the sentiment words change, so that nothing else does.",
}
VIEWS: dict[str, dict[str, str]] = {
    "unit": {"raw": "Raw", "share": "% of total"},
    "rows": {"tokens": "Tokens", "words": "Words"},
    "panels": {"all": "All", "hidden": "Hidden", "mlp": "MLP", "attn": "Attention"},
}
LONG = 24  # rows; more of them scroll inside the figure
WINDOW = 520  # pixels of the figure that scrolls
NOISE, SAMPLES, MOST_SAMPLES = 3.0, 10, 50


# --- the work ------------------------------------------------------------------------------------


def tracing(name: str, reads: Features | Probe, text: str, settings: TraceSettings) -> Work:
    """The work of one trace: load the model, train its probe if there is none, trace."""

    def work(job: Job) -> Iterator[Step]:
        loaded = loaded_for(job, name)
        # A tweet that cannot be read, or is too much, is refused before any training.
        limits().check_trace(len(build_prompt(loaded, text)), settings.samples)
        probe = trained_for(job, loaded, reads)
        job.report(0.0, "Tracing")
        for result in trace_progressively(
            loaded, probe, text, settings, keep=True, progress=job.report
        ):
            yield result.samples_done / result.samples_wanted, result

    return work


# --- what is asked -------------------------------------------------------------------------------


def span_choice(name: str, text: str) -> TraceSettings | None:
    """What is corrupted and how; None while that cannot be traced, which a sentence then says."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="top"):
        how: Corruption = st.selectbox(
            "Corrupt with",
            list(HOW),
            format_func=HOW.__getitem__,
            key="how",
            persist_state="session",
            width=210,
            help="What takes the place of the words that the trace hides from the model. "
            + " ".join(f"**{HOW[kind]}**: {said}" for kind, said in EXPLAINED.items()),
        )
        part = "tweet"
        if how != "counterfactual":
            part = st.segmented_control(
                "What is corrupted",
                list(SPANS),
                default="tweet",
                format_func=SPANS.__getitem__,
                required=True,
                key="corrupt",
                persist_state="session",
                help="The trace looks for the states that undo this corruption.",
            )
    settings = TraceSettings(corruption=how) if how != "counterfactual" else TraceSettings()
    if part == "tweet" and how != "counterfactual":
        return settings
    prompt = prompt_of(name, text)
    if prompt is None:
        return None
    if how == "counterfactual":
        return _counterfactual_choice(name, text, prompt)
    span = _words_choice(text, prompt) if part == "words" else _tokens_choice(text, prompt)
    return None if span is None else replace(settings, corrupt=span)


def settings_choice(asked: TraceSettings | None) -> TraceSettings | None:
    """How a trace is made, folded away behind the paper's defaults; None if nothing is asked."""
    draws = asked is None or asked.corruption in ("noise", "uniform")
    with st.expander("Settings", key="settings"):
        first, second = st.columns(2)
        noise_scale = first.slider(
            "Noise, in standard deviations",
            0.5,
            6.0,
            NOISE,
            0.5,
            format="%.1f",
            key="noise",
            persist_state="session",
            disabled=not draws,
            help="Of the embeddings of the data set's tokens; the paper uses 3.",
        )
        samples = second.slider(
            "Noise samples",
            1,
            MOST_SAMPLES,
            SAMPLES,
            key="samples",
            persist_state="session",
            disabled=not draws,
            help="More samples give a sharper picture and take longer; Stop keeps what is there.",
        )
        window = first.number_input(
            "Window, in layers",
            1,
            48,
            None,
            key="window",
            persist_state="session",
            placeholder="scaled with the model's depth",
            help="MLP and attention are restored over this many layers; the paper uses 10 of 48.",
        )
        seed = second.number_input(
            "Seed",
            0,
            2**31 - 1,
            0,
            key="seed",
            persist_state="session",
            disabled=not draws,
            help="The same seed draws the same noise.",
        )
    if asked is None:
        return None
    return replace(asked, samples=samples, noise_scale=noise_scale, seed=seed, window=window)


def prompt_of(name: str, text: str) -> Prompt | None:
    """The tweet as the model reads it, if the model is there to say so."""
    if not text.strip():
        st.caption("Type a tweet first; its words then stand here to be chosen.")
        return None
    if availability(name) == "to be downloaded":
        st.caption("What this model reads as a word is known once it is on this disk.")
        return None
    try:
        with st.spinner("Reading the tweet as the model does"):
            return build_prompt(model(name), text)
    except ValueError as mistake:
        st.caption(plain(str(mistake)))
        return None


def _words_choice(text: str, prompt: Prompt) -> str | tuple[int, ...] | None:
    numbers = [n for n, word in enumerate(prompt.words) if word.in_tweet and word.tokens]
    chosen = st.pills(
        "Words to corrupt",
        numbers,
        selection_mode="multi",
        format_func=lambda number: plain(prompt.words[number].text),
        key=f"words:{text}",
        persist_state="session",
        help="Click the words that the model shall not see; no others are corrupted.",
    )
    if not chosen:
        st.caption("Click at least one word.")
        return None
    if len(chosen) == 1:
        return f"word:{chosen[0]}"
    return tuple(sorted({token for n in chosen for token in prompt.words[n].tokens}))


def _tokens_choice(text: str, prompt: Prompt) -> tuple[int, ...] | None:
    chosen = st.pills(
        "Tokens to corrupt",
        list(prompt.tweet_span),
        selection_mode="multi",
        format_func=lambda position: plain(prompt.labels[position]),
        key=f"tokens:{text}",
        persist_state="session",
        help="Tokens are the pieces that the model reads; a word may be several.",
    )
    if not chosen:
        st.caption("Click at least one token.")
        return None
    return tuple(sorted(chosen))


def _counterfactual_choice(name: str, text: str, prompt: Prompt) -> TraceSettings | None:
    """Another tweet, proposed by exchanging sentiment words, and whether its length matches."""
    place = f"other:{text}"
    proposals = propose(model(name), prompt)[:6]
    if place not in st.session_state:
        fits = [proposal.text for proposal in proposals if proposal.same_length]
        st.session_state[place] = fits[0] if fits else ""

    def take() -> None:
        taken = st.session_state.get(f"proposal:{text}")
        if taken is not None:
            st.session_state[place] = proposals[taken].text

    if proposals:
        st.pills(
            "Exchange",
            list(range(len(proposals))),
            format_func=lambda number: plain(_exchange(proposals[number])),
            key=f"proposal:{text}",
            on_change=take,
            help="Minimal edits from the list of opposites in assets/antonyms.json; only a tweet "
            "with as many tokens can take this one's place.",
        )
    other: str = st.text_input(
        "The other tweet",
        key=place,
        persist_state="session",
        placeholder="The same words with the opposite sentiment",
        help="The positions at which its tokens differ are corrupted.",
    )
    if not other.strip():
        said = "No sentiment word of the list is in this tweet; " if not proposals else ""
        st.caption(f"{said}type the tweet with the opposite sentiment in as many tokens.")
        return None
    try:
        count = len(build_prompt(model(name), other))
    except ValueError as mistake:
        st.caption(plain(str(mistake)))
        return None
    if count != len(prompt):
        st.caption(
            f":orange[Lengths differ: it makes {count} tokens with the suffix, the tweet "
            f"{len(prompt)}.] Change a word for one of another length."
        )
        return None
    if build_prompt(model(name), other).ids == prompt.ids:
        st.caption("It is the same tweet: change a word.")
        return None
    st.caption(f"Lengths match: both make {count} tokens with the suffix.")
    return TraceSettings(corruption="counterfactual", counterfactual=other)


def _exchange(proposal: Any) -> str:
    changed = ", ".join(f"{word} \u2192 {opposite}" for word, opposite in proposal.replaced)
    if proposal.same_length:
        return changed
    difference = proposal.tokens - proposal.tokens_wanted
    return f"{changed} ({difference:+d} token{'s' if abs(difference) > 1 else ''})"


# --- the address ---------------------------------------------------------------------------------


def _one_of(options: Collection[str]) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in options:
            raise ValueError(value)
        return value

    return read


def _within(low: float, high: float, kind: type) -> Callable[[str], Any]:
    def read(value: str) -> Any:
        number = kind(value)
        if not low <= number <= high:
            raise ValueError(value)
        return number

    return read


ASKED: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "how": ("noise", _one_of(HOW)),
    "corrupt": ("tweet", _one_of(SPANS)),
    "noise": (NOISE, _within(0.5, 6.0, float)),
    "samples": (SAMPLES, _within(1, MOST_SAMPLES, int)),
    "window": (None, _within(1, 48, int)),
    "seed": (0, _within(0, 2**31 - 1, int)),
}
"""Widgets whose values stand in the address: their defaults, and how they are read from it."""

SHOWN: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "proxy": ("log_odds", _one_of(PROXIES)),
    **{name: (next(iter(options)), _one_of(options)) for name, options in VIEWS.items()},
}
"""The same of how a result is shown."""


def follow_link() -> None:
    """At a visitor's first look, ask what the address asks; what it cannot mean is left out."""
    if "linked" in st.session_state:
        return
    st.session_state.linked = True
    link = st.query_params.to_dict()
    for key, (default, read) in (ASKED | SHOWN).items():
        if key in link:
            try:
                value = read(link[key])
            except ValueError:
                continue
            if value != default:
                st.session_state[key] = value
    name = link.get("model", "")
    if name in REGISTRY:
        if name != default_model()[0]:
            st.session_state.model = name
        if link.get("probe") in {"logit_pair", "probabilities", *probes_of(name)}:
            st.session_state.features = link["probe"]
    if "cell" in link:
        st.session_state.cell = _cell_of(link["cell"])
    text = link.get("tweet", "")[:2000]
    if not text:
        return
    st.session_state.tweet = text
    chosen = [int(number) for number in link.get("span", "").split(".") if number.isdecimal()]
    for part in ("words", "tokens"):
        if link.get("corrupt") == part and chosen:
            st.session_state[f"{part}:{text}"] = _there(name, text, part, chosen)
    if "other" in link:
        st.session_state[f"other:{text}"] = link["other"][:2000]
    st.session_state.asked = name in REGISTRY and availability(name) != "to be downloaded"


def _there(name: str, text: str, part: str, chosen: list[int]) -> list[int]:
    """Those of the chosen words or tokens that the tweet has."""
    if name not in REGISTRY or availability(name) == "to be downloaded":
        return []
    try:
        prompt = build_prompt(model(name), text)
    except ValueError:
        return []
    if part == "tokens":
        return [number for number in chosen if number in prompt.tweet_span]
    words = {n for n, word in enumerate(prompt.words) if word.in_tweet and word.tokens}
    return [number for number in chosen if number in words]


def write_address(result: TraceResult | None, cell: figures.Cell | None) -> None:
    """Put what was asked, how it is shown and the chosen cell into the address.

    Args:
        result: None for the example, which needs no asking.
    """
    link = {} if result is None else _question(result)
    for key, (default, _) in SHOWN.items():
        value = st.session_state.get(key, default)
        if value not in (default, None):
            link[key] = value
    if cell is not None:
        link["cell"] = "-".join(map(str, cell))
    if link != st.query_params.to_dict():
        st.query_params.from_dict(link)


def _question(result: TraceResult) -> dict[str, str]:
    """What this page has to be asked for such a result; nothing, where it cannot be asked."""
    settings = result.settings
    plain_ones = (settings.direction, settings.severed, settings.every) == ("restore", None, 1)
    if not plain_ones or result.model_name not in REGISTRY:
        return {}
    link = {"tweet": result.prompt.tweet, "model": result.model_name}
    link["probe"] = choice_of(result.probe)
    if settings.corruption != "noise":
        link["how"] = settings.corruption
    if settings.counterfactual is not None:
        link["other"] = settings.counterfactual
    if isinstance(settings.corrupt, tuple):
        link |= {"corrupt": "tokens", "span": ".".join(map(str, settings.corrupt))}
    elif settings.corrupt != "tweet":
        link |= {"corrupt": "words", "span": settings.corrupt.removeprefix("word:")}
    numbers = {
        "noise": f"{settings.noise_scale:g}",
        "samples": str(settings.samples),
        "window": str(settings.window),
        "seed": str(settings.seed),
    }
    for key, value in numbers.items():
        default = ASKED[key][0]
        if value not in (str(default), f"{default:g}" if default is not None else "None"):
            link[key] = value
    return link


def _cell_of(written: str) -> figures.Cell | None:
    named, *numbers = written.split("-")
    kind = next((kind for kind in KINDS if kind == named), None)
    if kind is None or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
        return None
    return kind, int(numbers[0]), int(numbers[1])


# --- how it is shown -----------------------------------------------------------------------------


def proxy_choice() -> Proxy:
    """Which number's change the effect is."""
    return st.selectbox(
        "Effect measured in",
        list(PROXIES),
        format_func=PROXIES.__getitem__,
        key="proxy",
        persist_state="session",
        help="Read from the same run; nothing is computed again.",
    )


def view_choice(kinds: tuple[str, ...]) -> dict[str, str]:
    """The switches above the heatmaps, by their names in `VIEWS`."""
    helps = {
        "unit": "Effects as they are, or in percent of the total effect.",
        "rows": "A row for every token, or for every word: that of its last token.",
        "panels": "Every kind of site, or one large.",
    }
    chosen = {}
    with st.container(horizontal=True, gap="medium", key="view"):
        for name, options in VIEWS.items():
            offered = [option for option in options if option in ("all", *kinds)]
            if name != "panels":
                offered = list(options)
            if st.session_state.get(name) not in (None, *offered):
                del st.session_state[name]
            chosen[name] = st.segmented_control(
                {"unit": "Effect", "rows": "Rows", "panels": "Panels"}[name],
                offered,
                default=offered[0],
                format_func=options.__getitem__,
                required=True,
                key=name,
                persist_state="session",
                help=helps[name],
            )
    return chosen


def frame_of(result: TraceResult, view: Mapping[str, str]) -> pd.DataFrame:
    """The cells that are shown, in the unit in which they are shown."""
    frame = cells(result)
    if view["rows"] == "words":
        frame = by_words(frame, result)
    if view["unit"] == "share":
        frame = figures.as_shares(frame)
    if view["panels"] != "all":
        frame = frame[frame["kind"] == view["panels"]]
    return frame


def emphasised(sentence: str, *, warn: bool = False) -> str:
    """A finding as Markdown: where a site is stands out from how much it carries."""
    if warn:
        return f":orange[:material/warning: **{plain(sentence)}**]"
    place, colon, rest = sentence.partition(":")
    if not colon:
        return f":gray[{plain(sentence)}]" if "yet" in sentence else f"**{plain(sentence)}**"
    return f"**{plain(place)}:** {plain(rest)}"


def unit_shown(result: TraceResult, view: Mapping[str, str]) -> str:
    """The unit of what is shown."""
    return "% of the total effect" if view["unit"] == "share" else figures.unit_of(result)


def heatmaps(
    frame: pd.DataFrame,
    *,
    end: float,
    rows: Rows | None = None,
    grey: bool = False,
    chosen: figures.Cell | None = None,
    on_click: Callable[[Kind], None] | None = None,
    key: str = "heatmap",
    titles: Mapping[str, str] = figures.KINDS,
) -> None:
    """A panel for each kind of site, side by side; one below the other on a narrow screen.

    A long tweet's panels scroll inside the figure, and their layers stay in sight above them.

    Args:
        rows: all that the panels may come to show; None takes those of the frame. So does a long
            tweet, where each panel has labels: room for words that are not shown costs most there.
        on_click: called with the kind when a cell of its panel is clicked; the selection is then
            in the session's state under `key:kind`.
    """
    kinds = list(dict.fromkeys(frame["kind"]))
    long = frame["position"].nunique() > LONG
    rows = Rows.of(frame) if long or rows is None else rows
    alone = len(kinds) == 1
    # The leftmost panel has the token labels beside it, and room for them: where the page is
    # 1440 pixels wide, a panel is about 375.
    widths = [1 + rows.width / 375] + [1.0] * (len(kinds) - 1)
    if long:
        widths = [1.0] * len(kinds)
    with st.container(height=WINDOW if long else "content", border=False, key=f"{key}:window"):
        for i, (kind, column) in enumerate(zip(kinds, st.columns(widths), strict=True)):
            # Far down in a long tweet the leftmost panel's labels are no help to the others.
            labels: Labels = "always" if long or not i else "narrow"
            with column:
                if long:
                    with st.container(key=f"{key}:strip:{kind}"):
                        show_chart(
                            figures.layer_strip(
                                frame, kind, title=titles[kind], labels=labels, rows=rows
                            ),
                            key=f"{key}:layers:{kind}",
                        )
                chart = figures.heatmap(
                    frame,
                    kind,
                    end=end,
                    labels=labels,
                    rows=rows,
                    theme=theme(),
                    title=titles[kind],
                    grey=grey,
                    row=figures.WIDE_ROW if alone and not long else None,
                    strip=long,
                    chosen=chosen,
                    select="cell" if on_click else None,
                )
                if on_click is None:
                    show_chart(chart, f"{key}:{kind}")
                else:
                    show_chart(
                        chart,
                        f"{key}:{kind}",
                        selection_mode="cell",
                        on_select=lambda kind=kind: on_click(kind),
                    )
