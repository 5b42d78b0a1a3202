"""The DFT data that ship as ``al-pbe``: how they are sampled, labeled, extended and checked.

- :mod:`~al_pbe.sampling` draws configuration k, by classical MD, from k alone;
- :mod:`~al_pbe.labeling` adds PBE energies and forces by GPAW (extra ``dft``);
- :mod:`~al_pbe.campaign` labels many frames, one file each, and can be resumed;
- :mod:`~al_pbe.active` finds frames on which an ensemble of models disagrees.

kdlib itself needs no DFT: it ships the labels.
"""
