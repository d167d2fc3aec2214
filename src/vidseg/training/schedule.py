"""The learning rate of each step, a pure function of the step's number."""


def polynomial_rate(
    step: int,
    *,
    base: float,
    iterations: int,
    power: float = 0.9,
    floor: float = 0.0,
    warmup_iterations: int = 0,
    warmup_start: float = 0.1,
) -> float:
    """Learning rate of the polynomial schedule with a floor and a linear warm-up.

    rate(i) = (base - floor) * (1 - i / iterations)^power + floor, as the official TMANet runs
    (base 0.01, floor 1e-4, power 0.9); the step after the last one would run at the floor. In the
    warm-up the rate is multiplied by a factor that grows linearly from `warmup_start` to 1.

    Args:
        step: 0 for the first step.
        base: rate of step 0 (without a warm-up).
        iterations: number of steps of the whole run.
        power: of the polynomial; 1 is a straight line, 0 keeps `base`.
        floor: rate that the schedule ends at.
        warmup_iterations: length of the warm-up, 0 for none.
        warmup_start: share of the rate at step 0 of the warm-up.

    Returns:
        The rate for this step.

    Example:
        >>> polynomial_rate(0, base=0.01, iterations=80_000, floor=1e-4)
        0.01
        >>> round(polynomial_rate(40_000, base=0.01, iterations=80_000, floor=1e-4), 6)
        0.005405
    """
    left = max(0.0, 1 - step / iterations)
    rate = (base - floor) * left**power + floor
    if step < warmup_iterations:
        rate *= warmup_start + (1 - warmup_start) * step / warmup_iterations
    return rate
