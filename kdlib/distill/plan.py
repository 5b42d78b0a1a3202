"""What a distillation does: every choice in one place."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from kdlib.errors import InputError
from kdlib.files import replacing
from kdlib.hipnn import HipnnConfig

#: Sizes of a student by name, within the paper's range: features, sensitivities, atom layers.
SIZES = {"small": (16, 8, 1), "medium": (32, 16, 2), "large": (128, 40, 4)}
#: What is done with the teacher's atomic energies.
LABELS = ("none", "constant", "fading")
FILE = "plan.json"
#: Fields that may change when a distillation goes on.
BUDGETS = ("target_force_rmse", "max_frames", "max_minutes", "max_rounds", "final_epochs")


@dataclass(frozen=True)
class Plan:
    """Material, sampling, training and budget of one distillation."""

    teacher: str
    """As :func:`kdlib.teachers.load` takes it."""
    structures: tuple[str, ...]
    """Files that ASE reads, or the word of :func:`ase.build.bulk` for an element, e.g. ``Cu``."""
    temperatures: tuple[float, float] = (300.0, 1600.0)
    """Range that the student is made for, K."""
    volumes: tuple[float, float] = (0.92, 1.25)
    """Range of volumes per atom in units of the given structure's."""
    size: str = "medium"
    """Key of :data:`SIZES`, or ``"features-sensitivities-layers"``."""
    cutoff: float = 7.5
    """Of the student, Angstrom."""
    n_atoms: int = 32
    """Wanted atoms of a training cell; supercells come as near as they can."""
    molten_above: float = 0.55
    """Hotter than this share of the highest temperature, every other trajectory starts molten."""
    melting: float = 2.5
    """Temperature of the melting in units of the highest temperature."""
    n_start: int = 60
    """Rattled and strained cells that are labeled before there is a student."""
    rattle: tuple[float, float] = (0.03, 0.35)
    """Range of the standard deviation of displacements in the first cells, Angstrom."""
    strain: float = 0.04
    """Largest random strain of a cell, beside its volume."""
    antisites: float = 0.4
    """Share of the first cells of several species in which atoms have exchanged places and pairs
    have been pushed together, so that atoms of the same kind meet before the student's own melts
    bring them together."""
    pressed: float = 0.8
    """Largest distance that they are pushed to, in units of the given structure's closest pair; the
    smallest is ``closest_pair``."""
    n_teacher_runs: int = 2
    """Short runs of MD by the teacher that come next."""
    teacher_steps: int = 60
    """Steps of each."""
    n_models: int = 2
    """Students in the ensemble whose disagreement chooses frames."""
    n_trajectories: int = 24
    """Runs of MD by the students in a round."""
    n_steps: int = 2000
    """Steps of each."""
    timestep: float = 2.0
    """In fs."""
    sample_every: int = 50
    """Steps between the configurations that are judged."""
    largest_force: float = 60.0
    """A configuration with a larger force (eV/Angstrom) on an atom is not physical."""
    closest_pair: float = 0.6
    """Closest pair of a physical configuration in units of the given structure's."""
    collapse: float = 0.45
    """In the same units, where a run of MD ends: a hot one may touch what is not labeled."""
    target_force_rmse: float = 0.08
    """The distillation ends when fresh frames, solid and molten, have no larger error,
    eV/Angstrom."""
    least_survival: float = 0.8
    """Nor does it end before so large a share of the last round's MD, of solids and of melts,
    has stayed physical."""
    max_frames: int = 500
    """Budget of labeled frames."""
    max_minutes: float = 45.0
    """Budget of time; what has begun is finished first."""
    max_rounds: int = 8
    """Rounds at most."""
    round_epochs: int = 150
    """Epochs of a training within the rounds."""
    final_epochs: int = 400
    """Epochs of the last training, that of the student."""
    batch_size: int = 4
    """Frames per optimizer step."""
    patience: float = 0.1
    """Share of a training without improvement after which the learning rate is halved. Trainings
    take all their epochs: few frames of strained cells can make the validation error useless as a
    sign to stop."""
    energy: float = 1.0
    """Loss weight w_E, per eV."""
    force: float = 30.0
    """Loss weight w_F, per eV/Angstrom."""
    stress: float = 300.0
    """Loss weight of the stress where the teacher gives one, per eV/Angstrom^3."""
    atomic_energy: float = 100.0
    """Loss weight w_A of atomic energies where the teacher gives them, per eV."""
    labels: str = "fading"
    """``"none"``: atomic energies are not used; ``"constant"``: as in the paper; ``"fading"``:
    their weight falls to zero over the first half of the training."""
    data: tuple[str, ...] = ()
    """Files with labeled frames of one's own (DFT) that are mixed in, as
    :func:`kdlib.datasets.load` takes them: the paper's case."""
    data_weight: float = 1.0
    """Weight of such a frame in the loss; the teacher's have 1."""
    seed: int = 0
    """Of everything random."""

    def __post_init__(self) -> None:
        named = [str(Path(s).resolve()) if Path(s).is_file() else s for s in self.structures]
        object.__setattr__(self, "structures", named)
        object.__setattr__(self, "data", [str(Path(s).resolve()) for s in self.data])
        for name in ("structures", "temperatures", "volumes", "rattle", "data"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.structures:
            raise InputError("distill: give at least one structure")
        for name in ("temperatures", "volumes", "rattle"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(
                    f"distill: {name} are {low:g} to {high:g}, must be 0 < low <= high"
                )
        if self.labels not in LABELS:
            raise InputError(f"distill: labels is {self.labels!r}, must be one of {LABELS}")
        if self.n_models < 2:
            raise InputError("distill: disagreement needs at least two models")
        for name in ("n_start", "max_frames", "max_minutes", "target_force_rmse", "n_steps",
                     "data_weight"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise InputError(f"distill: {name} is {getattr(self, name)}, must be positive")
        self.architecture(("H",))

    def architecture(self, species: tuple[str, ...], shortest: float = 1.5) -> HipnnConfig:
        """Student's architecture.

        Parameters
        ----------
        species
            Chemical symbols.
        shortest
            Center of the first sensitivity function, Angstrom.
        """
        try:
            numbers = SIZES.get(self.size) or tuple(int(part) for part in self.size.split("-"))
            features, sensitivities, layers = numbers
        except ValueError:
            known = ", ".join(SIZES)
            raise InputError(
                f"distill: size {self.size!r} is neither of {known} nor like 32-16-2"
            ) from None
        return HipnnConfig(
            features, sensitivities, layers, species=species, cutoff=self.cutoff,
            soft_min=shortest, soft_max=self.cutoff - 0.5,
        )  # fmt: skip


def keep(plan: Plan, folder: Path) -> None:
    """Write the plan into its folder, or compare it with the one that is there.

    Budgets may change between calls; everything else decides what the frames there are.

    Raises
    ------
    InputError
        When the folder holds another distillation, naming what differs.
    """
    path = folder / FILE
    if path.exists():
        there = read(folder)
        changed = [f.name for f in fields(Plan) if getattr(there, f.name) != getattr(plan, f.name)]
        if strict := [name for name in changed if name not in BUDGETS]:
            raise InputError(f"{folder}: holds a distillation with another {', '.join(strict)}; "
                             "choose another folder")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(asdict(plan), indent=1) + "\n")


def read(folder: Path) -> Plan:
    """Plan of a folder."""
    try:
        return Plan(**json.loads((folder / FILE).read_text()))
    except FileNotFoundError:
        raise InputError(f"{folder}: holds no distillation ({FILE} is missing)") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / FILE}: not a readable plan ({error})") from error
