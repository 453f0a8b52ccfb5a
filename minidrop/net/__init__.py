"""Nets: layers wired to each other, planned, and run."""

from minidrop.net.graph import BlobRef, build_graph
from minidrop.net.net import Net
from minidrop.net.problems import Problems

__all__ = ["BlobRef", "Net", "Problems", "build_graph"]
