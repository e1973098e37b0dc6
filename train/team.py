"""One run on several processes: each takes its share of every step, and all hold the same weights.

`torchrun` starts the processes and tells each its place by RANK, LOCAL_RANK and WORLD_SIZE. All of them draw the
same patches from the same seed, so that a step sees what a single process would see.
"""

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn

from qctrun.runtime.devices import parse_device
from qctrun.runtime.errors import DeviceError, InputError
from qctrun.train.network import NNSP

Item = TypeVar("Item")


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them.

    Attributes
    ----------
    device : str
        Where this process computes, "cpu" or "cuda:N".
    rank, size : int
        Which of how many processes this is; alone, 0 of 1.
    """

    device: str
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and says the words."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of a list: a run of neighbours, so that the scans of a truth stay together.

        The parts are equal where the length is divisible by the number of processes.
        """
        first, end = (len(items) * place // self.size for place in (self.rank, self.rank + 1))
        return items[first:end]

    def joined(self, network: NNSP) -> nn.Module:
        """The network to train: after `backward` its gradients are the mean over all processes."""
        return network if self.size == 1 else nn.parallel.DistributedDataParallel(network)

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(shared)
        return float(shared)

    def wait(self) -> None:
        """Until all processes are here: what the leader has written, the others may read now."""
        if self.size > 1:
            distributed.barrier()

    def leader_s(self, value: float) -> float:
        """The leader's number in place of one's own: clocks differ, decisions must not."""
        return self.total(value if self.leads else 0.0)


def processes() -> int:
    """How many processes share the run, as the environment says."""
    return _number("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1


def leads() -> bool:
    """Whether this process writes the files and says the words; known before the others are met."""
    return processes() == 1 or _number("RANK") == 0


def gathered(device: str) -> Team:
    """Meet the other processes, where `torchrun` has started some; gloo on the CPU, NCCL on CUDA.

    They meet once and part when the process ends: `torchrun` remembers the addresses of the first meeting. On
    CUDA the process takes the GPU of its LOCAL_RANK.

    Raises
    ------
    UsageError, DeviceError
        As `chosen_device`.
    InputError
        When the environment names a team but not how to meet it.
    """
    device = chosen_device(device)
    if processes() == 1:
        return Team(device)
    if device != "cpu":
        device = chosen_device(f"cuda:{_number('LOCAL_RANK')}")
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        _meet("gloo" if device == "cpu" else "nccl")
    return Team(device, distributed.get_rank(), distributed.get_world_size())


def chosen_device(name: str) -> str:
    """The device that a word means here, "cpu" or "cuda:N"; "auto" is the first GPU where torch can use one.

    Raises
    ------
    UsageError
        When it is no such word.
    DeviceError
        When that GPU is not there.
    """
    found, there = parse_device(name), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found == "cpu" or (name == "auto" and not there):
        return "cpu"
    if int(found.removeprefix("cuda:")) >= there:
        got = f"{there} of them" if there else "none"
        mend = "say cpu, or install torch for CUDA"
        raise DeviceError(f"device {name}", wanted="a GPU that torch can use", got=got, mend=mend)
    return found


def _meet(backend: str) -> None:
    try:
        distributed.init_process_group(backend)
    except (ValueError, RuntimeError) as error:
        raise _no_team(" ".join(str(error).split())[:200]) from error
    atexit.register(distributed.destroy_process_group)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdigit():
        raise _no_team(f"{name} {text!r}")
    return int(text)


def _no_team(got: str) -> InputError:
    wanted = "the environment of torchrun: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
    return InputError("team of processes", wanted=wanted, got=got)
