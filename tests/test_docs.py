"""The documentation: its links lead somewhere, and what it points contributors at is there."""

import pathlib
import re

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "config/*.md", "results/README.md", "examples/*/*.md")
    for page in REPOSITORY.glob(pattern)
)


def anchors(page: pathlib.Path) -> set[str]:
    """Return what follows '#' in links to the headings of a page, as GitHub forms it."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_of_a_page_leads_to_a_file_and_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def located(path: str) -> pathlib.Path:
    """Return a file that the guide for contributors names, from scripts/elagage or from the repository."""
    shared = REPOSITORY / "scripts/elagage" / path
    return shared if shared.exists() else REPOSITORY / path


def test_the_guide_for_contributors_names_files_and_what_stands_in_them():
    table = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("## Where do I")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \w(.*) \| (.*) \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) > 5
    for _, places, names in rows:
        files = [located(path) for path in re.findall(r"`([\w./]+\.\w+)`", places)]
        content = " ".join(file.read_text() for file in files)
        for name in re.findall(r"`([\w-]+)`", names):
            assert re.search(rf"\b{name}\b", content), f"{name} is not in {places}"
