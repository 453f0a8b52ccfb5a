"""Reverse-mode automatic differentiation over Backend arrays."""

from minidrop.autograd.block import Block, Blocks, as_matrix
from minidrop.autograd.function import Function
from minidrop.autograd.gradcheck import check_gradients
from minidrop.autograd.graph import Watch, backward, no_grad, whole_of
from minidrop.autograd.reshaped import ReshapedParameter
from minidrop.autograd.tensor import Parameter, Tensor

__all__ = ["Block", "Blocks", "Function", "Parameter", "ReshapedParameter", "Tensor", "Watch",
           "as_matrix", "backward", "check_gradients", "no_grad", "whole_of"]
