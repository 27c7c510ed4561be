"""The documents say what is there."""

import re

import pytest
import yaml
from paths import ROOT
from streamlit.testing.v1 import AppTest

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
