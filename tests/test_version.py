"""The version: one number in the code, in the citation and on top of the changelog."""

import pathlib
import re

import yaml

from elagage.version import VERSION

REPOSITORY = pathlib.Path(__file__).parent.parent


def test_the_version_has_three_numbers():
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == VERSION
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires


def test_the_newest_release_in_the_changelog_is_this_version():
    released = re.findall(r"^## \[(\d.*?)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == VERSION
