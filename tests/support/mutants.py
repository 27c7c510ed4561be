"""Would the tests notice a wrong engine? Breaks it on purpose, one change at a time.

    PYTHONPATH=. python tests/support/mutants.py [--module patching/restore] [--output FILE]

Each mutant is one small change of a line of `core`, of the kind that slips in: a bound off by one,
a sign, a forgotten sample, the wrong run. The tests of its module run on a copy of the project with
that one change; the mutant is killed when a test fails. A mutant whose line is no longer there is
an error, so that the list keeps up with the code.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from paths import ROOT

TESTS = {
    **dict.fromkeys(
        ("patching/sites", "patching/clean_and_corrupted", "patching/batches", "patching/restore"),
        ["tests/patching/test_restore.py", "tests/tracing/test_corruption.py"],
    ),
    "statistics": ["tests/test_statistics.py"],
    "tracing/corruption": ["tests/tracing/test_corruption.py", "tests/tracing/test_tracer.py"],
    "tracing/tracer": [
        "tests/tracing/test_tracer.py",
        "tests/tracing/test_corruption.py",
        "tests/tracing/test_sample_cache.py",
    ],
    "tracing/result": [
        "tests/tracing/test_tracer.py",
        "tests/tracing/test_corruption.py",
        "tests/tracing/test_findings.py",
    ],
    "sweeps/average": ["tests/sweeps/test_average.py"],
}
SECONDS = 600

MUTANTS: dict[str, list[tuple[str, str]]] = {
    "patching/sites": [
        ("range(max(0, layer - window // 2)", "range(max(0, layer - window // 2 + 1)"),
        ("min(layers, layer - (-window // 2))", "min(layers, layer - (-window // 2) + 1)"),
        ("min(layers, layer - (-window // 2))", "min(layers, layer + window // 2)"),
    ],
    "patching/clean_and_corrupted": [
        ("states[-1].repeat(parts, 1, 1)", "states[0].repeat(parts, 1, 1)"),
        ("entering[kind].append(by_part[part])", "entering[kind].append(by_part[0])"),
        (
            "own.append(output.contributions[severed][:samples])",
            "own.append(source.contributions[severed][layer])",
        ),
        (
            "return None if readout.layer is None else states[readout.layer + 1][:, -1]",
            "return None if readout.layer is None else states[readout.layer][:, -1]",
        ),
    ],
    "patching/batches": [
        ("if layer and covered.start == below.start:", "if covered.start == below.start:"),
        (
            "Row(kind, layer, below.stop - 1, covered.stop",
            "Row(kind, layer, below.stop, covered.stop",
        ),
        (
            "Row(kind, layer, covered.start, covered.stop))",
            "Row(kind, layer, layer, covered.stop))",
        ),
        (
            "Row(kind, layer, covered.start, covered.stop))",
            "Row(kind, layer, covered.start, layer + 1))",
        ),
    ],
    "patching/restore": [
        (
            "result[kind][:, ::every, t] = base.read[:, None]",
            "result[kind][:, :, t] = base.read[:, None]",
        ),
        ("*(t for t in wanted if t > first)", "*(t for t in wanted if t > first + 1)"),
        ("expected = base.read if row.kind", "expected = source.read if row.kind"),
        ("if not deviation <= CHECK_TOLERANCE", "if deviation < -CHECK_TOLERANCE"),
        (
            "result[row.kind][:, row.layer, t] = read[index]",
            "result[row.kind][0, row.layer, t] = read[index, 0]",
        ),
        ("if count > 1:\n            rows =", "if count > 0:\n            rows ="),
        (
            "if layer == self.readout.layer:\n                # A row",
            "if layer == (self.readout.layer or 0) - 1:\n                # A row",
        ),
        ("heard[:active] = states[:active, :, -1]", "heard[:] = states[:, :, -1]"),
        (
            "mask = (kinds == kind) & (enters < layers) & (layers < until)",
            "mask = (kinds == kind) & (enters <= layers) & (layers < until - 1)",
        ),
        (
            "mask = (kinds == kind) & (enters < layers) & (layers < until)",
            "mask = (enters < layers) & (layers < until)",
        ),
        (
            '(kinds == "hidden") & (enters < layers), own',
            '(kinds == "hidden") & (enters < layers - 1), own',
        ),
        (
            "states[index] = self.source.states[0, :, t:]",
            "states[index] = self.base.states[0, :, t:]",
        ),
        (
            "states[index] = self.base.states[row.enters + 1, :, t:]",
            "states[index] = self.base.states[row.enters, :, t:]",
        ),
        ("self.source.states[row.enters + 1, :, t]", "self.source.states[row.enters, :, t]"),
        (
            "self.base.entering[row.kind][row.enters, :, t]",
            "self.base.entering[row.kind][row.layer, :, t]",
        ),
        ("continue  # the rows are as they were", "start += 1  # the rows are as they were"),
        ("values = self.base.values[layer][:", "values = self.base.values[0][:"),
        (
            "if layer == self.layers - 1 and count > 1:",
            "if layer >= self.layers - 2 and count > 1:",
        ),
        (
            "own.copy_(torch.where(chosen[:, None, None], by, own))",
            "own.copy_(torch.where(chosen[:, None, None], own, by))",
        ),
        ("differences = (other - own)", "differences = (own - other)"),
        (
            "states[:, :, 0] = entered.view(heads, samples, width)",
            "states[:, :, -1] = entered.view(heads, samples, width)",
        ),
        (
            "for above in range(layer + 1, self.layers):",
            "for above in range(layer + 2, self.layers):",
        ),
    ],
    "tracing/corruption": [
        (
            "np.random.default_rng([settings.seed, sample])",
            "np.random.default_rng([settings.seed, 0])",
        ),
        ("np.random.default_rng([settings.seed, sample])", "np.random.default_rng([0, sample])"),
        ("generator.uniform(-np.sqrt(3), np.sqrt(3), shape)", "generator.uniform(-1, 1, shape)"),
        ("corrupted[list(span)] += ", "corrupted += "),
        ("model.embedding_matrix.mean(0)", "model.embedding_matrix.mean()"),
        ("span = _differing(prompt, other)", "span = prompt.tweet_span"),
        ("if own != its", "if own == its"),
        ("settings.noise_scale * probe.embedding_std", "settings.noise_scale"),
        (
            "return max(1, round(layers * PAPER_WINDOW))",
            "return max(2, round(layers * PAPER_WINDOW))",
        ),
        ('if settings.direction == "restore":', 'if settings.direction == "corrupt":'),
        (
            "return source, base, numbers_of(source.read)",
            "return source, base, numbers_of(base.read)",
        ),
        ("weight = coefficients / scale", "weight = coefficients * scale"),
        ("float(probe.intercept - mean @ weight)", "float(probe.intercept + mean @ weight)"),
    ],
    "tracing/tracer": [
        (
            "size = min(batches.samples if done else 1, settings.draws - done)",
            "size = min(batches.samples, settings.draws - done)",
        ),
        ("range(done, done + size)", "range(size)"),
        ("reads = fresh if reads is None else reads.joined(fresh)", "reads = fresh"),
        (
            "result = replace(blank, reads=reads.first(settings.draws))",
            "result = replace(blank, reads=reads)",
        ),
        ("len(pictures) <= settings.stable_for", "len(pictures) < settings.stable_for"),
        ("pictures[-settings.stable_for - 1 :]", "pictures[-1:]"),
        ("return replace(batches, samples=size // 2)", "return replace(batches, samples=size)"),
        ("found = found.at(positions[number])", "found = found.at(positions[0])"),
        (
            "clean = clean.of([chosen.index(index) for index, _ in part])",
            "clean = clean.of([0 for _ in part])",
        ),
        ("[sample for _, sample in part]", "[0 for _ in part]"),
        (
            "first=min(min(case.blank.corrupted_span) for case in cases)",
            "first=max(max(case.blank.corrupted_span) for case in cases)",
        ),
        ("noise_scale=float(scale)", "noise_scale=settings.noise_scale"),
        ("replace(settings, corrupt=word.tokens)", "settings"),
        ("progress((done + size * share) / samples)", "progress(share)"),
    ],
    "tracing/result": [
        ("{kind: self.high - values", "{kind: values - self.high"),
        ("{kind: values - low", "{kind: low - values"),
        ("return self.high - self.low", "return self.low - self.high"),
        (
            "mask[:, : min(self.corrupted_span)] = True",
            "mask[:, : max(self.corrupted_span)] = True",
        ),
        ("if first >= read:", "if first > read:"),
        ('(first == read and kind == "hidden")', "first == read"),
        ("effects * np.sign(self.total_effect)", "effects"),
        ("-np.logaddexp(0.0, -odds)", "-np.logaddexp(0.0, odds)"),
        ("ratio: Array = good - bad", "ratio: Array = bad - good"),
        ('good if proxy == "good" else bad', 'bad if proxy == "good" else good'),
        ("values[:, :, others] = np.nan", "values[:, others] = np.nan"),
    ],
    "statistics": [
        ("t.ppf(0.975", "t.ppf(0.75"),
        ("values.std(axis=0, ddof=1) / np.sqrt(len(values))", "values.std(axis=0, ddof=1)"),
    ],
    "sweeps/average": [
        ("[:, self.layers] * sign\n", "[:, self.layers]\n"),
        (
            "found[role] = effects[:, :, positions].mean(axis=2)",
            "found[role] = effects[:, :, positions].sum(axis=2)",
        ),
        ("if name == role and not", "if not"),
        ("sign * result.total_effect, _text_seed", "result.total_effect, _text_seed"),
        ('(last["reach"] / reach) ** 2', '(last["reach"] / reach)'),
        ('both["mean_first"] - both["mean_second"]', 'both["mean_second"] - both["mean_first"]'),
        ("below = self.totals if normalised else self.present", "below = self.present"),
        ("self.peaked[order].ravel() / self.n", "self.peaked[order].ravel()"),
        ("if group is None:\n            continue", "if group is None:\n            group = ''"),
        ("elif self.model != _model_of(result):", "elif False:"),
    ],
}


def main() -> None:
    """Try every mutant; exit with 1 when fewer than nine in ten are killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--module", choices=MUTANTS, action="append")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/mutants.json")
    options = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    if options.module and options.output.is_file():  # the other modules' stay as they are
        found = json.loads(options.output.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        kept_out = shutil.ignore_patterns(".*", "docs", "benchmarks", "*.pyc", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=kept_out)
        for module in options.module or MUTANTS:
            survivors = [
                f"{old} -> {new}"
                for old, new in MUTANTS[module]
                if not is_killed(copy, module, old, new)
            ]
            count = len(MUTANTS[module])
            found[module] = {
                "mutants": count,
                "killed": count - len(survivors),
                "survivors": survivors,
            }
            print(f"{module}: {count - len(survivors)} of {count} killed", flush=True)
    mutants = sum(int(str(each["mutants"])) for each in found.values())
    killed = sum(int(str(each["killed"])) for each in found.values())
    print(f"{killed} of {mutants} mutants killed ({killed / mutants:.0%})")
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(killed < 0.9 * mutants)


def is_killed(copy: Path, module: str, old: str, new: str) -> bool:
    """Does a test of the module fail when `old` reads `new`?"""
    path = copy / "core" / f"{module}.py"
    own = path.read_text(encoding="utf-8")
    if old not in own:
        raise SystemExit(f"core/{module}.py has no line with {old!r} any more; mend the list.")
    path.write_text(own.replace(old, new, 1), encoding="utf-8")
    # In a folder of its own the copy is found before the installed project.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not embedded and not browser"]
    try:
        tests = subprocess.run(
            [*command, "-p", "no:cacheprovider", *TESTS[module]],
            cwd=copy,
            env=environment,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(own, encoding="utf-8")
    if tests.returncode == 0:
        print(f"  survived in {module}: {old!r} -> {new!r}", flush=True)
    elif tests.returncode != 1:  # not a failed test: the mutant could not be tried at all
        text = (tests.stdout + tests.stderr).decode(errors="replace")
        if "SyntaxError" in text:
            raise SystemExit(f"The mutant {new!r} of core/{module}.py is no Python:\n{text[-800:]}")
    return tests.returncode != 0


if __name__ == "__main__":
    main()
