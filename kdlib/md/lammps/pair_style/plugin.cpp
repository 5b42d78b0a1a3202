// What LAMMPS looks for in a plugin.

#include "pair_hipnn.h"

#include "lammps.h"
#include "library.h"

#include <stdexcept>
#include <string>

namespace {

// As in LAMMPS's lammpsplugin.h, which its packages do not contain.
struct Plugin {
  const char *version, *style, *name, *info, *author;
  LAMMPS_NS::Pair *(*creator)(LAMMPS_NS::LAMMPS *);
  void *handle;
};

LAMMPS_NS::Pair *create(LAMMPS_NS::LAMMPS *lmp) { return new LAMMPS_NS::PairHipnn(lmp); }

}    // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *function)
{
  // The layout of LAMMPS's classes changes between versions.
  const std::string wanted = KDLIB_LAMMPS, here = std::to_string(lammps_version(lmp));
  if (here != wanted)
    throw std::runtime_error("pair_style hipnn was compiled for LAMMPS " + wanted + ", and this is LAMMPS " +
                             here + ": run kdlib lammps build");
  Plugin plugin = {static_cast<LAMMPS_NS::LAMMPS *>(lmp)->version, "pair", "hipnn",
                   "HIP-NN potentials of kdlib", "kdlib contributors", create, handle};
  reinterpret_cast<void (*)(Plugin *, void *)>(function)(&plugin, lmp);
}
