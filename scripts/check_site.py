"""Check the built pages: python scripts/check_site.py SITE. It lists what is wrong, and exits with 1.

- Links and pictures lead to files of the site, anchors to places of their pages.
- Nothing is loaded from a network.
- The reference of Python has a signature and a text for every public name (`API` of site_hooks.py).
- The index of the search is there as a script, and knows every page.
"""

import json
import pkgutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from site_hooks import API, public_names

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src")}


class Page(HTMLParser):
    """The links and ids of a page, and which elements of the reference have a signature and a text."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids, self.described = [], [], set(), {}
        self._open, self._name = [], None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given["id"]} if "id" in given else set()
        classes = set((given.get("class") or "").split())
        if "doc-heading" in classes and "id" in given:
            self._name = given["id"]
            self.described[self._name] = set()
        if self._name is not None and tag not in VOID:
            self.described[self._name] |= classes & {"doc-signature"}
        if tag == "p" and self._name is not None and not self._in_table():
            self.described[self._name].add("text")
        for name in ("href", "src"):
            if given.get(name):
                self.links.append(given[name])
                if (tag, name) in LOADED and given.get("rel") != "canonical":
                    self.loads.append(given[name])
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def _in_table(self):
        return "table" in self._open


def problems(site, api=API):
    """Return what is wrong with the site in a folder, one line each."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if "source" not in path.parts}
    found = []
    for path, page in pages.items():
        place = path.relative_to(site)
        found += [f"{place}: loads {link} from a network" for link in page.loads
                  if urlsplit(link).netloc or urlsplit(link).scheme in ("http", "https")]
        if path.name == "404.html":         # its links are those of a server's root
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{place}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                found.append(f"{place}: {link} leads to no place of its page")
    for module, page in api.items():
        built = pages.get((site / page).with_suffix(".html"))
        described = built.described if built else {}
        for name, place in public_names(module).items():
            shown = described.get(name, described.get(place))
            if shown is None:
                found.append(f"{page}: {name} is not described")
            elif lacks := {"text", *(["doc-signature"] if takes_arguments(name) else [])} - shown:
                found.append(f"{page}: {name} lacks {' and '.join(sorted(lacks))}")
    index = site / "search" / "search_index.js"
    text = index.read_text(encoding="utf-8") if index.is_file() else ""
    entries = json.loads(text.partition("=")[2])["docs"] if text else []
    known = {entry["location"].partition("#")[0] for entry in entries}
    return found + [f"the search does not know {path.relative_to(site)}" for path in pages
                    if path.name != "404.html" and path.relative_to(site).as_posix() not in known]


def takes_arguments(name):
    """Whether a public name takes arguments of its own, as modules, errors and some bases do not."""
    value = pkgutil.resolve_name(name)
    if not isinstance(value, type):
        return callable(value)
    return next(base for base in value.__mro__ if "__init__" in vars(base)).__module__.startswith("minidrop")


def main():
    wrong = problems(Path(sys.argv[1]).resolve())
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
