"""Whether the kernels for devices can run here, and on what.

Nothing imports Triton before :func:`obstacle` has been asked: it comes with torch's CUDA builds,
and is missing elsewhere.
"""

import gc
import importlib.util
import os

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


def release() -> None:
    """Give the memory that nothing uses any more back to the devices, and so to other processes."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
