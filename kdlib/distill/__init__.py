"""Distil your own: from any teacher and a crystal structure to a student that MD codes can run.

- :mod:`~kdlib.distill.plan`: every choice, in one frozen dataclass;
- :mod:`~kdlib.geometry.cells`: supercells, strained and rattled;
- :mod:`~kdlib.distill.labeled`: frames that the teacher has labelled;
- :mod:`~kdlib.distill.sampling`: configurations that the students find by MD;
- :mod:`~kdlib.distill.labeled`: the user's own labelled frames beside the teacher's;
- :mod:`~kdlib.distill.students`: training of the ensemble;
- :mod:`~kdlib.distill.workflow`: the rounds, from the first frame to the finished student;
- :mod:`~kdlib.distill.measures`: what the student is measured by;
- :mod:`~kdlib.training.accuracy`: its values beside the teacher's;
- :mod:`~kdlib.distill.partition`: what the teacher's atomic energies bring;
- :mod:`~kdlib.distill.report`: tables of a report;
- :mod:`~kdlib.distill.delivery`: what the user holds at the end.
"""

from kdlib.distill.delivery import deliver, limits, summary, write_report
from kdlib.distill.measures import Measures
from kdlib.distill.plan import LABELS, SIZES, Plan
from kdlib.distill.report import potentials, report, states
from kdlib.distill.workflow import Outcome, run

__all__ = [
    "LABELS",
    "SIZES",
    "Measures",
    "Outcome",
    "Plan",
    "deliver",
    "limits",
    "potentials",
    "report",
    "run",
    "states",
    "summary",
    "write_report",
]
