#!/bin/sh
# Run some tests with the oldest versions of the dependencies that setup.cfg allows, exactly those: in a virtual
# environment of its own, made anew.
#   sh scripts/oldest.sh [pytest arguments]
# PYTHON: the interpreter, old enough for these versions (3.10 to 3.12). MINIDROP_OLDEST_VENV: where the environment is
# made (default .venv-oldest). The only network access is pip's.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
venv=${MINIDROP_OLDEST_VENV:-.venv-oldest}
python=$(find_python)
"$python" -m venv --clear "$venv"
# pytest is no dependency, but the tests must run with its oldest version as well.
wanted=$("$venv/bin/python" - <<'EOF'
import configparser
import re

setup = configparser.ConfigParser()
setup.read("setup.cfg")
extras = setup["options.extras_require"]
test = [line for line in extras["test"].split("\n") if line.split(" ")[0] in ("pytest", "hypothesis", "pillow")]
for line in (*setup["options"]["install_requires"].split("\n"), *test):
    if line:
        name, bound = re.fullmatch(r"([\w-]+) >=([\d.]+)(?:,.*)?", line).groups()
        print(f"{name}=={bound}")
EOF
)
echo "Trying" $wanted
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check $wanted
[ $# -gt 0 ] || set -- tests/test_kept.py tests/test_rng.py tests/test_fillers.py tests/config/test_load.py \
    tests/functions/test_operators.py tests/snapshot/test_caffe_files.py tests/net/test_net.py tests/solver/test_rules.py \
    tests/data/test_hdf5_records.py tests/cli/test_train.py tests/cli/test_report.py
PYTHONPATH=$PWD "$venv/bin/python" -m pytest -q -p no:cacheprovider "$@"
