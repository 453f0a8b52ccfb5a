# For type checkers and editors alone: what functions/operators.py, a floor above, adds to Tensor.
from minidrop.functions.operators import Operators as Operators
