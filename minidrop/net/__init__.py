"""Nets: layers wired to each other, planned, and run."""

from minidrop.net.graph import BlobRef, build_graph
from minidrop.net.layerwise import Layerwise
from minidrop.net.net import Net
from minidrop.net.problems import Problems

__all__ = ["BlobRef", "Layerwise", "Net", "Problems", "build_graph"]
