#!/bin/sh
# From a fresh clone to a comparison: installs minidrop into .venv, prepares a data set that needs no download, and trains
# one net with ordinary and with approximate dropout.
#   sh scripts/quickstart.sh
# PYTHON: the interpreter to use (3.10 or newer). MINIDROP_VENV: the virtual environment (default .venv). The only network
# access is pip's.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh

make_environment examples
"$venv/bin/minidrop" data digits
echo "Training models/digits_mlp twice, with ordinary and with approximate dropout, in turns."
echo "Half a minute on two cores; the very first run also compiles a few kernels."
echo
"$venv/bin/minidrop" compare models/digits_mlp/solver.prototxt

cat <<EOF

Next:
  . $venv/bin/activate
  minidrop check models/digits_mlp/train_val.prototxt        # shapes, and what each drop saves
  minidrop train --solver models/digits_mlp/solver.prototxt  # progress, metrics, snapshots
  python scripts/train_embedded.py                           # the same from Python
  minidrop data mnist                                        # 11 MB; then train models/mnist_mlp
docs/tutorial.md goes on from here.
EOF
