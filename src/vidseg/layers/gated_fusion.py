"""How LMANet joins what the memory gave with what the frame itself says: every published form."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-3
"""Of every batch norm, as in ERFNet."""

# name -> parts. normed: norm, dropout and ReLU on both inputs. gates: 2, 1 shared, or none (the
# inputs are joined as they are). squashed: gates go through a sigmoid.
FUSIONS: dict[str, dict[str, float]] = {
    "sigmoid": {"normed": False, "gates": 2, "squashed": True, "dropout": 0.0},
    "sigmoid-do1": {"normed": True, "gates": 2, "squashed": True, "dropout": 0.3},
    "sigmoid-do2": {"normed": True, "gates": 2, "squashed": True, "dropout": 0.0},
    "sigmoid-do3": {"normed": True, "gates": 1, "squashed": True, "dropout": 0.3},
    "concat": {"normed": True, "gates": 0, "squashed": False, "dropout": 0.3},
    "plain": {"normed": False, "gates": 2, "squashed": False, "dropout": 0.0},
    "simple-sigmoid": {"normed": False, "gates": 1, "squashed": True, "dropout": 0.0},
}

REDUCED = "sigmoid-down1"
"""The form for wide maps: gates from a reduction of both inputs (`ReducedFusion`)."""


class GatedFusion(nn.Module):
    """Both inputs, each with a gate that sees both, added; twice the channels.

    LMANet, models/memory.py: ReLU(BN(conv(value) * gate + conv(read) * gate)), a gate being the
    sigmoid of a convolution of both inputs, the frame's value first.

    Args:
        channels: D of each input.
        kind: a name of FUSIONS.
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        form = FUSIONS[kind]
        self.num_gates, self.is_squashed = int(form["gates"]), bool(form["squashed"])
        wide = self.out_channels = 2 * channels
        self.value_norm = self.read_norm = None
        if form["normed"]:
            self.value_norm = nn.BatchNorm2d(channels, eps=NORM_EPS)
            self.read_norm = nn.BatchNorm2d(channels, eps=NORM_EPS)
        self.dropout = nn.Dropout2d(form["dropout"])
        if self.num_gates:
            self.value_conv = nn.Conv2d(channels, wide, 3, padding=1)
            self.read_conv = nn.Conv2d(channels, wide, 3, padding=1)
            # Two gates are one convolution with twice the channels: the value's, then the read's.
            self.gates = nn.Conv2d(wide, self.num_gates * wide, 3, padding=1)
            self.norm = nn.BatchNorm2d(wide, eps=NORM_EPS)

    def forward(self, read: Tensor, value: Tensor) -> Tensor:
        """Two (N, D, h, w) -> (N, 2 D, h, w)."""
        if self.value_norm is not None and self.read_norm is not None:
            value = F.relu(self.dropout(self.value_norm(value)), inplace=True)
            read = F.relu(self.dropout(self.read_norm(read)), inplace=True)
        both = torch.cat([value, read], 1)
        if not self.num_gates:
            return both
        gates = self.gates(both)
        if self.is_squashed:
            gates = gates.sigmoid_()
        value_gate, read_gate = gates.chunk(2, 1) if self.num_gates == 2 else (gates, gates)
        mixed = self.value_conv(value) * value_gate
        mixed = torch.addcmul(mixed, self.read_conv(read), read_gate)
        return F.relu(self.norm(mixed), inplace=True)


class ReducedFusion(nn.Module):
    """Both inputs, each with a gate from a narrow reduction of both, added; as many channels.

    LMANet's form for PSPNet ("sigmoid-down1"). One convolution reduces both inputs: the authors'
    code makes a second one and never uses it.

    Args:
        channels: D of each input.
        reduced: D of the reduction.
    """

    def __init__(self, channels: int, reduced: int = 256) -> None:
        super().__init__()
        self.out_channels = channels
        self.reduction = nn.Conv2d(channels, reduced, 1)
        self.reduction_norm = nn.BatchNorm2d(reduced, eps=NORM_EPS)
        self.value_gate = nn.Conv2d(reduced, channels, 1)
        self.read_gate = nn.Conv2d(reduced, channels, 1)
        self.norm = nn.BatchNorm2d(channels, eps=NORM_EPS)

    def forward(self, read: Tensor, value: Tensor) -> Tensor:
        """Two (N, D, h, w) -> (N, D, h, w)."""
        reduced = self.reduction(value) + self.reduction(read)
        reduced = F.relu(self.reduction_norm(reduced), inplace=True)
        mixed = value * self.value_gate(reduced).sigmoid_()
        mixed = torch.addcmul(mixed, read, self.read_gate(reduced).sigmoid_())
        return F.relu(self.norm(mixed), inplace=True)


def build_fusion(kind: str, channels: int) -> GatedFusion | ReducedFusion:
    """Build a fusion by the authors' name.

    Args:
        kind: a name of FUSIONS, or "sigmoid-down1".
        channels: D of each input.

    Returns:
        A module of (read, value), with the D of its output as `.out_channels`.

    Raises:
        ValueError: the name is unknown.
    """
    if kind == REDUCED:
        return ReducedFusion(channels)
    if kind not in FUSIONS:
        raise ValueError(f"unknown fusion {kind!r}; there are {', '.join([*FUSIONS, REDUCED])}")
    return GatedFusion(channels, kind)
