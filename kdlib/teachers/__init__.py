"""Teachers of any kind: what labels the configurations that a student learns from.

.. code-block:: python

    teacher = teachers.load("sevennet:7net-l3i5")
    frame = teacher.label(atoms)  # energy, forces, and stress and atomic energies where there are

A teacher is named by a text, is an ASE calculator, or is a list of these: an ensemble, whose labels
are the mean of its members and carry their spread.

kdlib's own models are numbers and nothing else. Weights of SevenNet, CHGNet and MACE are pickles:
loading one may execute code that lies in the file, and ``package.module:factory`` executes that
module. Load only what comes from people you trust. Nothing is downloaded.
"""

from kdlib.teachers.adapters import FORMS, load
from kdlib.teachers.teacher import Card, Ensemble, Teacher, TeacherError

__all__ = [
    "FORMS",
    "Card",
    "Ensemble",
    "Teacher",
    "TeacherError",
    "load",
]
