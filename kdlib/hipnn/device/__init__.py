"""Whether the kernels for devices can run here, and on what.

Nothing imports Triton before :func:`obstacle` has been asked: it comes with torch's CUDA builds,
and is missing elsewhere.
"""

import functools
import gc
import importlib.util
import os
from collections.abc import Callable

import torch


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for: kernels then run on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def on_device(tensor: torch.Tensor) -> bool:
    """Whether the kernels of a device run on a tensor: not on the CPU, or interpreted there."""
    return tensor.device.type != "cpu" or interpreted()


def obstacle(device: torch.device) -> str | None:
    """Why a device has no kernels, those compiled by numba for the CPU included, or None."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"there are none for {device.type}"
    return None if importlib.util.find_spec("triton") else "Triton is not installed"


@functools.cache
def capturing() -> torch.cuda.Stream:
    """Stream on which graphs are captured: one, since libraries keep a workspace for each."""
    return torch.cuda.Stream()


def captured(
    work: Callable[[], None], prepare: Callable[[], None] | None = None, pool: object = None
) -> torch.cuda.CUDAGraph:
    """Capture launches as a graph.

    Parameters
    ----------
    work
        What is captured.
    prepare
        What runs before, so that kernels are compiled and libraries have their workspaces; ``work``
        itself unless given.
    pool
        Memory pool of another graph, to be shared with it.
    """
    stream = capturing()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        (prepare or work)()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        work()
    return graph


def release() -> None:
    """Give the memory that nothing uses any more back to the devices, and so to other processes."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
