"""Building blocks that several methods share; none of them knows about time or training."""
