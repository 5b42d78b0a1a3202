"""Packages of other people: whether they are there, which version, and their chatter."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from kdlib.errors import InputError

#: Top-level modules whose warnings concern the package's developers, not a user of its labels.
_CHATTY = ("sevenn", "e3nn", "torch_geometric", "chgnet", "pymatgen", "mace")
#: With this variable, which MACE sets on import, `torch.load` executes pickles of all packages.
_TRUST_PICKLES = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def require(package: str, install: str) -> None:
    """Import a package, or say how to get it.

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
    """Version of an installed distribution; empty where there is none of that name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the warnings of the packages of teachers, and torch's about their use of it."""
    with warnings.catch_warnings():
        for package in _CHATTY:
            warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
        yield


@contextmanager
def silent_loading() -> Iterator[None]:
    """:func:`quiet` without what a package prints and logs, and with the environment kept."""
    before = os.environ.get(_TRUST_PICKLES)
    nowhere = logging.NullHandler()  # with any handler there, logging sets up none of its own
    logging.getLogger().addHandler(nowhere)
    try:
        with quiet(), redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger().removeHandler(nowhere)
        os.environ.pop(_TRUST_PICKLES, None)
        if before is not None:
            os.environ[_TRUST_PICKLES] = before
