#!/bin/sh
# Build the documentation as static pages, strictly: a broken link or an undescribed name is an error.
#   sh scripts/site.sh                 # then open site/index.html
# PYTHON, MINIDROP_VENV: as in scripts/test.sh. The only network access is pip's; the pages need none.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment docs
NO_MKDOCS_2_WARNING=1 "$venv/bin/python" -m mkdocs build --strict --clean --quiet
"$venv/bin/python" scripts/check_site.py site
echo "site/index.html"
