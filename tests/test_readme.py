"""What the documents say can be tried: examples run, links lead somewhere, files that are named exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from isolation import LIMIT

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) == README.count("```python") > 0


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run_as_they_stand(number):
    command = [sys.executable, "-W", "error", "-c", EXAMPLES[number]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stderr


def anchors(path):
    """Anchors of a document's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[name].read_text()):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            path = DOCUMENTS[name].parent / file if file else DOCUMENTS[name]
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name):
    named = re.findall(r"`((?:csrc|src|tests|bench|docs)/[\w./]+)`", DOCUMENTS[name].read_text())
    for path in named:
        assert (ROOT / path).exists(), path
