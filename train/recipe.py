"""How a network is trained, as values."""

from dataclasses import dataclass

from qctrun.train.network import DEFAULT_CHANNELS


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are the paper's where it states them (method section 6).

    Not the paper's: the halving of the rate, and an epoch that is a number of steps, each drawn with replacement.

    Attributes
    ----------
    channels, residual
        The network, see `NNSP`.
    learning_rate : float
        Adam's first rate; it is halved when the validation loss has not improved for `patience` / 4 epochs.
    truths_per_step, scans_per_truth : int
        A step sees this many true patches, each with this many of its nine scans.
    steps_per_epoch, epochs, patience : int
        Training ends after `epochs`, or `patience` epochs after the best validation loss.
    minutes : float, optional
        Ends after the epoch in which this much time has passed.
    seed : int
        Start values, order of the patches and their symmetries all follow from it.
    """

    channels: tuple[int, ...] = DEFAULT_CHANNELS
    residual: bool = True
    learning_rate: float = 10**-3.5
    truths_per_step: int = 16
    scans_per_truth: int = 4
    steps_per_epoch: int = 224
    epochs: int = 1000
    patience: int = 20
    minutes: float | None = None
    seed: int = 0
