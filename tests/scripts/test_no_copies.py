"""What two scripts need stands in one place."""

import ast
from collections import defaultdict
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
FEWEST_CHARACTERS = 80      # shorter ones are alike by chance: properties, a call of the base class


def bodies(tree):
    """Yield (name, what it does without its docstring) of the functions of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name, "\n".join(map(ast.unparse, node.body[ast.get_docstring(node) is not None:]))


def test_no_function_of_a_script_is_a_copy():
    places = defaultdict(list)
    for path in sorted(SCRIPTS.rglob("*.py")):
        for name, body in bodies(ast.parse(path.read_text())):
            if len(body) >= FEWEST_CHARACTERS:
                places[body].append(f"{path.relative_to(SCRIPTS)}: {name}")
    assert len(places) > 300
    assert [found for found in places.values() if len(found) > 1] == []
