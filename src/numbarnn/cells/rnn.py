"""Simple recurrent networks: Elman 1990, with tanh or a rectifier."""

from numbarnn.cells.base import Cell
from numbarnn.simd import is_positive, relu, tanh


def rnn_tanh_forward(gates, states):
    """Compute h = tanh(a) by the equation of torch.nn.RNN; a is the sum of the two products."""
    (a,) = gates
    h = tanh(a)
    return (h,), (h,)


def rnn_tanh_backward(gates, states, new_states, dstates):
    """Go back through `rnn_tanh_forward`: the slope of tanh is 1 - h^2."""
    (h,) = gates
    (dh,) = dstates
    return (dh * (1.0 - h * h),), (dh * 0.0,)


def rnn_relu_forward(gates, states):
    """Compute h = max(a, 0) by the equation of torch.nn.RNN with nonlinearity="relu"."""
    (a,) = gates
    h = relu(a)
    return (h,), (h,)


def rnn_relu_backward(gates, states, new_states, dstates):
    """Go back through `rnn_relu_forward`: the slope is 1 where h > 0, else 0."""
    (h,) = gates
    (dh,) = dstates
    return (dh * is_positive(h),), (dh * 0.0,)


RNN_TANH = Cell("rnn", ("h",), (("h", "xh"),), rnn_tanh_forward, rnn_tanh_backward)
RNN_RELU = Cell("rnn_relu", ("h",), (("h", "xh"),), rnn_relu_forward, rnn_relu_backward)
