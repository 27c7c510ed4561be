"""The shape of the code base: who may import whom, what is imported when, and what never is."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import core
from core.models import FAMILIES

ROOT = Path(core.__file__).parent.parent
ORDER = [
    "cache",
    "limits",
    "logs",
    "hub",
    "kernels",
    "registry",
    "models",
    "prompts",
    "encoding",
    "labels",
    "delimited",
    "columns",
    "tables",
    "readers",
    "labelling",
    "datasets",
    "runs",
    "features",
    "scores",
    "probes",
    "controls",
    "results",
    "kept",
    "cases",
    "trace",
    "cells",
    "findings",
    "example",
    "counterfactuals",
    "roles",
    "records",
    "store",
    "sweep",
    "cluster",
    "average",
    "average_findings",
    "comparison",
    "studies",
    "punctuation",
    "passes",
    "key_covariance",
    "edits",
    "steering",
    "judging",
    "interventions",
    "shelf",
    "metadata",
    "recipes",
    "rows",
    "forms",
    "figures",
    "trace_figures",
    "probe_figures",
    "average_figures",
    "intervention_figures",
    "compare_figures",
    "export",
    "bundle",
    "setup",
    "jobs",
    "diagnostics",
    "session",
    "session.charts",
    "session.saving",
    "session.recalling",
    "session.labelled",
    "session.probing",
    "session.tracing",
    "session.cells",
    "session.asking",
    "session.sweeping",
    "session.average_parts",
    "session.averaging",
    "session.average_peaks",
    "session.silencing",
    "session.average_views",
    "session.shelving",
    "session.comparing",
    "session.comparing_averages",
    "session.intervening",
    "commands.shared",
    "commands.models",
    "commands.probe",
    "commands.trace",
    "commands.sweep",
    "commands.average",
    "commands.interventions",
    "commands.recipes",
    "commands.export",
    "commands",
    "__main__",
]
"""A module of core imports only from those before it; Streamlit is for `session` alone."""

CORE = sorted((ROOT / "core").rglob("*.py"))
CODE = [
    *CORE,
    *sorted((ROOT / "pages").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted(ROOT.glob("*.py")),
]
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"}
UNSAFE_CALLS = {"torch.load", "joblib.load", "joblib.dump", "pd.read_pickle", "pandas.read_pickle"}
# Words of module paths that are also the field's words, and so mean nothing by themselves.
COMMON_WORDS = {"attn", "attention", "mlp", "model", "layers", "norm", "transformer", "h"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(tree: ast.AST, package: str = "core") -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, inside functions as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, (package if node.level else "", node.module)))
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def docstrings_of(tree: ast.AST) -> set[int]:
    """Identities of the constants that only document (a string standing alone)."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


# --- the checks, each a function that lists what is wrong, so that they can be tried themselves ---


def wrong_order(module: str, tree: ast.AST) -> list[str]:
    later = ORDER[ORDER.index(module) :]
    found = []
    for line, name in imports_of(tree):
        first, _, rest = name.partition(".")
        # The longest name that is a module: what follows it is a name inside it.
        parts = rest.split(".")
        part = next((".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in ORDER), rest)
        if first == "core" and (part in later or part not in ORDER):
            found.append(f"core/{module}.py:{line} imports {name}")
    return found


def module_of(path: Path) -> str:
    """Name of a module of core within core: "runs", "session", "session.labelled"."""
    parts = path.relative_to(ROOT / "core").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def streamlit_imports(tree: ast.AST) -> list[str]:
    return [name for _, name in imports_of(tree) if name.partition(".")[0] == "streamlit"]


def module_paths(tree: ast.AST) -> list[str]:
    """Hugging Face module paths of any family, as strings or as attributes."""
    fields = [f.name for f in dataclasses.fields(next(iter(FAMILIES.values())))]
    known = {
        value
        for family in FAMILIES.values()
        for field in fields
        if isinstance(value := getattr(family, field), str)
    }
    paths = {value for value in known if "." in value}
    words = {part for value in known for part in value.split(".")} - COMMON_WORDS
    words |= {"lm_head", "embed_out", "embed_tokens", "embed_in", "wte", "get_submodule"}
    words -= {family.cache_argument for family in FAMILIES.values()}
    documents = docstrings_of(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (
            node.attr in words or ast.unparse(node).endswith((".transformer.h", ".model.layers"))
        ):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documents
            and any(re.search(rf"(?<![\w.]){re.escape(p)}(?!\w)", node.value) for p in paths)
        ):
            found.append(f"{node.lineno}: {node.value!r}")
    return found


def unsafe(tree: ast.AST) -> list[str]:
    found = [
        f"{line}: import {name}"
        for line, name in imports_of(tree)
        if name.partition(".")[0] in UNSAFE_MODULES or name in UNSAFE_CALLS
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in UNSAFE_CALLS | {"eval", "exec"}:
            found.append(f"{node.lineno}: {called}")
        for keyword in node.keywords:
            forbidden = keyword.arg in ("trust_remote_code", "allow_pickle")
            if forbidden and ast.unparse(keyword.value) != "False":
                found.append(f"{node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}")
    return found


# --- the code base against them ------------------------------------------------------------------


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_core_imports_only_from_earlier_modules(path: Path) -> None:
    tree = parse(path)
    if not module_of(path):
        within = [name for _, name in imports_of(ast.Module(runtime_part(tree), []))]
        assert not [name for name in within if name.startswith("core")]
        return
    assert module_of(path) in ORDER, f"give {name_of(path)} its place in ORDER, above"
    assert wrong_order(module_of(path), tree) == []


def runtime_part(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run at import: all but those for type checkers only."""
    return [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
    ]


WITHOUT_STREAMLIT = [p for p in CORE if module_of(p).partition(".")[0] != "session"]


@pytest.mark.parametrize("path", WITHOUT_STREAMLIT, ids=name_of)
def test_only_session_knows_streamlit(path: Path) -> None:
    assert streamlit_imports(parse(path)) == []


@pytest.mark.parametrize("path", [p for p in CODE if name_of(p) != "core/models.py"], ids=name_of)
def test_module_paths_stand_in_models_alone(path: Path) -> None:
    assert module_paths(parse(path)) == []


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_nothing_is_loaded_that_can_run_code(path: Path) -> None:
    assert unsafe(parse(path)) == []


def test_import_core_is_quick_and_light() -> None:
    script = (
        "import sys, core\n"
        "heavy = 'streamlit torch transformers sklearn datasets pandas altair numpy'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - started)
        assert done.stdout.strip() == "[]"
    assert min(seconds) < 1.0


# --- the checks against code that they must find -------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "from core.trace import trace",
        "from core import trace",
        "import core.trace",
        "from . import trace",
        "from .trace import trace",
        "def later():\n    from core.trace import trace",
        "importlib.import_module('core.trace')",
        "from core import *",
    ],
)
def test_a_wrong_order_is_found(line: str) -> None:
    assert len(wrong_order("probes", ast.parse(line))) == 1
    assert "*" in line or wrong_order("figures", ast.parse(line)) == []


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (streamlit_imports, "import streamlit as st"),
        (streamlit_imports, "def f():\n    from streamlit.testing.v1 import AppTest"),
        (module_paths, "network.get_submodule(path)"),
        (module_paths, "x = network.model.layers"),
        (module_paths, "x = block.self_attn"),
        (module_paths, "path = 'transformer.h'"),
        (module_paths, "path = 'gpt_neox.layers.3'"),
        (unsafe, "import pickle"),
        (unsafe, "from joblib import load"),
        (unsafe, "torch.load(path)"),
        (unsafe, "load(folder, trust_remote_code=True)"),
        (unsafe, "load(folder, trust_remote_code=trust)"),
        (unsafe, "np.load(path, allow_pickle=True)"),
    ],
)
def test_what_is_forbidden_is_found(check, line: str) -> None:
    assert len(check(ast.parse(line))) == 1


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (streamlit_imports, "import streamlined"),
        (module_paths, "count = model.layers"),
        (module_paths, '"""The blocks are at transformer.h in GPT-2."""'),
        (unsafe, "load(folder, trust_remote_code=False)"),
        (unsafe, "json.load(file)"),
    ],
)
def test_what_is_allowed_is_left_alone(check, line: str) -> None:
    assert check(ast.parse(line)) == []
