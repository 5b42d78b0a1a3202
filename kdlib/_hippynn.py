"""hippynn, imported without its warnings and without torch's compiler.

Among hippynn's kernels are some made by ``torch.compile``, which loads the whole compiler (several
seconds in every process) when hippynn is imported. They are made here when they are first called.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def lean() -> Iterator[None]:
    """Import hippynn in this context; an import that was made before stays as it is."""
    compiled = torch.compile
    torch.compile = _at_first_call(compiled)
    try:
        with warnings.catch_warnings():  # hippynn 0.1.3 warns when imported under torch 2.13
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.compile = compiled


def _at_first_call(compile_now: Callable[..., Callable]) -> Callable[..., Callable]:
    """Make of a compiler one that waits until what it is given is called."""

    def compile_later(function: Callable, **options: Any) -> Callable:
        made = functools.cache(lambda: compile_now(function, **options))

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return made()(*arguments, **named)

        return call

    return compile_later
