"""Runs that are stopped or run out of memory or disk leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scans
from cli_outputs import RUN, left_behind
from conftest import Program

from qctrun.runtime import Grid, Volume, write


def stopped(here: Path, number: signal.Signals) -> str:
    """Start a filter of some seconds, stop it by this signal, and return what it said."""
    noise = np.random.default_rng(0).normal(100, 50, (300, 256, 256)).astype(np.float32)
    write(Volume(noise, Grid(noise.shape, scans.SPACING_MM), "mg/cm3", "HA"), here / "images" / "large.mha")
    words = [sys.executable, "-c", RUN, "filter", "images/large.mha", "--out", "--threads", "1"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as running:
        while not (here / "qctrun-out").exists() and running.poll() is None:
            time.sleep(0.02)
        time.sleep(0.5)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    return err


def test_control_c_stops_a_running_filter_without_a_trace(here: Path) -> None:
    err = stopped(here, signal.SIGINT)
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not left_behind(here)


def test_sigterm_stops_a_running_filter_without_a_trace(here: Path) -> None:
    err = stopped(here, signal.SIGTERM)
    assert err.splitlines()[-1] == "qctrun: error: interrupted"
    assert not left_behind(here)


def test_a_stop_between_volume_and_record_leaves_neither(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qctrun.runtime.writing.RunRecord.add_to", stop)
    assert qctrun("filter", "scan", "-q").code == 130
    assert not left_behind(here)


def test_memory_that_runs_out_while_filtering_is_exit_code_6(
    here: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("qctrun.runtime.filtering.Filter.__call__", too_large)
    code, _, err = qctrun("filter", "scan", "-q")
    assert (code, err.count("\n")) == (6, 1)
    assert not left_behind(here)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can be mounted only by root")
def test_a_full_disk_is_exit_code_7_and_leaves_nothing(here: Path, image: Path, qctrun: Program) -> None:
    disk = here / "images" / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        for verb, source in (("filter", "scan"), ("params", image)):
            code, out, err = qctrun(verb, source, "-q", "-o", disk / "out", "--format", "nrrd")
            assert (code, out, err.count("\n")) == (7, "", 1)
            assert "space" in err
            assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)
