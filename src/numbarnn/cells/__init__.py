"""Recurrent cells: a file each, and the table of them.

>>> from numbarnn import cells
>>> cells.CELLS["gru"].gates
('r', 'z', 'n')
"""

from numbarnn.cells.article import ARTICLE_GRU, ARTICLE_LSTM
from numbarnn.cells.base import CELLS, Cell, add_cell, find_cell
from numbarnn.cells.check import check_cell, is_registered, register_cell
from numbarnn.cells.coupled import LSTM_COUPLED
from numbarnn.cells.gru import GRU
from numbarnn.cells.gru_reset_before import GRU_RESET_BEFORE
from numbarnn.cells.indrnn import INDRNN
from numbarnn.cells.layernorm import LSTM_LAYERNORM
from numbarnn.cells.lstm import LSTM, LSTM_PROJECTED
from numbarnn.cells.mgu import MGU
from numbarnn.cells.minimal import MINGRU, MINLSTM
from numbarnn.cells.peephole import LSTM_PEEPHOLE, LSTM_PEEPHOLE_CANDIDATE
from numbarnn.cells.rnn import RNN_RELU, RNN_TANH

__all__ = [
    "CELLS", "PROJECTED", "Cell", "add_cell", "check_cell", "find_cell", "is_registered", "register_cell",
]  # fmt: skip

PROJECTED = {"lstm": LSTM_PROJECTED}  # what runs where h is a projection

for _cell in (
    RNN_TANH, RNN_RELU, LSTM, GRU,
    LSTM_PEEPHOLE, LSTM_PEEPHOLE_CANDIDATE, LSTM_COUPLED, LSTM_LAYERNORM, GRU_RESET_BEFORE, MGU,
    INDRNN, MINGRU, MINLSTM, ARTICLE_LSTM, ARTICLE_GRU,
):  # fmt: skip
    add_cell(_cell)
