"""The shipped filter on the CPU beside what else computes the same network, and what a mask saves.

    python benchmarks/filter_cpu.py                                          # 256 x 256 x 80
    python benchmarks/filter_cpu.py --size 128,512,512 --rounds 3 --threads 2 --json benchmarks/results/filter_cpu.json
    python benchmarks/filter_cpu.py --mask --size 128,512,512                # a spongiosa of 8 % of the volume

Ours is `Filter` as a program calls it, windows, checks and copies included, with either backend. The others get the
array and nothing else: onnxruntime on the graph as exported, OpenVINO called by hand, and torch, eager and compiled,
in pieces of at most 8 million voxels. The largest difference from onnxruntime is told beside each time. Peak memory
is that of a process which does nothing else.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from inputs import Size, density
from racing import (
    Row,
    difference,
    installed,
    parser,
    peak_memory_mb,
    print_table,
    race,
    shape_words,
    size,
    summary,
    tell_memory,
    write,
)

from qctrun.runtime import Filter
from qctrun.runtime.filtering import load_model, nodes
from qctrun.runtime.filtering.engines.openvino_cpu import open_core
from qctrun.runtime.filtering.windows import plan

PIECE_VOXELS = 8_000_000
JUDGE, OURS = "onnxruntime as exported", "qctrun"
MASK_SHARE, MARGINS_MM = 0.08, (5.0, 2.15)
"""The default margin, and the one that spheres of 4.3 mm need."""

Array = npt.NDArray[np.float32]
Run = Callable[[Array], Array]


def main() -> None:
    """Race, compare, print and write."""
    words = parser(__doc__)
    words.add_argument("--size", type=size, default=(80, 256, 256), help="z,y,x")
    words.add_argument("--mask", action="store_true", help="race a mask against the whole volume instead")
    words.add_argument("--only", help="do nothing but this contender, for its memory")
    given = words.parse_args()
    if given.only:
        tell_memory(_contender(given.only, given.size, given.threads))
        return
    settings = {"size": list(given.size), "threads": given.threads, "rounds": given.rounds}
    if given.mask:
        rows, not_run = masked(given.size, given.threads, given.rounds), {}
    else:
        rows, not_run = whole(given.size, given.threads, given.rounds)
    print_table(rows, not_run)
    write(given.json, "filter_mask" if given.mask else "filter_cpu", settings, rows, not_run)


def whole(shape: Size, threads: int, rounds: int) -> tuple[list[Row], dict[str, str]]:
    """All that are installed on a whole volume."""
    runs, results, not_run = {}, {}, {}
    for name in CONTENDERS:
        try:
            run = _contender(name, shape, threads)
            results[name] = run()
        except Exception as error:  # whatever a peer cannot do here is its own affair, and is told
            not_run[name] = str(error).partition("\n")[0] or type(error).__name__
        else:
            runs[name] = run
    found = summary(race(runs, rounds, warm=0), OURS)
    scene = f"filter, {shape_words(shape)}, {threads} threads"
    memory = {name: _memory(name, shape, threads) for name in runs}
    rows = [
        {"scene": scene, "name": name, **row, "difference": difference(results[name], results[JUDGE])}
        for name, row in found.items()
    ]
    return [{**row, **memory[row["name"]]} for row in rows], not_run


def masked(shape: Size, threads: int, rounds: int) -> list[Row]:
    """An ellipsoid of 8 % of the volume, in the middle, each margin and backend against the whole."""
    volume = density(shape)
    mask = ellipsoid(shape, MASK_SHARE)
    rows = []
    for backend in ("onnxruntime", "openvino") if installed("openvino") else ("onnxruntime",):
        network = Filter(device="cpu", threads=threads, backend=backend)
        runs: dict[str, Callable[[], Any]] = {"whole": lambda network=network: network(volume)}
        for mm in MARGINS_MM:
            runs[f"margin {mm:g} mm"] = lambda network=network, mm=mm: network(
                volume, mask=mask, margin_mm=mm
            )
        records = {name: run().provenance["filter"] for name, run in runs.items()}
        scene = f"{backend}, mask of {mask.mean():.1%} of {shape_words(shape)}, {threads} threads"
        rows += [
            {
                "scene": scene,
                "name": name,
                **row,
                "filtered_share": records[name]["filtered_fraction"],
                "computed_share": records[name]["computed_voxels"] / mask.size,
            }
            for name, row in summary(race(runs, rounds, warm=0), "whole").items()
        ]
    return rows


def ellipsoid(shape: Size, share: float) -> npt.NDArray[np.bool_]:
    """A mask of about this share of the volume: half axes as a vertebral body's, 33 x 34 x 46 mm (z, y, x)."""
    spacing = density((1, 1, 1)).grid.spacing
    form = np.array([33, 34, 46]) / 2
    wanted = share * np.prod(np.multiply(shape, spacing))
    half_mm = form * (wanted / (4 / 3 * np.pi * np.prod(form))) ** (1 / 3)
    steps = np.ogrid[tuple(slice(0, n) for n in shape)]
    terms = zip(steps, shape, spacing, half_mm, strict=True)
    return np.asarray(sum(((step - n / 2) * mm / half) ** 2 for step, n, mm, half in terms) <= 1)


def _contender(name: str, shape: Size, threads: int) -> Callable[[], Array]:
    volume = density(shape)
    run = CONTENDERS[name](threads)
    if name.startswith(OURS):
        return lambda: run(volume)
    windows = plan(shape, load_model().card.halo, PIECE_VOXELS)
    return lambda: _in_pieces(run, volume.array, windows)


def _in_pieces(run: Run, array: Array, windows: list[Any]) -> Array:
    result = np.empty_like(array)
    for window in windows:
        result[window.put] = run(np.ascontiguousarray(array[window.take]))[window.keep]
    return result


def _memory(name: str, shape: Size, threads: int) -> dict[str, float]:
    words = ["--only", name, "--size", ",".join(map(str, shape)), "--threads", str(threads)]
    return peak_memory_mb(__file__, *words)


def _ours(backend: str) -> Callable[[int], Callable[[Any], Array]]:
    def made(threads: int) -> Callable[[Any], Array]:
        network = Filter(device="cpu", threads=threads, backend=backend)
        return lambda volume: network(volume).array

    return made


def _onnxruntime(threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(load_model().data, options, providers=["CPUExecutionProvider"])
    return lambda array: session.run(None, {"volume": array[None, None]})[0][0, 0]


def _openvino(threads: int) -> Run:
    core = open_core()
    wanted = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.compile_model(core.read_model(load_model().data), "CPU", wanted)
    return lambda array: model(array[None, None])[0][0, 0]


def _torch(threads: int, compiled: bool) -> Run:
    import torch

    from qctrun.train.network import NNSP

    torch.set_num_threads(threads)
    model = load_model()
    network = NNSP(model.card.channels, residual=nodes.read(model.data).nodes[-1].kind == "Add")
    weights = {name: torch.tensor(value) for name, value in nodes.read(model.data).weights.items()}
    network.load_state_dict({name: weights[f"network.{name}"] for name in network.state_dict()})
    network = network.to(memory_format=torch.channels_last_3d)

    compute = torch.compile(network) if compiled else network

    def run(array: Array) -> Array:
        with torch.inference_mode():
            feed = torch.from_numpy(array)[None, None].to(memory_format=torch.channels_last_3d)
            found: Array = compute(feed, same=True)[0, 0].numpy()
        return found

    return run


CONTENDERS: dict[str, Callable[[int], Callable[[Any], Array]]] = {
    JUDGE: _onnxruntime,
    OURS: _ours("auto"),
    "qctrun, onnxruntime": _ours("onnxruntime"),
    "OpenVINO by hand": _openvino,
    "torch eager": lambda threads: _torch(threads, compiled=False),
    "torch compiled": lambda threads: _torch(threads, compiled=True),
}
"""Words to what makes a runner for so many threads; ours take a volume, the others an array."""

if __name__ == "__main__":
    main()
