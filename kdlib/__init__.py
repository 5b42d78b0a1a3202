"""Teacher-student training of machine-learning interatomic potentials.

Importing `kdlib` is cheap: a room, and torch with it, is loaded when it is first used.
"""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdlib.hipnn import HipnnConfig, Potential, load

__version__ = version("kdlib")
__all__ = ["HipnnConfig", "Potential", "load"]

_ROOMS = frozenset(
    path.stem
    for path in Path(__file__).parent.iterdir()
    if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").is_file())
)


def __getattr__(name: str) -> Any:
    """Load a room, or a model's public name, at its first use, e.g. `kdlib.datasets`."""
    if name in _ROOMS:
        return import_module(f"kdlib.{name}")
    if name in __all__:
        return getattr(import_module("kdlib.hipnn"), name)
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS, "__version__"})
