"""hippynn, imported once: without its warnings and without torch's compiler.

Among hippynn's kernels are some made by ``torch.compile``, which loads the whole compiler (several
seconds in every process) when hippynn is imported. Here they are compiled at their first call.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def _at_first_call(compile_now: Callable[..., Callable]) -> Callable[..., Callable]:
    """Return a compiler that compiles a function at its first call."""

    def compile_later(function: Callable, **options: Any) -> Callable:
        made = functools.cache(lambda: compile_now(function, **options))

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return made()(*arguments, **named)

        return call

    return compile_later


@contextmanager
def lean() -> Iterator[None]:
    """Import hippynn in this context; an earlier import stays as it is."""
    compiled = torch.compile
    torch.compile = _at_first_call(compiled)
    try:
        with warnings.catch_warnings():  # hippynn 0.1.3 warns when imported under torch 2.13
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.compile = compiled


with lean():
    from hippynn import graphs
    from hippynn.interfaces.ase_interface import HippynnCalculator
    from hippynn.layers.hiplayers import (
        GaussianSensitivityModule,
        InteractLayer,
        InteractLayerVec,
        InverseSensitivityModule,
    )
    from hippynn.layers.hiplayers.sensitivity import CosCutoff
    from hippynn.layers.targets import HEnergy
    from hippynn.layers.transform import ResNetWrapper
    from hippynn.networks.hipnn import Hipnn, HipnnQuad, HipnnVec

__all__ = [
    "CosCutoff",
    "GaussianSensitivityModule",
    "HEnergy",
    "Hipnn",
    "HipnnQuad",
    "HipnnVec",
    "HippynnCalculator",
    "InteractLayer",
    "InteractLayerVec",
    "InverseSensitivityModule",
    "ResNetWrapper",
    "Sensitivity",
    "graphs",
]


class Sensitivity(InverseSensitivityModule):
    """hippynn's sensitivity functions, without the look for pairs below the first in every call.

    We refuse such frames on input. The setting that turns the look off is the whole process's.
    """

    def forward(self, distances: Tensor, warn_low_distances: bool = False) -> Tensor:
        """(n_pairs,) distances, Angstrom -> (n_pairs, n_sensitivities)."""
        return super().forward(distances, warn_low_distances)
