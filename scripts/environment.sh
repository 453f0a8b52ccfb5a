# Shared by quickstart.sh and test.sh: finds Python 3.10 or newer and installs minidrop into .venv.
# make_environment EXTRAS sets $venv.

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    echo "minidrop needs Python 3.10 or newer with venv (Debian: apt-get install python3-venv); none was found." \
        "Set PYTHON=/path/to/python3" >&2
    return 1
}

make_environment() {
    venv=${MINIDROP_VENV:-.venv}
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "Creating the virtual environment $venv with $("$python" --version)"
        "$python" -m venv "$venv"
    fi
    echo "Installing minidrop[$1] and its dependencies into $venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
}
