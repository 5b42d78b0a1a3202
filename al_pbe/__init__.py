"""The DFT data that ship as ``al-pbe``: how they are sampled, labelled, extended and checked.

- :mod:`~al_pbe.sampling` draws configuration k, by classical MD, from k alone;
- :mod:`~al_pbe.labeling` gives it PBE energy and forces by GPAW (extra ``dft``);
- :mod:`~al_pbe.campaign` does so for many frames, one file each, and can be stopped;
- :mod:`~al_pbe.active` lets an ensemble of students look for what it does not know.

Nothing else in the package needs DFT: what it made is part of the package.
"""
