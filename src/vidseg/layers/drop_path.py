"""Stochastic depth: in training a sample now and then skips a residual branch."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drop a branch of whole samples and scale up what stays.

    Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.

    Args:
        rate: probability that a sample's branch is dropped.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """(N, ...) -> (N, ...); in evaluation the input itself."""
        if not self.training or self.rate == 0:
            return branch
        kept = 1 - self.rate
        draw = branch.new_empty(branch.shape[0], *(1,) * (branch.dim() - 1)).bernoulli_(kept)
        return branch * draw / kept

    def extra_repr(self) -> str:
        """The rate, for printing."""
        return f"rate={self.rate:.3f}"
