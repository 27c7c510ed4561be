"""TransformerLens `patching`, in its own environment.

    python -m benchmarks.ways.transformer_lens single|batched FOLDER

`generic_activation_patch` runs one full forward pass per cell over the whole corrupted batch.
`single` gives it one corrupted sample, as its tutorials do; `batched` gives it all samples as the
batch. Noise is added by a hook on the embeddings. `resid_post` is patched, which is the state after
a layer (`get_act_patch_resid_pre` is the same function one layer earlier). It knows no windows: for
mlp and attn it patches one layer, at the same cost, and the result is not compared where the job's
window is wider.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from benchmarks.ways.job import Memory, Result, read, timed, write

ACTIVATIONS = {"hidden": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}


@torch.no_grad()
def main(name: str, folder: Path) -> None:
    """Measure the cells of the job."""
    job, noise = read(folder)
    samples = {"single": 1, "batched": job.samples}[name]
    memory = Memory()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(job.model) / "tokenizer.json"), eos_token="<|im_end|>"
    )
    model = TransformerBridge.boot_transformers(
        job.model, tokenizer=tokenizer, device="cpu", dtype=torch.float32
    )
    model(torch.tensor([job.ids[:1]]))  # so that the weights are in memory, not only mapped
    memory.loaded()
    clean_ids = torch.tensor([job.ids])
    corrupted_ids = clean_ids.repeat(samples, 1)

    def corrupt(embeddings: torch.Tensor, **_: object) -> torch.Tensor:
        embeddings = embeddings.clone()
        embeddings[:, job.span] += noise[:samples]
        return embeddings

    def reader(word: int):
        return lambda logits: logits[:, -1].log_softmax(-1)[:, word]

    metrics = {word: reader(token) for word, token in zip(job.words, job.word_ids, strict=True)}
    result = Result(samples=samples)
    model(corrupted_ids)  # warm-up
    for kind, cells in job.cells.items():
        with timed(result.fixed_seconds, kind):
            _, clean = model.run_with_cache(clean_ids)
            with model.hooks(fwd_hooks=[("hook_embed", corrupt)]):
                model(corrupted_ids)
        with (
            timed(result.seconds, kind),
            model.hooks(fwd_hooks=[("hook_embed", corrupt)]),
        ):
            patched = patching.generic_activation_patch(
                model,
                corrupted_ids,
                clean,
                metrics,
                patching.layer_pos_patch_setter,
                ACTIVATIONS[kind],
                index_df=pd.DataFrame(cells, columns=["layer", "pos"]),
                reduce="none",
            )
        if kind == "hidden" or job.window == 1:
            log_probs = patched.values.double().numpy()  # (words, cells, samples)
            result.log_probs[kind] = np.moveaxis(log_probs, 0, -1)
    names = ("transformer-lens", "transformers", "torch")
    write(folder, result, memory, {each: version(each) for each in names})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
