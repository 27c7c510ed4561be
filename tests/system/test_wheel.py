"""Installed outside of its checkout, is SentiTrace whole?"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT
from served import browse, open_dashboard, serve
from tiny_world import make_home

import core

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKED = ("core", "pages", "assets", "docs", ".streamlit/config.toml", "app.py", "setup.py")
ABOUT = ("pyproject.toml", "README.md", "LICENSE")
BUILT_BEFORE = "build/lib/sentitrace/of_an_earlier_build.py"
LINES = """
import json, sys, sentitrace
from sentitrace.tracing import example
model = sentitrace.load_model("gpt2")
probe = sentitrace.train_probe(model, sentitrace.load_dataset("vader-tweets"))
result = sentitrace.trace(model, probe, "good day", sentitrace.TraceSettings(samples=2))
print(json.dumps({
    "hidden": result.effects["hidden"].tolist(),
    "example": example.load().model_name,
    "core": "core" in sys.modules,
    "from": sentitrace.__file__,
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, and that from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "checkout"
    for name in (*PACKED, *ABOUT):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=source, check=True, text=True)
    (packed,) = folder.glob("sentitrace-*.tar.gz")
    shutil.unpack_archive(packed, folder, filter="data")
    unpacked = folder / packed.name.removesuffix(".tar.gz")
    (unpacked / BUILT_BEFORE).parent.mkdir(parents=True)
    (unpacked / BUILT_BEFORE).write_text("")
    _pip("wheel", "--no-build-isolation", "--wheel-dir", folder, unpacked)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and of this one the libraries."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    of_environment = {"base": str(folder), "platbase": str(folder)}
    libraries = Path(sysconfig.get_path("purelib", vars=of_environment))
    (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    _pip("--python", programs / "python", "install", wheel)
    return programs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"), layers=3)


def _pip(*arguments: object) -> None:
    own = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    *before, last = map(str, arguments)
    subprocess.run([sys.executable, "-m", "pip", *before, *own, last], check=True)


def _elsewhere(home: Path) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "SENTITRACE_HOME": str(home)
    }


def _said(folder: Path, home: Path, *command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=_elsewhere(home),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_all_modules_and_files_and_nothing_else(installed, wheel):
    shutil.unpack_archive(wheel, wheel.parent / "wheel", "zip")
    packed = wheel.parent / "wheel" / "sentitrace"
    found = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    code = {path.relative_to(ROOT / "core").as_posix() for path in (ROOT / "core").rglob("*.py")}
    beside = {
        f"share/{path.relative_to(ROOT).as_posix()}"
        for pattern in ("app.py", "pages/*.py", "assets/**/*", "docs/method.*", ".streamlit/c*")
        for path in ROOT.glob(pattern)
        if path.is_file()
    }
    assert found == code | beside | {"py.typed"}
    for script in (packed / "share").rglob("*.py"):
        assert not re.search(r"\bcore\b", script.read_text(encoding="utf-8")), script


def test_three_lines_of_python_find_what_they_find_in_the_checkout(
    installed, home, tmp_path, monkeypatch
):
    said = json.loads(_said(tmp_path, home, installed / "python", "-c", LINES))
    monkeypatch.setenv("SENTITRACE_HOME", str(home))
    model = core.load_model("gpt2")
    probe = core.train_probe(model, core.load_dataset("vader-tweets"))
    here = core.trace(model, probe, "good day", core.TraceSettings(samples=2))
    np.testing.assert_allclose(said["hidden"], here.effects["hidden"], atol=1e-5)
    assert said["example"] == "smollm2-135m-instruct"
    assert said["core"] is False
    assert Path(said["from"]).is_relative_to(installed.parent)


def test_the_commands_name_themselves_as_they_were_called(installed, home, tmp_path):
    sentitrace = installed / "sentitrace"
    assert _said(tmp_path, home, sentitrace, "--help").startswith("Usage: sentitrace [OPTIONS]")
    _said(tmp_path, home, sentitrace, "trace", "good day", "--samples", 2, "--out", "t.svg")
    assert (tmp_path / "t.svg").read_text(encoding="utf-8").startswith("<svg")
    of_module = _said(tmp_path, home, installed / "python", "-m", "sentitrace", "trace", "--help")
    assert of_module.startswith("Usage: sentitrace trace [OPTIONS] TEXT")
    empty = subprocess.run(
        [sentitrace, "trace", "good day", "--model", "smollm2-135m-instruct"],
        cwd=tmp_path,
        env=_elsewhere(tmp_path / "empty"),
        capture_output=True,
        text=True,
    )
    assert "run `sentitrace setup` first" in empty.stderr


def test_a_sweep_goes_on_in_processes_of_its_own(installed, home, tmp_path):
    sweep = ("sweep", "--n", 4, "--samples", 1, "--processes", 2, "--no-progress")
    said = _said(tmp_path, home, installed / "sentitrace", *sweep)
    assert re.search(r"^sentitrace average \w+", said, re.MULTILINE), said


@pytest.mark.browser
def test_the_dashboard_is_served_from_any_folder(installed, home, chromium, tmp_path):
    program = (installed / "sentitrace", "serve", "--no-setup")
    with serve(home, program, cwd=tmp_path) as address, browse(chromium) as browser:
        page = open_dashboard(browser, address)
        page.get_by_role("link", name="Method").click()
        page.get_by_role("heading", name="Method").wait_for()
        # The settings came along: Streamlit's own menu is a developer's otherwise.
        assert page.get_by_test_id("stAppDeployButton").count() == 0


def _ranges() -> dict[str, Requirement]:
    needed = map(Requirement, PROJECT["project"]["dependencies"])
    return {canonicalize_name(one.name): one for one in needed}


def _pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


def test_the_library_takes_what_the_app_is_pinned_to():
    pins = _pins("requirements.txt")
    assert set(pins) == set(_ranges())
    for name, needed in _ranges().items():
        assert needed.specifier.contains(pins[name]), name


def test_the_lowest_version_of_each_range_is_one_that_is_tested():
    lowest = _pins("requirements-lowest.txt")
    for name, needed in _ranges().items():
        (least,) = (one.version for one in needed.specifier if one.operator == ">=")
        assert lowest[name] == least


NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
RUN = """
import ast, json, sys
space, shown = {}, []
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        *steps, last = ast.parse("".join(cell["source"])).body
        if not isinstance(last, ast.Expr):
            steps, last = [*steps, last], None
        exec(compile(ast.Module(steps, []), "cell", "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
            if hasattr(value, "_repr_mimebundle_"):
                shown.append(sorted(value._repr_mimebundle_()))
print(json.dumps(shown))
"""
"""Runs a notebook's cells, and shows what the last line of each shows."""


@pytest.mark.embedded
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebooks_run_as_they_stand(path, installed, embedded_home, tmp_path):
    said = _said(tmp_path, embedded_home, installed / "python", "-c", RUN, path)
    shown = json.loads(said.splitlines()[-1])
    assert shown
    for kinds in shown:
        assert {"image/svg+xml", "text/plain"} < set(kinds), kinds
    assert {each.suffix for each in tmp_path.iterdir()} & {".pdf", ".svg"}
