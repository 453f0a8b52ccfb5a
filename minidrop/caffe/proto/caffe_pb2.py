"""The classes of Caffe's messages: NetParameter, SolverParameter, BlobProto, Datum, and the others."""

from minidrop.config import minidrop_pb2
from minidrop.config.minidrop_pb2 import DESCRIPTOR, TEST, TRAIN, Phase

globals().update({name: getattr(minidrop_pb2, name) for name in DESCRIPTOR.message_types_by_name})

__all__ = ["DESCRIPTOR", "TEST", "TRAIN", "Phase", *DESCRIPTOR.message_types_by_name]
