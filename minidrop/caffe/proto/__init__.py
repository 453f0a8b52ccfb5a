"""caffe.proto: where pycaffe has the classes of its messages."""

from minidrop.caffe.proto import caffe_pb2

__all__ = ["caffe_pb2"]
