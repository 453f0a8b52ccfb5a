"""Many small cases in one test, a choice from tables of many like cases; scripts as modules."""

import functools
import importlib.util
import inspect
import itertools
import pathlib

import pytest


def script(name):
    """Return a script of scripts/ as a module."""
    path = pathlib.Path(__file__).resolve().parents[1] / f"scripts/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_turn(names, values, ids=None):
    """Like pytest.mark.parametrize, but all cases are one test, which says which of them failed.

    For cases that take less than to collect, set up and report them. If some skip, the others run all the
    same; then the test counts as skipped and says how many did, and why. All cases share their fixtures.
    """
    names = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    values = list(values)
    texts = list(map(ids, values)) if callable(ids) else list(ids or map(str, values))

    def decorate(test):
        @functools.wraps(test)
        def one_after_the_other(*own, **given):
            skipped = []
            for value, text in zip(values, texts, strict=True):
                case = dict(zip(names, value if len(names) > 1 else [value], strict=True))
                try:
                    test(*own, **given, **case)
                except pytest.skip.Exception as reason:
                    skipped.append(reason.msg)
                except Exception as error:
                    raise AssertionError(f"{', '.join(names)} = {text}: {error}") from error
            if skipped:
                pytest.skip(f"{len(skipped)} of {len(texts)} cases: {skipped[0]}")
        signature = inspect.signature(test)
        one_after_the_other.__signature__ = signature.replace(
            parameters=[one for one in signature.parameters.values() if one.name not in names])
        return one_after_the_other
    return decorate


def every_pair(*factors):
    """Like pytest.mark.parametrize for each of the factors (names, values), but not all combinations always
    run: only so many that any two values of any two factors meet. The others run with --full."""
    combinations = list(itertools.product(*(range(len(values)) for _, values in factors)))
    pairs = {places: set(itertools.combinations(enumerate(places), 2)) for places in combinations}
    missing, chosen = set().union(*pairs.values()), set()
    while missing:
        best = max(combinations, key=lambda places: len(pairs[places] & missing))
        chosen.add(best)
        missing -= pairs[best]
    return _chosen_of(factors, combinations, chosen)


def every_value(*factors):
    """Like every_pair, but only as many combinations always run as the longest factor has values: they go
    through all factors in step, so each value of each runs. The others run with --full."""
    sizes = [len(values) for _, values in factors]
    chosen = {tuple(i % size for size in sizes) for i in range(max(sizes))}
    return _chosen_of(factors, list(itertools.product(*map(range, sizes))), chosen)


def _chosen_of(factors, combinations, chosen):
    """parametrize for combinations of places in factors, of which those that are not chosen are `full`."""
    cases = []
    for places in combinations:
        case = []
        for place, (names, values) in zip(places, factors, strict=True):
            case += values[place] if "," in names else [values[place]]
        cases.append(pytest.param(*case, marks=() if places in chosen else pytest.mark.full))
    return pytest.mark.parametrize(",".join(names for names, _ in factors), cases)
