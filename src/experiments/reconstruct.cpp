// Each image is reconstructed in three ways: g(μ(x)); the z-chain from z ~ q(z|x); the z-chain from z ~ p(z). The
// networks' outputs are compared unrounded, not as 8-bit images.
#include "experiments/reconstruct.h"

#include <algorithm>
#include <cstdio>

#include "experiments/statistics.h"
#include "formats/progress_line.h"
#include "ranks/ranks.h"

namespace dualmcmc {

namespace {

constexpr int64_t min_steps = 30;       // the chains run at least this long, for the rows of 10, 20 and 30 steps
constexpr int64_t picture_images = 64;  // in each panel of the picture

// MSE and SSIM of the first `count` images of a batch, two numbers each, appended to `out`.
void append_qualities(std::vector<double>& out, const Tensor& data, const Tensor& reconstruction, int64_t count) {
    const std::vector<real> a = data.to_host(), b = reconstruction.to_host();
    const int64_t side = data.dim(1), values = 3 * side * side;
    const size_t first = out.size();
    out.resize(first + size_t(2 * count));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; ++i) {
        double* const own = out.data() + first + 2 * i;
        own[0] = mean_squared_error(a.data() + i * values, b.data() + i * values, values);
        own[1] = structural_similarity(a.data() + i * values, b.data() + i * values, side);
    }
}

// Means over images of MSE, PSNR and SSIM.
class Quality {
public:
    // Adds an image.
    void add(double mse, double ssim) {
        mse_ += mse;
        psnr_ += psnr(mse);
        ssim_ += ssim;
        ++images_;
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

// Images, the encoder's reconstructions, and those after the z-chain.
struct ReconstructCommand::Picture {
    ImageSet data, start, revised;
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

// A batch as bytes: the qualities of its images (at the encoder's mean, then at every step of the chain from the
// encoder, then of the chain from noise), then the images to be shown (the data, the chain's start, its end).
std::string ReconstructCommand::reconstruct_batch(int64_t index, const ChainSettings& chain) {
    const int64_t first = index * batch_, wanted = wanted_in(index), shown = shown_in(index);
    const Tensor x = batch_of(test(), first);
    const uint64_t draw = uint64_t(index);
    const Start from_encoder = start_of(*models_, "encoder", x, seed(), draw),
                from_noise = start_of(*models_, "noise", x, seed(), draw);
    std::vector<double> qualities;
    ImageSet start, revised;
    append_qualities(qualities, x, generate(start_of(*models_, "mean", x, seed(), draw).z), wanted);
    watch_chain_z(*models_, from_encoder.z, x, config_.step.sigma, chain, from_encoder.noise,
                  [&](int64_t k, const Tensor& image) {
                      append_qualities(qualities, x, image, wanted);
                      if (k == 0) start = first_of(image, shown);
                      if (k == chain_z().steps) revised = first_of(image, shown);
                  });
    watch_chain_z(*models_, from_noise.z, x, config_.step.sigma, chain, from_noise.noise,
                  [&](int64_t, const Tensor& image) { append_qualities(qualities, x, image, wanted); });
    return to_bytes(qualities) + to_bytes(first_of(x, shown).pixels) + to_bytes(start.pixels) +
           to_bytes(revised.pixels);
}

// Adds such a batch to the curves and the picture.
void ReconstructCommand::add_batch(int64_t index, const std::string& bytes, Curves& curves, Picture& picture) const {
    const int64_t side = test().size;
    const size_t image = size_t(shown_in(index) * side * side * 3), numbers = bytes.size() - 3 * image;
    const std::vector<double> qualities = from_bytes<double>(bytes.substr(0, numbers));
    const double* next = qualities.data();
    const auto add = [&](Quality& to) {
        for (int64_t i = 0; i < wanted_in(index); ++i, next += 2) to.add(next[0], next[1]);
    };
    add(curves.mean);
    for (Quality& to : curves.encoder) add(to);
    for (Quality& to : curves.noise) add(to);
    if (image == 0) return;
    size_t at = numbers;
    for (ImageSet* panel : {&picture.data, &picture.start, &picture.revised}) {
        append_images(*panel, {shown_in(index), side, from_bytes<uint8_t>(bytes.substr(at, image)), ""});
        at += image;
    }
}

int64_t ReconstructCommand::wanted_in(int64_t index) const { return std::min(batch_, count_ - index * batch_); }
int64_t ReconstructCommand::shown_in(int64_t index) const {
    return std::clamp<int64_t>(picture_images - index * batch_, 0, wanted_in(index));
}

void ReconstructCommand::measure() {
    const ChainSettings chain{std::max(chain_z().steps, min_steps), chain_z().step_size, chain_z().noise_std};
    log("mse: mean squared difference per pixel and channel in [-1, 1]; psnr: 10 log10(4 / mse) per image, in dB, "
        "averaged; ssim: Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, range 2, windows inside the image, mean "
        "over channels");
    Curves curves{{}, std::vector<Quality>(size_t(chain.steps) + 1), std::vector<Quality>(size_t(chain.steps) + 1)};
    Picture picture;
    ProgressLine progress(stderr);
    share_out(
        0, (count_ + batch_ - 1) / batch_, [&](int64_t k) { return reconstruct_batch(k, chain); },
        [&](int64_t k, const std::string& bytes) {
            add_batch(k, bytes, curves, picture);
            progress.show({{0, text(k * batch_ + wanted_in(k), "/", count_)}});
        });
    progress.end();
    if (!first_rank()) return;
    write_tables(curves);
    write_grid(file("reconstruct.png"), {&picture.data, &picture.start, &picture.revised}, 8,
               picture_scale(picture.data));
    log(text("reconstruct.png: test images; the encoder's reconstructions; the same after ", chain_z().steps,
             " steps of the z-chain"));
}

}  // namespace dualmcmc
