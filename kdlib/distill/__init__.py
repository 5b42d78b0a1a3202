"""Distill your own: from any teacher and a crystal structure to a student that MD codes can run.

- :mod:`~kdlib.distill.plan`: all settings, in one frozen dataclass;
- :mod:`~kdlib.distill.sampling`: first cells, and configurations from the students' own MD;
- :mod:`~kdlib.distill.labeled`: frames that the teacher has labeled, and the user's own;
- :mod:`~kdlib.distill.beginning`: structures, teacher and own frames that a folder builds on;
- :mod:`~kdlib.distill.students`: training of the ensemble;
- :mod:`~kdlib.distill.workflow`: the rounds, from the first frame to the finished student;
- :mod:`~kdlib.distill.measures`: measurements of the student against its teacher;
- :mod:`~kdlib.distill.partition`: effect of the teacher's atomic energies;
- :mod:`~kdlib.distill.report`: all measurements as one Dataset, and its tables;
- :mod:`~kdlib.distill.delivery`: model, training set, scripts and report for the user.
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
