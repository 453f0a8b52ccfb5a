"""Pages of the documentation and their blocks: found, sorted by kind, run as a reader would run them."""

import ast
import io
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md",
                                  "minidrop/kernels/README.md")]
PAGES += sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*/README.md")])
"""All pages: those of the site."""

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
VALUE = re.compile(r"#\s*->\s*(.+)$")
RUN = ("python", "sh")


@dataclass
class Block:
    """A block of code: the line of its first one, and what stands in a block without a kind right behind."""

    kind: str
    line: int
    code: str
    output: str | None = None


def blocks(text):
    """Return the Blocks of a page; one without a kind is the output of the Python or sh block before it."""
    found, end = [], None
    for match in BLOCK.finditer(text):
        kind, inside = match.groups()
        if kind == "" and found and end == match.start() - 1 and found[-1].kind in RUN:
            found[-1].output = inside
        else:
            found.append(Block(kind, text.count("\n", 0, match.start()) + 2, inside))
        end = match.end()
    return found


def blocks_of(page, kind):
    """Return the blocks of one kind of the page at a path."""
    return [block for block in blocks(page.read_text(encoding="utf-8")) if block.kind == kind]


def run(page, code, line, names):
    """Run a block; an expression with "# -> x" behind it must have that value. Returns how many have one."""
    lines, checked = code.split("\n"), 0
    for statement in ast.parse(code).body:
        said = VALUE.search(lines[statement.end_lineno - 1])
        where = compile("\n" * (line + statement.lineno - 2) + ast.unparse(statement), str(page),
                        "eval" if said else "exec")
        if not said:
            exec(where, names)
            continue
        value = eval(where, names)
        assert repr(value) == said.group(1).strip(), f"{page}:{line + statement.lineno - 1}"
        checked += 1
    return checked


def run_block(page, block, names):
    """Run a Python block, and compare what it prints with the page; return how many things were compared."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        checked = run(page, block.code, block.line, names)
    if block.output is None:
        return checked
    assert printed.getvalue() == block.output, f"{page}:{block.line}"
    return checked + 1


def run_page(page, names):
    """Run all Python blocks of a page in one namespace; return how many values and outputs were compared."""
    return sum(run_block(page, block, names) for block in blocks_of(page, "python"))


def rows(page, title):
    """Return the rows of the tables under a heading, each a list of cells."""
    text = page.read_text(encoding="utf-8")
    part = re.split(r"^#+ ", text.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in part.splitlines()
            if line.startswith("|") and not line.startswith("|---")][1:]
