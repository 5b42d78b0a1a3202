// Forces. Atom i passes the slopes dE_i/dr_ij of its own energy to its neighbors, ghosts included,
// and LAMMPS sends the forces of ghosts back to their owners (newton on). The other way, to send
// dE/d(environment) to the ghosts and let each atom see a pair from both sides, needs every pair
// once less, but has to fetch 4 n_sensitivities numbers for each neighbor, against 3 here: in
// vector code that costs more than it saves, and the messages are larger as well.
//
// Messages of a step: LAMMPS's own, three numbers for each ghost on the way out (positions) and
// three on the way back (forces). eam/alloy exchanges densities and their derivatives in between:
// eight numbers for each ghost instead of six, in four rounds instead of two.

#include "pair_hipnn.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

using namespace LAMMPS_NS;

PairHipnn::PairHipnn(LAMMPS *lmp) : Pair(lmp)
{
  single_enable = 0;
  restartinfo = 0;    // a restart file does not hold the model: give pair_style and pair_coeff again
  one_coeff = 1;
  manybody_flag = 1;
  centroidstressflag = CENTROID_AVAIL;
}

PairHipnn::~PairHipnn()
{
  if (copymode || !allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
}

void PairHipnn::allocate()
{
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  std::fill_n(&setflag[0][0], n * n, 0);
  std::fill_n(&cutsq[0][0], n * n, 0.0);
  map = new int[n];    // the base class frees it
  allocated = 1;
}

void PairHipnn::settings(int narg, char **arg)
{
  if (narg > 1) error->all(FLERR, "Pair style hipnn takes one word at most: float or double");
  const std::string word = narg ? arg[0] : "float";
  if (word != "float" && word != "double")
    error->all(FLERR, "Pair style hipnn: unknown precision '{}', must be float or double", word);
  precise = word == "double";
}

void PairHipnn::coeff(int narg, char **arg)
{
  if (!allocated) allocate();
  if (narg < 4)
    error->all(FLERR, "Pair style hipnn needs: pair_coeff * * FOLDER and the element of each atom type");
  map_element2type(narg - 3, arg + 3);
  read(arg[2]);
  map_types();
}

// A file, read by the first rank; empty if it cannot be.
std::string PairHipnn::broadcast(const std::string &path)
{
  std::string bytes;
  if (comm->me == 0) {
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }
  bigint n = (bigint) bytes.size();
  MPI_Bcast(&n, 1, MPI_LMP_BIGINT, 0, world);
  if (n > MAXSMALLINT) error->all(FLERR, "Pair style hipnn: {} is too large for a model", path);
  bytes.resize(n);
  MPI_Bcast(bytes.data(), (int) n, MPI_CHAR, 0, world);
  return bytes;
}

void PairHipnn::read(const std::string &folder)
{
  if (!broadcast(folder + "/checkpoint.safetensors").empty())
    error->all(FLERR, "Pair style hipnn: the training in {} is not finished", folder);
  const std::string config = broadcast(folder + "/config.json");
  const std::string weights = broadcast(folder + "/model.safetensors");
  const std::string missing = config.empty() ? "config.json" : weights.empty() ? "model.safetensors" : "";
  if (!missing.empty()) error->all(FLERR, "Pair style hipnn: {}/{}: no such model file", folder, missing);
  std::string reason;
  try {
    model = kdlib::read_model(config, weights);
  } catch (std::runtime_error &failure) {
    reason = failure.what();
  }
  if (!reason.empty()) error->all(FLERR, "Pair style hipnn: {}: {}", folder, reason);
  in_float.reset();
  in_double.reset();
  if (precise)
    in_double = std::make_unique<HipnnEngine<double>>(model);
  else
    in_float = std::make_unique<HipnnEngine<float>>(model);
}

void PairHipnn::map_types()
{
  channel_of_type.assign(atom->ntypes + 1, -1);
  for (int type = 1; type <= atom->ntypes; ++type) {
    if (map[type] < 0) continue;    // NULL: another pair style's
    const std::string name = elements[map[type]];
    const auto found = std::find(model.species.begin(), model.species.end(), name);
    if (found == model.species.end()) {
      std::string known;
      for (const std::string &one : model.species) known += (known.empty() ? "" : ", ") + one;
      error->all(FLERR, "Pair style hipnn: element {} is unknown to a model of {}", name, known);
    }
    channel_of_type[type] = (int) (found - model.species.begin());
  }
}

void PairHipnn::init_style()
{
  if (std::strcmp(update->unit_style, "metal") != 0)
    error->all(FLERR, "Pair style hipnn works in units metal (eV, Angstrom), not {}", update->unit_style);
  if (!force->newton_pair)
    error->all(FLERR, "Pair style hipnn needs newton on: forces on ghost atoms are sent to their owners");
  neighbor->add_request(this, NeighConst::REQ_FULL);
}

double PairHipnn::init_one(int i, int j)
{
  if (setflag[i][j] == 0) error->all(FLERR, "Pair style hipnn: types {} and {} have no pair_coeff", i, j);
  return model.cutoff;
}

double PairHipnn::memory_usage()
{
  double bytes = Pair::memory_usage() + (double) (channels.capacity() * sizeof(int));
  for (const auto &one : forces) bytes += (double) (one.capacity() * sizeof(double));
  if (in_float)
    for (const auto &worker : in_float->workers) bytes += worker->bytes();
  if (in_double)
    for (const auto &worker : in_double->workers) bytes += worker->bytes();
  return bytes;
}

void PairHipnn::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  if (precise)
    evaluate(*in_double);
  else
    evaluate(*in_float);
  if (vflag_fdotr) virial_fdotr_compute();
}

template <class real> void PairHipnn::evaluate(HipnnEngine<real> &engine)
{
  const int n_all = atom->nlocal + atom->nghost;
  if (list->inum == 0) return;    // also a rank without atoms
  channels.resize(n_all);
  for (int i = 0; i < n_all; ++i) channels[i] = channel_of_type[atom->type[i]];
  const kdlib::Neighborhood around = {&atom->x[0][0],   channels.data(), list->numneigh, list->firstneigh,
                                      (int) NEIGHMASK, atom->ntypes > 1};
  // virials of neighbors are added up in place, by one thread
  const int n_threads = vflag_atom || cvflag_atom ? 1 : comm->nthreads;
  while ((int) engine.workers.size() < n_threads)
    engine.workers.push_back(std::make_unique<kdlib::Worker<real>>(model, engine.network));
  energies.assign(n_threads, 0.0);
  virials.assign(6 * n_threads, 0.0);
  forces.resize(std::max((int) forces.size(), n_threads - 1));
  if (n_threads == 1) {
    work(*engine.workers[0], around, 0, 1);
  } else {
#pragma omp parallel for num_threads(n_threads) schedule(static, 1)
    for (int thread = 0; thread < n_threads; ++thread)
      work(*engine.workers[thread], around, thread, n_threads);
  }
  for (int thread = 0; thread < n_threads; ++thread) {
    if (eflag_global) eng_vdwl += energies[thread];
    if (vflag_global)
      for (int k = 0; k < 6; ++k) virial[k] += virials[6 * thread + k];
    if (thread == 0) continue;
    double *f = &atom->f[0][0];
    for (int k = 0; k < 3 * n_all; ++k) f[k] += forces[thread - 1][k];
  }
}

// The blocks of atoms of one thread, always the same ones.
template <class real>
void PairHipnn::work(kdlib::Worker<real> &worker, const kdlib::Neighborhood &around, int thread, int n_threads)
{
  constexpr int ATOMS = kdlib::Worker<real>::ATOMS;
  const int n_blocks = (list->inum + ATOMS - 1) / ATOMS;
  const int last = std::min((int) ((bigint) (thread + 1) * n_blocks / n_threads) * ATOMS, list->inum);
  double *f = &atom->f[0][0];
  if (thread > 0) {
    forces[thread - 1].assign(3 * (size_t) (atom->nlocal + atom->nghost), 0.0);
    f = forces[thread - 1].data();
  }
  for (int start = (int) ((bigint) thread * n_blocks / n_threads) * ATOMS; start < last; start += ATOMS) {
    const int n = std::min(ATOMS, last - start);
    worker.begin(around, list->ilist + start, n);
    for (int a = 0; a < n; ++a) {
      const int i = list->ilist[start + a];
      const double energy = worker.energy(a) + model.free_atoms[around.channels[i]];
      energies[thread] += energy;
      if (eflag_atom) eatom[i] += energy;
      spread(worker, a, i, f, &virials[6 * thread]);
    }
  }
}

// With s = dE_i/dr_ij: a force s on i, and -s on j.
template <class real>
void PairHipnn::spread(kdlib::Worker<real> &worker, int a, int i, double *f, double *sums)
{
  double fx = 0.0, fy = 0.0, fz = 0.0;
  for (const kdlib::Segment<real> &segment : worker.segments(a)) {
    const kdlib::Slopes<real> slopes = worker.slopes(a, segment);
    for (int p = 0; p < segment.n; ++p) {
      double *fj = f + 3 * (size_t) segment.near[p];
      const double sx = slopes.x[p], sy = slopes.y[p], sz = slopes.z[p];
      fj[0] -= sx;
      fj[1] -= sy;
      fj[2] -= sz;
      fx += sx;
      fy += sy;
      fz += sz;
    }
    if (vflag_global || vflag_atom || cvflag_atom) tally(worker, segment, slopes, i, sums);
  }
  f[3 * i] += fx;
  f[3 * i + 1] += fy;
  f[3 * i + 2] += fz;
}

// Virials. That of the pair, r_ij (x) (-s), is shared by both atoms in stress/atom. In
// centroid/stress/atom it is all j's, because the energy that it changes is at the place of i:
// then sum_j W_j v_j is the potential part of the heat flux, d/dt sum_i r_i E_i - sum_i E_i v_i.
template <class real>
void PairHipnn::tally(kdlib::Worker<real> &worker, const kdlib::Segment<real> &segment,
                      const kdlib::Slopes<real> &slopes, int i, double *sums)
{
  for (int p = 0; p < segment.n; ++p) {
    const int j = segment.near[p];
    double d[3];
    worker.displacement(segment, p, d);
    const double s[3] = {-slopes.x[p], -slopes.y[p], -slopes.z[p]};
    const double v[9] = {d[0] * s[0], d[1] * s[1], d[2] * s[2], d[0] * s[1], d[0] * s[2],
                         d[1] * s[2], d[1] * s[0], d[2] * s[0], d[2] * s[1]};
    for (int k = 0; k < 6; ++k) {
      const double symmetric = k < 3 ? v[k] : (v[k] + v[k + 3]) / 2;
      if (vflag_global) sums[k] += symmetric;
      if (vflag_atom) {
        vatom[i][k] += symmetric / 2;
        vatom[j][k] += symmetric / 2;
      }
    }
    if (cvflag_atom)
      for (int k = 0; k < 9; ++k) cvatom[j][k] += v[k];
  }
}
