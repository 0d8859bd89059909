// The two chains: each a loop over gradient and update.
#include "method/langevin.h"

#include "engine/graphed_function.h"

namespace dualmcmc {

namespace {

// The update of Eq. 3 and 6: x - ½ s² gradient + n U, in a new tensor, since the caller keeps the start.
Tensor langevin_step(const Tensor& x, const Tensor& gradient, const ChainSettings& s, const Noise& noise) {
    const real half_step_sq = 0.5f * s.step_size * s.step_size;
    Tensor y(x.shape());
    if (const Tensor* const given = std::get_if<Tensor>(&noise)) {
        CHECK_EQ(given->size(), x.size());
        backend().langevin_update(y.data(), x.data(), gradient.data(), given->data(), half_step_sq, s.noise_std,
                                  x.size());
    } else {
        backend().langevin_update_normal(y.data(), x.data(), gradient.data(), std::get<RandomKey>(noise), half_step_sq,
                                         s.noise_std, x.size());
    }
    return y;
}

Tensor total(const Tensor& x) {
    Tensor y(Shape{1});
    backend().sum(y.data(), x.data(), 1, x.size());
    return y;
}

}  // namespace

EnergyGradient energy_gradient(EnergyModel& ebm, const Tensor& x) {
    {
        const NoGrad no_grad;  // W / σ are constants here
        ebm.power_iteration();
    }
    const std::vector<Tensor> out = map_images(x, [&](const Tensor& some) {
        const Var images(some);
        const Var energy = ebm.energy(images);
        backward(energy, {images});
        return std::vector{energy.value(), images.grad()};
    });
    return {out[0], out[1]};
}

// T_α^x, Eq. 3.
Chain langevin_x(Tensor x, const EnergyFunction& energy, const ChainSettings& settings, const NoiseFunction& noise) {
    Chain chain;
    GraphedFunction gradient([&](const Tensor& y) {
        const EnergyGradient e = energy(y);
        return std::vector{e.energy, e.gradient};
    });
    for (int64_t k = 0; k < settings.steps; ++k) {
        const std::vector<Tensor> e = gradient(x);
        chain.trace.push_back(total(e[0]));
        x = langevin_step(x, e[1], settings, noise(k));
    }
    chain.end = x;
    return chain;
}

// T_θ^z, Eq. 6.
Chain langevin_z(Tensor z, const Tensor& x, const std::function<Var(const Var&)>& generator, real sigma,
                 const ChainSettings& settings, const NoiseFunction& noise) {
    Chain chain;
    const Var data(x), origin(Tensor::full(z.shape(), 0));
    GraphedFunction gradient([&](const Tensor& y) {
        const Var latent(y);
        const Var error = sum_squared_error(data, generator(latent));
        const Var potential =
            add(scale(error, 1 / (2 * sigma * sigma)), scale(sum_squared_error(latent, origin), 0.5f));
        backward(potential, {latent});
        return std::vector{error.value(), latent.grad()};
    });
    for (int64_t k = 0; k < settings.steps; ++k) {
        const std::vector<Tensor> e = gradient(z);
        chain.trace.push_back(e[0].clone());
        z = langevin_step(z, e[1], settings, noise(k));
    }
    chain.end = z;
    return chain;
}

}  // namespace dualmcmc
