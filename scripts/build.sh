#!/bin/sh
# Build the source distribution, and the wheel from it, into dist/, and check both: their metadata, that the source
# distribution has every file of the repository, and that some of its own tests pass when it is unpacked elsewhere.
#   sh scripts/build.sh
# PYTHON, MINIDROP_VENV: as in scripts/test.sh. The only network access is pip's.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment "${MINIDROP_EXTRAS:-test,examples},build"
python=$(cd "$(dirname "$venv/bin/python")" && pwd)/python
dist=$(mktemp -d)
trap 'rm -rf "$dist"' EXIT
"$python" -m build --outdir "$dist" .
"$python" -m twine check --strict "$dist"/*
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files | sort >"$dist/tracked"
    tar -tzf "$dist"/minidrop-*.tar.gz | sed -n 's|^[^/]*/\(.*[^/]\)$|\1|p' | sort >"$dist/packed"
    missing=$(comm -23 "$dist/tracked" "$dist/packed")
    if [ -n "$missing" ]; then
        echo "The source distribution lacks these files; name them in MANIFEST.in:" "$missing" >&2
        exit 1
    fi
fi
mkdir "$dist/unpacked"
tar -xzf "$dist"/minidrop-*.tar.gz -C "$dist/unpacked" --strip-components 1
(
    cd "$dist/unpacked"
    # Those that read files of several folders: models, docs, kernels.
    PYTHONPATH=$PWD "$python" -m pytest -q -p no:cacheprovider tests/test_kept.py \
        tests/backend/test_kernel_table.py tests/examples tests/cli/test_data_and_init.py
)
mkdir -p dist
mv "$dist"/minidrop-*.tar.gz "$dist"/minidrop-*.whl dist/
ls -l dist
