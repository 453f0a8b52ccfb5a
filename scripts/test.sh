#!/bin/sh
# Install minidrop with its test dependencies into a virtual environment of its own, then lint and test it.
#   sh scripts/test.sh [--full] [pytest arguments]
# --full: also every case of large tables of like cases, of which otherwise a choice runs.
# PYTHON: the interpreter to use (3.10 or newer). MINIDROP_EXTRAS: the extras to install (default: test,examples).
# MINIDROP_TEST_JOBS: how many processes run tests (default: one a core; 0: this one alone, as a debugger needs).
# MINIDROP_TEST_CACHE: where compiled kernels are kept between runs (default: ~/.cache/minidrop-tests).
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment "${MINIDROP_EXTRAS:-test,examples}"
"$venv/bin/ruff" check .
"$venv/bin/mypy"
if [ "${1:-}" = --full ]; then
    shift
    set -- -m "" "$@"
fi
"$venv/bin/python" -m pytest --numprocesses "${MINIDROP_TEST_JOBS:-logical}" --dist worksteal "$@"
