"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.core import ParameterSource

from minidrop.backend import PRECISIONS, cuda_devices
from minidrop.cli.console import echo
from minidrop.config import NetConfig, load_net
from minidrop.layers import allow_python
from minidrop.net.conversion import prepare_nets

MOST, MOST_SEED = 2**31 - 1, 2**63 - 1      # of numbers of a file


class Command(click.Command):
    """A command whose options refuse empty text, which a shell inserts for an unset variable.

    A file that it writes may be none that the same line gives it to read.
    """

    may_be_empty = ("prompt", "mean_file", "channel_swap")      # as Caffe's classify.py writes for none
    written = ("out", "output_file", "trace")
    read = ("batches", "classes", "files", "images", "input_file", "labels", "listfile", "log", "mean_file",
            "model", "model_def", "net", "paths", "pretrained_model", "reference", "resume", "solver",
            "solver_file", "source", "target", "weights")

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        rest = super().parse_args(context, arguments)
        for option in self.params:
            value = context.params.get(option.name or "")
            if "" in (value if isinstance(value, tuple | list) else (value,)) and (
                    option.name not in self.may_be_empty):
                raise click.UsageError(f"{option.opts[0]} is empty (a shell variable that is not set?): give "
                                       f"a value, or leave it out", context)
        self._check_written(context)
        return rest

    def _check_written(self, context):
        """Raise UsageError for a file to write that another parameter gives to read."""
        given = {option: context.params.get(option.name) for option in self.params}
        for option, out in given.items():
            if option.name not in self.written or not out or not os.path.isfile(out := os.path.normpath(out)):
                continue        # normpath: what writes it takes "net.prototxt/" for net.prototxt
            for other, value in given.items():
                names = value if isinstance(value, tuple | list) else (value,)
                if other is not option and other.name in self.read and any(
                        os.path.isfile(name) and os.path.samefile(name, out)
                        for whole in names if isinstance(whole, str) for name in (whole, *whole.split(","))):
                    raise click.UsageError(f"{_name(option)} {out}: is the file that is read as "
                                           f"{_name(other)}; name another one to write to", context)


def _name(parameter):
    """Return --NAME of an option, what --help calls an argument."""
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.human_readable_name.removesuffix("...")


def refuse_idle(names: Iterable[str], why: str) -> None:
    """Raise UsageError for the first of these parameters of the running command that its line gives.

    They would do nothing: `why` says so.
    """
    context, wanted = click.get_current_context(), set(names)
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in wanted and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]}: {why}", context)


def _all(*options):
    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command
    return decorate


def _comma_separated(_context, _option, values):
    return [part for value in values for part in value.split(",") if part or not value]


class Count(click.IntRange):
    """How many of something: a whole number from `least` to `most`, by default the most that a file can hold.

    Without an end a mistyped number would run for years.
    """

    name = "n"

    def __init__(self, least: int = 1, most: int = MOST):
        super().__init__(least, most)
        self.least, self.most = least, most

    def _describe_range(self):
        """Return what --help shows of the range: no ends that are those of numbers of a file."""
        if self.max not in (MOST, MOST_SEED):
            return super()._describe_range()
        return f"x>={self.min}" if self.min > -MOST else ""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the number. Of one above the range the whole range is shown: it is in that of --help."""
        number = int(click.INT.convert(value, param, context))
        if number > self.most or number < self.least <= -MOST:
            self.fail(f"{number} is not in the range {super()._describe_range()}.", param, context)
        return super().convert(value, param, context)


seed_type = Count(0, MOST_SEED)


def numbers(count: int | None = None, least: int = 1) -> Callable:
    """Return a callback that makes a tuple of integers of a text such as 28,28, of an empty one none."""
    def parse(_context, option, value):
        if not value:
            return value if value is None else ()
        parts = [part.strip() for part in value.split(",")]
        if count not in (None, len(parts)) or not all(
                part.isdecimal() and len(part) < 10 and int(part) >= least for part in parts):
            raise click.BadParameter(f"expected integers with commas, as in {option.metavar}, got {value!r}")
        return tuple(map(int, parts))
    return parse


def _allow_python(context, _option, value):
    """Allow Python layers until the command ends, to whose modules `import caffe` gives minidrop.caffe."""
    if value:
        before = allow_python()
        from minidrop import caffe  # here: importing it allows Python layers
        caffe.install()
        context.call_on_close(lambda: allow_python(before))


python_option = click.option("--allow-python", is_flag=True, expose_value=False, is_eager=True,
                             callback=_allow_python, help="Let the net's Python layers run the code of the "
                             "modules that they name, found in PYTHONPATH.")

set_option = click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE",
    help="Change a field: base_lr=0.05, layer.drop1.approx_dropout_param.dropout_ratio=0.3. Repeatable.")

state_options = _all(
    click.option("--level", type=Count(-MOST - 1), help="The net's level, for include and exclude rules."),
    click.option("--stage", "stages", multiple=True, callback=_comma_separated, metavar="NAME",
                 help="A stage, for include and exclude rules. Repeatable, or separated by commas."))

net_options = _all(
    python_option, set_option,
    click.option("--dropout", metavar="KIND",
                 help="Turn every drop layer into: none, conventional, approx, or approx:FAMILY (a pattern, "
                      "see `minidrop patterns`)."),
    state_options)

ignore_unknown_option = click.option(
    "--ignore-unknown", is_flag=True, help="Pass over fields that minidrop lacks, such as those of forks of "
    "Caffe, with a warning for each.")

dtype_option = click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32",
                            show_default=True, help="Type of all numbers.")

precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS),
    help="What products on a GPU round their operands to; weights and sums stay float32.  [default: float32]")

device_options = _all(
    click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda:N",
                 help="Where to compute."),
    click.option("--gpu", hidden=True, help="Caffe's spelling of --device cuda:N."),
    dtype_option, precision_option)

weights_option = click.option("--weights", multiple=True, metavar="A.h5,B.h5",
                              help="Copy weights by the names of layers: from snapshots, .safetensors, or "
                              "Caffe's .caffemodel and .caffemodel.h5 files.")

ema_option = click.option("--ema", is_flag=True, help="Take the averages of the weights, which a solver with "
                          "ema_decay keeps in its snapshots.")

skip_option = click.option("--skip-mismatched", is_flag=True,
                           help="Leave weights whose shape differs from the file's as they are.")


def chosen_device(device: str, gpu: str | None, local_rank: int = 0, ranks: int = 1) -> str:
    """Return the device that --device or Caffe's -gpu selects; raises UsageError.

    With -gpu all each of several ranks takes the GPU of its number among those of this machine.
    """
    if gpu is None:
        return device
    if device != "auto":
        raise click.UsageError("--device and -gpu both choose the device; keep one")
    if gpu == "all":
        count = cuda_devices()[0]
        if count > 1 and ranks == 1:
            echo(f"warning: -gpu all: one process uses one GPU; cuda:0 of {count} is taken. "
                 f"{_several(count)}", err=True)
        return f"cuda:{local_rank % max(1, count)}"
    if "," in gpu:
        first, *others = gpu.split(",")
        raise click.UsageError(f"-gpu {gpu}: one process uses one GPU; name one of them, as in -gpu {first}. "
                               + _several(1 + len(others), f"CUDA_VISIBLE_DEVICES={gpu} "))
    if not gpu.isdecimal() or len(gpu) > 3:
        raise click.UsageError(f"-gpu {gpu}: expected the number of a GPU, or all")
    return f"cuda:{int(gpu)}"


def _several(count, before=""):
    """Return how to do what Caffe does with several GPUs, of which each has batches of the file's size."""
    return (f"A process for each of them trains with: {before}mpiexec -n {count} minidrop train ... --device "
            f"auto --batch-per-rank")


def trained_net(model: str, weights: list, overrides: tuple, dropout: str | None, level: int, stages: list,
                ignore_unknown: bool, device: str, gpu: str | None, dtype: str,
                precision: str | None) -> tuple[NetConfig, dict[str, Any]]:
    """Return what the options of a command make of a trained net: (its NetConfig, keywords of a Net).

    These are --model, weights_option, net_options, ignore_unknown_option and device_options. The keywords are
    device, dtype, level, stages and precision. Raises UsageError without weights, ConfigError.
    """
    if not weights:
        raise click.UsageError("give --weights, a snapshot of the net or a .caffemodel")
    config = load_net(model, ignore_unknown)
    prepare_nets([config], dropout, overrides)
    own_level, own_stages = stated(config, level, stages)
    return config, {"device": chosen_device(device, gpu), "dtype": dtype, "level": own_level,
                    "stages": own_stages, "precision": precision or "float32"}


def stated(config: NetConfig, level: int, stages: list) -> tuple[int, tuple]:
    """Return (level, stages) of a network file used alone: its `state`, then the command line's."""
    own = config.message.state
    return own.level if level is None else level, (*own.stage,
                                                   *(stage for stage in stages if stage not in own.stage))
