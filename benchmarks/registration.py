"""How near registration comes to the true pose, and whether its judge tells right from wrong.

    python benchmarks/registration.py --size 30,40,40 --specimens 5 --repetitions 2 --wrong --json FILE

Each scan of a simulated study (`qctrun study lab`: another pose, another field of view, a jar, air, noise of its tube
current) is registered by `train.pairs.register` as `qctrun pairs` does it, and held against its true pose over the
points of the trabecular mask: mean and largest distance, and angle. With --wrong registrations that must not pass are
made too: another vertebra, a mirror image, half of the bone cut off, landmarks that are 30 degrees off, a
spacing that is wrong by 1 %, and right poses spoilt by 0.3 mm or by 2 degrees. A row is `right` when the mean
distance is below 0.1 mm; `passed` is what the judge says. The seconds are CPU seconds of one thread.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from racing import surroundings
from scipy.spatial.transform import Rotation

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import Grid, Volume
from qctrun.train.insilico.hrpqct import hrpqct_noise
from qctrun.train.insilico.lab_plan import LabStudy, PlannedScan, PlannedSpecimen, planned
from qctrun.train.insilico.laboratory import reference_of, simulated, simulated_scan
from qctrun.train.insilico.posed import Spectrum, spectrum_of
from qctrun.train.pairs.choices import METRICS, PAPER_SPACING_MM, RegistrationChoice
from qctrun.train.pairs.fixed import Fixed, fixed_volume
from qctrun.train.pairs.judging import judged
from qctrun.train.pairs.register import Registered, register, resampled
from qctrun.train.pairs.rigid import Rigid, angle_between, distance

RIGHT_MM = 0.1
GOAL_MM, GOAL_DEG = 0.05, 0.1
Row = dict[str, Any]
Points = npt.NDArray[np.float64]


def main() -> None:
    """Register, judge, print and keep."""
    asked = _arguments()
    size = tuple(float(mm) for mm in asked.size.split(","))
    study = LabStudy(seed=asked.seed, specimens=asked.specimens, size_mm=size, repetitions=asked.repetitions)
    choice = RegistrationChoice(asked.metric)
    rows: list[Row] = []
    started = time.perf_counter()
    before: Fixed | None = None
    for specimen in planned(study):
        fixed, bone = _specimen(study, specimen)
        points = _points(fixed)
        for row in _rows(
            study, specimen, fixed, bone, points, choice, before if asked.wrong else None, asked.wrong
        ):
            rows.append(row)
            print(_line(row), flush=True)
            if asked.json:
                _keep(asked.json, asked, rows, time.perf_counter() - started)
        before = fixed
    print(json.dumps(_summary(rows), indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--specimens", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=1, help="scans at each of 100, 250 and 360 mAs")
    parser.add_argument("--size", default="22,28,28", help="box of the reference, mm (z,y,x)")
    parser.add_argument("--metric", choices=METRICS, default=METRICS[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--wrong", action="store_true", help="wrong registrations too, of each first repetition"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _specimen(study: LabStudy, specimen: PlannedSpecimen) -> tuple[Fixed, Spectrum]:
    made = simulated(study, specimen)
    clean, mask = reference_of(study, made)
    noise = hrpqct_noise(clean.grid.size, np.random.default_rng((*specimen.seed, 99)))
    fixed = fixed_volume(clean.with_array(clean.array + noise), mask, PAPER_SPACING_MM)
    return fixed, spectrum_of(made.tissue)


def _rows(
    study: LabStudy,
    specimen: PlannedSpecimen,
    fixed: Fixed,
    bone: Spectrum,
    points: Points,
    choice: RegistrationChoice,
    other: Fixed | None,
    wrong: bool,
) -> Iterator[Row]:
    for planned_scan in specimen.scans:
        scan = simulated_scan(study, bone, specimen, planned_scan)
        pose = planned_scan.pose
        name = {"specimen": specimen.name, "mas": planned_scan.mas, "repetition": planned_scan.repetition}
        found, row = _row("as it is", fixed, scan, pose, points, partial(register, fixed, scan, choice))
        yield name | row
        if not (wrong and planned_scan.repetition == 1):
            continue
        for case in _wrong(fixed, scan, planned_scan, points, found, other, choice):
            yield name | _row(*case)[1]


def _wrong(
    fixed: Fixed,
    scan: Volume,
    planned_scan: PlannedScan,
    points: Points,
    found: Registered | None,
    other: Fixed | None,
    choice: RegistrationChoice,
) -> Iterator[tuple[str, Fixed, Volume, Rigid, Points, Callable[[], Registered]]]:
    pose = planned_scan.pose
    if other is not None:
        away = _points(other)
        far = Rigid(offset_mm=(1e3, 0, 0))  # there is no true pose of another bone
        yield "another vertebra", other, scan, far, away, lambda: register(other, scan, choice)
    mirror = scan.with_array(scan.array[:, :, ::-1])
    yield (
        "mirror image",
        fixed,
        mirror,
        Rigid(offset_mm=(1e3, 0, 0)),
        points,
        lambda: register(fixed, mirror, choice),
    )
    half = _half(scan, pose.points(points).mean(0))
    yield (
        "half cut off",
        fixed,
        half,
        Rigid(offset_mm=(1e3, 0, 0)),
        points,
        lambda: register(fixed, half, choice),
    )
    start = pose.after(_turned(30.0, points.mean(0)))
    marks = np.column_stack([points[::50], start.points(points[::50])])
    yield "landmarks 30 deg off", fixed, scan, pose, points, lambda: register(fixed, scan, choice, marks)
    stretched = replace(scan, grid=_scaled(scan.grid, 1.01))
    yield (
        "spacing 1 % too large",
        fixed,
        stretched,
        Rigid(offset_mm=(1e3, 0, 0)),
        points,
        lambda: register(fixed, stretched, choice),
    )
    if found is not None:
        for name, off in (
            ("0.3 mm off", Rigid(offset_mm=(0.2, -0.2, 0.1))),
            ("2 deg off", _turned(2.0, points.mean(0))),
        ):
            spoilt = replace(found, transform=found.transform.after(off), second=found.second.after(off))
            yield name, fixed, scan, pose, points, lambda spoilt=spoilt: spoilt


def _row(
    case: str, fixed: Fixed, scan: Volume, pose: Rigid, points: Points, run: Callable[[], Registered]
) -> tuple[Registered | None, Row]:
    before = time.process_time()
    try:
        found = run()
    except InputError as error:
        return None, {"case": case, "refused": str(error), "right": False, "passed": False}
    seconds = time.process_time() - before
    verdict = judged(fixed, resampled(scan, found.transform, fixed.density.grid), found)
    mean, most = distance(found.transform, pose, points)
    return found, {
        "case": case,
        "mean_mm": mean,
        "most_mm": most,
        "angle_deg": angle_between(found.transform, pose),
        "right": mean < RIGHT_MM,
        "passed": verdict.good,
        "seconds": seconds,
        "judging_seconds": time.process_time() - before - seconds,
        "starts": found.facts["starts"],
        "stretch_percent": found.facts["stretch_percent"],
        "voxels": int(fixed.mask.size),
        **{key: value for key, value in verdict.as_dict().items() if key not in ("good", "facts")},
        **verdict.facts,
    }


def _points(fixed: Fixed) -> Points:
    index = np.argwhere(fixed.mask)
    index = index[:: max(1, len(index) // 2000)]
    return np.array([fixed.density.grid.world((z, y, x)) for z, y, x in index.tolist()])


def _half(scan: Volume, middle: Points) -> Volume:
    """The slices from the middle of the bone on."""
    grid = scan.grid
    first = round((middle[2] - grid.origin[2]) / grid.spacing[0])
    size = (grid.size[0] - first, *grid.size[1:])
    cut = Grid(size, grid.spacing, tuple(grid.world((first, 0, 0))), grid.direction)
    return replace(scan, array=scan.array[first:], grid=cut)


def _scaled(grid: Grid, factor: float) -> Grid:
    z, y, x = (factor * mm for mm in grid.spacing)
    return Grid(grid.size, (z, y, x), grid.origin, grid.direction)


def _turned(degrees: float, middle: Points) -> Rigid:
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([1.0, 1.0, 1.0]) / np.sqrt(3)).as_matrix()
    return Rigid(tuple(turn.ravel()), tuple(middle - turn @ middle))


def _line(row: Row) -> str:
    head = f"{row['specimen']} {row['mas']:4g} mAs {row['repetition']} {row['case']:<22}"
    if "refused" in row:
        return f"{head} refused: {row['refused']}"
    return (
        f"{head} {row['mean_mm']:8.4f} {row['most_mm']:8.4f} mm {row['angle_deg']:7.3f} deg  "
        f"{'passed' if row['passed'] else 'doubted'}{'' if row['passed'] == row['right'] else ' (!)'}  "
        f"{row['seconds']:.1f} s  {'; '.join(row['reasons'])}"
    )


def _summary(rows: list[Row]) -> Row:
    told: Row = {}
    plain = [row for row in rows if row["case"] == "as it is"]
    for mas in sorted({row["mas"] for row in plain}):
        told[f"{mas:g} mAs"] = _residuals([row for row in plain if row["mas"] == mas])
    told["all"] = _residuals(plain)
    told["right, yet doubted"] = sum(row["right"] and not row["passed"] for row in rows)
    told["wrong, yet passed"] = sum(row["passed"] and not row["right"] for row in rows)
    told["wrong"] = sum(not row["right"] for row in rows)
    return told


def _residuals(rows: list[Row]) -> Row:
    there = [row for row in rows if "mean_mm" in row]
    if not there:
        return {"scans": len(rows)}
    found: Row = {"scans": len(rows)}
    for key in ("mean_mm", "most_mm", "angle_deg", "seconds"):
        values = [row[key] for row in there]
        found[key] = {
            "median": float(np.median(values)),
            "p95": float(np.percentile(values, 95)),
            "most": max(values),
        }
    met = [row["mean_mm"] < GOAL_MM and row["angle_deg"] < GOAL_DEG for row in there]
    return found | {"share_within_goal": sum(met) / len(rows)}


def _keep(path: Path, asked: argparse.Namespace, rows: list[Row], seconds: float) -> None:
    settings = {key: value for key, value in vars(asked).items() if key != "json"}
    report = {"settings": settings, "summary": _summary(rows), "rows": rows, "seconds": round(seconds)}
    path.write_text(json.dumps(report | surroundings(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
