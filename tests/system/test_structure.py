"""The shape of the code base: who may import whom, what is imported when, and what never is."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

from core.models.families import FAMILIES

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


def posix_alone(tree: ast.AST) -> list[str]:
    """What Windows lacks, where nothing asks with hasattr or getattr whether it is there."""
    asked = {
        (ast.unparse(node.args[0]), ast.unparse(node.args[1]).strip("'"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr")
    }
    found = [
        f"{line}: {name}"
        for line, name in imports_of(tree)
        if name.partition(".")[0] in {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = (node.value.id, node.attr)
            if name[1] in POSIX.get(name[0], ()) and name not in asked:
                found.append(f"{node.lineno}: {'.'.join(name)}")
        elif isinstance(node, ast.keyword) and node.arg in ("preexec_fn", "pass_fds"):
            found.append(f"{node.value.lineno}: {node.arg}")
        elif isinstance(node, ast.Call) and (
            ast.unparse(node.func).endswith((".read_text", ".write_text"))
            and len(node.args) + len(node.keywords)
            < 1 + ast.unparse(node.func).endswith(".write_text")
        ):
            found.append(f"{node.lineno}: no encoding")
        elif isinstance(node, ast.Constant) and str(node.value).startswith(("/proc/", "/dev/")):
            found.append(f"{node.lineno}: {node.value}")
    return found


POSIX = {
    "os": [
        *("fork", "forkpty", "posix_spawn", "wait", "wait3", "wait4", "WNOHANG", "killpg", "nice"),
        *("getuid", "geteuid", "getgid", "getegid", "getpgid", "setpgid", "setsid", "setuid"),
        *("chown", "chroot", "fchmod", "fchown", "lchown", "link", "symlink", "mkfifo"),
        *("getloadavg", "getpriority", "sched_getaffinity", "statvfs", "sysconf", "uname"),
        "O_DIRECTORY",
    ],
    "signal": [
        *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGUSR1"),
        *("SIGUSR2", "alarm", "pause", "pthread_kill", "setitimer", "sigwait"),
    ],
    "asyncio": ["add_signal_handler"],
    "time": ["tzset"],
    "socket": ["AF_UNIX"],
}


# --- the code base against them ------------------------------------------------------------------


def broken_contracts(root: Path) -> str:
    """What import-linter finds against pyproject.toml; empty where every contract is kept."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--config", ROOT / "pyproject.toml"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_a_wing_of_core_imports_only_from_those_before_it_and_one_knows_streamlit():
    assert broken_contracts(ROOT) == ""


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("storage/cache.py", "from core.tracing import tracer", "storage is not allowed to import"),
        (
            "data/tables.py",
            "def f():\n    import core.sweeps.store",
            "data is not allowed to import",
        ),
        ("charts/figures.py", "import streamlit", "Only the dashboard"),
        (
            "commands/trace.py",
            "from core.dashboard import door",
            "commands is not allowed to import",
        ),
        ("stray.py", "", "stray"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line, says):
    copy = shutil.copytree(ROOT / "core", tmp_path / "core")
    with open(copy / file, "a", encoding="utf-8") as module:
        module.write(f"\n{line}\n")
    assert says in broken_contracts(tmp_path)


def test_import_core_alone_imports_no_part_of_it():
    tree = parse(ROOT / "core" / "__init__.py")
    within = [name for _, name in imports_of(ast.Module(runtime_part(tree), []))]
    assert not [name for name in within if name.startswith("core")]


def runtime_part(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run at import: all but those for type checkers only."""
    return [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
    ]


@pytest.mark.parametrize(
    "path", [p for p in CODE if not name_of(p).startswith("core/models/")], ids=name_of
)
def test_module_paths_stand_in_models_alone(path):
    assert module_paths(parse(path)) == []


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_nothing_is_loaded_that_can_run_code(path):
    assert unsafe(parse(path)) == []


@pytest.mark.parametrize("path", [p for p in CODE if "benchmarks" not in p.parts], ids=name_of)
def test_nothing_needs_what_windows_lacks(path):
    assert posix_alone(parse(path)) == []


def test_import_core_is_light():
    script = (
        "import sys, core\n"
        "heavy = 'streamlit torch transformers sklearn datasets pandas altair numpy'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# --- the checks against code that they must find -------------------------------------------------


@pytest.mark.parametrize(
    ("check", "line"),
    [
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
        (posix_alone, "import fcntl"),
        (posix_alone, "from resource import getrusage"),
        (posix_alone, "os.kill(process, signal.SIGKILL)"),
        (posix_alone, "os.symlink(a, b)"),
        (posix_alone, "subprocess.Popen(command, preexec_fn=os.setpgrp)"),
        (posix_alone, "open('/proc/meminfo')"),
        (posix_alone, "path.write_text(said)"),
        (posix_alone, "path.read_text()"),
    ],
)
def test_what_is_forbidden_is_found(check, line):
    assert len(check(ast.parse(line))) == 1


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (module_paths, "count = model.layers"),
        (module_paths, '"""The blocks are at transformer.h in GPT-2."""'),
        (unsafe, "load(folder, trust_remote_code=False)"),
        (unsafe, "json.load(file)"),
        (posix_alone, "if hasattr(signal, 'alarm'):\n    signal.alarm(3)"),
        (posix_alone, "path.write_text(said, 'utf-8')"),
        (posix_alone, "path.read_text(encoding='utf-8')"),
    ],
)
def test_what_is_allowed_is_left_alone(check, line):
    assert check(ast.parse(line)) == []
