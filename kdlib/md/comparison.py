"""Trained models against DFT on crystals that no training saw."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import xarray as xr

from kdlib.md import crystals
from kdlib.results import schema
from kdlib.training import sweep
from kdlib.md.crystals import CrystalProtocol
from kdlib.hipnn import Potential
from kdlib.progress import Reporter


def models(
    folder: str | Path,
    accuracy: xr.Dataset,
    protocol: CrystalProtocol = crystals.PROTOCOL,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Crystals under every model of a results folder.

    Parameters
    ----------
    folder
        Results folder with the runs.
    accuracy
        Says which roles, architectures and seeds there are.
    protocol
        That of the DFT.
    reporter
        Shows a bar over models.

    Returns
    -------
    xarray.Dataset
        :func:`kdlib.md.crystals.properties` over role, architecture and seed.
    """
    cells = []
    keys = list(_trained(accuracy))
    with (reporter or Reporter()).bar(len(keys), "crystals", "model") as bar:
        for role, architecture, seed in keys:
            bar.label(f"{role} {architecture} {seed}")
            potential = sweep.load(folder, role, architecture, seed)
            found = crystals.properties(_calculators(potential), protocol)
            where = {"role": [role], "architecture": [architecture], "seed": [seed]}
            shared = found[["volume"]]
            cells.append(found.drop_vars("volume").expand_dims(where).merge(shared))
            bar.update()
    whole = xr.merge(cells, join="outer", compat="no_conflicts", combine_attrs="override")
    order = {dim: accuracy[dim].values for dim in ("role", "architecture", "seed")}
    return whole.reindex(order)


def compare(found: xr.Dataset, physics: xr.Dataset) -> xr.Dataset:
    """Models beside DFT at the settings of the labels.

    Parameters
    ----------
    found
        From :func:`models`.
    physics
        The record ``physics``, over ``settings``.

    Returns
    -------
    xarray.Dataset
        Curves and numbers of both, as :func:`kdlib.figures.crystals` draws them, and
        ``converged_value(quantity)``.
    """
    label = physics.sel(settings="label", drop=True)
    ds = found[["energy", "volume"]].assign(
        value=crystals.quantities(found),
        reference_energy=label.energy,
        reference_value=crystals.quantities(label).rename("reference_value"),
    )
    if "converged" in physics.settings.values:
        converged = crystals.quantities(physics.sel(settings="converged", drop=True))
        ds["converged_value"] = converged.rename("converged_value")
    units = [crystals.QUANTITIES[name] for name in ds.quantity.values.tolist()]
    return ds.assign_coords(unit=("quantity", units, {"long_name": "unit of the quantity"}))


def table(ds: xr.Dataset) -> pd.DataFrame:
    """Numbers of DFT and the mean of each role's models, a row for each quantity.

    Parameters
    ----------
    ds
        From :func:`compare`.
    """
    columns = {"unit": ds.unit, "DFT, label": ds.reference_value}
    if "converged_value" in ds:
        columns["DFT, converged"] = ds.converged_value
    means = ds.value.mean(["architecture", "seed"])
    columns |= {schema.ROLE_NAMES[role]: means.sel(role=role) for role in ds.role.values.tolist()}
    rows = ds.quantity.values.tolist()
    return pd.DataFrame({name: column.values for name, column in columns.items()}, rows)


def _trained(accuracy: xr.Dataset) -> Iterator[tuple[str, str, int]]:
    there = accuracy.force_rmse.notnull().any("split")
    for role in accuracy.role.values.tolist():
        for architecture in accuracy.architecture.values.tolist():
            for seed in accuracy.seed.values.tolist():
                if bool(there.sel(role=role, architecture=architecture, seed=seed)):
                    yield role, architecture, int(seed)


def _calculators(potential: Potential) -> crystals.Calculators:
    return lambda like: potential.calculator(backend="fused", device="cpu")


def species(folder: str | Path, accuracy: xr.Dataset) -> tuple[str, ...]:
    """Chemical symbols that the models of a results folder know."""
    return sweep.load(folder, *next(_trained(accuracy))).config.species
