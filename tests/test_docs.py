import os
import re
from pathlib import Path

import pytest

from docs.generate import PAGE, settings_page

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def test_the_settings_page_is_current():
    assert PAGE.read_text() == settings_page(), "scripts/docs writes it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not Path(os.path.normpath(page.parent / link)).exists()] == []
