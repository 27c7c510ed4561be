"""The package causal-tracer, in an environment of its own.

    python -m benchmarks.ways.causal_tracer FOLDER

Does what `CausalTracer.calculate_hidden_flow` does, call by call, but for chosen cells: it queues
every cell's samples (`trace_important_window`) and runs full forward passes in batches of 32, the
package's default. Its noise is replaced by the job's. It hands back one number per cell: the
probability of one answer, mean over samples.
"""

from __future__ import annotations

import math
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from causal_tracer import CausalTracer
from causal_tracer.causal_tracing.AsyncTracePatchProcessor import AsyncTracePatchProcessor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.ways.job import Memory, Result, read, timed, write

BATCH = 32
KINDS = {"hidden": "hidden", "mlp": "mlp", "attn": "attention"}


def main(folder: Path) -> None:
    """Measure the cells of the job."""
    job, noise = read(folder)
    drawn = noise.double().numpy()

    class WithTheJobsNoise(AsyncTracePatchProcessor):
        def _get_consistent_noise(self, sample_num: int, *_: int) -> np.ndarray:
            return drawn[sample_num]

    memory = Memory()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(job.model) / "tokenizer.json"),
        eos_token="<|im_end|>",
        # As GPT-2's own: with token types GPT-2 would add an embedding to every position.
        model_input_names=["input_ids", "attention_mask"],
    )
    network = AutoModelForCausalLM.from_pretrained(
        job.model,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    tracer = CausalTracer(network, tokenizer, noise=1.0)
    with torch.no_grad():
        network(torch.tensor([job.ids[:1]]))  # so that the weights are in memory, not only mapped
    memory.loaded()
    prompt = job.tweet + job.suffix
    if tokenizer(prompt)["input_ids"] != job.ids:
        raise ValueError("The prompt was read as other tokens than those of the job.")
    answer = torch.tensor(job.word_ids[0])
    span = (job.span[0], job.span[-1] + 1)
    result = Result(samples=job.samples)
    tracer.calculate_base_outputs_batched([prompt], "hidden", BATCH)  # warm-up
    for kind, cells in job.cells.items():
        theirs = KINDS[kind]
        window = 1 if kind == "hidden" else job.window
        processor = WithTheJobsNoise(
            network,
            tokenizer,
            tracer.layer_config.embedding_layer,
            noise=1.0,
            samples_per_patch=job.samples,
            batch_size=BATCH,
            device=tracer.device,
        )
        with timed(result.fixed_seconds, kind):
            base = tracer.calculate_base_outputs_batched([prompt], theirs, BATCH)
            clean = base.uncorrupted_layer_outputs[0]
            low = processor.trace_with_patch(prompt, [], clean, answer, span)
            processor.process()
            assert low.result is not None
        with timed(result.seconds, kind):
            futures = [
                tracer.trace_important_window(
                    prompt,
                    clean,
                    span,
                    answer,
                    theirs,
                    processor,
                    ntoks=len(job.ids),
                    window=window,
                    token_range=(position, position + 1),
                    start_layer=layer,
                    end_layer=layer + 1,
                )[0][0]
                for layer, position in cells
            ]
            processor.process()
            probabilities = [future.result.item() for future in futures]
        result.mean_log_probs[kind] = np.array([math.log(each) for each in probabilities])
    names = ("causal-tracer", "transformers", "torch")
    write(folder, result, memory, {name: version(name) for name in names})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
