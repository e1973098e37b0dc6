"""Scans that never were: bone, a reference and a CT scanner, all simulated and all seeded (method section 9).

Needs numpy and scipy only, no torch, so that the demonstration runs without a training installation.
"""

from qctrun.train.insilico.phantom import Phantom, microct_phantom, random_field_phantom
from qctrun.train.insilico.scanner import PAPER_SPACING_MM, Scanner

__all__ = ["PAPER_SPACING_MM", "Phantom", "Scanner", "microct_phantom", "random_field_phantom"]
