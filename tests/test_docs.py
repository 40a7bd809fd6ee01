import os
import re
from pathlib import Path

import pytest

from docs import metrics_page
from docs.generate import ACCOUNTS, PAGE, accounts_document, settings_page

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def test_the_settings_page_is_current():
    assert PAGE.read_text() == settings_page(), "scripts/docs writes it"


def test_the_metrics_page_is_current():
    assert metrics_page.PAGE.read_text() == metrics_page.metrics_page(), "scripts/docs writes it"


def test_what_the_gateway_passes_on_is_what_users_has():
    assert ACCOUNTS.read_text() == accounts_document(), "scripts/docs writes it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not Path(os.path.normpath(page.parent / link)).exists()] == []
