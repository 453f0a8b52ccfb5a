"""Every rank reads its part of the batches that one process reads, whatever the source; and tests them."""

import numpy as np
import pytest
from nets import drop, ip, layer
from parallel_nets import FINE, LOSS, assert_same_training, memory, mlp, mlp_with, solver_of, trained, weights, write_text

from minidrop.data import HDF5Output
from minidrop.net import Net
from minidrop.testing import run_ranks
