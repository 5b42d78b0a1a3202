"""Names, dimensions and units of every variable in a result file, and the rules they follow.

A result file is of one kind, and `KINDS` lists the variables of each kind. Writers build a Dataset
with these names, `describe` attaches units and long names, and `validate` refuses anything else.
"""

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from kdlib.errors import InputError


@dataclass(frozen=True)
class Variable:
    """One variable of a result file."""

    dims: tuple[str, ...]
    """Dimensions in storage order."""
    units: str
    """Unit in the file; ``"1"`` for pure numbers and ``""`` for text."""
    long_name: str
    """Meaning of the numbers, for axes and for readers of the file."""
    optional: bool = False
    """Whether a file of this kind may lack the variable."""
    positive: bool = False
    """Whether negative values are errors."""
    timing: bool = False
    """Whether the value depends on the machine and the time, not only on the inputs."""


def broken_rule(
    array: xr.DataArray, variable: Variable | None = None, allowed: tuple[str, ...] = ()
) -> str:
    """Return the rule that a variable breaks, as the end of a sentence; empty if none.

    Without a ``variable`` to compare with, only units, name and values are checked.
    """
    text = _is_text(array)
    if array.dtype.kind not in "iuf" and not text:
        return f"has dtype {array.dtype}, but must hold numbers or text"
    if not array.attrs.get("long_name") or (not text and not array.attrs.get("units")):
        return "must have units and long_name (schema.describe attaches those of the schema)"
    return (variable and _mismatch(array, variable, text)) or _bad_values(
        array, text, allowed, positive=bool(variable and variable.positive)
    )


def _mismatch(array: xr.DataArray, variable: Variable, text: bool) -> str:
    if array.dims != variable.dims:
        return f"has dimensions {array.dims}, but must have {variable.dims}"
    if text != (not variable.units):
        return f"has dtype {array.dtype}, but must hold {'numbers' if text else 'text'}"
    if not text and array.attrs["units"] != variable.units:
        return f"is in {array.attrs['units']!r}, but must be in {variable.units!r}"
    return ""


def _bad_values(
    array: xr.DataArray, text: bool, allowed: tuple[str, ...], *, positive: bool
) -> str:
    values = np.ravel(array.values)
    if allowed and (unknown := sorted(set(values.tolist()) - set(allowed))):
        return f"holds {unknown[0]!r}, but must be one of {', '.join(allowed)}"
    if array.dims == (array.name,) and len(set(values.tolist())) < values.size:
        return "repeats a value, but values along a dimension must be unique"
    if text:
        return ""
    if np.isinf(values).any():
        return "holds an infinite value, but a missing value is NaN"
    if positive and (values < 0).any():
        return f"holds {float(np.nanmin(values)):.4g}, but must not be negative"
    return ""


def _is_text(array: xr.DataArray) -> bool:
    if array.dtype.kind == "O":
        return all(isinstance(item, str) for item in np.ravel(array.values).tolist())
    return array.dtype.kind in "UT"


#: Roles of a trained model and their names in tables and legends, in that order.
ROLE_NAMES = {
    "teacher": "teacher",
    "student": "student",
    "control": "control",
    "matched_control": "matched control",
    "same_size_student": "same-size student",
    "born_again": "Born-Again student",
    "born_again_control": "Born-Again control",
    "total_energy_control": "total-energy control",
}
ROLES = tuple(ROLE_NAMES)
#: Parts of a dataset; `compressed` and `transfer`, which holds larger cells than were trained on,
#: are tests of their own.
SPLITS = ("train", "valid", "test", "compressed", "transfer")
#: Ways to run one network: hippynn's calculator, ours with its layers, ours with fused kernels.
BACKENDS = ("stock", "hippynn", "fused")
#: Backends that the claims of cost are audited on: what the paper ran, and what we run.
AUDITED_BACKENDS = ("stock", "fused")
#: Where the time of an MD step goes.
COMPONENTS = ("total", "neighbor_list", "model", "integrator")
#: Possible outcomes of auditing a claim.
VERDICTS = ("holds", "does not hold", "not decided", "not measured")
#: Whether the trainings that a claim compares reached their floor; empty where it compares none.
AT_FLOOR = ("yes", "no", "not checked", "")

#: Variables whose values are names -> the names allowed.
_ALLOWED = {
    "role": ROLES,
    "split": SPLITS,
    "part": SPLITS,
    "backend": BACKENDS,
    "component": COMPONENTS,
    "verdict": VERDICTS,
    "at_floor": AT_FLOOR,
}

Kind = dict[str, Variable]

_GRID = ("role", "architecture", "seed")
_TEXT = ""


def _errors(dims: tuple[str, ...]) -> Kind:
    """RMSE and MAE of energy, forces, atomic energies and stress; `dims` lead each of them."""
    table: Kind = {}
    for target, units, words, optional in (
        ("energy", "eV/atom", "energy error per atom", False),
        ("force", "eV/Angstrom", "error of a force component", False),
        ("atomic_energy", "eV", "atomic-energy error against its own teacher", True),
        ("stress", "eV/Angstrom^3", "error of a stress component", True),
    ):
        for measure, prefix in (("rmse", "root-mean-square"), ("mae", "mean absolute")):
            name = f"{prefix} {words}"
            table[f"{target}_{measure}"] = Variable(dims, units, name, optional, positive=True)
    return table


_SPLIT = (*_GRID, "split")
_EPOCH = (*_GRID, "epoch")
_FRAME = (*_GRID, "frame")

_ARCHITECTURE: Kind = {
    "architecture": Variable(("architecture",), _TEXT, "features-sensitivities-atom layers"),
    "n_features": Variable(("architecture",), "1", "number of features", True, True),
    "n_sensitivities": Variable(("architecture",), "1", "number of sensitivities", True, True),
    "n_atom_layers": Variable(("architecture",), "1", "number of atom layers", True, True),
    "n_parameters": Variable(("architecture",), "1", "number of trainable parameters", False, True),
}
_RUNS: Kind = {
    "role": Variable(("role",), _TEXT, "role of the model"),
    "seed": Variable(("seed",), "1", "training seed"),
    **_ARCHITECTURE,
}

_FLOOR: Kind = {
    "floor_gain": Variable(
        _GRID,
        "1",
        "relative fall of the validation force RMSE by the doubling of the epochs that was tried, "
        "up to those of the run or beyond; NaN: none",
        True,
    )
}

_ACCURACY: Kind = {
    **_RUNS,
    **_FLOOR,
    "split": Variable(("split",), _TEXT, "part of the dataset"),
    **_errors(_SPLIT),
    "cell_energy_rmse": Variable(
        _SPLIT, "eV", "root-mean-square energy error per cell", True, True
    ),
    "force_rmse_trimmed": Variable(
        _SPLIT,
        "eV/Angstrom",
        "root-mean-square force error without the worst 0.1 % of components",
        True,
        True,
    ),
    "force_rmse_median": Variable(
        _SPLIT,
        "eV/Angstrom",
        "median over frames of the root-mean-square force error",
        True,
        True,
    ),
    "force_worst_share": Variable(
        _SPLIT, "1", "share of the worst frame in the squared force error", True, True
    ),
    "energy_worst_share": Variable(
        _SPLIT, "1", "share of the worst frame in the squared energy error", True, True
    ),
    "phase": Variable(("phase",), _TEXT, "phase of test frames", True),
    "phase_force_rmse": Variable(
        (*_GRID, "phase"), "eV/Angstrom", "root-mean-square force error of a phase", True, True
    ),
    "phase_energy_rmse": Variable(
        (*_GRID, "phase"), "eV/atom", "root-mean-square energy error of a phase", True, True
    ),
    "n_epochs": Variable(_GRID, "1", "epochs trained", True, True),
    "best_epoch": Variable(_GRID, "1", "epoch of the kept weights", True, True),
    "training_time": Variable(_GRID, "s", "wall time of the training", True, True, True),
    "frame": Variable(("frame",), "1", "identity of a test frame", True),
    "frame_force_mse": Variable(
        _FRAME, "eV^2/Angstrom^2", "mean-square force error of a test frame", True, True
    ),
    "frame_energy_error": Variable(
        _FRAME, "eV/atom", "energy error per atom of a test frame", True
    ),
    "frame_n_atoms": Variable(("frame",), "1", "atoms in a test frame", True, True),
}

_HISTORY: Kind = {
    **_RUNS,
    **_FLOOR,
    "epoch": Variable(("epoch",), "1", "training epoch"),
    "split": Variable(("split",), _TEXT, "part of the dataset"),
    **_errors((*_EPOCH, "split")),
    "loss": Variable(_EPOCH, "1", "training loss", True),
    "term": Variable(("term",), _TEXT, "term of the loss", True),
    "loss_term": Variable((*_EPOCH, "term"), "1", "unweighted loss term", True),
    "selection": Variable(
        _EPOCH, "1", "validation error that selects the weights: energy x 1 + forces x 10", True
    ),
    "learning_rate": Variable(_EPOCH, "1", "learning rate", True, True),
    "weight_energy": Variable(_EPOCH, "1", "weight of the energy error, w_E", True, True),
    "weight_force": Variable(_EPOCH, "1", "weight of the force error, w_F", True, True),
    "weight_atomic_energy": Variable(
        _EPOCH, "1", "weight of the atomic-energy error, w_A", True, True
    ),
    "weight_stress": Variable(_EPOCH, "1", "weight of the stress error, w_S", True, True),
    "seconds": Variable(_EPOCH, "s", "wall time since the start of the training", True, True, True),
}

_DATA: Kind = {
    "frame": Variable(("frame",), "1", "identity of a frame"),
    "energy": Variable(("frame",), "eV/atom", "reference energy per atom"),
    "force_rms": Variable(("frame",), "eV/Angstrom", "rms reference force component", False, True),
    "density": Variable(("frame",), "g/cm3", "mass density", False, True),
    "temperature": Variable(("frame",), "K", "temperature of the sampling", True, True),
    "frame_phase": Variable(("frame",), _TEXT, "phase that the sampling started from"),
    "n_atoms": Variable(("frame",), "1", "atoms in the cell", False, True),
    "part": Variable(("frame",), _TEXT, "part of the dataset"),
    "phase": Variable(("phase",), _TEXT, "phase", True),
    "r": Variable(("r",), "Angstrom", "pair distance", True, True),
    "g": Variable(("phase", "r"), "1", "radial distribution function g(r)", True, True),
}

_PARITY: Kind = {
    "frame": Variable(("frame",), "1", "identity of a test frame"),
    "reference_energy": Variable(("frame",), "eV/atom", "reference energy per atom"),
    "predicted_energy": Variable(("frame",), "eV/atom", "predicted energy per atom"),
    "frame_phase": Variable(("frame",), _TEXT, "phase of the frame", True),
    "reference_force": Variable(("sample",), "eV/Angstrom", "reference force component"),
    "predicted_force": Variable(("sample",), "eV/Angstrom", "predicted force component"),
    "atomic_energy": Variable(("atom",), "eV", "atomic energy of the teacher"),
    "atomic_energy_other": Variable(
        ("atom",), "eV", "atomic energy of a teacher of another seed", True
    ),
    "coordination": Variable(("atom",), "1", "neighbors in the first shell", False, True),
    "atom_phase": Variable(("atom",), _TEXT, "phase of the atom's frame"),
    "atom_frame": Variable(("atom",), "1", "frame that the atom belongs to", True),
}

_SPEED: Kind = {
    **_ARCHITECTURE,
    "backend": Variable(("backend",), _TEXT, "implementation of the network"),
    "n_atoms": Variable(("n_atoms",), "1", "atoms in the MD cell", False, True),
    "component": Variable(("component",), _TEXT, "part of an MD step"),
    "repeat": Variable(("repeat",), "1", "repeat of the measurement", True),
    "step_time": Variable(
        ("architecture", "backend", "n_atoms", "component", "repeat"),
        "us/atom/step",
        "time per MD step per atom",
        positive=True,
        timing=True,
    ),
    "time_on_device": Variable(
        ("architecture", "backend", "n_atoms"),
        "1",
        "1 where the timed MD stayed on a device, 0 where ASE moved the atoms",
        True,
        True,
    ),
    "memory_on_device": Variable(
        ("architecture", "backend"),
        "1",
        "1 where MD stayed on a device while its memory was measured, 0 where ASE moved the atoms",
        True,
        True,
    ),
    "memory_per_atom": Variable(
        ("architecture", "backend"), "kB/atom", "memory per atom", True, True, True
    ),
    "peak_memory": Variable(
        ("architecture", "backend", "n_atoms"), "MB", "peak memory", True, True, True
    ),
    "max_atoms": Variable(
        ("architecture", "backend"), "1", "atoms that fit into the memory", True, True, True
    ),
}

_RDF: Kind = {
    **_RUNS,
    "r": Variable(("r",), "Angstrom", "pair distance", False, True),
    "g": Variable((*_GRID, "r"), "1", "radial distribution function g(r)", False, True),
    "g_experiment": Variable(("r",), "1", "experimental g(r)", True),
    "rdf_error": Variable(_GRID, "Angstrom", "RDF error against its own teacher", False, True),
    "rdf_error_other_teachers": Variable(
        _GRID, "Angstrom", "RDF error against teachers of other seeds", True, True
    ),
    "rdf_error_experiment": Variable(_GRID, "Angstrom", "RDF error against experiment", True, True),
    "rdf_floor": Variable(
        (), "Angstrom", "RDF error between equally long pieces of one run", False, True
    ),
    "rdf_floor_teachers": Variable(
        (), "Angstrom", "RDF error between teachers of different seeds", True, True
    ),
    "diffusion": Variable(_GRID, "Angstrom^2/fs", "self-diffusion coefficient", True),
    "temperature": Variable(_GRID, "K", "mean temperature", True, True),
    "is_liquid": Variable(_GRID, "1", "1 where the atoms diffuse as in a liquid", True, True),
}

_ATOMIC_ENERGIES: Kind = {
    "seed": Variable(("seed",), "1", "training seed of the teacher"),
    "atomic_energies": Variable(("seed", "atom"), "eV", "atomic energy by the teacher"),
    "frame_index": Variable(("atom",), "1", "position of the atom's frame in the dataset"),
}

_CLAIMS: Kind = {
    "claim": Variable(("claim",), _TEXT, "short name of the claim"),
    "statement": Variable(("claim",), _TEXT, "the claim in words"),
    "section": Variable(("claim",), _TEXT, "section of the paper"),
    "paper_value": Variable(("claim",), "1", "the paper's value, in the unit of `unit`"),
    "value": Variable(("claim",), "1", "our value, in the unit of `unit`"),
    "ci_low": Variable(("claim",), "1", "lower end of the 95 % interval, in the unit of `unit`"),
    "ci_high": Variable(("claim",), "1", "upper end of the 95 % interval, in the unit of `unit`"),
    "noise_low": Variable(
        ("claim",), "1", "lower end of the test-set bootstrap interval, in the unit of `unit`", True
    ),
    "noise_high": Variable(
        ("claim",), "1", "upper end of the test-set bootstrap interval, in the unit of `unit`", True
    ),
    "unit": Variable(("claim",), _TEXT, "unit of the values"),
    "rule": Variable(("claim",), _TEXT, "what the interval must do for the claim to hold", True),
    "n_pairs": Variable(("claim",), "1", "independent training runs or pairs", True, True),
    "verdict": Variable(("claim",), _TEXT, "what the data say"),
    "reason": Variable(("claim",), _TEXT, "why"),
    "at_floor": Variable(
        ("claim",), _TEXT, "whether the trainings compared reached their floor", True
    ),
    "floor_reason": Variable(("claim",), _TEXT, "what doubling the epochs gains", True),
    "choice": Variable(("choice",), _TEXT, "what the paper leaves open", True),
    "choice_paper": Variable(("choice",), _TEXT, "what the paper says", True),
    "choice_ours": Variable(("choice",), _TEXT, "what is done here", True),
    "choice_reason": Variable(("choice",), _TEXT, "why it is done so", True),
}

#: Kind of a result file -> its variables.
KINDS: dict[str, Kind] = {
    "accuracy": _ACCURACY,
    "claims": _CLAIMS,
    "data": _DATA,
    "history": _HISTORY,
    "labels": _ATOMIC_ENERGIES,
    "parity": _PARITY,
    "rdf": _RDF,
    "run": {
        name: replace(variable, dims=tuple(d for d in variable.dims if d not in _GRID))
        for name, variable in _HISTORY.items()
        if name not in _RUNS | _FLOOR
    },
    "speed": _SPEED,
}
#: Kinds that may hold any variables that carry a unit and a long name.
FREE_KINDS = ("benchmark", "figure", "series")


def describe(ds: xr.Dataset, kind: str) -> xr.Dataset:
    """Copy of a Dataset with the schema's order of dimensions, units and long names.

    Flags become floats, so that a missing combination can be NaN. In a free kind, variables without
    a long name are described if any kind has one of the same name and dimensions. Nothing is
    checked; `validate` does that.
    """
    described = ds.copy()
    described.attrs["kind"] = kind
    for name, variable in (_schema(kind) or _recognized(ds)).items():
        if name not in described.variables:
            continue
        array = described[name]
        if set(array.dims) == set(variable.dims):
            array = array.transpose(*variable.dims)
        if array.dtype.kind == "b":
            array = array.astype(float)
        units = {"units": variable.units} if variable.units else {}
        described[name] = array.assign_attrs(units, long_name=variable.long_name)
    known = [name for name, variable in _schema(kind).items() if _is_coordinate(name, variable)]
    return described.set_coords([name for name in known if name in described])


def validate(ds: xr.Dataset, kind: str, source: str = "") -> xr.Dataset:
    """Return the Dataset if it follows the schema of its kind, in `KINDS` or `FREE_KINDS`.

    Raises
    ------
    InputError
        Names the file (``source``, or what xarray has read), the variable and the rule broken.
    """
    table = _schema(kind)
    source = source or str(ds.encoding.get("source", f"{kind} dataset"))
    for name, variable in table.items():
        if not variable.optional and name not in ds.variables:
            raise InputError(f"{source}: variable {name!r} is missing in a result of kind {kind!r}")
    for name in map(str, ds.variables):
        if kind not in FREE_KINDS and name not in table:
            raise InputError(f"{source}: kind {kind!r} has no variable {name!r}")
        problem = broken_rule(ds[name], table.get(name), _ALLOWED.get(name, ()))
        if problem:
            raise InputError(f"{source}: variable {name!r} {problem}")
    return ds


def _schema(kind: str) -> Kind:
    if kind in FREE_KINDS:
        return {}
    if kind not in KINDS:
        known = ", ".join(sorted({*KINDS, *FREE_KINDS}))
        raise InputError(f"unknown kind of result {kind!r}; known are {known}")
    return KINDS[kind]


def _recognized(ds: xr.Dataset) -> Kind:
    """Variables without a long name that a kind has by the same name and dimensions."""
    return {
        name: variable
        for table in KINDS.values()
        for name, variable in table.items()
        if name in ds.variables
        and set(ds[name].dims) == set(variable.dims)
        and "long_name" not in ds[name].attrs
    }


def _is_coordinate(name: str, variable: Variable) -> bool:
    return variable.dims == (name,) or (variable.dims == ("architecture",) and name[:2] == "n_")
