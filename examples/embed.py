"""Embed the runtime in a program that has an array and no file.

python examples/embed.py

`filter_and_measure(volume, nnsp, thresholds=(225,))` does both steps at once; on a GPU that saves a way there and back.
"""

import numpy as np

from qctrun.runtime import Filter, Grid, Volume, local_maps, parameters


def main() -> None:
    """Filter and measure an array; print what a viewer would show."""
    array = np.random.default_rng(0).normal(120, 300, (40, 64, 64)).astype(np.float32)
    volume = Volume(array, Grid(size=array.shape, spacing=(0.34, 0.172, 0.172)), unit="mg/cm3", material="HA")
    nnsp = Filter(device="auto")
    filtered = nnsp(volume, progress=lambda done, total: print(f"window {done} of {total}"))
    for row in parameters(filtered, thresholds=(225,)):
        print(f"BMD {row.bmd_mg_cm3:.1f} mg/cm3, BV/TV {row.bvtv:.3f}, TMD {row.tmd_mg_cm3} mg/cm3")
    bvtv = local_maps(filtered, thresholds=(225,))["BVTV", 225]
    print(f"local BV/TV from {np.nanmin(bvtv.array):.3f} to {np.nanmax(bvtv.array):.3f}")


if __name__ == "__main__":
    main()
