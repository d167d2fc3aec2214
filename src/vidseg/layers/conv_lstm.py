"""The convolutional LSTM cell."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class ConvLSTMState(NamedTuple):
    """Hidden and cell state, (N, D, h, w) each."""

    hidden: Tensor
    cell: Tensor


class ConvLSTM(nn.Module):
    """One step of an LSTM whose gates are convolutions; the state is an argument.

    Shi et al., "Convolutional LSTM Network", NIPS 2015, without peepholes. All gates come out of
    one convolution over input and hidden state, in the order input, remember, output, candidate,
    as in ETC's `convlstm` (its key `Gates` is `gates` here).

    Args:
        in_channels: of the input.
        channels: D of the state.
        kernel: side of the convolution, odd.
    """

    def __init__(self, in_channels: int, channels: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.gates = nn.Conv2d(in_channels + channels, 4 * channels, kernel, padding=kernel // 2)
        self.channels = channels

    def forward(self, x: Tensor, state: ConvLSTMState | None = None) -> ConvLSTMState:
        """(N, D_in, h, w) and the state before, zeros if None -> the next state."""
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.channels, *x.shape[-2:])
            state = ConvLSTMState(zeros, zeros)
        *gates, candidate = self.gates(torch.cat([x, state.hidden], 1)).chunk(4, 1)
        input_gate, remember_gate, output_gate = (gate.sigmoid() for gate in gates)
        cell = remember_gate * state.cell + input_gate * candidate.tanh()
        return ConvLSTMState(output_gate * cell.tanh(), cell)
