"""Many small cases in one test: to collect, set up and report a case takes longer than it does itself."""

import functools
import inspect


def in_turn(names, values, ids=None):
    """Like pytest.mark.parametrize, but all cases are one test, which says which of them failed."""
    names = [name.strip() for name in names.split(",")]
    values = list(values)
    texts = list(map(ids, values)) if callable(ids) else list(ids or map(str, values))

    def decorate(test):
        @functools.wraps(test)
        def one_after_the_other(*own, **given):
            for value, text in zip(values, texts, strict=True):
                case = dict(zip(names, value if len(names) > 1 else [value], strict=True))
                try:
                    test(*own, **given, **case)
                except Exception as error:
                    raise AssertionError(f"{', '.join(names)} = {text}: {error}") from error
        signature = inspect.signature(test)
        one_after_the_other.__signature__ = signature.replace(
            parameters=[one for one in signature.parameters.values() if one.name not in names])
        return one_after_the_other
    return decorate
