"""The plain reference: full forward passes with hooks, nothing shared between cells.

    python -m benchmarks.ways.full_passes plain|batched FOLDER

`plain` is the way of the ROME code (kmeng01/rome, `causal_trace.py`): one full forward pass per
cell, which carries all noise samples, and logits at every position. `batched` packs 32 rows, each
one cell of one sample, into a pass and asks for the last position's logits only: about the best
that full passes can do. Both run the network as transformers loads it (no packed weights).
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.ways.job import Job, Memory, Result, read, timed, write
from core.models.families import FAMILIES
from core.models.loading import DTYPES
from core.patching.sites import window_layers

ROWS = 32


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


class FullPasses:
    """A network and the hooks that put clean states back."""

    def __init__(self, job: Job, noise: Tensor, *, last_only: bool) -> None:
        network = transformers.AutoModelForCausalLM.from_pretrained(
            job.model,
            dtype=DTYPES[job.dtype],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        self._network = network.to(job.device).eval()
        self._last_only = last_only
        self._job = job
        family = FAMILIES[network.config.model_type]
        blocks = list(attrgetter(family.blocks)(network))
        self._modules: dict[str, list[nn.Module]] = {
            "hidden": blocks,
            "mlp": [attrgetter(family.mlp)(block) for block in blocks],
            "attn": [attrgetter(family.attn)(block) for block in blocks],
        }
        self.clean = network.get_input_embeddings()(torch.tensor(job.ids, device=job.device))
        noise = noise.to(self.clean)
        self.corrupted = self.clean.expand(len(noise), -1, -1).clone()  # (samples, T, D)
        self.corrupted[:, job.span] += noise

    def log_probs(self, embeddings: Tensor) -> Tensor:
        """log P of the words (rows, words) after embeddings (rows, T, D)."""
        options = {"logits_to_keep": 1} if self._last_only else {}
        output = self._network(inputs_embeds=embeddings, use_cache=False, **options)
        return output.logits[:, -1].float().log_softmax(-1)[:, self._job.word_ids]

    def record(self, kind: str) -> list[Tensor]:
        """The clean states of a kind, (T, D) per layer."""
        states: list[Tensor] = []
        with ExitStack() as stack:
            for module in self._modules[kind]:
                handle = module.register_forward_hook(
                    lambda _m, _a, output: states.append(_first(output)[0].clone())
                )
                stack.callback(handle.remove)
            self.log_probs(self.clean[None])
        return states

    def restored(
        self, kind: str, clean: list[Tensor], rows: list[tuple[tuple[int, int], int]]
    ) -> Tensor:
        """One pass over rows ((layer, position), sample): log P of the words (rows, words)."""
        layers = len(clean)
        at: dict[int, tuple[list[int], list[int]]] = {}
        for row, ((layer, position), _) in enumerate(rows):
            window = self._job.window
            covered = [layer] if kind == "hidden" else window_layers(layer, window, layers)
            for each in covered:
                at.setdefault(each, ([], []))[0].append(row)
                at[each][1].append(position)
        with ExitStack() as stack:
            for layer, (indices, positions) in at.items():

                def put_back(
                    _module: nn.Module,
                    _arguments: Any,
                    output: Any,
                    indices: list[int] = indices,
                    positions: list[int] = positions,
                    source: Tensor = clean[layer],
                ) -> None:
                    _first(output)[indices, positions] = source[positions]

                handle = self._modules[kind][layer].register_forward_hook(put_back)
                stack.callback(handle.remove)
            return self.log_probs(self.corrupted[[sample for _, sample in rows]])


@torch.inference_mode()
def main(name: str, folder: Path) -> None:
    """Measure the cells of the job."""
    job, noise = read(folder)
    memory = Memory()
    passes = FullPasses(job, noise, last_only=name == "batched")
    passes.log_probs(passes.clean[None, :1])  # so that the weights are in memory, not only mapped
    memory.loaded()
    result = Result(samples=job.samples)
    rows_per_pass = {"plain": job.samples, "batched": ROWS}[name]
    passes.log_probs(passes.corrupted)  # warm-up
    for kind, cells in job.cells.items():
        with timed(result.fixed_seconds, kind):
            clean = passes.record(kind)
            passes.log_probs(passes.corrupted)
        rows = [(cell, sample) for cell in cells for sample in range(job.samples)]
        read_out = []
        with timed(result.seconds, kind):
            for start in range(0, len(rows), rows_per_pass):
                read_out.append(passes.restored(kind, clean, rows[start : start + rows_per_pass]))
            log_probs = torch.cat(read_out).double().cpu().numpy()
        result.log_probs[kind] = log_probs.reshape(len(cells), job.samples, -1)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    write(folder, result, memory, versions)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
