// Interpolated latents, their images and their energies. Batch norm uses the statistics of the batch, and latents in
// the middle of a line are shorter than samples. So each pass holds one point of every row, and the rest of the batch
// is filled with the latents of the rows' ends.
#include "experiments/interpolate.h"

#include <algorithm>
#include <cmath>

#include "experiments/statistics.h"

namespace dualmcmc {

std::vector<real> interpolate_latent(const std::vector<real>& a, const std::vector<real>& b, double t, bool spherical) {
    CHECK_EQ(a.size(), b.size());
    double aa = 0, bb = 0, ab = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        aa += double(a[i]) * double(a[i]);
        bb += double(b[i]) * double(b[i]);
        ab += double(a[i]) * double(b[i]);
    }
    double weight_a = 1 - t, weight_b = t;
    const double lengths = std::sqrt(aa * bb), angle = std::acos(std::clamp(ab / lengths, -1.0, 1.0));
    if (spherical && lengths > 0 && std::sin(angle) > 1e-6) {  // else the circle is the line or is not unique
        const double length = (1 - t) * std::sqrt(aa) + t * std::sqrt(bb);
        weight_a = length * std::sin((1 - t) * angle) / std::sin(angle) / std::sqrt(aa);
        weight_b = length * std::sin(t * angle) / std::sin(angle) / std::sqrt(bb);
    }
    std::vector<real> out(a.size());
    for (size_t i = 0; i < a.size(); ++i) out[i] = real(weight_a * double(a[i]) + weight_b * double(b[i]));
    return out;
}

InterpolateCommand::InterpolateCommand(CLI::App& app)
    : Experiment(app, "interpolate", "rows of images between samples, and between reconstructed test images (Fig. 4)",
                 8, "rows of each picture") {
    command_->add_option("--points", points_, "images per row, including its ends")->capture_default_str();
    command_->add_flag("--spherical", spherical_, "interpolate along great circles instead of lines");
    use_chain_z();
}

void InterpolateCommand::check() const {
    if (points_ < 2 || points_ > 100) fail("--points ", points_, ": must be from 2 to 100");
}

// The latents of the first test images, (images, d): z ~ q(z|x), then the z-chain.
std::vector<real> InterpolateCommand::infer_latents(int64_t images) {
    std::vector<real> out;
    for (int64_t first = 0; first < images; first += batch_) {
        const Tensor x = batch_of(test(), first);
        const StepNoise noise = philox_noise(seed(), uint64_t(first / batch_), x.shape(), config_.model.latent);
        const std::vector<real> z = watch_chain_z(*models_, encode(x, noise.reparametrise), x, config_.step.sigma,
                                                  chain_z(), noise.langevin_z, [](int64_t, const Tensor&) {})
                                        .to_host();
        out.insert(out.end(), z.begin(), z.end());
    }
    out.resize(size_t(images * config_.model.latent));
    return out;
}

// `latents` (2 count, d): row r goes from latent 2r to latent 2r + 1.
InterpolateCommand::Path InterpolateCommand::walk(const std::vector<real>& latents) {
    const int64_t d = config_.model.latent, ends = 2 * count_, passes = (count_ + batch_ - 1) / batch_;
    auto latent = [&](int64_t i) { return std::vector<real>(latents.begin() + i * d, latents.begin() + (i + 1) * d); };
    Path path;
    std::vector<real> before;
    for (int64_t p = 0; p < points_; ++p) {
        const double t = double(p) / double(points_ - 1);
        std::vector<real> images, energies;
        for (int64_t pass = 0; pass < passes; ++pass) {
            std::vector<real> z;
            for (int64_t i = 0; i < batch_; ++i) {
                const int64_t row = pass * batch_ + i;
                const std::vector<real> point =
                    row < count_ ? interpolate_latent(latent(2 * row), latent(2 * row + 1), t, spherical_)
                                 : latent((row - count_) % ends);
                z.insert(z.end(), point.begin(), point.end());
            }
            const Tensor x = generate(Tensor::from_host({batch_, d}, z));
            NoGrad no_grad;
            const std::vector<real> pixels = x.to_host(), energy = models_->ebm.energy(Var(x)).value().to_host();
            images.insert(images.end(), pixels.begin(), pixels.end());
            energies.insert(energies.end(), energy.begin(), energy.end());
        }
        const int64_t side = config_.model.image_size();
        images.resize(size_t(count_ * side * side * 3));
        energies.resize(size_t(count_));
        path.columns.push_back(from_floats(images.data(), count_, side));
        path.energy.push_back(mean_and_deciles(energies).mean);
        path.change.push_back(
            p == 0 ? std::nan("")
                   : std::sqrt(mean_squared_error(images.data(), before.data(), int64_t(images.size()))));
        before = std::move(images);
    }
    return path;
}

void InterpolateCommand::write_pictures(const Path& samples, const Path& inferred) const {
    const ImageSet between_samples = strips(samples.columns, count_);
    write_grid(file("samples.png"), {&between_samples}, points_, picture_scale(between_samples));
    // Each row has its test images at both ends.
    std::vector<ImageSet> columns = inferred.columns;
    ImageSet ends[2];
    for (int64_t i = 0; i < 2 * count_; ++i) {
        ImageSet& end = ends[i % 2];
        end.size = test().size;
        ++end.count;
        end.pixels.insert(end.pixels.end(), image_at(test(), i), image_at(test(), i) + test().size * test().size * 3);
    }
    columns.insert(columns.begin(), ends[0]);
    columns.push_back(ends[1]);
    const ImageSet between_images = strips(columns, count_);
    write_grid(file("reconstructions.png"), {&between_images}, points_ + 2, picture_scale(between_images));
}

void InterpolateCommand::measure() {
    log(text(spherical_ ? "spherical" : "linear", " interpolation, ", points_,
             " points per row; each batch is filled with the latents of the rows' ends; energies at temperature ",
             config_.step.chain_x.temperature()));
    {
        NoGrad no_grad;
        models_->ebm.power_iteration();
    }
    const Tensor prior =
        Tensor::normal({2 * count_, config_.model.latent}, random_key(seed(), RngPurpose::sample_prior, 0));
    const Path samples = walk(prior.to_host()), inferred = walk(infer_latents(2 * count_));
    write_pictures(samples, inferred);

    Csv csv({"t", "energy_samples", "energy_reconstructions", "change_samples", "change_reconstructions"});
    for (int64_t p = 0; p < points_; ++p)
        csv.row({double(p) / double(points_ - 1), samples.energy[size_t(p)], inferred.energy[size_t(p)],
                 samples.change[size_t(p)], inferred.change[size_t(p)]});
    csv.write(file("interpolate.csv"));
    auto line = [&](const char* name, const Path& path) {
        const auto [lowest, highest] = std::minmax_element(path.change.begin() + 1, path.change.end());
        log(text(name, ": mean energy ", path.energy.front(), " at the start, ", path.energy[size_t(points_ / 2)],
                 " in the middle, ", path.energy.back(), " at the end; RMS change per pixel between points ", *lowest,
                 " to ", *highest));
    };
    line("between samples (samples.png)", samples);
    line("between test images (reconstructions.png, with the images themselves left and right)", inferred);
}

}  // namespace dualmcmc
