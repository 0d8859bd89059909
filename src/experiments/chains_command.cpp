// Strips of images and traces of both chains, with values per image (the traces of langevin.h are sums over the batch).
// The x-chain's revision is often one or two of 256 grey levels, which no eye sees. Therefore each of its strips has a
// second one below, with the change since the start times ten.
#include "experiments/chains_command.h"

#include <algorithm>
#include <cmath>

#include "experiments/statistics.h"

namespace dualmcmc {

namespace {

constexpr int64_t max_columns = 11;  // a chain of 30 steps shows every third, as the paper's figure does

// The images of two sets in turns: a 0, b 0, a 1, b 1, …
ImageSet in_turns(const ImageSet& a, const ImageSet& b) {
    ImageSet out = empty_images("", a.count + b.count, a.size);
    const int64_t values = a.size * a.size * 3;
    for (int64_t i = 0; i < out.count; ++i)
        std::copy_n(image_at(i % 2 == 0 ? a : b, i / 2), values, out.pixels.data() + i * values);
    return out;
}

// The values of a chain at every step, and pictures of its first images at some steps, with or without a picture of
// the change below each.
class ChainRecord {
public:
    ChainRecord(int64_t steps, int64_t strips, bool with_changes)
        : values_(size_t(steps) + 1), shown_(spaced_steps(steps, max_columns)), strips_(strips),
          with_changes_(with_changes) {}

    // Adds the first `wanted` values of a batch at step k, and its pictures if they belong to the strips.
    void add(int64_t k, const Tensor& images, const std::vector<real>& values, int64_t wanted, bool first_batch) {
        values_[size_t(k)].insert(values_[size_t(k)].end(), values.begin(), values.begin() + wanted);
        if (!first_batch || std::find(shown_.begin(), shown_.end(), k) == shown_.end()) return;
        const Tensor x = images.slice_copy(0, strips_);
        if (k == 0) start_ = x;
        columns_.push_back(with_changes_ ? in_turns(pictures(x), change_pictures(x, start_)) : pictures(x));
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
        const ImageSet grid = strips(columns, with_changes_ ? 2 * strips_ : strips_);
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
    int64_t strips_;
    bool with_changes_;
    Tensor start_;  // of the strips
};

}  // namespace

ImageSet change_pictures(const Tensor& x, const Tensor& start) {
    CHECK(x.shape() == start.shape());
    ImageSet out = empty_images("", x.dim(0), x.dim(1));
    const std::vector<real> now = x.to_host(), before = start.to_host();
    for (size_t i = 0; i < now.size(); ++i) {
        const double level = std::round(128 + change_factor * 127.5 * (double(now[i]) - double(before[i])));
        out.pixels[i] = uint8_t(level > 0 ? std::min(level, 255.0) : 0);  // NaN is black, as in from_floats
    }
    return out;
}

ReviseCommand::ReviseCommand(CLI::App& app)
    : Experiment(app, "revise",
                 text("strips of both chains (Fig. 2), the x-chain's with its changes x ", change_factor,
                      "; energy and MSE by step"),
                 100, "samples and test images that the tables average over") {
    command_
        ->add_option("--strips", strips_,
                     text("samples in x_chain.png, each with a strip of its changes x ", change_factor,
                          " below (grey 128: no change), and test images in z_chain.png; at most --count and --batch"))
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
    ChainRecord record(steps, std::min({strips_, count_, batch_}), true);
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
             " after ", steps, " steps; x_chain.png: steps ", record.steps_shown(),
             "; below each sample its change since step 0, x ", change_factor, " (grey 128: no change)"));
}

void ReviseCommand::measure_z() {
    const int64_t steps = chain_z().steps;
    ChainRecord record(steps, std::min({strips_, count_, batch_}), false);
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
