#!/bin/sh
# Build the documentation as static pages, strictly: a broken link is an error.
#   sh scripts/site.sh                 # then open site/index.html
# PYTHON, MINIDROP_VENV: as in scripts/test.sh. The only network access is pip's; the pages need none.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment docs
NO_MKDOCS_2_WARNING=1 "$venv/bin/python" -m mkdocs build --strict --clean --quiet
# What a browser would load by itself from elsewhere.
if grep -rlE '<(script|link|img|iframe)[^>]*(src|href)="?(https?:)?//' site --include='*.html'; then
    echo "These pages load something from a network" >&2
    exit 1
fi
echo "site/index.html"
