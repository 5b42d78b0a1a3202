"""What active learning did: errors of ensembles trained with and without its frames.

One ensemble is trained without actively learned frames, one with those of round 1, one with those
of rounds 1 and 2, and so on: same architecture, seeds and number of optimizer steps, so that more
frames do not also mean more training. Each is asked about frames that it has not seen: the test
part, the compressed frames in it, and what the rounds found. The control has all the rounds, but as
many of the other frames, drawn at random, are left out: it tells better frames from more frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from ase import Atoms

from kdlib import datasets, metrics, results
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.progress import Reporter
from kdlib.reference import ensemble
from kdlib.reference.sampling import ACTIVE, COMPRESSED, LARGE
from kdlib.training import TrainingConfig

#: Parts of the data on which ensembles are judged, beside those of the rounds.
TEST, COMPRESSED_TEST = "test", "compressed test"


def gains(
    frames: Sequence[Atoms],
    folder: Path,
    explored: Mapping[int, xr.Dataset] | None = None,
    n_models: int = 4,
    config: HipnnConfig = ensemble.ARCHITECTURE,
    settings: TrainingConfig = ensemble.TRAINING,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Train an ensemble for each number of rounds and ask it about frames it has not seen.

    Parameters
    ----------
    frames
        Labelled frames; those of active learning know their ``round`` and are in the training part.
    folder
        Where trainings are kept; finished ones are found again.
    explored
        Round -> what :func:`kdlib.reference.active.round_of` found.
    n_models
        Size of an ensemble.
    config, settings
        Architecture and training of the ensemble without actively learned frames; the others get
        fewer epochs of more frames.
    reporter
        Shows a bar over trainings.

    Returns
    -------
    xarray.Dataset
        ``error(training, member, evaluated)``, force RMSE, eV/Angstrom, NaN where the ensemble was
        trained on the frames; ``traded_error(member, evaluated)`` of the control;
        ``n_training(training)``; ``n_frames(evaluated)``; and by round
        ``n_labelled(round)``, ``disagreement``, ``median_disagreement`` and ``survived`` over
        ``(round, trajectory)``.
    """
    rounds = numbers(frames)
    groups = _groups(frames, rounds)
    training = [0, *rounds]
    error = np.full((len(training), n_models, len(groups)), np.nan)
    sizes: list[int] = []
    for i, last in enumerate(training):
        seen = [atoms for atoms in frames if _round(atoms) <= last]
        sizes.append(len(datasets.split(seen).train))
        epochs = max(1, round(settings.max_epochs * sizes[0] / sizes[-1]))
        alike = replace(settings, max_epochs=epochs)
        home = folder / f"rounds_{last}"
        models = ensemble.train(seen, home, n_models, config, alike, reporter)
        error[i] = _errors(models, groups, [_name(n) for n in rounds if n <= last])
    ds = _described(training, sizes, groups, error).merge(_told(frames, rounds, explored or {}))
    seen = traded(frames)
    if rounds and len(seen):
        models = ensemble.train(seen, folder / "traded", n_models, config, settings, reporter)
        about = _about("force RMSE with frames traded for those of active learning", "eV/Angstrom")
        found = _errors(models, groups, [_name(n) for n in rounds])
        ds["traded_error"] = (("member", "evaluated"), found, about)
    return ds


def traded(frames: Sequence[Atoms], seed: int = 0) -> list[Atoms]:
    """Frames without as many of the sampled training frames as active learning has added.

    Parameters
    ----------
    frames
        Labelled frames.
    seed
        Of the draw.

    Returns
    -------
    list[Atoms]
        Empty where there are not enough to leave out.
    """
    train = datasets.split(frames).train
    sampled = [k for k in train if not _round(frames[k])]
    n_added = len(train) - len(sampled)
    if n_added >= len(sampled):
        return []
    left_out = set(np.random.default_rng(seed).permutation(sampled)[:n_added].tolist())
    return [atoms for k, atoms in enumerate(frames) if k not in left_out]


def numbers(frames: Sequence[Atoms]) -> list[int]:
    """Rounds of active learning that frames come from, ascending.

    Raises
    ------
    InputError
        When one of their frames is not in the training part.
    """
    found = [atoms for atoms in frames if _round(atoms)]
    for atoms in found:
        if atoms.info.get("part") != "train":
            raise InputError(f"frame {atoms.info['frame']}: active learning is for training only")
    return sorted({_round(atoms) for atoms in found})


def table(ds: xr.Dataset) -> pd.DataFrame:
    """Rounds of active learning, a row each.

    Parameters
    ----------
    ds
        From :func:`gains`.

    Returns
    -------
    pandas.DataFrame
        Frames labelled and, where it is known what the trajectories found, their number, quartiles
        of their largest disagreement (eV/Angstrom) and the share that stayed physical to the end.
    """
    rows = pd.DataFrame({"labelled": ds.n_labelled.to_series()})
    if "disagreement" in ds:
        found = ds.disagreement
        rows["trajectories"] = found.notnull().sum("trajectory").to_series()
        for share, name in ((0.25, "lower quartile"), (0.5, "median"), (0.75, "upper quartile")):
            rows[f"{name} of disagreement"] = found.quantile(share, "trajectory").to_series()
    if "survived" in ds:
        stayed = (ds.survived == 1).where(ds.survived.notnull())
        rows["stayed physical"] = stayed.mean("trajectory").to_series()
    return rows


def keep(explored: xr.Dataset, number: int, folder: Path) -> Path:
    """Write what a round found beside its labelled frames.

    Parameters
    ----------
    explored
        From :func:`kdlib.reference.active.round_of`.
    number
        Of the round.
    folder
        Of the labelled frames.
    """
    return results.save(_with_meanings(explored), folder / f"round_{number}.nc", kind="series")


def kept(folder: Path) -> dict[int, xr.Dataset]:
    """What :func:`keep` has written, by round."""
    paths = folder.glob("round_*.nc")
    return {int(path.stem.partition("_")[2]): results.load(path) for path in paths}


def _round(atoms: Atoms) -> int:
    """Number of the round that found a frame, 0 for the others."""
    return int(atoms.info["round"]) if int(atoms.info.get("frame", 0)) >= ACTIVE else 0


def _name(number: int) -> str:
    return f"round {number}"


def _groups(frames: Sequence[Atoms], rounds: Sequence[int]) -> dict[str, list[Atoms]]:
    """Name -> frames on which ensembles are judged."""
    test = [frames[k] for k in datasets.split(frames).test]
    squeezed = [atoms for atoms in test if COMPRESSED <= int(atoms.info.get("frame", 0)) < LARGE]
    found = {_name(n): [atoms for atoms in frames if _round(atoms) == n] for n in rounds}
    return {TEST: test, COMPRESSED_TEST: squeezed, **found}


def _errors(
    models: Sequence[Potential], groups: Mapping[str, list[Atoms]], seen: Sequence[str]
) -> np.ndarray:
    """Force RMSE over (member, group); NaN for groups that were learnt, and empty ones."""
    error = np.full((len(models), len(groups)), np.nan)
    for k, (name, group) in enumerate(groups.items()):
        if group and name not in seen:
            errors = [metrics.residuals(model, group)["force"] for model in models]
            error[:, k] = [metrics.rmse(found) for found in errors]
    return error


def _described(
    training: list[int], sizes: list[int], groups: dict[str, list[Atoms]], error: np.ndarray
) -> xr.Dataset:
    dims = ("training", "member", "evaluated")
    ds = xr.Dataset(
        {
            "error": (dims, error, _about("force RMSE on frames not trained on", "eV/Angstrom")),
            "n_training": ("training", sizes, _about("frames in the training part")),
            "n_frames": (
                "evaluated", [len(group) for group in groups.values()],
                _about("frames that are asked about"),
            ),
        },
        coords={"training": training, "member": range(error.shape[1]), "evaluated": list(groups)},
    )  # fmt: skip
    ds["training"].attrs = _about("rounds of active learning in the training part")
    ds["member"].attrs = _about("seed of a member of the ensemble")
    ds["evaluated"].attrs = {"long_name": "frames that are asked about"}
    return ds


def _told(
    frames: Sequence[Atoms], rounds: Sequence[int], explored: Mapping[int, xr.Dataset]
) -> xr.Dataset:
    """What the rounds found, and how many frames of each are labelled."""
    count = [sum(_round(atoms) == n for atoms in frames) for n in rounds]
    ds = xr.Dataset(
        {"n_labelled": ("round", count, _about("frames that were labelled"))},
        coords={"round": ("round", rounds, _about("round of active learning"))},
    )
    there = [n for n in rounds if n in explored]
    if not there:
        return ds
    index = xr.Variable("round", there, _about("round of active learning"))
    parts = [_with_meanings(explored[n]) for n in there]
    found = xr.concat(parts, index, join="outer", combine_attrs="override")
    return ds.merge(found.reindex(round=rounds).drop_attrs(deep=False))


def _with_meanings(explored: xr.Dataset) -> xr.Dataset:
    about = _about("index of the trajectory")
    return explored.assign_coords(trajectory=("trajectory", explored.trajectory.values, about))


def _about(meaning: str, unit: str = "1") -> dict[str, str]:
    return {"units": unit, "long_name": meaning}
