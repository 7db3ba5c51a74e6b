"""What packaging, citation and the documents beside the code say agrees with the code."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import refscale_codec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "weights").glob("*.md")])


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_package_and_citation_name_the_same_authors_licence_and_place(pyproject: dict[str, Any]) -> None:
    project, citation = pyproject["project"], (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"license: {project['license']}\n" in citation
    assert [author["name"] for author in project["authors"]] == re.findall(r"^  - name: (.*)$", citation, re.MULTILINE)
    assert f"repository-code: {project['urls']['Homepage']}\n" in citation
    assert project["description"] in citation
    assert f"\nversion: {refscale_codec.__version__}\n" in citation


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_documents_link_to_is_there(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith("https://"):
            assert (document.parent / target).exists(), target


def test_the_architecture_names_every_module_where_its_package_is_described() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = text.partition("\nrefscale_codec/\n")[2].partition("\n```")[0]
    entries = re.split(r"^ {2,4}(?=\w+(?:/|\.py))", tree, flags=re.MULTILINE)[1:]
    described = {entry.partition("/")[0]: entry for entry in entries if re.match(r"\w+/", entry)}
    assert {"picture", "io", "coded", "cli", "study"} <= described.keys()
    missing = []
    for path in sorted((ROOT / "refscale_codec").rglob("*.py")):
        *folders, _ = path.relative_to(ROOT / "refscale_codec").parts
        entry = next((described[name] for name in reversed(folders) if name in described), tree)
        name = path.name if not folders else path.stem
        if name != "__init__" and not re.search(rf"\b{re.escape(name)}\b", entry):
            missing.append(str(path.relative_to(ROOT)))
    assert missing == []


def test_what_goes_into_a_source_distribution_is_there(pyproject: dict[str, Any]) -> None:
    for name in pyproject["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", ["constriction", "numpy"])
def test_the_oldest_version_of_what_decides_bytes_is_tested(pyproject: dict[str, Any], name: str) -> None:
    (wanted,) = (each for each in pyproject["project"]["dependencies"] if re.match(rf"{name}\b", each))
    assert re.fullmatch(rf"{name}>=[\d.]+(,<[\d.]+)?", wanted), ".ci/run reads the oldest version out of this form"
    assert f"$(oldest {name})" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
