"""The documents: their links and the files they name exist, and their examples run as printed."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
CARDS = sorted((ROOT / "models").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *CARDS, *PAGES]


def identifier(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of the document's fenced code blocks in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes from a document's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> Iterator[str]:
    """Yield broken relative links, `[text](target)` and `[name]: target`, and references without a definition."""
    text = prose(document.read_text(encoding="utf-8"))
    definitions = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.MULTILINE))
    yield from (name for name in re.findall(r"\]\[([^\]]+)\]", text) if name not in definitions)
    for target in [*re.findall(r"\]\(([^)\s]+)\)", text), *definitions.values()]:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = document.parent / name if name else document
        if not place.exists() or (anchor and anchor not in anchors(place.read_text(encoding="utf-8"))):
            yield target


def missing_sources(text: str, root: Path) -> list[str]:
    """Return the named Python files that do not exist. Paths start at the root or the package: `folder/file.py`."""
    local = re.sub(r"[a-z]+://\S+", "", text)
    named = re.findall(r"(?<![\w/.<-])(?:[\w-]+/)+[\w-]+\.py\b", local)
    return sorted({n for n in named if not any((root / base / n).is_file() for base in (".", "alexnet_infer"))})


@pytest.mark.parametrize("document", DOCUMENTS, ids=identifier)
def test_every_relative_link_works(document):
    assert list(broken_links(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=identifier)
def test_every_named_source_file_exists(document):
    assert missing_sources(document.read_text(encoding="utf-8"), ROOT) == []


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_every_page_can_be_reached_from_the_root(page):
    links = {
        (ROOT / target.partition("#")[0]).resolve()
        for document in DOCUMENTS
        if document.parent == ROOT
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text(encoding="utf-8")))
    }
    assert page in links


def test_the_pages_on_disputed_questions_exist_and_have_examples():
    with_examples = {page.name for page in PAGES if blocks(page.read_text(encoding="utf-8"), "pycon")}
    assert {"evaluation.md", "lrn.md", "model-format.md", "preprocessing.md"} <= with_examples
    assert (ROOT / "CONTRIBUTING.md").is_file()


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_examples_run_as_printed(page):
    """All `pycon` blocks of a page, as one session."""
    session = "\n".join(blocks(page.read_text(encoding="utf-8"), "pycon"))
    example = doctest.DocTestParser().get_doctest(session, {}, identifier(page), str(page), 0)
    output: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(example, out=output.append)
    assert results.failed == 0, "".join(output)


def test_broken_links_and_missing_sources_are_detected(tmp_path: Path):
    (tmp_path / "there.md").write_text("# A heading: with `code`\n")
    document = tmp_path / "page.md"
    document.write_text(
        "[a](there.md) [b](absent.md) [c](there.md#a-heading-with-code) [d](there.md#absent) [e](#here)\n"
        "[f](https://example.org/absent.md) [g][known] [h][unknown]\n\n# Here\n\n[known]: also-absent.md\n"
        "```\n[i](not-a-link.md)\n```\n"
    )
    assert sorted(broken_links(document)) == ["absent.md", "also-absent.md", "there.md#absent", "unknown"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").touch()
    (tmp_path / "alexnet_infer" / "i").mkdir(parents=True)
    (tmp_path / "alexnet_infer" / "i" / "j.py").touch()
    text = "`a/b.py`, [x](a/c.py), a/d/e.py; https://example.org/f/g.py `h.py` i/j.py"
    assert missing_sources(text, tmp_path) == ["a/c.py", "a/d/e.py"]
