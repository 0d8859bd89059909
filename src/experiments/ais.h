// `dualmcmc ais`: bounds on log Z of the EBM exp(-E / T), and with them on the bits per dimension of test images.
//
// The EBM of the images has no biases, so that E(λ x) = λ E(x) for λ > 0: wherever E is below 0, exp(-E / T) grows
// without end, and over all of space there is no Z. The density is therefore taken on the cube of all dequantised
// images, p_0 is uniform on it, and its walls reflect. (Training knows no walls: its chains are short.)
//
//   pixel p in 0 … 255, u uniform in (0, 1]:  x = (p + u - ½) / 127.5 - 1 in [-h, h], h = 256 / 255
//   bits per dimension = (E(x) / T + log Z) / (D log 2) + log2 127.5: of the density of p + u; 8 for the uniform one.
//   It bounds those of p itself, P(p) = ∫ density(p + u) du, from above (by Jensen, in the mean over u).
//
// Chains that have not found the low energies where the images lie are no samples, and the reverse run's bound then
// bounds nothing. The images themselves can show it: Z >= ∫ over the cell of one image >= 127.5^-D e^(-E(x)/T) (again
// by Jensen, in the mean over u). The lower bound reported is the greater of the two; where this one passes the reverse
// run's, there is no upper bound.
#pragma once
#include "experiments/annealing.h"
#include "experiments/common.h"

namespace dualmcmc {

// The half side h of the cube that dequantised images fill.
inline constexpr double image_cube = 256 / 255.0;

// U = E / T and its gradient at points of shape `point`, without the batch. The spectral norms' power iteration starts
// each time from where the checkpoint left it, so that U is one function, whoever asked before.
PotentialFunction tempered_energy(Models& models, const Shape& point, double temperature);

double bits_per_dimension(double potential, double log_z, int64_t dimension);

// log of the volume of a pixel value's cell: what an image of potential U adds to Z is at least e^(-U + this).
double log_cell(int64_t dimension);

class AisCommand : public Experiment {
public:
    explicit AisCommand(CLI::App& app);

protected:
    void check() const override;
    void measure() override;

private:
    Points dequantised(int64_t first) const;
    std::vector<double> image_potentials(const PotentialFunction& potential);
    Points reverse_start(const Annealing::Run& forward) const;
    void say_run(const std::string& name, const LogZ& z, const std::vector<double>& acceptance);
    void say_bits(const std::vector<double>& data, double lower, double upper);
    std::string reverse_from_ = "ends";
    AnnealingSettings annealing_;
    int64_t settle_ = 200;
    double temperature_ = 0;
};

}  // namespace dualmcmc
