// Samples and reconstructions, as pictures in host memory.
#include "sample.h"

#include <algorithm>
#include <numeric>

namespace dualmcmc {

KeepState::KeepState(Models& models) : models_(models) {
    for (const auto& [prefix, state] : models.networks())
        for (const StateEntry& entry : state->entries())
            if (!entry.trained) saved_.emplace_back(entry.value.value(), entry.value.value().clone());
}

void KeepState::use_averages() {
    for (const auto& [prefix, state] : models_.networks())
        for (const StateEntry& entry : state->entries())
            if (entry.average.defined()) {
                saved_.emplace_back(entry.value.value(), entry.value.value().clone());
                entry.value.value().copy_from(entry.average);
            }
}

KeepState::~KeepState() {
    for (const auto& [in_use, copy] : saved_) in_use.copy_from(copy);
}

namespace {

void append(ImageSet& set, const Tensor& x) {
    const std::vector<float> values = x.to_host();
    const ImageSet more = from_floats(values.data(), x.dim(0), x.dim(1));
    set.size = more.size;
    set.count += more.count;
    set.pixels.insert(set.pixels.end(), more.pixels.begin(), more.pixels.end());
}

}  // namespace

ImageSet first_images(const ImageSet& set, int64_t count) {
    ImageSet out = set;
    out.count = std::min(count, set.count);
    out.pixels.resize(size_t(out.count * set.size * set.size * 3));
    return out;
}

Samples draw_samples(Models& models, int64_t count, int64_t batch, const std::string& start, const ChainSettings& chain, uint64_t seed,
                     const std::function<void(int64_t)>& done) {
    Samples out;
    for (int64_t first = 0; first < count; first += batch) {
        const uint64_t step = uint64_t(first / batch) << 16;
        Tensor x;
        if (start == "noise") {
            const int64_t side = models.settings.image_size();
            x = Tensor::uniform({batch, side, side, 3}, random_key(seed, Stream::start_x, step), -1, 1);
        } else {
            NoTape no_tape;
            const Tensor z = Tensor::normal({batch, models.settings.latent}, random_key(seed, Stream::sample_prior, step));
            x = models.generator(Var(z)).value();
        }
        append(out.generated, x);
        const NoiseFunction noise = [&](int64_t k) {
            return Tensor::normal(x.shape(), random_key(seed, Stream::sample_langevin, step + uint64_t(k)));
        };
        append(out.revised, langevin_x(x, [&](const Tensor& y) { return energy_gradient(models.energy, y); }, chain, noise).end);
        if (done) done(std::min(count, first + batch));
    }
    return {first_images(out.generated, count), first_images(out.revised, count)};
}

Reconstructions reconstruct(Models& models, const ImageSet& data, const StepSettings& settings, uint64_t seed) {
    std::vector<int64_t> indices(static_cast<size_t>(data.count));
    std::iota(indices.begin(), indices.end(), 0);
    Shape shape{data.count, data.size, data.size, 3};
    std::vector<float> pixels(size_t(element_count(shape)));
    gather_batch(data, indices, {}, pixels.data());
    const Tensor x = Tensor::from_host(shape, pixels);

    const StepNoise noise = philox_noise(seed, 0, shape, models.settings.latent);
    auto generate = [&](const Tensor& z) {
        NoTape no_tape;
        return models.generator(Var(z)).value();
    };
    Tensor z;
    {
        NoTape no_tape;
        const auto [mu, logvar] = models.encoder(Var(x));
        z = reparametrise(mu, logvar, noise.reparametrise).value();
    }
    Reconstructions out;
    out.data = data;
    append(out.encoder, generate(z));
    append(out.revised, generate(langevin_z(z, x, models.generator, settings.sigma, settings.chain_z, noise.langevin_z).end));
    return out;
}

}  // namespace dualmcmc
