"""Training of a distillation's students, on interaction energies."""

from collections.abc import Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from kdlib import datasets, progress, training
from kdlib.distill.plan import Plan
from kdlib.geometry.cells import closest_pair
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.training import TrainingConfig
from kdlib.training.losses import LossWeights, WeightSchedule
from kdlib.training.references import AtomReferences

#: Shares of the training, and the factor of the weight of fading labels from there on.
FADING = ((0.0, 1.0), (0.125, 0.5), (0.25, 0.2), (0.375, 0.05), (0.5, 0.0))
#: First distance of the sensitivities, relative to the closest pair of the training set.
INNER = 0.9


@dataclass(frozen=True)
class Trained:
    """A trained student."""

    potential: Potential
    """Predicts interaction energies."""
    selection: float
    """Validation error at the selected epoch."""
    run_dir: Path
    seed: int


def schedule(plan: Plan, with_labels: bool, with_stress: bool, n_epochs: int) -> WeightSchedule:
    """Loss weights over the epochs, for frames with or without atomic energies and stresses."""
    stress = plan.stress if with_stress else 0.0

    def weights(atomic_energy: float) -> LossWeights:
        return LossWeights(plan.energy, plan.force, atomic_energy, stress=stress)

    if not with_labels or plan.labels == "none":
        return WeightSchedule.constant(weights(0.0))
    if plan.labels == "constant":
        return WeightSchedule.constant(weights(plan.atomic_energy))
    stages = {round(share * n_epochs) + 1: plan.atomic_energy * part for share, part in FADING}
    return WeightSchedule(tuple((start, weights(value)) for start, value in stages.items()))


def train(
    plan: Plan,
    frames: Sequence[Atoms],
    references: AtomReferences,
    folder: Path,
    n_epochs: int,
    executor: Executor,
) -> list[Trained]:
    """Train the ensemble; finished trainings are reused, interrupted ones resume.

    ``info["part"]`` of the labeled frames says which are trained on. The ``references`` are
    subtracted from their energies.
    """
    reduced = references.subtract(frames)
    shortest = min(closest_pair(atoms).distance for atoms in frames)
    config = plan.architecture(datasets.species(frames), round(INNER * shortest, 2))
    labels = all("energies" in atoms.calc.results for atoms in reduced)
    stress = all(
        "stress" in atoms.calc.results
        for atoms in reduced
        if atoms.pbc.all() and atoms.info.get("sampling") != "data"
    )
    stages = schedule(plan, labels, stress and plan.stress > 0, n_epochs)
    settings = [
        TrainingConfig(
            seed=plan.seed + k,
            batch_size=plan.batch_size,
            max_epochs=n_epochs,
            lr_patience=max(1, round(plan.patience * n_epochs)),
            stop_patience=n_epochs,
        )  # fmt: skip
        for k in range(plan.n_models)
    ]
    found: dict[int, Path] = {}
    jobs = {
        executor.submit(_fit, config, one, stages, reduced, folder): one.seed for one in settings
    }
    with progress.bar(total=len(jobs), desc="trainings", unit="model") as bar:
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            bar.update()
    return [_trained(found[one.seed], one.seed) for one in settings]


def best(trained: Sequence[Trained]) -> Trained:
    """Student with the smallest error on the validation part."""
    return min(trained, key=lambda one: one.selection)


def _fit(
    config: HipnnConfig,
    settings: TrainingConfig,
    stages: WeightSchedule,
    frames: Sequence[Atoms],
    folder: Path,
) -> Path:
    split = datasets.split(frames)
    key = training.run_key(config, settings, stages, frames, split)
    run_dir = folder / f"{config.label}_s{settings.seed}_{key[:12]}"
    training.fit(config, settings, stages, frames, split, run_dir)
    return run_dir


def _trained(run_dir: Path, seed: int) -> Trained:
    run = training.load_run(run_dir)
    epoch = run.history.attrs["best_epoch"]
    return Trained(run.potential, float(run.history.selection.sel(epoch=epoch)), run_dir, seed)
