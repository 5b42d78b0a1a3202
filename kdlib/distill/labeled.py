"""The labelled frames of a distillation: one file each, so that it can be stopped at any time."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import ase.io
from ase import Atoms

from kdlib.datasets.checks import broken_rule
from kdlib.errors import InputError
from kdlib.progress import Reporter
from kdlib.replacing import replacing
from kdlib.teachers import Teacher
from kdlib.teachers import TeacherError

REFUSED = "refused.json"


class Pool:
    """Frames that a teacher has labelled, by their number.

    Parameters
    ----------
    folder
        Where they lie.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the labelled frames, ascending."""
        return sorted(int(path.stem.split("_")[1]) for path in self.folder.glob("frame_*.extxyz"))

    @property
    def refused(self) -> dict[int, str]:
        """Number -> reason of frames that the teacher could not label."""
        path = self.folder / REFUSED
        found = json.loads(path.read_text()) if path.exists() else {}
        return {int(k): reason for k, reason in found.items()}

    def label(
        self, wanted: Mapping[int, Atoms], teacher: Teacher, reporter: Reporter | None = None
    ) -> int:
        """Label the frames that are neither there nor refused.

        Parameters
        ----------
        wanted
            Number -> configuration; its ``info`` is kept.
        teacher
            Says energies and forces. A frame for which it fails is refused, with the reason.
        reporter
            Shows a bar over frames.

        Returns
        -------
        int
            Number of frames that were labelled now.

        Raises
        ------
        InputError
            When the teacher fails for every one of at least four frames: it is of no use here.
        """
        done, refused = set(self.numbers), self.refused
        missing = [k for k in sorted(wanted) if k not in done and k not in refused]
        failures: dict[int, str] = {}
        with (reporter or Reporter()).bar(len(missing), "labels", "frame") as bar:
            for k in missing:
                wanted[k].info["frame"] = k
                if reason := self._label_one(k, wanted[k], teacher):
                    failures[k] = reason
                    bar.line(f"frame {k} is left out: {reason}")
                    self._refuse(refused | failures)
                bar.update()
        if len(missing) >= 4 and len(failures) == len(missing):
            raise InputError(
                f"{teacher.name} labels none of {len(missing)} frames; the last: {reason}"
            )
        return len(missing) - len(failures)

    def frames(self, numbers: Iterable[int] | None = None) -> list[Atoms]:
        """Labelled frames, by number.

        Parameters
        ----------
        numbers
            Which; by default all. Those that were refused are left out.
        """
        there = self.numbers
        chosen = there if numbers is None else sorted(set(numbers) & set(there))
        return [ase.io.read(self._path(k)) for k in chosen]

    def _label_one(self, k: int, atoms: Atoms, teacher: Teacher) -> str:
        """Label and store a frame; the reason why not, if it is refused."""
        try:
            labelled = teacher.label(atoms)
        except TeacherError as error:
            return str(error)
        if rule := broken_rule(labelled):
            return rule
        with replacing(self._path(k)) as part:
            ase.io.write(part, labelled, format="extxyz")
        return ""

    def _refuse(self, refused: Mapping[int, str]) -> None:
        with replacing(self.folder / REFUSED) as part:
            part.write_text(json.dumps(refused, indent=1) + "\n")

    def _path(self, k: int) -> Path:
        return self.folder / f"frame_{k:06d}.extxyz"
