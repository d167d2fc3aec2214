"""Reading a memory by attention, without ever building the full affinity matrix."""

from torch import Tensor
from torch.nn import functional as F


def read_memory(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from each pixel to every pixel of every remembered frame.

    TMANet, section 2.2: softmax over all T * h * w memory positions of unscaled dot products.
    Fused attention kernels want equal widths of keys and values, so queries and keys are padded
    with zeros to the values' width; zeros add nothing to a dot product.

    Args:
        query: (B, d, h, w).
        keys: (B, K, d, h, w), oldest first.
        values: (B, K, D, h, w), D >= d.

    Returns:
        (B, D, h, w), what the memory holds for each pixel.

    Raises:
        ValueError: `keys` and `values` disagree in K, h or w.

    Example:
        >>> query, keys = torch.ones(1, 4, 5, 6), torch.ones(1, 2, 4, 5, 6)
        >>> read_memory(query, keys, torch.ones(1, 2, 8, 5, 6)).shape
        torch.Size([1, 8, 5, 6])
    """
    if keys.shape[1] != values.shape[1] or keys.shape[3:] != values.shape[3:]:
        raise ValueError(
            f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must agree in K, h and w"
        )
    key_width, value_width = keys.shape[2], values.shape[2]
    pad = (0, max(value_width - key_width, 0))
    # Contiguous: for transposed views torch silently builds the full matrix on the CPU.
    query_BNd = F.pad(query.flatten(2).transpose(1, 2), pad).contiguous()
    keys_BMd = F.pad(keys.transpose(1, 2).flatten(2).transpose(1, 2), pad).contiguous()
    values_BMD = values.transpose(1, 2).flatten(2).transpose(1, 2).contiguous()
    # One head: the fused kernels take (B, heads, N, width).
    context = F.scaled_dot_product_attention(
        query_BNd[:, None], keys_BMd[:, None], values_BMD[:, None], scale=1.0
    )
    return context[:, 0].transpose(1, 2).unflatten(2, query.shape[-2:])
