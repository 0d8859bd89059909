// metrics.csv: what each iteration of a run measured, a row each, as text.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "method/dual_mcmc.h"

namespace dualmcmc {

// The values of one iteration; those that its method does not compute are absent. `mse` is per pixel and channel in
// [-1, 1], `loss_revise` per image, `gap` energy_model - energy_data; `nll_posterior` is the KL of joint_elbo methods.
struct Metrics {
    std::optional<double> mse, energy_data, energy_model, gap, loss_revise, nll_posterior, nll_generated;
    StepTimings seconds;
    double wall_seconds = 0;
    std::array<double, 3> learning_rates{};  // generator, EBM, encoder
    // The authors' test for divergence: a loss that is not finite, or a large energy gap [authors].
    bool diverged(double max_energy_gap) const;
};

// Reads the scalars of a step on images of this shape (B,S,S,3) back from the device.
Metrics read_metrics(const StepResult& r, const Shape& images);

// A table of numbers as text; empty cells are values that were not measured.
struct MetricsTable {
    std::vector<std::string> header;
    std::vector<std::vector<std::string>> rows;
};

// The rows of a metrics.csv that are whole. A torn row, which a crash can leave, is dropped wherever it stands: one
// with too few or too many cells, with a cell that is no number, or whose iteration is out of order.
MetricsTable parse_metrics(const std::string& text);

// Appends to metrics.csv. Iteration 0 is a row with the distances of the untrained networks; later, the distances are
// empty except at evaluations.
class MetricsFile {
public:
    // Continues an existing file after the row of `iteration`. Columns that it lacks become empty.
    MetricsFile(const std::string& path, int64_t iteration);
    // Drops the rows after `iteration`.
    void rewind(int64_t iteration);
    // `distances`: the two cells of the distances to the data, "," for none.
    void row(int64_t iteration, int64_t epoch, const Metrics& m, const std::string& distances);

private:
    std::string path_;
};

}  // namespace dualmcmc
