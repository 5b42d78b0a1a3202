"""Models for ``pair_style hipnn``, saved once."""

from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Callable:
    """Return a function that gives a saved model of :data:`in_lammps.MODELS`."""
    from in_lammps import Model, save

    folder = tmp_path_factory.mktemp("models")

    def find(name: str, precision: str = "double") -> Model:
        home = folder / f"{name} {precision}".replace(" ", "-")
        return Model(home, precision) if home.exists() else save(name, precision, home)

    return find
