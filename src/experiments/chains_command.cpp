// Strips of images and traces of both chains, with values per image (the traces of langevin.h are sums over the batch).
#include "experiments/chains_command.h"

#include <algorithm>

#include "experiments/statistics.h"

namespace dualmcmc {

namespace {

constexpr int64_t max_columns = 11;  // a chain of 30 steps shows every third, as the paper's figure does

// The values of a chain at every step, and pictures of its first images at some steps.
class ChainRecord {
public:
    ChainRecord(int64_t steps, int64_t rows)
        : values_(size_t(steps) + 1), shown_(spaced_steps(steps, max_columns)), rows_(rows) {}

    // Adds the first `wanted` values of a batch at step k, and its pictures if they belong to the strips.
    void add(int64_t k, const Tensor& images, const std::vector<real>& values, int64_t wanted, bool first_batch) {
        values_[size_t(k)].insert(values_[size_t(k)].end(), values.begin(), values.begin() + wanted);
        if (first_batch && std::find(shown_.begin(), shown_.end(), k) != shown_.end())
            columns_.push_back(pictures(images.slice_copy(0, rows_)));
    }

    void write_table(const std::string& path, const std::string& quantity) const {
        Csv csv({"step", quantity + "_mean", quantity + "_p10", quantity + "_p90"});
        for (size_t k = 0; k < values_.size(); ++k) {
            const MeanDeciles m = mean_and_deciles(values_[k]);
            csv.row({double(k), m.mean, m.p10, m.p90});
        }
        csv.write(path);
    }

    // `data`, if not null, becomes the last column.
    void write_picture(const std::string& path, const ImageSet* data) const {
        std::vector<ImageSet> columns = columns_;
        if (data) columns.push_back(*data);
        const ImageSet grid = strips(columns, rows_);
        write_grid(path, {&grid}, int64_t(columns.size()), picture_scale(grid));
    }

    std::string steps_shown() const {
        std::string out;
        for (const int64_t k : shown_) out += (out.empty() ? "" : ", ") + std::to_string(k);
        return out;
    }
    double mean(size_t k) const { return mean_and_deciles(values_.at(k)).mean; }

private:
    std::vector<std::vector<real>> values_;
    std::vector<int64_t> shown_;
    std::vector<ImageSet> columns_;
    int64_t rows_;
};

}  // namespace

ReviseCommand::ReviseCommand(CLI::App& app)
    : Experiment(app, "revise", "strips of both chains, energy and MSE by step (Fig. 2)", 100,
                 "samples and test images that the tables average over") {
    command_->add_option("--strips", strips_, "rows of each picture, at most --count and --batch")
        ->capture_default_str();
    use_chain_x();
    use_chain_z();
}

void ReviseCommand::check() const {
    if (strips_ < 1) fail("--strips ", strips_, ": must be at least 1");
}

void ReviseCommand::measure() {
    check_host_memory("--count", count_, double(std::max(chain_x().steps, chain_z().steps)) * sizeof(real));
    measure_x();
    measure_z();
}

void ReviseCommand::measure_x() {
    const int64_t steps = chain_x().steps, side = config_.model.image_size();
    ChainRecord record(steps, std::min({strips_, count_, batch_}));
    for (int64_t first = 0; first < count_; first += batch_) {
        const StepNoise noise =
            philox_noise(seed(), uint64_t(first / batch_), {batch_, side, side, 3}, config_.model.latent);
        watch_chain_x(*models_, generate(noise.prior), chain_x(), noise.langevin_x,
                      [&](int64_t k, const Tensor& x, const Tensor& energy) {
                          record.add(k, x, energy.to_host(), std::min(batch_, count_ - first), first == 0);
                      });
    }
    record.write_table(file("x_chain.csv"), "energy");
    record.write_picture(file("x_chain.png"), nullptr);
    log(text("x-chain, mean energy of ", count_, " samples: ", record.mean(0), " at g(z), ", record.mean(size_t(steps)),
             " after ", steps, " steps; x_chain.png: steps ", record.steps_shown()));
}

void ReviseCommand::measure_z() {
    const int64_t steps = chain_z().steps;
    ChainRecord record(steps, std::min({strips_, count_, batch_}));
    for (int64_t first = 0; first < count_; first += batch_) {
        const Tensor x = batch_of(test(), first);
        const std::vector<real> data = x.to_host();
        const int64_t values = x.size() / batch_;
        const StepNoise noise = philox_noise(seed(), uint64_t(first / batch_), x.shape(), config_.model.latent);
        watch_chain_z(*models_, encode(x, noise.reparametrise), x, config_.step.sigma, chain_z(), noise.langevin_z,
                      [&](int64_t k, const Tensor& image) {
                          const std::vector<real> reconstruction = image.to_host();
                          std::vector<real> errors;
                          for (int64_t i = 0; i < batch_; ++i)
                              errors.push_back(real(mean_squared_error(data.data() + i * values,
                                                                       reconstruction.data() + i * values, values)));
                          record.add(k, image, errors, std::min(batch_, count_ - first), first == 0);
                      });
    }
    record.write_table(file("z_chain.csv"), "mse");
    record.write_picture(file("z_chain.png"), &test());
    log(text("z-chain, mean mse of ", count_, " test images: ", record.mean(0), " at the encoder's z, ",
             record.mean(size_t(steps)), " after ", steps, " steps; z_chain.png: steps ", record.steps_shown(),
             ", and the test image"));
}

}  // namespace dualmcmc
