#!/bin/sh
# Install minidrop with its test dependencies into a virtual environment of its own, then lint and test it.
#   sh scripts/test.sh [pytest arguments]
# PYTHON: the interpreter to use (3.10 or newer). MINIDROP_EXTRAS: the extras to install (default: test,examples).
# MINIDROP_TEST_JOBS: how many processes run tests side by side (default: one a core).
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment "${MINIDROP_EXTRAS:-test,examples}"
"$venv/bin/ruff" check .
# Each process keeps to one core: products in two threads would wait for each other.
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$venv/bin/python" -m pytest --numprocesses "${MINIDROP_TEST_JOBS:-auto}" --dist worksteal "$@"
