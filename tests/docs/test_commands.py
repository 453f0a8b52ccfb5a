"""The shell blocks of all pages: every command, option, script and file that they name exists."""

import ast
import configparser
import re
import shlex
import subprocess

import click
import pytest
from cases import in_turn
from pages import PAGES, ROOT, blocks, blocks_of

from minidrop.cli import commands
from minidrop.cli.caffe_flags import normalise

# What pages use of a shell and of other programs.
KNOWN = {".", "cd", "diff", "echo", "eval", "export", "head", "mypy", "pytest", "ruff", "sed", "sort"}
IN_REPOSITORY = re.compile(r"(?:\./)?((?:models|scripts|docs|tests|minidrop)/[\w./-]*\w)")
HERE_DOCUMENT = re.compile(r" <<'(\w+)'\n(.*?^)\1$", re.M | re.S)
# What stands for a file of Caffe's or of a run.
ELSEWHERE = re.compile(r"examples/|runs/|/|data/")


def command_lines(code):
    """Yield the words of each command of a block; `a && b` and pipes are several commands."""
    for program in HERE_DOCUMENT.findall(code):
        ast.parse(program[1])
    for line in HERE_DOCUMENT.sub("", code).replace("\\\n", " ").split("\n"):
        if line.startswith("#SBATCH"):
            continue
        reader = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        reader.whitespace_split = True
        words = []
        for word in [*reader, ";"]:
            if set(word) <= set("|&;"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def without_prefix(words):
    """Return a command without variables, `env` and `mpiexec` before it, and without redirections."""
    for place, word in enumerate(words):
        if word in ("<", ">", ">>"):
            return without_prefix(words[:place])
    if words[0] == "mpiexec":
        options = {"-n": 1, "-ppn": 1, "-hosts": 1, "-bind-to": 1, "-genv": 2}
        rest = words[1:]
        while rest[0] in options:
            rest = rest[1 + options[rest[0]]:]
        return without_prefix(rest)
    if words[0] == "time":
        return without_prefix(words[1:])
    if words[0] == "env":
        assert words[1] == "-u"
        return without_prefix(words[3:])
    if words[0] == "srun":
        options = ("--mpi=", "--cpus-per-task=")
        return without_prefix([word for word in words[1:] if not word.startswith(options)])
    if re.match(r"\w+=", words[0]):
        return without_prefix(words[1:]) if len(words) > 1 else ["export"]
    return words


def check_minidrop(arguments):
    """Parse a command line as click does, without the files that it names; "..." stands for what is left
    out."""
    whole, arguments = "..." not in arguments, normalise([word for word in arguments if word != "..."])
    context = click.Context(commands, info_name="minidrop", obj=arguments)
    _, arguments, _ = commands.make_parser(context).parse_args(list(arguments))
    if not arguments:       # minidrop --version
        return
    command = commands.get_command(context, arguments[0])
    assert command is not None, f"there is no command {arguments[0]!r}"
    inside = click.Context(command, info_name=arguments[0], parent=context)
    given, left, _ = command.make_parser(inside).parse_args(arguments[1:])
    assert not left, f"more arguments than `minidrop {arguments[0]}` takes: {left}"
    for parameter in command.params:
        value = given.get(parameter.name)
        missing = value is None or value == () or not isinstance(value, str | tuple | list | bool | int)
        if whole and parameter.required and missing:
            raise click.MissingParameter(ctx=inside, param=parameter)
        if isinstance(parameter.type, click.Choice | click.types.IntParamType | click.types.FloatParamType):
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, str):
                    parameter.type.convert(one, parameter, inside)


def options_of(script):
    """Return what looks like an option in a script and the modules beside it."""
    found, waiting, seen = {"-h", "--help"}, [script], set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and re.fullmatch(r"--?[a-z][\w-]*", str(node.value)):
                found.add(node.value)
            names = ([node.module or ""] if isinstance(node, ast.ImportFrom) else
                     [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            waiting += [path.parent / f"{name.replace('.', '/')}.py" for name in names]
    return found


def check_python(arguments, page):
    if arguments[:1] == ["-m"]:
        module, *arguments = arguments[1:]
        if module == "minidrop":
            check_minidrop(arguments)
        elif module == "mpi4py":
            check_python(arguments, page)
        else:
            assert module in ("venv", "pip", "pydoc", "http.server"), f"python -m {module}"
        return
    script, *arguments = arguments
    if script in ("-", "-c"):
        ast.parse("".join(arguments))
        return
    if not IN_REPOSITORY.match(script):
        assert f"`{script}`" in page.read_text(encoding="utf-8"), f"what is {script}?"
        return
    known = options_of(ROOT / script)
    for word in arguments:
        if re.match(r"--?[a-z]", word):
            assert word.split("=")[0] in known, f"{script} has no option {word}"


def check_pip(arguments):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert arguments[0] == "install"
    for word in arguments[1:]:
        found = re.fullmatch(r"(?:minidrop|\.)\[([\w,]+)\]", word)
        if found:
            unknown = set(found[1].split(",")) - set(setup["options.extras_require"])
            assert not unknown, f"there are no extras {unknown}"
        else:
            assert word in ("-e", "--editable", ".", "minidrop"), f"pip install {word}"


def check_command(words, page):
    """Raise AssertionError, or click's UsageError, for a command that cannot work."""
    program, *arguments = without_prefix(words)
    if program == "minidrop":
        check_minidrop(arguments)
    elif program in ("python", "python3"):
        check_python(arguments, page)
    elif program == "pip":
        check_pip(arguments)
    elif program == "sh":
        text = (ROOT / arguments[0]).read_text(encoding="utf-8")
        if arguments[0] != "scripts/test.sh":       # hands on pytest's
            assert all(word in text for word in arguments[1:] if word.startswith("-"))
    else:
        assert program in KNOWN or program.endswith("source"), f"what is {program}?"
    for word in words:
        for name in IN_REPOSITORY.findall(word) if not ELSEWHERE.match(word) else ():
            assert (ROOT / name).exists(), f"there is no {name}"


@in_turn("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands(page):
    for block in blocks_of(page, "sh"):
        for words in command_lines(block.code):
            try:
                check_command(words, page)
            except (AssertionError, click.UsageError) as error:
                message = error.format_message() if isinstance(error, click.UsageError) else error
                pytest.fail(f"{page}:{block.line}: {shlex.join(words)}: {message}")


def test_job_files():
    """Slurm reads its options up to the first command; the rest is a program of the shell."""
    jobs = [block.code for page in PAGES for block in blocks_of(page, "sh") if "#SBATCH" in block.code]
    assert jobs
    for job in jobs:
        subprocess.run(["sh", "-n"], input=job, text=True, check=True)
        head, lines = job.splitlines()[0], job.splitlines()
        assert head == "#!/bin/sh"
        last = max(place for place, line in enumerate(lines) if line.startswith("#SBATCH "))
        assert all(line.startswith("#") for line in lines[:last])
        for option in " ".join(line for line in lines if line.startswith("#SBATCH ")).split():
            assert re.fullmatch(r"#SBATCH|--(nodes|ntasks|cpus-per-task)=\d+|--signal=TERM@\d+",
                                option), option
        assert any(re.match(r"srun .*minidrop train .*--resume auto", line) for line in lines)


def test_all_blocks_are_of_a_known_kind():
    """python and sh are tested; prototxt is read; text is a drawing, or what a longer run printed. A block
    without a kind is the output of the one before it."""
    wrong = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = blocks(text)
        wrong += [f"{page}:{block.line}: {block.kind!r}" for block in found
                  if block.kind not in ("python", "sh", "prototxt", "text")]
        fences = len(re.findall(r"^\s*(?:```|~~~)", text, re.M))
        if fences != 2 * sum(1 + (block.output is not None) for block in found):
            wrong.append(f"{page}: a block that is indented, or has no end")
    assert not wrong


@in_turn("line, message", [
    ("minidrop trian --solver s", "there is no command 'trian'"),
    ("minidrop train --sovler s", "No such option"),
    ("minidrop train", "Missing"),
    ("minidrop check a b --phase NEVER", "NEVER"),
    ("minidrop find-lr --solver s --iterations ten", "ten"),
    ("minidrop train --solver models/digits/solver.prototxt", "there is no models/digits/solver.prototxt"),
    ("python scripts/compute_mea.py", "No such file|there is no scripts/compute_mea.py"),
    ("python scripts/benchmarks/bench_mlp.py --peers torch", "has no option --peers"),
    ("python mine/never.py", "what is mine/never.py"),
    ("pip install '.[cuda11]'", "there are no extras {'cuda11'}"),
    ("make install", "what is make"),
    ("mpiexec -n 4 minidrop tarin --solver s", "there is no command 'tarin'"),
    ("OMP_NUM_THREADS=1 minidrop tarin | sort", "there is no command 'tarin'"),
])
def test_commands_that_cannot_work_are_found(line, message):
    with pytest.raises((AssertionError, click.UsageError)) as found:
        for words in command_lines(line):
            check_command(words, ROOT / "README.md")
    text = found.value.format_message() if isinstance(found.value, click.UsageError) else str(found.value)
    assert re.search(message, text)
