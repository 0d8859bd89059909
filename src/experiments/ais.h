// `dualmcmc ais`: bounds on log Z of the EBM exp(-E / T), and from them bounds on the bits per dimension of test
// images.
//
// The image EBM has no biases, so E(λ x) = λ E(x) for λ > 0. If E is negative anywhere, exp(-E / T) grows without
// bound and has no Z over all of space. The density is therefore restricted to the cube that dequantised images fill:
// p_0 is uniform on it, and its walls reflect. (The short chains of training know no walls.)
//
//   pixel p in 0 … 255, u uniform in (0, 1]:  x = (p + u - ½) / 127.5 - 1 in [-h, h], h = 256 / 255
//   bits per dimension = (E(x) / T + log Z) / (D log 2) + log2 127.5, for the density of p + u; 8 if it is uniform.
//   By Jensen's inequality (mean over u) this is an upper bound on those of p itself, P(p) = ∫ density(p + u) du.
//
// Chains that have not reached the low energies of the images are not samples of the EBM, and then the reverse run
// bounds nothing. The images themselves can reveal this: Z >= ∫ over one image's pixel cell >= 127.5^-D e^(-mean
// E(x)/T) (again Jensen, mean over u). The image is the one with the lowest energy at the first u; the mean is over
// other ones. The reported lower bound is the greater of the two; if this one exceeds the bound of the reverse run,
// there is no upper bound.
#pragma once
#include "experiments/annealing.h"
#include "experiments/common.h"

namespace dualmcmc {

// Half the side, h, of the cube that dequantised images fill.
inline constexpr double image_cube = 256 / 255.0;

// U = E / T and its gradient, at points of shape `point` (without the batch). Each call restarts the power iterations
// from the checkpoint's u and v, so that U is the same function every time.
PotentialFunction tempered_energy(Models& models, const Shape& point, double temperature);

// The bits per dimension of an image with U = `potential`, by the formula above.
double bits_per_dimension(double potential, double log_z, int64_t dimension);

// log of the volume of an image's pixel cell.
double log_cell_volume(int64_t dimension);

// A lower bound on log of what the pixel cell of one image (D) adds to Z, log_cell_volume - mean U, from `draws`
// points that are uniform in the cell; and its standard error.
struct CellBound {
    double log_z, error;
};
CellBound cell_bound(const PotentialFunction& potential, const Points& image, int64_t draws, int64_t batch,
                     uint64_t seed);

class AisCommand : public Experiment {
public:
    explicit AisCommand(CLI::App& app);

protected:
    void check() const override;
    void measure() override;

private:
    Points dequantized(int64_t first) const;
    std::vector<double> image_potentials(const PotentialFunction& potential);
    Points reverse_start(const Annealing::Run& forward) const;
    void log_run(const std::string& name, const LogZ& z, const std::vector<double>& acceptance);
    CellBound best_cell(const PotentialFunction& potential, const std::vector<double>& data) const;
    void log_bits(const std::vector<double>& data, const CellBound& cell, double lower, double upper);
    void write_tables(const Schedule& schedule, const Annealing::Run& forward, const Annealing::Run& reverse);
    std::string reverse_from_ = "ends";
    AnnealingSettings annealing_;
    int64_t settle_ = 200;
    double temperature_ = 0;
};

}  // namespace dualmcmc
