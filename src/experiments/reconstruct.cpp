// Each image is reconstructed in three ways: g(μ(x)); the z-chain from z ~ q(z|x); the z-chain from z ~ p(z). The
// networks' outputs are compared unrounded, not as 8-bit images.
#include "experiments/reconstruct.h"

#include <algorithm>
#include <cstdio>

#include "experiments/statistics.h"
#include "formats/progress_line.h"

namespace dualmcmc {

namespace {

constexpr int64_t min_steps = 30;       // the chains run at least this long, for the rows of 10, 20 and 30 steps
constexpr int64_t picture_images = 64;  // in each panel of the picture

// Means over images of MSE, PSNR and SSIM.
class Quality {
public:
    // Adds the first `count` images of a batch.
    void add(const Tensor& data, const Tensor& reconstruction, int64_t count) {
        const std::vector<real> a = data.to_host(), b = reconstruction.to_host();
        const int64_t side = data.dim(1), values = 3 * side * side;
        std::vector<double> similarity(static_cast<size_t>(count));
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < count; ++i)
            similarity[size_t(i)] = structural_similarity(a.data() + i * values, b.data() + i * values, side);
        for (int64_t i = 0; i < count; ++i) {
            const double mse = mean_squared_error(a.data() + i * values, b.data() + i * values, values);
            mse_ += mse;
            psnr_ += psnr(mse);
            ssim_ += similarity[size_t(i)];
        }
        images_ += count;
    }
    double mse() const { return mse_ / double(images_); }
    double psnr_mean() const { return psnr_ / double(images_); }
    double ssim() const { return ssim_ / double(images_); }

private:
    double mse_ = 0, psnr_ = 0, ssim_ = 0;
    int64_t images_ = 0;
};

ImageSet first_of(const Tensor& x, int64_t count) { return pictures(x.slice_copy(0, count)); }

// The start of the z-chains of batch number `draw`, the images x, and their noise.
struct Start {
    Tensor z;
    NoiseFunction noise;
};
Start start_of(Models& models, const std::string& start, const Tensor& x, uint64_t seed, uint64_t draw) {
    const StepNoise noise = philox_noise(seed, 2 * draw + (start == "noise"), x.shape(), models.settings.latent);
    if (start == "noise") return {noise.prior, noise.langevin_z};
    NoGrad no_grad;
    const auto [mu, logvar] = models.encoder(Var(x));
    return {start == "mean" ? mu.value() : reparametrise(mu, logvar, noise.reparametrise).value(), noise.langevin_z};
}

}  // namespace

double reconstruction_mse(Models& models, const ImageSet& set, int64_t count, int64_t batch, const std::string& start,
                          const StepSettings& settings, uint64_t seed) {
    double sum = 0;
    for (int64_t first = 0; first < count; first += batch) {
        const Tensor x = image_batch(set, first, batch);
        const Start from = start_of(models, start, x, seed, uint64_t(first / batch));
        const Tensor z = langevin_z(from.z, x, models.generator, settings.sigma, settings.chain_z, from.noise).end;
        NoGrad no_grad;
        const std::vector<real> a = x.to_host(), b = models.generator(Var(z)).value().to_host();
        const int64_t values = set.size * set.size * 3;
        for (int64_t i = 0; i < std::min(batch, count - first); ++i)
            sum += mean_squared_error(a.data() + i * values, b.data() + i * values, values);
    }
    return sum / double(count);
}

ReconstructCommand::ReconstructCommand(CLI::App& app)
    : Experiment(app, "reconstruct", "MSE, PSNR and SSIM of reconstructed test images (Table 3, Fig. 3)", 1000,
                 "test images") {
    use_chain_z();
}

// Quality by step of the z-chains from both starts, and at the encoder's mean.
struct ReconstructCommand::Curves {
    Quality mean;
    std::vector<Quality> encoder, noise;
};

void ReconstructCommand::write_tables(const Curves& curves) {
    Csv table({"start", "steps", "mse", "psnr", "ssim"});
    auto row = [&](const std::string& name, int64_t steps, const Quality& q) {
        table.row(name, {double(steps), q.mse(), q.psnr_mean(), q.ssim()});
        char line[120];
        std::snprintf(line, sizeof line, "%-12s %3lld steps: mse %.4f  psnr %.2f dB  ssim %.4f", name.c_str(),
                      (long long)steps, q.mse(), q.psnr_mean(), q.ssim());
        log(line);
    };
    row("encoder mean", 0, curves.mean);
    row("encoder", 0, curves.encoder[0]);
    if (chain_z().steps > 0) row("encoder", chain_z().steps, curves.encoder[size_t(chain_z().steps)]);
    for (const int64_t steps : {10, 20, 30}) row("noise", steps, curves.noise[size_t(steps)]);
    table.write(file("reconstruct.csv"));

    Csv steps({"step", "mse_encoder", "mse_noise", "psnr_encoder", "psnr_noise", "ssim_encoder", "ssim_noise"});
    for (size_t k = 0; k < curves.encoder.size(); ++k) {
        const Quality &a = curves.encoder[k], &b = curves.noise[k];
        steps.row({double(k), a.mse(), b.mse(), a.psnr_mean(), b.psnr_mean(), a.ssim(), b.ssim()});
    }
    steps.write(file("steps.csv"));
}

void ReconstructCommand::measure() {
    const ChainSettings chain{std::max(chain_z().steps, min_steps), chain_z().step_size, chain_z().noise_std};
    log("mse: mean squared difference per pixel and channel in [-1, 1]; psnr: 10 log10(4 / mse) per image, in dB, "
        "averaged; ssim: Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, range 2, windows inside the image, mean "
        "over channels");
    Curves curves{{}, std::vector<Quality>(size_t(chain.steps) + 1), std::vector<Quality>(size_t(chain.steps) + 1)};
    ImageSet data, start, revised;
    ProgressLine progress(stderr);
    for (int64_t first = 0; first < count_; first += batch_) {
        const int64_t wanted = std::min(batch_, count_ - first),
                      shown = std::clamp<int64_t>(picture_images - first, 0, wanted);
        const Tensor x = batch_of(test(), first);
        const uint64_t draw = uint64_t(first / batch_);
        const Start from_encoder = start_of(*models_, "encoder", x, seed(), draw),
                    from_noise = start_of(*models_, "noise", x, seed(), draw);
        curves.mean.add(x, generate(start_of(*models_, "mean", x, seed(), draw).z), wanted);
        watch_chain_z(*models_, from_encoder.z, x, config_.step.sigma, chain, from_encoder.noise,
                      [&](int64_t k, const Tensor& image) {
                          curves.encoder[size_t(k)].add(x, image, wanted);
                          if (k == 0 && shown > 0) append_images(start, first_of(image, shown));
                          if (k == chain_z().steps && shown > 0) append_images(revised, first_of(image, shown));
                      });
        watch_chain_z(*models_, from_noise.z, x, config_.step.sigma, chain, from_noise.noise,
                      [&](int64_t k, const Tensor& image) { curves.noise[size_t(k)].add(x, image, wanted); });
        if (shown > 0) append_images(data, first_of(x, shown));
        progress.show({{0, text(first + wanted, "/", count_)}});
    }
    progress.end();
    write_tables(curves);
    write_grid(file("reconstruct.png"), {&data, &start, &revised}, 8, picture_scale(data));
    log(text("reconstruct.png: test images; the encoder's reconstructions; the same after ", chain_z().steps,
             " steps of the z-chain"));
}

}  // namespace dualmcmc
