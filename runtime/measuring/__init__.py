"""Volume in mg/cm3 -> local maps and global parameters."""

from qctrun.runtime.measuring.maps import local_maps
from qctrun.runtime.measuring.parameters import MapMeans, Parameters, map_means, parameters

__all__ = ["MapMeans", "Parameters", "local_maps", "map_means", "parameters"]
