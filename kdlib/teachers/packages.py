"""Packages of teachers: whether they are installed, their versions, and their chatter."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from kdlib.errors import InputError

#: Top-level modules whose warnings concern their developers, not users of labels.
_CHATTY = ("sevenn", "e3nn", "torch_geometric", "chgnet", "pymatgen", "mace")
#: MACE sets this variable on import; with it, `torch.load` executes pickles of all packages.
_TRUST_PICKLES = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def require(package: str, install: str) -> None:
    """Import a package; an error names the command ``install`` that brings it.

    Raises
    ------
    InputError
        The package is missing, or can't be imported.
    """
    try:
        with quiet():
            import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise InputError(f"{package} needs {error.name}, which is missing: {install}") from None
        raise InputError(f"{package} is not installed: {install}") from None
    except Exception as error:
        raise InputError(f"{package} can't be imported ({error}): {install}") from error


def version_of(package: str) -> str:
    """Version of an installed distribution; empty if there is none of that name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of teachers' packages, and torch's about their use of it."""
    with warnings.catch_warnings():
        for package in _CHATTY:
            warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
        yield


@contextmanager
def silent_loading() -> Iterator[None]:
    """:func:`quiet`, also without prints and logs; changes of the environment are undone."""
    before = os.environ.get(_TRUST_PICKLES)
    nowhere = logging.NullHandler()  # with any handler present, logging adds none of its own
    logging.getLogger().addHandler(nowhere)
    try:
        with quiet(), redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger().removeHandler(nowhere)
        os.environ.pop(_TRUST_PICKLES, None)
        if before is not None:
            os.environ[_TRUST_PICKLES] = before
