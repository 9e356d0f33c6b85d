"""Where a scorer computes: a GPU where one is there and the library can use it, else the CPU."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Literal, NamedTuple

# `auto` takes a GPU where one is there. Bits may differ from the CPU's: `cpu` keeps to it.
Device = Literal["auto", "cpu"]


class Choice(NamedTuple):
    """`gpu` says whether to use it; `name` is what a receipt says of the device."""

    gpu: bool
    name: str


def choose(wanted: Device, library: str, library_can: bool) -> Choice:
    """The device for a library that can use a GPU or, in this installation, cannot."""
    if wanted == "cpu":
        return Choice(False, "cpu")
    if not gpus():
        return Choice(False, "cpu (no GPU here)")
    if not library_can:
        return Choice(False, f"cpu (a GPU is here, and this {library} cannot use it)")
    return Choice(True, "cuda:0")


def fallen_back(library: str, error: Exception) -> Choice:
    """The CPU, because the GPU that was chosen did not work."""
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return Choice(False, f"cpu (the GPU failed in {library}: {first_line[:100]})")


@cache
def gpus() -> int:
    """NVIDIA GPUs that this process may use (CUDA_VISIBLE_DEVICES); 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
