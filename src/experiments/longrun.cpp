// One long x-chain per start. It calls langevin_x one step at a time, so that it can stop a diverged chain and still
// write the steps before.
#include "experiments/longrun.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "experiments/statistics.h"

namespace dualmcmc {

namespace {

constexpr int64_t min_draws = 8;  // for the effective sample size

// How far a state has drifted from images: RMS of its values, their share outside [-1, 1], RMS distance from the start.
struct Drift {
    double rms = 0, outside = 0, moved = 0;
};
Drift drift_of(const std::vector<real>& x, const std::vector<real>& start) {
    Drift out;
    for (size_t i = 0; i < x.size(); ++i) {
        out.rms += double(x[i]) * double(x[i]);
        out.outside += std::abs(x[i]) > 1;
        out.moved += (double(x[i]) - double(start[i])) * (double(x[i]) - double(start[i]));
    }
    const double n = double(x.size());
    return {std::sqrt(out.rms / n), out.outside / n, std::sqrt(out.moved / n)};
}

bool all_finite(const std::vector<real>& values) {
    return std::all_of(values.begin(), values.end(), [](real v) { return std::isfinite(v); });
}

}  // namespace

LongrunCommand::LongrunCommand(CLI::App& app)
    : Experiment(app, "longrun",
                 "long x-chains: energies, pictures, R-hat and effective sample size over thousands of steps", 16,
                 "chains") {
    use_chain_x(4096);
    command_->add_option("--warmup", warmup_,
                         "steps left out of R-hat and the effective sample size (default: the first half)");
}

void LongrunCommand::check() const {
    if (command_->count("--warmup") && (warmup_ < 0 || warmup_ > 10'000'000))
        fail("--warmup ", warmup_, ": must be from 0 to 10000000");
    const int64_t steps = command_->get_option("--steps")->as<int64_t>();
    if (warmup_ >= 0 && steps - warmup_ < min_draws)
        fail("--warmup ", warmup_, ": leaves fewer than ", min_draws, " of the ", steps,
             " steps; lower it or give more --steps");
}

// g(z) with z ~ p(z), one per chain.
Tensor LongrunCommand::starts() {
    std::vector<real> images;
    const int64_t side = config_.model.image_size();
    for (int64_t first = 0; first < count_; first += batch_) {
        const RandomKey key = random_key(seed(), RngPurpose::sample_prior, uint64_t(first / batch_) << 16);
        const Tensor z = Tensor::normal({batch_, config_.model.latent}, key);
        const std::vector<real> batch = generate(z).to_host();
        images.insert(images.end(), batch.begin(), batch.end());
    }
    images.resize(size_t(count_ * side * side * 3));
    return Tensor::from_host({count_, side, side, 3}, images);
}

// A reference for the energies of the chains: the mean over one batch of test images, or all of them.
double LongrunCommand::data_energy() {
    NoGrad no_grad;
    std::vector<real> energies = models_->ebm.forward(Var(batch_of(test(), 0))).value().to_host();
    energies.resize(size_t(std::min(batch_, test().count)));  // a batch begins again at the first image
    return mean_and_deciles(energies).mean;
}

void LongrunCommand::measure() {
    const int64_t steps = chain_x().steps, side = config_.model.image_size();
    // Start, state and gradient of each chain; its energies as numbers and as text.
    check_host_memory("--count", count_, double(3 * 3 * side * side) * sizeof(real) + double(steps) * 18);
    const double data = data_energy();
    Tensor x = starts();
    const std::vector<real> start = x.to_host();
    Csv trace([&] {
        std::vector<std::string> header{"step"};
        for (int64_t c = 1; c <= count_; ++c) header.push_back(text("energy_", c));
        return header;
    }());
    Csv drifts({"step", "rms", "outside", "moved"});
    std::vector<std::vector<double>> energies(static_cast<size_t>(count_));
    std::vector<ImageSet> columns;
    log(text("energies at temperature ", chain_x().temperature(), "; mean energy of ", std::min(batch_, test().count),
             " test images: ", data));
    for (int64_t k = 0; k <= steps; ++k) {
        const EnergyGradient e = energy_gradient(models_->ebm, x);
        const std::vector<real> energy = e.energy.to_host();
        if (!all_finite(energy)) {
            log(text("stopped: after ", k, " steps the energy is not finite"));
            break;
        }
        std::vector<double> row{double(k)};
        for (size_t c = 0; c < energy.size(); ++c) {
            row.push_back(double(energy[c]));
            energies[c].push_back(double(energy[c]));
        }
        trace.row(row);
        if (std::has_single_bit(uint64_t(k)) || k == 0 || k == steps) {
            const Drift d = drift_of(x.to_host(), start);
            drifts.row({double(k), d.rms, d.outside, d.moved});
            columns.push_back(pictures(x));
            log(text("step ", k, ": mean energy ", mean_and_deciles(energy).mean, ", RMS of the pixels ", d.rms, ", ",
                     100 * d.outside, "% outside [-1, 1], RMS distance from the start ", d.moved));
        }
        if (k == steps) break;
        const ChainSettings one{1, chain_x().step_size, chain_x().noise_std};
        const auto noise = [&](int64_t) { return random_key(seed(), RngPurpose::sample_langevin, uint64_t(k)); };
        x = langevin_x(
                x, [&](const Tensor&) { return e; }, one, noise)
                .end;
    }
    if (columns.empty()) fail("longrun: the energies of the start are not finite; the model cannot be used");
    trace.write(file("energy.csv"));
    drifts.write(file("drift.csv"));
    const ImageSet grid = strips(columns, std::min<int64_t>(count_, 16));
    write_grid(file("longrun.png"), {&grid}, int64_t(columns.size()), picture_scale(grid));
    Csv table({"quantity", "value"});
    log_mixing(energies, table);
    table.write(file("mixing.csv"));
    log("longrun.png: one row per chain, at steps 0, 1, 2, 4, 8, ... and at the end");
}

void LongrunCommand::log_mixing(const std::vector<std::vector<double>>& energies, Csv& table) {
    const int64_t all = int64_t(energies[0].size()) - 1, warmup = warmup_ < 0 ? all / 2 : warmup_, draws = all - warmup;
    if (draws < min_draws) {
        log(text("R-hat and effective sample size: need ", min_draws, " steps after the warm-up of ", warmup, ", have ",
                 std::max<int64_t>(0, draws)));
        return;
    }
    Chains kept;
    for (const auto& chain : energies) kept.emplace_back(chain.begin() + warmup + 1, chain.end());
    const double rhat = split_rhat(kept), ess = effective_sample_size(kept);
    log(text("energy over ", kept.size(), " chains, steps ", warmup + 1, " to ", all, ": split R-hat ", rhat,
             ", effective sample size ", ess, " of ", draws * int64_t(kept.size())));
    table.row("split R-hat", {rhat});
    table.row("effective sample size", {ess});
    table.row("draws", {double(draws * int64_t(kept.size()))});
}

}  // namespace dualmcmc
