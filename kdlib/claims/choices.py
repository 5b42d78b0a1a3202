"""Every choice that the paper leaves open or states twice, with our choice and its reason.

Our choices are read from the attributes and coordinates of the result files, where present.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from kdlib.claims.paper import LAST_STAGE, PATIENCE, SCRIPT, WEIGHTS

Results = Mapping[str, xr.Dataset]
#: What the paper says, our choice, and its reason.
Entry = tuple[str, str, str]

_UNKNOWN = "not in the results"


def choices(found: Results | None = None) -> xr.Dataset:
    """Dataset over ``choice`` with ``choice_paper``, ``choice_ours`` and ``choice_reason``.

    ``found`` are result Datasets by kind.
    """
    table: dict[str, Entry] = {}
    for section in (_data, _training, _weights, _measuring):
        table |= section(found or {})
    rows = list(table.values())
    columns = ("choice_paper", "choice_ours", "choice_reason")
    return xr.Dataset(
        {name: ("choice", [row[k] for row in rows]) for k, name in enumerate(columns)},
        {"choice": list(table)},
    )


def _data(found: Results) -> dict[str, Entry]:
    return {
        "dataset": (
            "ANI-Al, about 6,000 cells of 55-250 atoms, PBE in Quantum Espresso",
            _coverage(found),
            "the embedded data make a run possible offline; `kdlib fetch ani-al` gets the paper's",
        ),
        "split": (
            "held-out test data are mentioned, fractions are not given",
            _fractions(found),
            "a frame's part follows from a hash of its identity, so it never changes as data grow",
        ),
        "energy zero": (
            "not mentioned",
            "the data are not shifted; E0 per species is fitted on the training part "
            f"(decay factor {_setting(found, 'e0_decay')}), then frozen",
            "as in the authors' script; a zero E0 makes the hierarchicality term constant",
        ),
        "unit of the energy error": (
            "0.38 eV in 3.5 without a word on cell or atom; Fig. 3 B is per atom",
            "per cell in the loss, per atom in every report; the RMSE per cell is stored beside",
            "0.38 eV per atom would be larger than the cohesive-energy differences between phases",
        ),
    }


def _training(found: Results) -> dict[str, Entry]:
    patience = "halved after {lr_patience}, stopped after {stop_patience}".format(**PATIENCE)
    return {
        "batch size": (
            "not given",
            _setting(found, "batch_size"),
            f"the authors' script has {SCRIPT['batch_size']} on 4,800 cells, 75 steps an epoch; "
            "patience counts epochs, so smaller data get smaller batches",
        ),
        "optimizer": (
            "Adam",
            _optimizer(found),
            "Adam needs several times as many epochs to reach its floor on these data",
        ),
        "epoch cap": (
            "not given; Table 1 reaches past epoch 400",
            _epochs(found),
            f"the authors' script has {SCRIPT['max_epochs']}; a capped run scales Table 1 by "
            "fractions of the cap",
        ),
        "model selection": (
            f"learning rate {patience} epochs without improvement of something not named",
            _selection(found),
            "each role's own loss would select differently for each; the authors' way is an option",
        ),
        "learning rate": (
            f"1e-3, {patience}",
            _rates(found),
            "the paper's rule stops a role when it stops improving; a cosine gives every role as "
            "many steps and ends at a low rate, at which errors hardly scatter between epochs",
        ),
        "teacher of a student": (
            "not stated whether one teacher or one per seed",
            "the student of seed s learns from the teacher of seed s",
            "so that the spread over seeds contains the teacher's",
        ),
        "independent runs": (
            "four seeds per point",
            f"{_seeds(found)}",
            "intervals are t-intervals over runs, crossed over architectures and seeds",
        ),
        "cusp of the l = 1 invariant": (
            "not given",
            f"cusp_reg = {_setting(found, 'cusp_reg')}, "
            f"shortcut layers {_setting(found, 'resnet')}",
            "as in the authors' script",
        ),
    }


def _epochs(found: Results) -> str:
    """The cap; where architectures have several, the longest training of each."""
    shared = _setting(found, "max_epochs")
    if shared != _UNKNOWN or "accuracy" not in found or "n_epochs" not in found["accuracy"]:
        return shared
    longest = found["accuracy"].n_epochs.max(["role", "seed"]).dropna("architecture").astype(int)
    groups = {
        count: longest.architecture.values[longest.values == count].tolist()
        for count in np.unique(longest)
    }
    return "; ".join(f"{count} ({', '.join(labels)})" for count, labels in groups.items())


def _optimizer(found: Results) -> str:
    name, decay = (_setting(found, setting) for setting in ("optimizer", "weight_decay"))
    known = {"adam": "Adam", "soap": "SOAP (10.48550/arXiv.2409.11321)"}.get(name, name)
    return known if decay in (_UNKNOWN, "0") else f"{known}, weight decay {decay}"


def _rates(found: Results) -> str:
    names = ("learning_rate", "lr_patience", "stop_patience", "final_rate", "warmup_epochs")
    rate, patience, stop, final, rise = (_setting(found, name) for name in names)
    if _setting(found, "rate_schedule") == "cosine":
        return (f"half a cosine from {rate} to {final} of it, over all epochs, after {rise} epochs "
                "of rise")  # fmt: skip
    return f"{rate}, halved after {patience} and stopped after {stop} epochs without improvement"


def _weights(found: Results) -> dict[str, Entry]:
    matched = _last_weights(found, "matched_control")
    return {
        "everything else held constant": (
            "2.3 says only the student-teacher loss differs; A.1 has force weights "
            f"{WEIGHTS['student'][1]} and {WEIGHTS['control'][1]}",
            f"a matched control with force weight {matched[1]:g} and no labels, "
            "and the schedule without labels for Born-Again"
            if matched
            else _UNKNOWN,
            "the control alone mixes the effect of the labels with that of the force weight",
        ),
        "last weights of Table 1": (
            f"3.5: they match the teacher's ({_triple(WEIGHTS['teacher'])}); "
            f"Table 1 ends at {_triple(LAST_STAGE)}",
            _told("Table 1 as printed, {}", _last_weights(found, "born_again")),
            "the table is the more specific of the two; weights are kept from the last stage only",
        ),
        "size of the cells that w_E refers to": (
            "the energies of cells of 55-250 atoms",
            _cell_size(found),
            "w_E weighs the energy per cell, so on cells of another size the same number is "
            "another balance between energies and forces",
        ),
        "loss of the same-size student": (
            '3.5 says "the static loss function in Eq. 2", which has no atomic-energy term',
            _told("eq. 5 with {}", _last_weights(found, "same_size_student")),
            "with eq. 2 the student would be a second teacher",
        ),
    }


def _cell_size(found: Results) -> str:
    size = _setting(found, "cell_atoms")
    if size == _UNKNOWN:
        return size
    return f"cells of {float(size):g} atoms" if float(size) else "the cells as they are"


def _measuring(found: Results) -> dict[str, Entry]:
    return {
        "part of the data in Figs. 2-3": (
            "Fig. 3's caption says training errors, 3.1 says held-out test data",
            "both are stored; figures and claims use the test part",
            "a training error says little about a model that is used elsewhere",
        ),
        "bins and range of g(r)": (
            "not given",
            _rdf_grid(found),
            "below 2 Angstrom g(r) vanishes; the integral is in Angstrom",
        ),
        "reference of g(r)": (
            "the teacher's g(r)",
            "the own teacher's, other teachers' and experiment, with a noise floor",
            "a student is compared with what it was fitted to, which flatters it",
        ),
        "hardware and size of the timing": (
            "one A6000, 48,000 atoms, ASE",
            _machine(found),
            "medians over repeats, warm-up left out, neighbour lists as they fall",
        ),
        "memory per atom": (
            "48 GB over the largest number of atoms that fits",
            "slope of the peak memory against the number of atoms, fresh process per model",
            "an offset of the interpreter and of libraries does not count as memory per atom",
        ),
        "number of weights": (
            '"trainable weights"',
            "all trainable numbers, biases and sensitivity parameters included",
            "as torch counts them",
        ),
    }


def _setting(found: Results, name: str) -> str:
    """Setting of the run in the result files, as text."""
    for kind in ("accuracy", "history"):
        if kind in found and name in found[kind].attrs:
            value = found[kind].attrs[name]
            words = {"true": "True", "false": "False"}  # NetCDF has no booleans
            return f"{value:g}" if isinstance(value, float) else words.get(value, str(value))
    return _UNKNOWN


def _selection(found: Results) -> str:
    if _setting(found, "selection") == "training_loss":
        return "each role's own training loss"
    weights = [_setting(found, f"selection_{name}") for name in ("energy", "force")]
    return ("validation error of the control's loss, energy x {} + forces x {}, for every "
            "role").format(*weights)  # fmt: skip


def _last_weights(found: Results, role: str) -> tuple[float, float, float] | None:
    """Loss weights (w_E, w_F, w_A) in the last epoch of a role's longest training."""
    history = found.get("history")
    names = ("weight_energy", "weight_force", "weight_atomic_energy")
    if history is None or role not in history.role or not all(n in history for n in names):
        return None
    each = history[list(names)].sel(role=role).max(["architecture", "seed"]).dropna("epoch")
    if not each.sizes["epoch"]:
        return None
    energy, force, atomic = (float(each[name][-1]) for name in names)
    return energy, force, atomic


def _told(sentence: str, weights: Sequence[float] | None) -> str:
    return sentence.format(_triple(weights)) if weights else _UNKNOWN


def _triple(weights: Sequence[float]) -> str:
    return "w_E {:g}, w_F {:g}, w_A {:g}".format(*weights)


def _read(found: Results, kind: str, tell: Callable[[xr.Dataset], str]) -> str:
    return tell(found[kind]) if kind in found else _UNKNOWN


def _coverage(found: Results) -> str:
    def tell(ds: xr.Dataset) -> str:
        atoms = ds.n_atoms.values
        name = ds.attrs.get("dataset", "data")
        return f"{name}: {atoms.size} cells of {int(atoms.min())}-{int(atoms.max())} atoms"

    return _read(found, "data", tell)


def _fractions(found: Results) -> str:
    def tell(ds: xr.Dataset) -> str:
        parts, counts = np.unique(ds.part.values, return_counts=True)
        order = np.argsort(-counts)
        return ", ".join(f"{parts[k]} {counts[k]} ({counts[k] / counts.sum():.0%})" for k in order)

    return _read(found, "data", tell)


def _seeds(found: Results) -> str:
    def tell(ds: xr.Dataset) -> str:
        n = ds.sizes["seed"]
        return f"{n} seed{'s' if n != 1 else ''}, {ds.sizes['architecture']} architectures"

    return _read(found, "accuracy", tell)


def _rdf_grid(found: Results) -> str:
    def tell(ds: xr.Dataset) -> str:
        low, high = ds.attrs.get("r_min", math.nan), ds.attrs.get("r_max", math.nan)
        span = f", integral over {low:g}-{high:g} Angstrom" if math.isfinite(low) else ""
        return f"bins of {float(np.diff(ds.r.values).mean()):.3g} Angstrom{span}"

    return _read(found, "rdf", tell)


def _machine(found: Results) -> str:
    def tell(ds: xr.Dataset) -> str:
        sizes = ", ".join(f"{n:,}" for n in ds.n_atoms.values.tolist())
        where = ds.attrs.get("device", "cpu")
        where = ds.attrs.get("cpu_model", where) if where == "cpu" else where
        return f"{where}, {sizes} atoms, ASE"

    return _read(found, "speed", tell)
