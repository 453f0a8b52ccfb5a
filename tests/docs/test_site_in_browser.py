"""The built site as a reader opens it: from the file system, in a browser without a network."""

import os
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from pages import ROOT

SITE = Path(os.environ.get("MINIDROP_SITE", ROOT / "site")).resolve()
PHONE = 390
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium in PATH"),
              pytest.mark.skipif(not (SITE / "index.html").is_file(),
                                 reason="sh scripts/site.sh builds the site")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.mark.parametrize("page", ["index.html", "api/nn.html"])     # the index is found from folders, too
def test_a_word_that_is_typed_is_found(browser, page):
    browser.open((SITE / page).as_uri())
    browser.type("input.md-search__input", "perplexity")
    found = "document.querySelector('.md-search-result__link[href*=\"models/ptb_small.html\"]')"
    browser.until(f"{found} && {found}.querySelector('mark').innerText == 'perplexity'")
    browser.value(f"setTimeout(() => {found}.click())")
    browser.until("location.pathname.endsWith('/models/ptb_small.html') && document.readyState == 'complete'")
    assert "perplexity" in browser.value("document.body.innerText")
    assert browser.said == []


def test_a_word_that_is_nowhere(browser):
    browser.open((SITE / "index.html").as_uri())
    browser.type("input.md-search__input", "qwxzqwxz")
    browser.until("document.querySelector('.md-search-result__meta').innerText.includes('No matching')")
    assert browser.value("document.querySelectorAll('.md-search-result__item').length") == 0


def test_pages_fit_a_phone(browser):
    wide = {}
    for page in ("index", "tutorial", "config_reference", "benchmarks", "patterns", "api",
                 "how_to/coming_from_keras", "api/functions", "kernels", "models/index",
                 "models/mnist_mlp", "changelog"):
        browser.open((SITE / f"{page}.html").as_uri(), PHONE, 800)
        width = browser.value("document.documentElement.scrollWidth")
        wide |= {page: width} if width > PHONE else {}
    assert wide == {} and browser.said == []
