"""Recurrent cells: a file each, and the table of them.

>>> from numbarnn import cells
>>> sorted(cells.CELLS)
['gru', 'lstm', 'rnn', 'rnn_relu']
"""

from numbarnn.cells.base import CELLS, Cell, add_cell, find_cell
from numbarnn.cells.gru import GRU
from numbarnn.cells.lstm import LSTM
from numbarnn.cells.rnn import RNN_RELU, RNN_TANH

__all__ = ["CELLS", "Cell", "add_cell", "find_cell"]

for _cell in (RNN_TANH, RNN_RELU, LSTM, GRU):
    add_cell(_cell)
