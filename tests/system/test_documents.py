"""The documents say what is there."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import click
import pytest
import yaml
from documents import blocks_of, commands_of
from paths import ROOT
from sphinx.util.inventory import InventoryFile
from streamlit.testing.v1 import AppTest

import core
from core.__main__ import main

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_is_there(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_files_that_a_document_names_are_there(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:core|tests|docs|pages|benchmarks)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_that_a_document_shows_can_be_typed(path):
    for words in commands_of(path):
        assert mistake_in(words) is None, (words, mistake_in(words))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trace", "good day", "--samples", "3"], None),
        (["--help"], None),
        (["traces", "good day"], "No such command"),
        (["trace", "good day", "--sample-count", "3"], "No such option"),
        (["trace", "good day", "--samples"], "requires an argument"),
        (["trace", "good", "day"], "more words than arguments"),
        (["figures", "--font", "gothic"], "not one of"),
    ],
)
def test_a_command_that_is_none_is_found(words, says):
    found = mistake_in(words)
    assert found is None if says is None else says in found


def mistake_in(words: list[str]) -> str | None:
    """What the command line would say of these words, before it does anything."""
    if words in ([], ["--help"], ["setup"]):
        return None
    command = main.commands.get(words[0])
    if command is None:
        return f"No such command {words[0]}"
    context = click.Context(command, info_name=words[0])
    try:
        values, rest, _ = command.make_parser(context).parse_args(list(words[1:]))
        for parameter in command.get_params(context):
            if isinstance(parameter.type, click.Choice) and isinstance(
                value := values.get(parameter.name), str
            ):
                parameter.type.convert(value, parameter, context)
    except click.UsageError as error:
        return error.format_message()
    return "more words than arguments" if rest else None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_targets_of_make_that_a_document_names_are_there(path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    code = "\n".join(blocks_of(path, "")) + "\n".join(re.findall(r"`(make [^`\n]+)`", read(path)))
    for target in re.findall(r"^make ([a-z-]+)", code, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_names_of_the_library_that_a_document_uses_are_there(path):
    for block in blocks_of(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "core":
                assert node.attr in core.__all__, node.attr


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# --- the site ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The documents as a site; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", ROOT / "docs", folder],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_reference_has_every_public_name(site):
    with open(site / "objects.inv", "rb") as file:
        named = InventoryFile.load(file, "", lambda _, target: target)
    described = {name for kind in named.values() for name in kind}
    assert {f"core.{name}" for name in core.__all__} <= described


def test_no_public_name_lacks_a_sentence():
    for name in core.__all__:
        assert (getattr(core, name).__doc__ or "").strip(), name


def test_every_document_is_in_the_site_and_no_link_in_it_leads_nowhere(site):
    written = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert written <= {path.stem for path in site.glob("*.html")}
    pages = {path: Page.of(path) for path in site.glob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            target, part = urldefrag(link)
            if "//" in target or target.startswith(("data:", "mailto:")):
                continue
            aim = (
                path if not target else (path.parent / unquote(target.partition("?")[0])).resolve()
            )
            assert aim.exists(), (path.name, link)
            if part and aim in pages:
                assert unquote(part) in pages[aim].anchors, (path.name, link)


class Page(HTMLParser):
    """What a page of the site links to, and where it can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}

    @classmethod
    def of(cls, path: Path) -> "Page":
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


# --- on the pages of the dashboard ---------------------------------------------------------------


@pytest.mark.usefixtures("own_home")
def test_the_method_page_is_the_document():
    page = AppTest.from_file(str(ROOT / "pages/method.py"), default_timeout=60).run()
    assert not page.exception
    shown = "\n\n".join(["# " + page.title[0].value, *(part.value for part in page.markdown)])
    document = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    assert re.sub(r":gray\[(.*)\]", r"\1", shown).strip() == document.strip()


def test_the_citation_is_of_this_version():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{said["version"]}"' in project
    assert f'license = "{said["license"]}"' in project
    assert {"cff-version", "message", "title", "authors"} <= set(said)
