// The passes over the pairs of a block of atoms: environments, and from their derivatives slopes.
//
// Each atom of a block goes through all its neighbors once. What is inside the cutoff is staged in
// chunks, one vector per quantity: 1/r, direction, cutoff function, and the Gaussian of every
// sensitivity, which both passes need and which costs most. A block fits the second cache, and no
// array grows with the pairs of the system.

#ifndef KDLIB_KERNEL_H
#define KDLIB_KERNEL_H

#include "network.h"

#include <vector>

namespace kdlib {

// Atoms, ghosts and neighbor lists, as LAMMPS holds them.
struct Neighborhood {
  const double *x;         // positions, (n_all, 3), Angstrom
  const int *channels;     // species of each in the model, -1 for none
  const int *n_neighbors;
  const int *const *neighbors;
  int mask;                // bits of a neighbor that are its index
  bool mixed;              // whether there is more than one channel
};

// The pairs of an atom with neighbors of one species.
template <class real> struct Segment {
  int n;                   // pairs
  int channel;
  const int *near;         // their second atoms
  const real *stage;       // their chunks
};

// dE/dr of pairs in rows of their own, eV/Angstrom, with 1/r and direction in the segment's chunks.
template <class real> struct Slopes {
  const real *x, *y, *z;
};

// One thread's state while it works through blocks of atoms.
template <class real> class Worker {
 public:
  static constexpr int ATOMS = Network<real>::ATOMS;
  static constexpr int W = width<real>();

  Worker(const ModelFile &model, const Network<real> &network);

  // Environments and energies of up to ATOMS atoms.
  void begin(const Neighborhood &around, const int *atoms, int n_atoms);

  // Interaction energy of an atom of the block, eV.
  double energy(int atom) const { return energies[atom]; }

  const std::vector<Segment<real>> &segments(int atom) const { return staged[atom]; }

  // The slopes of a segment; valid until the next call.
  Slopes<real> slopes(int atom, const Segment<real> &segment);

  // Vector from the atom to a neighbor, Angstrom.
  void displacement(const Segment<real> &segment, int pair, double *d) const;

  double bytes() const;

 private:
  enum Row { X, UX, UY, UZ, C, DC, GAUSSIANS };    // of a chunk
  struct Derivatives { real scalar, x, y, z, square, square_center; };    // of a sensitivity

  const Network<real> &network;
  const int n_species, n_k, chunk;
  const bool vector;
  const real cutoff;
  std::vector<real> center, scale, square;    // 1/mu, h and sigma^2 as in kdlib.hipnn.kernels
  std::vector<std::vector<Segment<real>>> staged;
  std::vector<int> near;
  std::vector<Derivatives> by_k;
  Buffer<real> flat, stage, environment, derivatives, slope, energies_of_block;
  const real *energies = nullptr;
  Scratch<real> scratch;

  void make_room(const Neighborhood &around, const int *atoms, int n_atoms);
  int select(const Neighborhood &around, int i, int channel, int *near_here, int room);
  void resolve(int n, int room, real *chunks);
  template <bool VECTOR> void sum_environment(int n, real *chunks, int channel, int atom);
  template <bool VECTOR> void sum_slopes(const Segment<real> &segment);
};

}    // namespace kdlib

#endif
