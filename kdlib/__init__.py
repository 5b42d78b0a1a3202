"""Teacher-student training of machine-learning interatomic potentials.

Importing `kdlib` is cheap: a submodule, and torch with it, is loaded when it is first used.
"""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

__version__ = version("kdlib")

_SUBMODULES = frozenset(
    path.stem
    for path in Path(__file__).parent.iterdir()
    if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").is_file())
)


def __getattr__(name: str) -> ModuleType:
    """Load a submodule at its first use, e.g. `kdlib.datasets`."""
    if name in _SUBMODULES:
        return import_module(f"kdlib.{name}")
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
