// Samples and reconstructions, as 8-bit images in host memory.
#include "training/evaluation.h"

#include <exception>
#include <numeric>

#include "ranks/pooled_statistics.h"
#include "ranks/ranks.h"

namespace dualmcmc {

ScopedStateRestore::ScopedStateRestore(Models& models) : models_(models), exceptions_(std::uncaught_exceptions()) {
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries())
            if (!entry.trainable) saved_.emplace_back(entry.value.value(), entry.value.value().clone());
}

void ScopedStateRestore::use_averages() {
    for (const auto& [prefix, state] : models_.networks())
        for (const NamedTensor& entry : state->entries())
            if (entry.ema.defined()) {
                saved_.emplace_back(entry.value.value(), entry.value.value().clone());
                entry.value.value().copy_from(entry.ema);
            }
}

ScopedStateRestore::~ScopedStateRestore() noexcept(false) {
    try {
        for (const auto& [tensor, copy] : saved_) tensor.copy_from(copy);
    } catch (...) {
        if (std::uncaught_exceptions() == exceptions_) throw;
    }
}

std::string BatchNormMode::text(int64_t batch) const {
    if (name == "batch") return "batch norm on each batch's statistics";
    if (name == "running") return "batch norm on the running statistics of training";
    return dualmcmc::text("batch norm on the statistics of ", batches, " batches of ", batch, " samples");
}

namespace {

// Sets the running statistics to those of all pixels of all batches; variances are unbiased, as PyTorch's are.
void recalibrate(Models& models, int64_t batches, int64_t batch, uint64_t seed) {
    const auto norms = models.generator.norms();
    std::vector<PooledStatistics> pooled(norms.size());
    for (const auto& [norm, side] : norms) norm->momentum = 1;  // running statistics = the last batch's
    for (int64_t b = 0; b < batches; ++b) {
        // Steps beyond those of any sample.
        const RandomKey key = random_key(seed, RngPurpose::sample_prior, uint64_t{1} << 55 | uint64_t(b));
        NoGrad no_grad;
        models.generator(Var(Tensor::normal({batch, models.settings.latent}, key)));
        for (size_t i = 0; i < norms.size(); ++i) {
            const auto& [norm, side] = norms[i];
            pooled[i].add(norm->running_mean.to_host(), norm->running_var.to_host(), double(batch * side * side));
        }
    }
    for (size_t i = 0; i < norms.size(); ++i) {
        BatchNorm& norm = *norms[i].first;
        std::vector<real> var;
        for (const double squares : pooled[i].squares) var.push_back(real(squares / (pooled[i].count - 1)));
        norm.running_mean.copy_from_host({pooled[i].mean.begin(), pooled[i].mean.end()});
        norm.running_var.copy_from_host(var);
        norm.momentum = 0.1;
    }
}

}  // namespace

void set_batch_norm(Models& models, const BatchNormMode& mode, int64_t batch, uint64_t seed) {
    if (mode.name != "batch" && mode.name != "running" && mode.name != "recalibrated")
        fail("--batch-norm ", mode.name, ": unknown; give batch, running or recalibrated");
    constexpr int64_t most = 1'000'000;
    if (mode.batches < 1) fail("--batch-norm-batches ", mode.batches, ": must be at least 1");
    if (mode.batches > most) fail("--batch-norm-batches ", mode.batches, ": must be at most ", most);
    for (const auto& [norm, side] : models.generator.norms()) norm->use_running_stats = false;
    if (mode.name == "recalibrated") recalibrate(models, mode.batches, batch, seed);
    for (const auto& [norm, side] : models.generator.norms()) norm->use_running_stats = mode.name != "batch";
}

ImageSet pictures(const Tensor& x) { return from_floats(x.to_host().data(), x.dim(0), x.dim(1)); }

Samples draw_batch(Models& models, int64_t index, int64_t batch, const std::string& start, const ChainSettings& chain,
                   uint64_t seed, bool revise) {
    // Each batch starts from the same spectral norms, and so depends on no other.
    const ScopedStateRestore restore(models);
    const uint64_t step = uint64_t(index) << 16;
    Tensor x;
    if (start == "noise") {
        const int64_t side = models.settings.image_size();
        x = Tensor::uniform({batch, side, side, 3}, random_key(seed, RngPurpose::start_x, step), -1, 1);
    } else {
        NoGrad no_grad;
        const Tensor z =
            Tensor::normal({batch, models.settings.latent}, random_key(seed, RngPurpose::sample_prior, step));
        x = models.generator(Var(z)).value();
    }
    if (!revise) return {pictures(x), {}};
    const NoiseFunction noise = [&](int64_t k) {
        return random_key(seed, RngPurpose::sample_langevin, step + uint64_t(k));
    };
    const EnergyFunction energy = [&](const Tensor& y) { return energy_gradient(models.ebm, y); };
    return {pictures(x), pictures(langevin_x(x, energy, chain, noise).end)};
}

std::string to_bytes(const Samples& samples) {
    return to_bytes(samples.generated.pixels) + to_bytes(samples.revised.pixels);
}

Samples samples_from_bytes(const std::string& bytes, int64_t count, int64_t size) {
    const size_t one = size_t(count * size * size * 3);
    const auto images = [&](size_t first) {
        if (bytes.size() < first + one) return ImageSet{};
        return ImageSet{count, size, from_bytes<uint8_t>(bytes.substr(first, one)), ""};
    };
    return {images(0), images(one)};
}

Samples draw_samples(Models& models, int64_t count, int64_t batch, const std::string& start, const ChainSettings& chain,
                     uint64_t seed) {
    Samples out;
    share_out(
        0, (count + batch - 1) / batch,
        [&](int64_t k) { return to_bytes(draw_batch(models, k, batch, start, chain, seed)); },
        [&](int64_t, const std::string& bytes) {
            const Samples more = samples_from_bytes(bytes, batch, models.settings.image_size());
            append_images(out.generated, more.generated);
            append_images(out.revised, more.revised);
        });
    return {first_images(out.generated, count), first_images(out.revised, count)};
}

Reconstructions draw_reconstructions(Models& models, const ImageSet& data, const StepSettings& settings,
                                     uint64_t seed) {
    std::vector<int64_t> indices(static_cast<size_t>(data.count));
    std::iota(indices.begin(), indices.end(), 0);
    Shape shape{data.count, data.size, data.size, 3};
    std::vector<real> pixels(size_t(element_count(shape)));
    gather_batch(data, indices, {}, pixels.data());
    const Tensor x = Tensor::from_host(shape, pixels);

    const StepNoise noise = philox_noise(seed, 0, shape, models.settings.latent);
    auto generate = [&](const Tensor& z) {
        NoGrad no_grad;
        return models.generator(Var(z)).value();
    };
    Tensor z;
    {
        NoGrad no_grad;
        const auto [mu, logvar] = models.encoder(Var(x));
        z = reparametrise(mu, logvar, noise.reparametrise).value();
    }
    const Tensor revised = langevin_z(z, x, models.generator, settings.sigma, settings.chain_z, noise.langevin_z).end;
    return {data, pictures(generate(z)), pictures(generate(revised))};
}

}  // namespace dualmcmc
