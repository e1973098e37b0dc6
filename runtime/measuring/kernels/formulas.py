"""Each formula once, on scalars: plain functions that are compiled for the processor at hand.

They know arithmetic and `math` alone, so that one text serves as Python, as machine code and on a graphics card.
"""

import math

FUZZY_WIDTH_MG_CM3 = 10.0
"""s of the fuzzy step."""
FLOOR = 1e-4
"""e of the soft positive part: the least fraction of bone that a TMD is divided by."""
PLAIN = 41.0 * FLOOR
"""Above this the soft positive part of a fraction is the fraction itself to the last bit."""


def fuzzy_step(value: float, threshold: float) -> float:
    """How much a density counts as bone (0..1): H_s(V - t) = 1 / (1 + exp((t - V) / s)).

    The exponential is a short series of a 64th of the argument, squared six times: the step is right to 1e-11.
    Unlike `math.exp` it has no branch, so a compiler takes many voxels at once, and only one division. Beyond 32
    widths the step is 0 or 1 to 1e-14 and the argument is cut there.
    """
    widths = min(max((threshold - value) * (1.0 / FUZZY_WIDTH_MG_CM3), -32.0), 32.0)
    y = widths * (1.0 / 64.0)
    series = 1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0 + y * (1.0 / 720.0)))
    power = 1.0 + y * (1.0 + y * (1.0 / 2.0 + y * series))
    power *= power
    power *= power
    power *= power
    power *= power
    power *= power
    power *= power
    return 1.0 / (1.0 + power)


def hard_step(value: float, threshold: float) -> float:
    """Bone (1) from the threshold on, else 0."""
    return 1.0 if value >= threshold else 0.0


def soft_positive(fraction: float) -> float:
    """plus_e(x) = e ln(1 + exp(x/e - 1)) + e, which never falls below e (the denominator of Eq. 8)."""
    if fraction > PLAIN:
        return fraction
    y = fraction / FLOOR - 1.0
    return FLOOR * (max(y, 0.0) + math.log1p(math.exp(-abs(y)))) + FLOOR


def whole(value: float) -> float:
    """The nearest whole number; a half goes upwards on every device."""
    return math.floor(value + 0.5)


def mean(total: int, count: int, centre: int, scale: float) -> float:
    """The mean of `count` fixed-point numbers from the sum of what they exceed `centre` by."""
    return (total + count * centre) / (count * scale)


def local_sd(total: int, squares: int, count: int, scale: float) -> float:
    """SD over the sphere (Eq. 9) from the sum of fixed-point numbers and the sum of their squares.

    With n equal weights 1 - sum N^2 is (n - 1) / n. The whole part of the mean leaves the squares in whole
    numbers, so nothing cancels in floating point however large the mean is; a whole number next to it does as well.
    """
    centre = math.floor(total / count)
    rest = total - centre * count
    spread = squares - centre * (total + rest)
    variance = (spread - rest * rest / count) / (count - 1)
    return math.sqrt(max(variance, 0.0)) / scale


def local_tmd(bone: float, excess: float, threshold: float, divisor: float) -> float:
    """TMD over the sphere (Eq. 8), mg/cm3, from the means of H_s and of (V - t) H_s; divisor = plus_e(mean of H_s).

    (V - t) H_s instead of V H_s: a rounding of H_s is then weighted by TMD - t, not by TMD.
    """
    return (threshold * bone + excess) / divisor
