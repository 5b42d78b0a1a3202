"""From the record of fits, predictions and times to the result file, and to text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.benchmarks.linear_ace.plan import ENGINES, EVALUATED, AceProtocol
from kdlib.training import accuracy

Record = Mapping[str, Any]

#: Errors of :func:`kdlib.training.accuracy.summary` that a linear ACE has.
ERRORS = (
    "energy_rmse", "energy_mae", "force_rmse", "force_mae", "cell_energy_rmse",
    "force_rmse_trimmed", "force_rmse_median", "force_worst_share", "energy_worst_share",
)  # fmt: skip
_FITTED = {
    "n_functions": "1",
    "n_parameters": "1",
    "fit_time": "s",
    "fit_processor_time": "s",
    "noise_energy": "eV",
    "noise_force": "eV/Angstrom",
}
#: Variable -> unit and meaning.
MEANING = {
    "size": ("", "largest correlation order and total degree of the basis"),
    "split": ("", "part of the dataset"),
    "engine": ("", "what runs the model under ASE: ace-jax's calculator, or its C++ kernel"),
    "n_atoms": ("1", "atoms in the MD cell"),
    "threads": ("1", "threads of the timed run"),
    "repeat": ("1", "block of steps"),
    "energy_weight": ("1", "weight of the energies over what the evidence finds"),
    "order": ("1", "correlation order"),
    "degree": ("1", "largest total degree"),
    "n_functions": ("1", "functions of the basis, without pair functions"),
    "n_parameters": ("1", "fitted coefficients, the energies of isolated atoms among them"),
    "fit_time": ("s", "wall time of the fit on one thread, with compilation"),
    "fit_processor_time": ("s", "processor time of the fit"),
    "noise_energy": ("eV", "noise of an energy over the root of the number of atoms"),
    "noise_force": ("eV/Angstrom", "noise of a force component"),
    "chosen_weight": ("1", "weight of the energies that validation chose"),
    "selection": ("1", "validation error that chooses: energy and force, weighted"),
    "energy_rmse": ("eV/atom", "root-mean-square energy error per atom"),
    "energy_mae": ("eV/atom", "mean absolute energy error per atom"),
    "force_rmse": ("eV/Angstrom", "root-mean-square error of a force component"),
    "force_mae": ("eV/Angstrom", "mean absolute error of a force component"),
    "cell_energy_rmse": ("eV", "root-mean-square energy error per cell"),
    "force_rmse_trimmed": (
        "eV/Angstrom", "root-mean-square force error without the worst 0.1 % of components",
    ),
    "force_rmse_median": ("eV/Angstrom", "median over frames of the root-mean-square force error"),
    "force_worst_share": ("1", "share of the worst frame in the squared force error"),
    "energy_worst_share": ("1", "share of the worst frame in the squared energy error"),
    "eam_force_rmse": ("eV/Angstrom", "root-mean-square force error of LAMMPS's EAM potential"),
    "eam_force_mae": ("eV/Angstrom", "mean absolute force error of LAMMPS's EAM potential"),
    "step_time": ("us/atom/step", "time per MD step per atom"),
    "processor_share": ("1", "processor time of the timed steps over their wall time"),
    "status": ("", "whether a time was measured"),
}  # fmt: skip


def errors(frames: Sequence[Atoms], predicted: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Prediction minus label, named as :func:`kdlib.training.accuracy.residuals` does.

    Parameters
    ----------
    predicted
        ``energy``, one per frame, eV, and ``forces``, (n_atoms, 3) per frame, eV/Angstrom.
    """
    if not len(frames):
        return {}
    sizes = np.array([len(atoms) for atoms in frames])
    cell = np.array(predicted["energy"]) - [atoms.calc.results["energy"] for atoms in frames]
    forces = np.concatenate([np.asarray(one) for one in predicted["forces"]])
    return {
        "cell_energy": cell,
        "energy": cell / sizes,
        "force": forces - np.concatenate([atoms.calc.results["forces"] for atoms in frames]),
        "frame": np.repeat(np.arange(len(frames)), sizes),
    }


def selection(found: Mapping[str, np.ndarray], protocol: AceProtocol) -> float:
    """Validation error that chooses the weight of the energies, from :func:`errors`."""
    weights = {"cell_energy": protocol.selection_energy, "force": protocol.selection_force}
    return sum(w * (accuracy.rmse(found[k]) + accuracy.mae(found[k])) for k, w in weights.items())


def dataset(
    record: Record, protocol: AceProtocol, classical: xr.Dataset | None = None
) -> xr.Dataset:
    """Result of kind ``benchmark`` from the record of :func:`kdlib.benchmarks.linear_ace.run`.

    Parameters
    ----------
    record
        Label of a size -> ``fit``, ``selection`` (one per weight), ``chosen`` (its position),
        ``errors`` (part -> name -> value) and ``times`` (a list of runs).
    classical
        From :func:`kdlib.benchmarks.linear_ace.classical.force_errors`.
    """
    labels = [size.label for size in protocol.sizes]
    found = [record[label] for label in labels]
    ds = xr.Dataset(
        {
            "order": ("size", [size.order for size in protocol.sizes]),
            "degree": ("size", [size.degree for size in protocol.sizes]),
            "chosen_weight": ("size", [protocol.energy_weights[one["chosen"]] for one in found]),
            "selection": (("size", "energy_weight"), [one["selection"] for one in found]),
            **{name: ("size", [one["fit"][name] for one in found]) for name in _FITTED},
            **{
                name: (("size", "split"),
                       [[one["errors"][part][name] for part in EVALUATED] for one in found])
                for name in ERRORS
            },
        },
        {"size": labels, "split": list(EVALUATED), "energy_weight": list(protocol.energy_weights)},
    )  # fmt: skip
    parts = [ds, _times(record, protocol), classical if classical is not None else xr.Dataset()]
    ds = xr.merge(parts, combine_attrs="no_conflicts")
    versions = {k: v for k, v in found[0]["fit"].items() if k.endswith("_version")}
    return named(ds).assign_attrs({f"fitted_with_{k}": v for k, v in versions.items()})


def _times(record: Record, protocol: AceProtocol) -> xr.Dataset:
    coords = {
        "size": [size.label for size in protocol.sizes],
        "engine": list(ENGINES),
        "n_atoms": sorted({run["n_atoms"] for one in record.values() for run in one["times"]}),
        "threads": list(protocol.all_threads),
        "repeat": range(protocol.repeats),
    }
    run_dims = ("size", "engine", "n_atoms", "threads")
    shape = [len(coords[dim]) for dim in run_dims]
    ds = xr.Dataset(
        {
            "step_time": ((*run_dims, "repeat"), np.full([*shape, protocol.repeats], np.nan)),
            "processor_share": (run_dims, np.full(shape, np.nan)),
            "status": (run_dims, np.full(shape, "not run", dtype=object)),
        },
        coords,
    )
    for label, one in record.items():
        for run in one["times"]:
            where = {"size": label, **{dim: run[dim] for dim in run_dims[1:]}}
            ds["status"].loc[where] = run["status"]
            if seconds := run.get("seconds"):
                steps = run["n_atoms"] * protocol.n_steps
                spread = np.full(protocol.repeats, np.nan)
                spread[: len(seconds)] = np.array(seconds) * 1e6 / steps
                ds["step_time"].loc[where] = spread
                ds["processor_share"].loc[where] = sum(run["processor"]) / sum(seconds)
    return ds


def named(ds: xr.Dataset) -> xr.Dataset:
    """Attach units and meanings."""
    for name, (unit, meaning) in MEANING.items():
        if name in ds.variables:
            ds[name].attrs = {**({"units": unit} if unit else {}), "long_name": meaning}
    return ds


def table(ds: xr.Dataset) -> str:
    """Format the result as text: fits and errors of each size, then medians of the times."""
    lines = [f"{'linear ACE':<20}{'functions':>10}{'fit, s':>9}{'weight':>8}"
             + "".join(f"{part:>12}" for part in ds.split.values.tolist())]  # fmt: skip
    for label in ds["size"].values.tolist():
        one = ds.sel(size=label)
        for name, unit, scale in (("force", "eV/A", 1), ("energy", "meV/atom", 1000)):
            begin = f"{label:<20}{int(one.n_functions):>10}{float(one.fit_time):>9.4g}"
            begin += f"{float(one.chosen_weight):>8g}"
            values = one[f"{name}_rmse"].values * scale
            cells = "".join(f"{'-' if np.isnan(v) else f'{v:.4g}':>12}" for v in values)
            lines.append(f"{begin if scale == 1 else '':<47}{cells}  {name} RMSE, {unit}")
    lines.append(f"\n{'under ASE':<20}{'engine':>10}{'atoms':>9}{'threads':>8}{'us/atom/step':>14}")
    runs = ds.status.stack(run=ds.status.dims)
    for label, engine, n, threads in runs.run.values.tolist():
        one = ds.sel(size=label, engine=engine, n_atoms=n, threads=threads)
        time = float(one.step_time.median("repeat"))
        said = f"{time:.4g}" if np.isfinite(time) else str(one.status.values)
        lines.append(f"{label:<20}{engine:>10}{n:>9}{threads:>8} {said:>13}")
    return "\n".join(lines) + "\n"
