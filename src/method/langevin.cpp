// The two chains: each a loop over gradient and update.
#include "method/langevin.h"

#include <algorithm>

#include "engine/graphed_function.h"

namespace dualmcmc {

namespace {

// y <- x - ½ s² gradient + n U, in a new tensor: the caller's start stays as it is.
Tensor langevin_step(const Tensor& x, const Tensor& gradient, const ChainSettings& s, const Noise& noise) {
    const float drift = 0.5f * s.step_size * s.step_size;
    Tensor y(x.shape());
    if (const Tensor* const given = std::get_if<Tensor>(&noise)) {
        CHECK_EQ(given->size(), x.size());
        backend().langevin_update(y.data(), x.data(), gradient.data(), given->data(), drift, s.noise, x.size());
    } else {
        backend().langevin_update_normal(y.data(), x.data(), gradient.data(), std::get<RandomKey>(noise), drift, s.noise, x.size());
    }
    return y;
}

Tensor total(const Tensor& x) {
    Tensor y(Shape{1});
    backend().sum(y.data(), x.data(), 1, x.size());
    return y;
}

// So many numbers, 5 CIFAR-10 images, go through the EBM together on one core: enough to fill tiles, few enough for the cache.
constexpr int64_t numbers_per_group = 5 * 32 * 32 * 3;

}  // namespace

EnergyGradient energy_gradient(EnergyModel& model, const Tensor& x) {
    {
        NoTape no_tape;  // W / σ are constants here
        model.normalise_weights();
    }
    const int64_t batch = x.dim(0), pixels = x.size() / batch;
    const int64_t group = backend().concurrent ? std::max<int64_t>(1, numbers_per_group / pixels) : batch;
    EnergyGradient out{Tensor(Shape{batch}), Tensor(x.shape())};
    parallel_tasks((batch + group - 1) / group, [&](int64_t task) {
        const int64_t first = task * group, count = std::min(group, batch - first);
        const Var images(x.view(first, count));
        const Var energy = model.energy(images);
        backend().copy(out.energy.data() + first, energy.value().data(), count);
        backward(energy, {images});
        backend().copy(out.gradient.data() + first * pixels, images.grad().data(), count * pixels);
    });
    return out;
}

Chain langevin_x(Tensor x, const EnergyFunction& energy, const ChainSettings& settings, const NoiseFunction& noise) {
    Chain chain;
    Repeated gradient([&](const Tensor& y) {
        const EnergyGradient e = energy(y);
        return std::vector{e.energy, e.gradient};
    });
    for (int64_t k = 0; k < settings.steps; ++k) {
        const std::vector<Tensor> e = gradient(x);
        chain.profile.push_back(total(e[0]));
        x = langevin_step(x, e[1], settings, noise(k));
    }
    chain.end = x;
    return chain;
}

Chain langevin_z(Tensor z, const Tensor& x, const std::function<Var(const Var&)>& generator, float sigma,
                 const ChainSettings& settings, const NoiseFunction& noise) {
    Chain chain;
    const float batch = float(x.dim(0));
    const Var data(x), origin(Tensor::full(z.shape(), 0));
    Repeated gradient([&](const Tensor& y) {
        const Var latent(y);
        const Var error = scale(squared_error(data, generator(latent)), batch);
        const Var potential = add(scale(error, 1 / (2 * sigma * sigma)), scale(squared_error(latent, origin), 0.5f * batch));
        backward(potential, {latent});
        return std::vector{error.value(), latent.grad()};
    });
    for (int64_t k = 0; k < settings.steps; ++k) {
        const std::vector<Tensor> e = gradient(z);
        chain.profile.push_back(e[0].clone());
        z = langevin_step(z, e[1], settings, noise(k));
    }
    chain.end = z;
    return chain;
}

}  // namespace dualmcmc
