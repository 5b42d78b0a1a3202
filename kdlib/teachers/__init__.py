"""Teachers of any kind, which label the configurations that a student learns from.

.. code-block:: python

    teacher = teachers.load("sevennet:7net-l3i5")
    frame = teacher.label(atoms)  # energy, forces, and perhaps stress and atomic energies

A teacher is given by a name, as an ASE calculator, or as a list of these: an ensemble, whose labels
are the mean of its members and carry their spread.

kdlib's own models are only numbers. Weights of SevenNet, CHGNet and MACE are pickles: loading one
may execute code in the file, and ``package.module:factory`` executes that module. Load only what
comes from people you trust. Nothing is downloaded.
"""

from kdlib.teachers.adapters import anchored, load
from kdlib.teachers.teacher import BadLabels, Card, Ensemble, Teacher, TeacherError

__all__ = ["BadLabels", "Card", "Ensemble", "Teacher", "TeacherError", "anchored", "load"]
