"""Whether a registration can be trusted, by limits that lie between right and wrong ones in silico.

`benchmarks/registration.py --wrong` shows both sides of each limit.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.volume import Volume
from qctrun.train.pairs.blocks import Blocks, matched
from qctrun.train.pairs.fixed import Fixed
from qctrun.train.pairs.register import Registered
from qctrun.train.pairs.rigid import angle_between, distance

LEAST_OVERLAP = 0.95
"""The share of the mask that a scan must cover."""
LEAST_METRIC = {"mutual information": 0.05, "correlation": 0.05}
"""Below, there is hardly anything that both show. The shape of the cortex alone gives more, so this finds little."""
MOST_INCONSISTENT_MM, MOST_INCONSISTENT_DEG = 0.1, 0.5
"""How far two starts may end apart, in the mean over the mask."""
MOST_LOCAL_MM = 0.1
"""The shift that may be left in the median of all blocks."""
LEAST_AGREEING, AGREEING_MM = 0.6, 0.3
"""The share of blocks that must lie so near to their median shift; by chance 1 % do."""
LEAST_PEAK = 0.25
"""Of the blocks' correlation with the scan, in the median."""
MOST_TURNED_DEG, SURE = 0.5, 2.5
"""What the blocks' shifts may have of a common turn, or so many standard errors where those are wider."""
MOST_STRETCH_PERCENT = 0.5
"""What an affine transform may find beyond the rigid one; noise makes up to 0.3 of it in a bone of 18 mm."""
FEWEST_BLOCKS = 6
"""With fewer, a median says nothing."""

_MOST_POINTS = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a registration.

    Attributes
    ----------
    good : bool
        Whether no test was failed.
    reasons : tuple of str
        Every doubt, in words with its numbers.
    overlap : float
        Share of the mask that the scan covers.
    metric : float
        As in `Registered`.
    inverse_consistency_mm, inverse_consistency_deg : float
        Between the results of two starts: mean distance over the mask, and angle.
    local_shift_mm : float
        Length of the median shift that blocks of the mask still have; NaN without blocks.
    facts : dict of JSON values
        `blocks`, `agreeing`, `peak`, `spread_mm`, `left_turn_deg`, `left_turn_error_deg`.
    """

    good: bool
    reasons: tuple[str, ...]
    overlap: float
    metric: float
    inverse_consistency_mm: float
    inverse_consistency_deg: float
    local_shift_mm: float
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, where no number is NaN."""
        told = asdict(self) | {"reasons": list(self.reasons)}
        return told | {"local_shift_mm": None if np.isnan(self.local_shift_mm) else self.local_shift_mm}


def judged(fixed: Fixed, on_grid: Volume, registered: Registered) -> Verdict:
    """Test a registration.

    Parameters
    ----------
    fixed : Fixed
    on_grid : Volume
        The scan on the reference's grid, as `resampled` gives it: NaN where it does not reach.
    registered : Registered

    Returns
    -------
    Verdict
        Good only when the scan covers the mask, both starts came to one place, and the trabeculae of the
        reference are found where they should be: with a likeness, without a common shift, and without a stretch.
    """
    grid = fixed.density.grid
    index = np.argwhere(fixed.mask)
    index = index[:: max(1, len(index) // _MOST_POINTS)]
    points = np.array([grid.world((z, y, x)) for z, y, x in index.tolist()])
    apart = distance(registered.transform, registered.second, points)[0]
    turned = angle_between(registered.transform, registered.second)
    overlap = float(np.isfinite(on_grid.array[fixed.mask]).mean())
    blocks = matched(fixed, on_grid.array)
    shift, facts = _local(blocks)
    reasons = [
        *_of_overlap(overlap),
        *_of_starts(registered, apart, turned),
        *_of_blocks(shift, facts),
    ]
    return Verdict(not reasons, tuple(reasons), overlap, registered.metric, apart, turned, shift, facts)


def _local(blocks: Blocks) -> tuple[float, dict[str, Any]]:
    """The median shift, and what else the blocks tell."""
    if not len(blocks.peaks):
        return float("nan"), {"blocks": 0}
    median = np.median(blocks.shifts_mm, axis=0)
    off = np.linalg.norm(blocks.shifts_mm - median, axis=1)
    near = off <= AGREEING_MM
    facts = {
        "blocks": len(off),
        "agreeing": float(near.mean()),
        "peak": float(np.median(blocks.peaks)),
        "spread_mm": float(np.median(off)),
        **_turn(blocks.middles_mm[near], blocks.shifts_mm[near], blocks.repeats),
    }
    return float(np.linalg.norm(median)), facts


def _turn(
    middles_mm: npt.NDArray[np.float64], shifts_mm: npt.NDArray[np.float64], repeats: float
) -> dict[str, Any]:
    """The turn that shifts of blocks amount to; nothing where too few agree."""
    if len(middles_mm) < FEWEST_BLOCKS:
        return {}
    places = np.column_stack([np.ones(len(middles_mm)), middles_mm - middles_mm.mean(0)])
    solved, _, rank, _ = np.linalg.lstsq(places, shifts_mm, rcond=None)
    if rank < 4:
        return {}
    slopes = solved[1:].T
    left = shifts_mm - places @ solved
    # Blocks that overlap share their noise: they count as so many fewer.
    variance = repeats * (left**2).sum(0) / max(1, len(left) - 4)
    errors = np.sqrt(np.outer(variance, np.diag(np.linalg.inv(places.T @ places))[1:]))
    skew = (slopes - slopes.T) / 2
    return {
        "left_turn_deg": float(np.degrees(np.linalg.norm(skew) / np.sqrt(2))),
        "left_turn_error_deg": float(
            np.degrees(np.sqrt((errors**2).sum() - (np.diag(errors) ** 2).sum()) / 2)
        ),
    }


def _of_overlap(overlap: float) -> list[str]:
    if overlap >= LEAST_OVERLAP:
        return []
    return [f"the scan covers {overlap:.1%} of the mask, and should cover {LEAST_OVERLAP:.0%}"]


def _of_starts(registered: Registered, apart_mm: float, turned_deg: float) -> list[str]:
    doubts = []
    least = LEAST_METRIC[registered.facts["metric"]]
    if registered.metric < least:
        doubts.append(
            f"{registered.facts['metric']} {registered.metric:.3g}, and should be {least:g} or more"
        )
    stretch = registered.facts["stretch_percent"]
    if abs(stretch) > MOST_STRETCH_PERCENT:
        doubts.append(
            f"the scan fits best when stretched by {stretch:+.2f} %, and should within {MOST_STRETCH_PERCENT:g} %: "
            "a wrong spacing or a gantry tilt in one of the two"
        )
    if apart_mm > MOST_INCONSISTENT_MM or turned_deg > MOST_INCONSISTENT_DEG:
        doubts.append(
            f"two starts ended {apart_mm:.3g} mm and {turned_deg:.3g} degrees apart, and should within "
            f"{MOST_INCONSISTENT_MM:g} mm and {MOST_INCONSISTENT_DEG:g} degrees"
        )
    return doubts


def _of_blocks(shift_mm: float, facts: dict[str, Any]) -> list[str]:
    count = facts["blocks"]
    if count < FEWEST_BLOCKS:
        return [
            f"the covered mask holds {count} blocks of 6 mm, and {FEWEST_BLOCKS} are needed to look for trabeculae"
        ]
    doubts = []
    if facts["agreeing"] < LEAST_AGREEING:
        doubts.append(
            f"{facts['agreeing']:.0%} of {count} blocks are found at one shift (within {AGREEING_MM:g} mm), and "
            f"{LEAST_AGREEING:.0%} should: another bone, a mirror image, or bent"
        )
    if facts["peak"] < LEAST_PEAK:
        doubts.append(
            f"trabeculae correlate by {facts['peak']:.2f} in the median block, and should by {LEAST_PEAK:g}"
        )
    if shift_mm > MOST_LOCAL_MM:
        doubts.append(
            f"blocks are still {shift_mm:.3g} mm off in the median, and should within {MOST_LOCAL_MM:g} mm"
        )
    turned, error = facts.get("left_turn_deg", 0.0), facts.get("left_turn_error_deg", 0.0)
    if turned > max(MOST_TURNED_DEG, SURE * error):
        doubts.append(f"blocks are still turned by {turned:.2g} degrees (error {error:.2g})")
    return doubts
