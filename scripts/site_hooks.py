"""What mkdocs.yml cannot say: pages that stand elsewhere in the repository, and the links to them.

Links in docs/*.md are those of the repository, so that they work where the files are read. Here they become
those of the site: models/NAME/README.md is models/NAME.md, any other file that a page names is source/PATH. A
link to a folder becomes its text. `API` lists what the reference of Python describes; a test reads it, too.
"""

import ast
import logging
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = sorted(path.parent.name for path in ROOT.glob("models/*/README.md"))
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "models": "models/index.md",
         "minidrop/kernels/README.md": "kernels.md",
         **{f"models/{name}/README.md": f"models/{name}.md" for name in MODELS}}
"""{path in the repository: page of the site}, of what is not in docs/."""
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
FOLDER_LINK = re.compile(r"\[([^\]]+)\]\(([\w./-]+)\)")
MODULES = ("data", "functions", "nn", "optim", "optim.schedulers", "solver", "testing")
"""The modules of minidrop with a page of their own."""
LEFT_OUT = {"__version__", "grad_check", "L", "NetParameter", "SolverParameter",
            "data", "functions", "nn", "optim"}
"""Public names of minidrop without a text: the schema has a page, L is made when it is imported, and modules
have pages."""


class Computed(logging.Filter):
    """Passes over griffe's warning of the one module whose `__all__` is computed; it is on no page."""

    def filter(self, record):
        return "caffe_pb2.__all__" not in record.getMessage()


def on_config(config):
    """Add the pages from elsewhere to the navigation."""
    for name in ("griffe", "mkdocs.plugins.griffe"):
        logging.getLogger(name).addFilter(Computed())
    config.nav[-1]["Reference"] += [{"Python": "api.md"}, *({f"minidrop.{name}": f"api/{name}.md"}
                                                            for name in MODULES), "kernels.md"]
    config.nav += [{"Models": ["models/index.md", *({name: f"models/{name}.md"} for name in MODELS)]},
                   "changelog.md", "contributing.md"]
    return config


def on_files(files, config):
    """Add pages and the files that pages link to."""
    from mkdocs.structure.files import File  # here, so that tests read this file without mkdocs

    for path, page in PAGES.items():
        text = (ROOT / path).read_text(encoding="utf-8") if path != "models" else _models()
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "api.md", content=_api()))
    for name in MODULES:
        files.append(File.generated(config, f"api/{name}.md", content=_module(f"minidrop.{name}")))
    origins = [*(file.relative_to(ROOT) for file in ROOT.glob("docs/**/*.md")),
               *(Path(path) for path in PAGES if path != "models")]
    for origin in origins:
        for match in LINK.finditer((ROOT / origin).read_text(encoding="utf-8")):
            target, page = _target(str(origin), match[2])
            if page and page.startswith("source/") and files.get_file_from_path(page) is None:
                files.append(File.generated(config, page, content=(ROOT / target).read_bytes()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links of the repository into those of the site."""
    uri = page.file.src_uri
    origin = next((path for path, own in PAGES.items() if own == uri), f"docs/{uri}")

    def replaced(match):
        target = _target(origin, match[2])[1]
        return match[0] if target is None else (
            f"{match[1]}{os.path.relpath(target, os.path.dirname(uri) or '.')}{match[3]}")

    def without_folder(match):
        path = os.path.normpath(os.path.join(os.path.dirname(origin), match[2]))
        return match[1] if (ROOT / path).is_dir() and path not in PAGES else match[0]
    return LINK.sub(replaced, FOLDER_LINK.sub(without_folder, markdown))


def _target(origin, link):
    """Return (path in the repository, page or file of the site) of a link; None for what is no file of it."""
    folder = "" if origin == "models" else os.path.dirname(origin)
    path = os.path.normpath(os.path.join(folder, link))
    if path.startswith("models/") and f"{path}/README.md" in PAGES:
        path += "/README.md"
    if path in PAGES:
        return path, PAGES[path]
    if path.startswith("..") or not (ROOT / path).is_file():
        return path, None
    return path, path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}"


def _models():
    """Return a page that lists the models, each with its title."""
    lines = ["# Models", "", "Network and solver files to train, or to begin from: `minidrop init NAME`.", ""]
    for name in MODELS:
        with open(ROOT / "models" / name / "README.md", encoding="utf-8") as file:
            lines.append(f"- [{name}](models/{name}/README.md): {file.readline().lstrip('# ').strip()}")
    return "\n".join(lines) + "\n"


def _api():
    """Return a page of the public names of minidrop."""
    lines = ["# Python", "", "What `import minidrop` gives. Modules have pages of their own."]
    lines += [f"\n::: {name}" for name in public_names("minidrop")]
    return "\n".join(lines) + "\n"


def _module(module):
    """Return the page of a module. A function that is named like its file is shown by the place where it is
    defined, which alone tells the two apart."""
    lines = [f"# {module}", "", f"::: {module}", "    options:", "      show_root_heading: false"]
    names = public_names(module)
    lines += [f"\n::: {place}\n    options:\n      heading_level: 3" for name, place in names.items()
              if (ROOT / f"{name.replace('.', '/')}.py").is_file()]
    also = [f"`{name.rpartition('.')[2]}` is `{place.rpartition('.')[2]}`" for name, place in names.items()
            if place in names and place != name]
    return "\n".join(lines) + "\n" + (f"\n{', '.join(also)}.\n" if also else "")


def public_names(module):
    """Return {name: where it is defined} of what the page of a module describes, as its `__all__` lists them.

    A name that is assigned another one is that other one's.
    """
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    public, places = [], {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            places |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            public = ast.literal_eval(node.value)
        elif isinstance(node, ast.Assign):
            pairs = zip(getattr(node.targets[0], "elts", [node.targets[0]]),
                        getattr(node.value, "elts", [node.value]), strict=False)
            places |= {name.id: f"{module}.{value.id}" for name, value in pairs
                       if isinstance(name, ast.Name) and isinstance(value, ast.Name)}
    elsewhere = {f"minidrop.{name}" for name in (*MODULES, *LEFT_OUT)}
    return {f"{module}.{name}": places.get(name, f"{module}.{name}") for name in public
            if f"{module}.{name}" not in elsewhere}


API = {f"minidrop.{name}": f"api/{name}.md" for name in MODULES} | {"minidrop": "api.md"}
"""{module: its page}; `public_names` says what the page describes."""
