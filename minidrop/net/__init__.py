"""Nets: layers wired to each other, planned, and run."""

from minidrop.net.graph import BlobRef, Problems, build_graph
from minidrop.net.net import Net

__all__ = ["BlobRef", "Net", "Problems", "build_graph"]
