"""Density in, density out: the trained filter, run in windows that give what one piece would give."""

from qctrun.runtime.filtering.apply import Filter
from qctrun.runtime.filtering.model import ModelCard, load_model

__all__ = ["Filter", "ModelCard", "load_model"]
