"""Lists on the command line of the reproduce scripts."""

import re

import click


def split_methods(text, separator=r"[,\s]+"):
    """Return the methods of a list: "ROW:max_period=3,scale=PATTERN,UNIT" are two, a setting belongs to what
    stands before."""
    methods = []
    for part in re.split(separator, text.strip(" ,")):
        if methods and "=" in part and ":" not in part:
            methods[-1] += f",{part}"
        else:
            methods.append(part)
    return tuple(dict.fromkeys(methods))


class ListOf(click.ParamType):
    """Values between commas or spaces, as a tuple."""

    def __init__(self, name, convert):
        self.name, self.one = name, convert

    def convert(self, value, param, ctx):
        try:
            values = tuple(dict.fromkeys(self.one(part) for part in re.split(r"[,\s]+", value.strip(" ,"))))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return values


def between(least, most):
    """Return a converter of numbers that lie between these."""
    def convert(text):
        value = float(text)
        if not least < value < most:
            raise ValueError(f"expected a number above {least} and below {most}, got {text}")
        return value
    return convert
