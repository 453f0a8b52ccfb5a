"""What the site describes, and what is checked of it; scripts/site.sh builds it."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types

import pytest
from cases import script
from pages import PAGES, ROOT

sys.path.insert(0, str(ROOT / "scripts"))       # check_site imports site_hooks from beside it
try:
    check_site, hooks = script("check_site"), script("site_hooks")
finally:
    sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.parametrize("module", hooks.API)
def test_every_public_name_is_on_a_page_with_signature_and_text(module):
    """The list of the site is that of `__all__`, and each name has what the page shows of it."""
    public = set(importlib.import_module(module).__all__)
    names = hooks.public_names(module)
    left_out = hooks.LEFT_OUT | set(hooks.MODULES) if module == "minidrop" else {"schedulers"}
    assert {name.removeprefix(f"{module}.") for name in names} == public - left_out
    for name, place in names.items():
        value = pkgutil.resolve_name(name)
        assert _bare(value) is _bare(pkgutil.resolve_name(place)) or isinstance(value, types.ModuleType)
        assert inspect.getdoc(value), f"{name} has no docstring"
        if callable(value) and check_site.takes_arguments(name):
            assert str(inspect.signature(value)).startswith("("), name


def test_names_that_are_left_out_have_a_page_of_their_own_or_none_is_needed():
    modules = {name for name in hooks.LEFT_OUT if name in hooks.MODULES}
    assert modules == {"data", "functions", "nn", "optim"}
    assert hooks.LEFT_OUT - modules == {"__version__", "grad_check", "L", "NetParameter", "SolverParameter"}


def test_every_page_is_in_the_navigation():
    """mkdocs only informs of a page without a place."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"^ *- ([\w/]+\.md)$", text, re.M))
    docs = ROOT / "docs"
    assert named == {str(page.relative_to(docs)) for page in PAGES if docs in page.parents}


# -- the check of a built site -------------------------------------------------------------------------------
REFERENCE = """<h3 id="{0}" class="doc doc-heading">name</h3>
<div class="doc-signature highlight"><pre>name(x)</pre></div><div class="doc-contents"><p>Text.</p></div>"""
API = {"minidrop.testing": "api/testing.md"}


@pytest.fixture
def site(tmp_path):
    """A small site without a mistake."""
    (tmp_path / "api").mkdir()
    (tmp_path / "search").mkdir()
    names = "".join(map(REFERENCE.format, hooks.public_names("minidrop.testing")))
    (tmp_path / "api" / "testing.html").write_text(f"<body><h1 id='top'>Testing</h1>{names}</body>")
    (tmp_path / "index.html").write_text(
        '<body><p id="a">x</p><a href="api/testing.html#top">t</a> <a href="#a">a</a>'
        '<a href="https://example.org">e</a></body>')
    (tmp_path / "search" / "search_index.js").write_text(
        'var __index = {"docs": [{"location": "index.html"}, {"location": "api/testing.html#top"}]}')
    return tmp_path


def test_a_sound_site(site):
    assert check_site.problems(site, API) == []


@pytest.mark.parametrize("file, before, after, message", [
    ("index.html", "api/testing.html#top", "api/nothing.html", "index.html: api/nothing.html leads nowhere"),
    ("index.html", "testing.html#top", "testing.html#nil", "testing.html#nil leads to no place of its page"),
    ("index.html", 'href="#a"', 'href="#b"', "index.html: #b leads to no place of its page"),
    ("index.html", "<body>", "<body><script src='https://example.org/x.js'></script>", "from a network"),
    ("index.html", "<body>", "<body><img src='//example.org/x.png'>", "from a network"),
    ("index.html", "<body>", "<body><img src='x.png'>", "x.png leads nowhere"),
    ("api/testing.html", 'id="minidrop.testing.run_once"', "", "minidrop.testing.run_once is not described"),
    ("api/testing.html", "<p>Text.</p>", "", "minidrop.testing.run_ranks lacks text"),
    ("api/testing.html", "doc-signature", "", "minidrop.testing.run_ranks lacks doc-signature"),
    ("search/search_index.js", "index.html", "other.html", "the search does not know index.html"),
])
def test_a_mistake_is_found(site, file, before, after, message):
    path = site / file
    path.write_text(path.read_text().replace(before, after))
    assert any(message in line for line in check_site.problems(site, API))


def test_a_site_with_a_mistake_fails(site):
    (site / "index.html").write_text("<a href='nothing.html'>x</a>")
    done = subprocess.run([sys.executable, ROOT / "scripts" / "check_site.py", site], capture_output=True,
                          text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and "nothing.html leads nowhere" in done.stderr


def _bare(value):
    return inspect.unwrap(value) if callable(value) else value
