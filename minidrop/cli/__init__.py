"""The command line: `minidrop COMMAND`. Commands parse, call and print; one file per command."""

import atexit
import importlib.util
import logging
import os
import signal
import sys
import traceback
from typing import Any

import click

import minidrop
from minidrop.cli.caffe_flags import normalise
from minidrop.cli.check import check
from minidrop.cli.classify import classify_command
from minidrop.cli.compare import compare
from minidrop.cli.compute_image_mean import compute_image_mean
from minidrop.cli.console import console, replace_closed
from minidrop.cli.convert_data_sets import (
    convert_cifar_data,
    convert_mnist_data,
    convert_mnist_siamese_data,
)
from minidrop.cli.convert_imageset import convert_imageset
from minidrop.cli.data import data
from minidrop.cli.devices import devices
from minidrop.cli.draw_net import draw_net
from minidrop.cli.export import export
from minidrop.cli.extract_features import extract_features_command
from minidrop.cli.find_lr import find_lr
from minidrop.cli.generate import generate
from minidrop.cli.init import init
from minidrop.cli.leaving import leave
from minidrop.cli.parse_log import parse_log
from minidrop.cli.patterns import patterns
from minidrop.cli.plot import plot
from minidrop.cli.predict import predict
from minidrop.cli.ranks import end_with, guarded, is_alone, wait_for_root
from minidrop.cli.report import report
from minidrop.cli.summary import summary
from minidrop.cli.tag import tag
from minidrop.cli.test import test
from minidrop.cli.time import time
from minidrop.cli.train import train
from minidrop.cli.translate import translate
from minidrop.cli.upgrade import upgrade
from minidrop.errors import ConfigError, MinidropError, nearest, visible_name

ALIASES = {"device_query": "devices", "upgrade_net_proto_text": "upgrade",
           "upgrade_net_proto_binary": "upgrade", "upgrade_solver_proto_text": "upgrade"}


class Commands(click.Group):
    """The commands, in the order of their use, with Caffe's names for some."""

    def list_commands(self, context: Any) -> Any:
        return list(self.commands)

    def get_command(self, context: Any, name: str) -> Any:
        name = name.replace("-", "_")
        return super().get_command(context, ALIASES.get(name, name))

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        name = args[0]
        # Completion parses what a user has not finished, and must not complain of it.
        if (self.get_command(context, name) is None and not name.startswith("-")
                and not context.resilient_parsing):
            raise click.UsageError(f"there is no command {name!r}{nearest(name, self.commands)} "
                                   f"(commands: {', '.join(self.commands)})", context)
        return super().resolve_command(context, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(minidrop.__version__, "--version", message="%(prog)s %(version)s")
@click.option("--import", "modules", multiple=True, metavar="FILE.py|MODULE",
              help="Import this Python code first: layers and pattern families of your own. Repeatable.")
def commands(modules: tuple) -> None:
    """Train networks from Caffe-style files, faster with ApproxDropout than without.

    Caffe's spellings work as well: one dash or two, flags before the command, -snapshot, -gpu. With
    MINIDROP_DEBUG=1 errors come with their traceback.
    """
    for module in modules:
        import_code(module)


for _command in (data, init, train, test, predict, time, plot, report, compare, check, summary, find_lr,
                 generate, translate, tag, export, upgrade, patterns, devices, draw_net, parse_log,
                 classify_command, extract_features_command, convert_imageset, compute_image_mean,
                 convert_mnist_data, convert_cifar_data, convert_mnist_siamese_data):
    commands.add_command(_command)


def import_code(name: str) -> None:
    """Import a module by name, or a .py file by path, once; raises ConfigError if that fails."""
    is_file = name.endswith(".py")
    if is_file and not os.path.isfile(name):
        raise ConfigError(f"--import {name}: there is no such file")
    # A unique name: a file called copy.py must not replace the standard library's module.
    module_name = "minidrop_import:" + os.path.realpath(name) if is_file else name
    if module_name in sys.modules:
        return
    try:
        if not is_file:
            importlib.import_module(name)
            return
        spec: Any = importlib.util.spec_from_file_location(module_name, name)
        sys.modules[module_name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module_name])
    except Exception as error:
        sys.modules.pop(module_name, None)
        if os.environ.get("MINIDROP_DEBUG", "0") not in ("", "0"):
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if os.path.realpath(frame.filename) == os.path.realpath(name)]
        place = f"{name}:{lines[-1]}" if lines else name
        raise ConfigError(f"--import {place}: {type(error).__name__}: {error}") from error


def run(arguments: list[str]) -> int:
    """Run one command line (without the program's name) and return its exit code.

    0 done, 1 an error that the message explains, 2 wrong usage, 128 + N stopped by signal N.
    """
    arguments = normalise(arguments)
    log = logging.getLogger("minidrop")
    log.addHandler(console)
    log.propagate = False
    try:
        return commands.main(arguments, prog_name="minidrop", standalone_mode=False, obj=arguments) or 0
    except click.ClickException as error:
        vars(error)["message"] = visible_name(error.message)    # a value that it quotes may hold anything
        wait_for_root()
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except (MinidropError, OSError, MemoryError) as error:
        if os.environ.get("MINIDROP_DEBUG", "0") not in ("", "0"):
            end_with([], with_traceback=True)
        else:
            text = str(error) or "out of memory"
            if isinstance(error, OSError) and error.filename and error.strerror:
                text = f"{error.filename}: {error.strerror}"
            end_with(getattr(error, "said", ()) or (text,))
        return 1
    except Exception as error:
        if is_alone():
            raise
        end_with([f"{type(error).__name__}: {error}"], with_traceback=True)
        return 1
    finally:
        log.removeHandler(console)
        log.propagate = True


def main(arguments: list[str] | None = None) -> None:
    """Run `arguments`, by default those of this process, and exit."""
    replace_closed()
    if arguments is None and (code := guarded()) is not None:
        sys.exit(code)
    if arguments is None and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)
    if arguments is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
        # Python takes its handlers back before it takes modules apart: an impatient Ctrl-C would kill it.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))
