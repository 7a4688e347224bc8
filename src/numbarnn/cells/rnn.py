"""Simple recurrent networks: Elman 1990, with tanh or a rectifier."""

from numbarnn.cells.base import Cell
from numbarnn.simd import is_positive, relu, tanh


def rnn_tanh_forward(gates, states):
    (a,) = gates
    h = tanh(a)
    return (h,), (h,)


def rnn_tanh_backward(gates, states, new_states, dstates):
    (h,) = gates
    (dh,) = dstates
    return (dh * (1.0 - h * h),), (dh * 0.0,)


def rnn_relu_forward(gates, states):
    (a,) = gates
    h = relu(a)
    return (h,), (h,)


def rnn_relu_backward(gates, states, new_states, dstates):
    (h,) = gates
    (dh,) = dstates
    return (dh * is_positive(h),), (dh * 0.0,)


RNN_TANH = Cell("rnn", ("h",), (("h", "xh"),), rnn_tanh_forward, rnn_tanh_backward)
RNN_RELU = Cell("rnn_relu", ("h",), (("h", "xh"),), rnn_relu_forward, rnn_relu_backward)
