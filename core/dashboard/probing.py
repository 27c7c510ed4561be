"""Which probe does a person train, keep and choose?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from ..data.readable import readable_texts
from ..errors import UserError
from ..exporting import code
from ..models.loading import has_chat_template, identity_on_disk
from ..models.model import Model
from ..models.registry import REGISTRY
from ..probes.contrast import contrast
from ..probes.library import (
    comes_with_sentitrace,
    forget,
    is_kept,
    keep,
    kept_folder,
    kept_probes,
    key_of,
    probe_for,
)
from ..probes.probe import CONTRAST, FEATURES, Features, Probe, Words
from ..probes.training import FOLDS, train_probe, trained_on, with_layers
from ..prompts.prompt import DEFAULT_WORDS
from ..prompts.template import TWEET, Template
from ..server.job_queue import Job, Step
from ..server.limits import limits
from ..storage.cache import cannot_keep
from . import TWEETS, job, load, loaded_for, plain, sharing, tweets
from .data_choice import Data
from .door import Guarded, Request, Texts
from .prompt_choice import OWN_WORDS, WORDS, template_choice, words_choice

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerFast

TRAINABLE: tuple[Features, ...] = ("logit_pair", "probabilities")
"""Features of the probes that a run trains by itself, on the tweets."""

WORD_FIELDS = ("target", "distractor")

PROBE_MEGABYTES = 50  # of a file that is imported


@dataclass(frozen=True)
class ProbeSettings:
    """How a probe is to be trained."""

    features: Features = "logit_pair"
    words: Words | None = None
    template: Template = field(default_factory=Template)
    folds: int = FOLDS
    seed: int = 0
    controls: bool = True
    twin: bool = True  # of the controls, the one that costs an encoding
    name: str = ""


@dataclass(frozen=True)
class Reading:
    """What is read where no probe is chosen: one that is trained the first time, or two words.

    Attributes:
        features: of the probe; `CONTRAST` trains nothing and reads the words.
        words: of a contrast, as they are typed: target and distractor.
    """

    features: Features
    template: Template
    words: tuple[str, str] = WORDS

    def made(self, loaded: Model) -> Probe:
        """The contrast of the words."""
        return contrast(loaded, *self.spoken(loaded.tokenizer), self.template)

    def spoken(self, tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
        """The words as they stand in the text."""
        return _spoken(self.words, self.template.rendered(tokenizer))


def _spoken(words: tuple[str, str], around: Template) -> tuple[str, str]:
    """Words after a space, where the prompt does not end so.

    Args:
        around: as the tokenizer has written it.
    """
    before = around.around("")
    space = "" if not before or before[-1].isspace() else " "
    target, distractor = (f"{space}{word.strip()}" for word in words)
    return target, distractor


Reads = Features | Probe | Reading
"""What reads a run: a probe, or what there will be one of once it is asked for."""


@dataclass(frozen=True)
class Trained:
    """A probe, and the texts that it was trained on."""

    probe: Probe
    frame: pd.DataFrame
    said: str = ""  # of texts that this model cannot read
    unkept: str = ""  # why it could not be kept


def training(name: str, data: Data, settings: ProbeSettings) -> Guarded:
    """The work of training a probe: load the model, encode, fit and judge, keep; then controls."""
    # Texts that are too long are left out below; where all of them are, nothing begins.
    asks = Request(
        models=(name,),
        prompts=(Texts((min(data.frame["text"], key=len),), settings.template),),
        samples=0,
        labelled=len(data.frame),
    )

    def work(job: Job) -> Iterator[Step]:
        def encoded_then(note: str) -> Callable[[int, int], None]:
            """Report an encoding, and name what follows it, of which no share is known."""

            def encoded(done: int, total: int) -> None:
                if done < total:
                    job.report(done / total)
                else:
                    job.report(0.0, note)

            return encoded

        loaded = loaded_for(job, name)
        job.report(0.0, "Reading the texts as the model does")
        found = readable_texts(loaded, data.frame, settings.template, most=limits().tokens)
        frame, said = found.frame, found.describe()
        job.report(0.0, f"Encoding {len(frame):,} texts")
        probe = train_probe(
            loaded,
            frame,
            features=settings.features,
            words=settings.words,
            template=settings.template,
            folds=settings.folds,
            seed=settings.seed,
            dataset=data.name,
            read_as=data.read_as,
            name=settings.name,
            by_layer=False,
            progress=encoded_then("Fitting and cross-validating"),
        )
        own_file = data.own and limits().public
        # One that has its controls stays until there is another that has them.
        early = not settings.controls or not _has_controls(name, probe)
        yield 1.0, Trained(probe, frame, said, _kept(probe) if early and not own_file else "")
        job.report(0.0, "Evaluating every layer")
        probe = with_layers(
            probe, loaded, frame, progress=lambda done, total: job.report(done / total)
        )
        yield 1.0, Trained(probe, frame, said, _kept(probe) if early and not own_file else "")
        if not settings.controls:
            return
        from ..probes.controls import with_controls

        job.report(0.0, "Comparing with controls")
        twin = load(name, untrained=True) if settings.twin else None
        if twin is not None:
            job.report(0.0, f"Encoding {len(frame):,} texts by the untrained twin")
        encoded = encoded_then("Evaluating the controls")
        probe = with_controls(probe, loaded, frame, twin=twin, progress=encoded)
        # Of a visitor's own file a public server keeps nothing; his session has the probe.
        yield 1.0, Trained(probe, frame, said, "" if own_file else _kept(probe))

    return Guarded(asks, work)


def _kept(probe: Probe) -> str:
    """Keep a probe; where that cannot be, the sentence that says so."""
    try:
        keep(probe)
    except OSError as error:
        return f"The probe is not kept. {cannot_keep(kept_folder(), error)}"
    return ""


def _has_controls(name: str, probe: Probe) -> bool:
    found = probes_of(name).get(key_of(probe))
    return found is not None and bool(found.judged.controls)


def template_of(reads: Reads) -> Template:
    """What stands around a tweet for the probe that is asked for."""
    return Template() if isinstance(reads, str) else reads.template


def probe_choice(name: str) -> Reads:
    """Which probe reads the sentiment, and how good it is; or which two words are read instead.

    Every kept probe of the model can be chosen. Those of the tweets that read one word of each
    sentiment can be chosen before there are any, by their features: a run then trains them.
    """
    own = {key: probe for key, probe in probes_of(name).items() if of_tweets(probe) is None}
    names = {features: FEATURES[features] for features in TRAINABLE} | probe_names(own)
    names[CONTRAST] = OWN_WORDS
    chosen = st.selectbox(
        "Probe reads",
        list(names),
        format_func=names.__getitem__,
        key="features",
        persist_state="session",
        help="The probe turns the model's next-word probabilities, or its state, into a sentiment. "
        "Train others on the Probes page. Two words of your own need no probe: their log "
        "probabilities are compared.",
    )
    if chosen in own:
        st.caption(accuracy_line(own[chosen]))
        return own[chosen]
    words = words_choice() if chosen == CONTRAST else WORDS
    with st.expander("Prompt", expanded=chosen == CONTRAST):
        template = template_choice(name)
    if chosen == CONTRAST:
        st.caption(f"log P({words[0].strip()}) - log P({words[1].strip()}): nothing is trained.")
        return Reading(chosen, template, words)
    probe = kept_probe(name, chosen, template)
    if probe is None:
        st.caption("Not trained yet for this model: the first run takes a few minutes more.")
    else:
        st.caption(accuracy_line(probe))
    return reads_with(chosen, template)


def accuracy_line(probe: Probe) -> str:
    """How good a probe is, in one sentence."""
    report = probe.judged
    texts = "tweets" if probe.dataset == TWEETS else "texts"
    return (
        f"Trained on {report.n:,} {texts}: accuracy {report.accuracy:.1%} "
        f"({report.accuracy_low:.1%} to {report.accuracy_high:.1%}), "
        f"majority {report.majority:.1%}."
    )


def trained_for(job: Job, loaded: Model, reads: Reads) -> Probe:
    """The probe that is asked for, trained on the tweets the first time, while the job says so."""
    if isinstance(reads, Probe):
        return reads
    if isinstance(reads, Reading) and reads.features == CONTRAST:
        return reads.made(loaded)
    job.report(0.0, "Training the probe, once for this model")
    return probe_for(
        loaded,
        tweets(),
        features=reads if isinstance(reads, str) else reads.features,
        template=template_of(reads),
        dataset=TWEETS,
        progress=lambda done, total: job.report(done / total),
    )


def open_trace(key: str, probe: Probe, text: str) -> None:
    """Go to the Trace page and trace a text there, read by a kept probe of the chosen model."""
    st.session_state.tweet = text
    st.session_state.features = of_tweets(probe) or key
    st.session_state.asked = True
    st.switch_page("pages/trace.py")


def choice_of(probe: Probe) -> str:
    """What `probe_choice` calls a probe: its features, or its key."""
    return CONTRAST if probe.is_contrast else of_tweets(probe) or key_of(probe)


def link_of(probe: Probe) -> dict[str, str] | None:
    """What an address says of a probe: how `probe_choice` is asked for it.

    None where it cannot be: the probe is not kept, or its words stand in the prompt as no field
    puts them.
    """
    if probe.is_contrast:
        said = words_link(probe)
        return None if said is None else {"probe": CONTRAST, **said, **template_link(probe)}
    features = _trained_by_itself(probe)
    if features is not None:
        return {"probe": features, **template_link(probe)}
    return {"probe": key_of(probe)} if is_kept(probe) else None


def words_link(probe: Probe) -> dict[str, str] | None:
    """What an address says of a contrast's words; None where no field asks for just these."""
    target, distractor = words = tuple(word.strip() for word in probe.words)
    if _spoken((target, distractor), probe.template) != probe.words:
        return None
    return dict(zip(WORD_FIELDS, words, strict=True))


def template_link(probe: Probe) -> dict[str, str]:
    """What an address says of what stands around a tweet; nothing of the usual."""
    template, link = probe.template, {}
    if template.written != Template().written:
        link["prompt"] = f"{template.before}{TWEET}{template.suffix}"
    if template.format != "raw":
        link["format"] = template.format
    return link


def take_link(name: str, link: Mapping[str, str]) -> Reads | None:
    """What an address says that reads a run; `probe_choice` then asks for the same.

    Returns:
        None where the probe is not kept here.
    """
    # A folder is not looked into before the door has let it in.
    kept = probes_of(name) if sharing.can_be_linked(name) else {}
    asked = link.get("probe", TRAINABLE[0])
    if asked not in {*TRAINABLE, CONTRAST, *kept}:
        return None
    reads = kept.get(asked) or reads_with(asked, template_in(link, name), words_in(link))
    if name in REGISTRY:
        ask_for(reads)
    return reads


def template_in(link: Mapping[str, str], *names: str) -> Template:
    """What an address asks for around a tweet, read by models of these names."""
    template = Template()
    if (written := link.get("prompt", "")[:2000]).count(TWEET) == 1:
        before, _, suffix = written.partition(TWEET)
        template = Template(suffix, before)
    chat = any(has_chat_template(name) for name in names if sharing.can_be_linked(name))
    return replace(template, format="chat") if link.get("format") == "chat" and chat else template


def words_in(link: Mapping[str, str]) -> tuple[str, str]:
    """The words of a contrast that an address asks for."""
    target, distractor = (
        link.get(name, word)[:100] for name, word in zip(WORD_FIELDS, WORDS, strict=True)
    )
    return target, distractor


def reads_with(features: Features, template: Template, words: tuple[str, str] = WORDS) -> Reads:
    """What reads a run where no probe is chosen."""
    if features == CONTRAST or template != Template():
        return Reading(features, template, words)
    return features


def ask_for(reads: Reads) -> None:
    """Have the widgets of `probe_choice` ask for what reads a run."""
    if isinstance(reads, Probe):
        st.session_state.features = choice_of(reads)
        if of_tweets(reads) is None:
            return
    else:
        st.session_state.features = reads if isinstance(reads, str) else reads.features
    words = reads.words if isinstance(reads, Reading) else WORDS
    fill_prompt(template_of(reads), words, "contrast", "prompt")


def fill_prompt(template: Template, words: tuple[str, str], contrast: str, prompt: str) -> None:
    """Have the fields of `words_choice` and `template_choice`, by their keys, say these."""
    st.session_state[prompt] = f"{template.before}{TWEET}{template.suffix}"
    st.session_state[f"{prompt}:format"] = template.format
    for name, word in zip(WORD_FIELDS, words, strict=True):
        st.session_state[f"{contrast}:{name}"] = word


def asked_elsewhere() -> bool:
    """Whether another page has just asked for a trace."""
    return bool(st.session_state.pop("asked", False))


def follow_link() -> None:
    """At a visitor's first look, show the probe that the address names."""
    if "probes:linked" in st.session_state:
        return
    st.session_state["probes:linked"] = True
    name, key = st.query_params.get("model", ""), st.query_params.get("shown", "")
    if not key:
        return
    if name in REGISTRY and key in probes_of(name):
        st.session_state.model = name
        st.session_state.shown = key
    else:
        sharing.refuse("The probe of this link is not kept here; ask for its file and import it.")


def shared(key: str, probe: Probe) -> sharing.Share:
    """What a link to a probe's report, and its code, are made from."""
    question = None
    if is_kept(probe):
        question = {"model": probe.model_name, "shown": key}
        sharing.write(question)
    return sharing.Share("probe", question, {}, lambda: code.of_probe(probe))


def kept_choice(name: str, trained: Trained | None) -> tuple[str, Probe] | None:
    """The kept probe that is shown, the one trained last at first; and what can be done with it."""
    probes = probes_of(name)
    names = probe_names(probes)
    if trained is not None and st.session_state.get("seen") is not trained:
        st.session_state.seen = trained
        if (latest := key_of(trained.probe)) in probes:
            st.session_state.shown = latest
    if st.session_state.get("shown") not in probes:
        st.session_state.pop("shown", None)
    chosen = None
    public = limits().public  # what is kept there is everybody's
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        if probes:
            chosen = st.selectbox(
                "Kept probes of this model", list(probes), format_func=names.__getitem__,
                key="shown", persist_state="session", width=420,
            )  # fmt: skip
            probe = probes[chosen]
            if not public:
                # Another name makes it another popover, which is closed.
                with st.popover("Rename", key=f"renaming:{chosen}:{probe.name}"):
                    field = f"rename:{chosen}"
                    st.text_input("Name", probe.name[:80], max_chars=80, key=field)
                    st.button("Keep this name", on_click=_rename, args=(probe, field), key="rename")
            st.download_button(
                "Export",
                probe.to_json,
                file_name=f"probe-{chosen[:8]}.json",
                mime="application/json",
                key="export",
                on_click="ignore",
            )
            if not public and not comes_with_sentitrace(probe):
                with st.popover("Delete"):
                    st.markdown("Traces made with it stay; the probe has to be trained again.")
                    st.button("Delete it", on_click=forget, args=(probe,), key="delete")
        if not public:
            with st.popover("Import" if probes else "Import a probe"):
                st.file_uploader(
                    "A probe that was exported",
                    "json",
                    key="import",
                    max_upload_size=PROBE_MEGABYTES,
                    on_change=_import_probe,
                    args=(name,),
                )
    if refused := st.session_state.pop("import:refused", ""):
        st.error(plain(refused), icon=":material/error:")
    if said := st.session_state.pop("import:said", ""):
        st.info(plain(said), icon=":material/check:")
    return None if chosen is None else (chosen, probes[chosen])


def _rename(probe: Probe, field: str) -> None:
    keep(replace(probe, name=st.session_state[field].strip()))
    st.session_state.shown = key_of(probe)  # the browser then takes the new name over


def _import_probe(name: str) -> None:
    """Keep an uploaded probe, or say in one sentence why it cannot be one."""
    file = st.session_state["import"]
    if file is None:
        return
    try:
        probe = Probe.from_json(file.getvalue(), file.name)
    except UserError as mistake:
        st.session_state["import:refused"] = str(mistake)
        return
    keep(probe)
    key = key_of(probe)
    if key in probes_of(name):
        st.session_state.shown = key
        st.session_state["import:said"] = f"Imported {probe.title}."
    else:
        st.session_state["import:said"] = (
            f"Imported {probe.title}. It was trained on other weights, of {probe.model_name}, and "
            "is offered where those are chosen."
        )


def texts_of(probe: Probe, trained: Trained | None, data: Data | None) -> dict[int, str]:
    """The texts of a probe's report by source row, where what it was trained on is at hand."""
    from ..data.datasets import BUILT_IN

    frames = [trained.frame] if trained is not None else []
    frames += [data.frame] if data is not None else []
    if probe.dataset in BUILT_IN:
        frames.append(tweets(probe.dataset))
    for frame in frames:
        own = trained_on(probe, frame)
        if own is not None:
            return dict(zip(own["row"].tolist(), own["text"].tolist(), strict=True))
    return {}


def origin_line(probe: Probe) -> str:
    """What a probe is and how it was judged, in a few sentences."""
    reads = f"the state after block {probe.layer}"
    if probe.reads == "words":
        sides = (probe.words_positive, probe.words_negative)
        reads = " against ".join(", ".join(word.strip() for word in side) for side in sides)
    read_as = f"{probe.read_as} " if probe.read_as else ""
    revision = f" at revision {probe.model_revision[:8]}" if probe.model_revision else ""
    return (
        f"{probe.features} of {probe.model_name}{revision}, reading {reads} "
        f"{_around(probe)}, on {probe.judged.n:,} texts of "
        f"{probe.dataset or 'a data set without a name'}. {read_as}Scores are of held-out texts in "
        f"{probe.judged.folds} folds (seed {probe.seed}); in brackets are 95% bootstrap intervals."
    )


def _around(probe: Probe) -> str:
    chat = " of a chat" if probe.prompt_format == "chat" else ""
    if probe.before:
        return f"in \u201c{probe.template.written}\u201d{chat}"
    return f"after \u201c{probe.suffix.strip()}\u201d{chat}"


def mistake_line(row: int, label: int, log_odds: float) -> str:
    """What a probe made of one text, and what its label is."""
    from ..probes.scores import probability_of

    said = float(probability_of(np.array(log_odds)))
    return f"Row {row:,}: P(positive) {said:.2f}, labelled {'positive' if label else 'negative'}"


def kept_probe(name: str, features: Features, template: Template) -> Probe | None:
    """The probe that a run would use, if it is trained already; the model is not loaded."""
    return next(
        (
            probe
            for probe in probes_of(name).values()
            if _trained_by_itself(probe) == features and probe.template.asked == template.asked
        ),
        None,
    )


def probes_of(name: str) -> dict[str, Probe]:
    """Every kept probe of a model by its key, the best first; the model is not loaded."""
    identity = identity_on_disk(name)
    if identity is None:
        return {}
    files = sorted((path.name, path.stat().st_mtime_ns) for path in kept_folder().glob("*.json"))
    return _own_probe(identity) | _probes_of(identity, tuple(files))


@st.cache_resource(show_spinner=False, max_entries=8)
def _probes_of(identity: str, files: tuple[tuple[str, int], ...]) -> dict[str, Probe]:
    """Read again only when a file has changed: a report is long."""
    return {key_of(probe): probe for probe in kept_probes(identity)}


def _own_probe(identity: str) -> dict[str, Probe]:
    """What this visitor has trained last, where it is not kept for all."""
    current = job("probe")
    trained = current.progress().partial if current is not None else None
    if trained is None or not (trained.unkept or limits().public):
        return {}
    if trained.probe.model_identity != identity:
        return {}
    return {key_of(trained.probe): trained.probe}


def probe_names(probes: dict[str, Probe]) -> dict[str, str]:
    """What a list calls probes, by their keys; no two the same."""
    names: dict[str, str] = {}
    for key, probe in probes.items():
        name = f"{probe.title} \u00b7 {probe.judged.accuracy:.1%}"
        names[key] = f"{name} \u00b7 {key[:6]}" if name in names.values() else name
    return names


def of_tweets(probe: Probe) -> Features | None:
    """The features of a probe that a run of the Trace page would train without any other prompt."""
    return _trained_by_itself(probe) if probe.template == Template() else None


def _trained_by_itself(probe: Probe) -> Features | None:
    """The features of a probe that a run of the Trace page would train, under some prompt."""
    default = tuple((word,) for word in DEFAULT_WORDS)
    by_itself = (
        probe.dataset == TWEETS
        and probe.features in TRAINABLE
        and (probe.words_positive, probe.words_negative) == default
    )
    return probe.features if by_itself else None
