"""The machine: which device and number format, and memory that is given back in a way that suits torch."""

from __future__ import annotations

import ctypes
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

Network = TypeVar("Network", bound=nn.Module)
Result = TypeVar("Result")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def prepare(threads: int | None = None) -> None:
    """Keep glibc from handing memory back between steps, and let torch use `threads` (default: all cores).

    glibc returns each large tensor to the system and asks for it anew, which costs torch 1.4 to 2 times (measured).
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    if threads is not None:
        torch.set_num_threads(threads)


def device(wanted: str) -> torch.device:
    """Return the device; `auto` prefers a GPU of NVIDIA, then one of Apple, then the CPU."""
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def is_half(wanted: str, where: torch.device) -> bool:
    """Say whether to train in bfloat16; `auto`: where the hardware multiplies it faster.

    On a CPU that means AMX: with AVX-512 alone bfloat16 was measured 1.3 times slower than float32.
    """
    if wanted != "auto":
        return wanted == "bf16"
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return where.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - there is no public way to ask


def place(network: Network, where: torch.device) -> Network:
    """Return the network on a device, its weights laid out as convolutions like them best (channels last)."""
    placed: Network = network.to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


class Stopped(Exception):  # noqa: N818 - no error: somebody has asked for it
    """Work that is done side by side has been asked to end."""


def side_by_side(work: Callable[[int, Callable[[], None]], Result], count: int, where: torch.device) -> list[Result]:
    """Return what `work` makes of each number from 0 to `count`, with a part of the cores each; one by one on a GPU.

    Small networks gain next to nothing from a second core (measured: 85 and 92 ms a step), but two of them do.

    Args:
        work: is called with the number, and with what it calls now and then: that raises `Stopped` when another one
            has failed, or ctrl-C has been pressed.
        count: how often it is called.
        where: the device that it computes on.

    """
    stop = threading.Event()

    def go_on() -> None:
        if stop.is_set():
            raise Stopped

    cores = torch.get_num_threads()
    if where.type != "cpu" or min(cores, count) == 1:
        return [work(number, go_on) for number in range(count)]
    together = min(cores, count)
    torch.set_num_threads(cores // together)
    try:
        with ThreadPoolExecutor(together) as pool:
            futures = [pool.submit(work, number, go_on) for number in range(count)]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(cores)
