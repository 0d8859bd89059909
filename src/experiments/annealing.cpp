// The start density, the moves, the path between the densities, and the weights.
#include "experiments/annealing.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "engine/layers.h"
#include "experiments/statistics.h"

namespace dualmcmc {

namespace {

constexpr int64_t max_pilot_steps = 20000;
constexpr int64_t pilot_moves = 2;        // per temperature of the pilot run
constexpr int64_t moves_at_the_end = 40;  // of the pilot run, under the target itself
constexpr double adaptation_rate = 0.3;

// The phases that use random numbers. Each move of each phase has its own draw.
enum Phase : uint64_t { pilot_phase, forward_phase, reverse_phase, target_phase };
uint64_t draw_number(Phase phase, int64_t move) { return (uint64_t(phase) << 40) + uint64_t(move); }

double sum_of_squares(const double* values, int64_t n) { return std::inner_product(values, values + n, values, 0.0); }

double log_sum_exp(const std::vector<double>& values) {
    const double largest = *std::max_element(values.begin(), values.end());
    double total = 0;
    for (const double value : values) total += std::exp(value - largest);
    return largest + std::log(total);
}

// log f - log p_0 of each chain.
std::vector<double> log_ratio(const ChainState& state) {
    std::vector<double> out;
    for (size_t i = 0; i < state.target.value.size(); ++i) out.push_back(state.start.value[i] - state.target.value[i]);
    return out;
}

double potential_between(const ChainState& state, double beta, int64_t chain) {
    return (1 - beta) * state.start.value[size_t(chain)] + beta * state.target.value[size_t(chain)];
}

// p <- p - time ∇U_β(x)
void kick(Points& momentum, const ChainState& state, double beta, double time) {
    for (size_t i = 0; i < momentum.size(); ++i)
        momentum[i] -= time * ((1 - beta) * state.start.gradient[i] + beta * state.target.gradient[i]);
}

// Resamples the path, whose points are one nat apart, at K + 1 evenly spaced positions.
Schedule spread_evenly(const Schedule& path, int64_t temperatures) {
    Schedule out;
    for (int64_t k = 0; k <= temperatures; ++k) {
        const double position = double(k) / double(temperatures) * double(path.beta.size() - 1);
        const size_t i = std::min(path.beta.size() - 2, size_t(position));
        const double share = position - double(i);
        out.beta.push_back((1 - share) * path.beta[i] + share * path.beta[i + 1]);
        out.step.push_back(std::pow(path.step[i], 1 - share) * std::pow(path.step[i + 1], share));
    }
    return out;
}

// Copies one chain from `from` to `to`.
void take_chain(ChainState& to, const ChainState& from, int64_t chain, int64_t dimension) {
    const size_t i = size_t(chain);
    const int64_t first = chain * dimension;
    to.start.value[i] = from.start.value[i];
    to.target.value[i] = from.target.value[i];
    for (const auto& [target, source] : {std::pair(&to.x, &from.x), std::pair(&to.start.gradient, &from.start.gradient),
                                         std::pair(&to.target.gradient, &from.target.gradient)})
        std::copy_n(source->begin() + first, dimension, target->begin() + first);
}

}  // namespace

// ---- p_0 ----------------------------------------------------------------------------------------

Points StartDensity::draw(int64_t count, uint64_t seed, uint64_t step) const {
    const RandomKey key = random_key(seed, RngPurpose::sample_prior, step);
    const Tensor x = kind == Kind::gaussian ? Tensor::normal({count, dimension}, key)
                                            : Tensor::uniform({count, dimension}, key, -1, 1);
    Points out;
    for (const real value : x.to_host()) out.push_back(scale * double(value));
    return out;
}

Potential StartDensity::potential(const Points& x) const {
    const int64_t count = int64_t(x.size()) / dimension;
    Potential out{std::vector<double>(size_t(count), double(dimension) * std::log(2 * scale)), Points(x.size(), 0)};
    if (kind == Kind::cube) return out;
    const double variance = scale * scale;
    const double constant = 0.5 * double(dimension) * std::log(2 * std::numbers::pi * variance);
    for (int64_t i = 0; i < count; ++i)
        out.value[size_t(i)] = sum_of_squares(x.data() + i * dimension, dimension) / (2 * variance) + constant;
    for (size_t i = 0; i < x.size(); ++i) out.gradient[i] = x[i] / variance;
    return out;
}

// Free flight between walls is periodic in 4 · scale; the second half of a period runs backwards.
void StartDensity::reflect(double& position, double& momentum) const {
    if (kind == Kind::gaussian || std::abs(position) <= scale) return;
    double along = std::fmod(position + scale, 4 * scale);
    if (along < 0) along += 4 * scale;
    if (along > 2 * scale) {
        along = 4 * scale - along;
        momentum = -momentum;
    }
    position = along - scale;
}

// ---- moves --------------------------------------------------------------------------------------

Annealing::Annealing(const StartDensity& start, const PotentialFunction& target, const AnnealingSettings& settings)
    : start_(start), target_(target), settings_(settings) {
    CHECK_GE(settings.chains, 2);
    CHECK_GE(settings.temperatures, 1);
    CHECK_GE(settings.leapfrog, 1);
}

ChainState Annealing::at(Points x) const {
    Potential start = start_.potential(x), target = target_(x);
    return {std::move(x), std::move(start), std::move(target)};
}

double Annealing::move(ChainState& state, double beta, double step, uint64_t draw) const {
    const int64_t dimension = start_.dimension, chains = int64_t(state.x.size()) / dimension;
    const std::vector<real> normals =
        Tensor::normal({chains, dimension}, random_key(settings_.seed, RngPurpose::sample_langevin, draw)).to_host();
    const std::vector<real> uniforms =
        Tensor::uniform({chains + 1}, random_key(settings_.seed, RngPurpose::shuffle, draw), 0, 1).to_host();
    const double epsilon = step * (0.8 + 0.4 * double(uniforms[size_t(chains)]));
    Points momentum(normals.begin(), normals.end());
    auto energy = [&](const ChainState& s, int64_t chain) {
        return potential_between(s, beta, chain) + 0.5 * sum_of_squares(momentum.data() + chain * dimension, dimension);
    };
    std::vector<double> before;
    for (int64_t i = 0; i < chains; ++i) before.push_back(energy(state, i));

    ChainState end = state;
    kick(momentum, end, beta, epsilon / 2);
    for (int64_t k = 0; k < settings_.leapfrog; ++k) {
        for (size_t i = 0; i < momentum.size(); ++i) {
            end.x[i] += epsilon * momentum[i];
            start_.reflect(end.x[i], momentum[i]);
        }
        end = at(std::move(end.x));
        kick(momentum, end, beta, k + 1 < settings_.leapfrog ? epsilon : epsilon / 2);
    }
    double acceptance = 0;
    for (int64_t i = 0; i < chains; ++i) {
        const double log_ratio = before[size_t(i)] - energy(end, i);
        if (!std::isfinite(log_ratio)) continue;  // the trajectory diverged
        acceptance += std::min(1.0, std::exp(log_ratio)) / double(chains);
        if (std::log(double(uniforms[size_t(i)])) < log_ratio) take_chain(state, end, i, dimension);
    }
    return acceptance;
}

double Annealing::move_on(Points& x, double step, int64_t count) const {
    ChainState state = at(std::move(x));
    double acceptance = 0;
    for (int64_t i = 0; i < count; ++i)
        acceptance += move(state, 1, step, draw_number(target_phase, i)) / double(count);
    x = std::move(state.x);
    return acceptance;
}

// ---- the path -----------------------------------------------------------------------------------

Schedule Annealing::find_schedule() const {
    ChainState state = at(start_.draw(settings_.chains, settings_.seed, draw_number(pilot_phase, 0)));
    Schedule path{{0}, {}};
    double step = 0.5 * start_.scale / std::pow(double(start_.dimension), 0.25);
    int64_t moves = 0;
    auto adapt = [&](double beta, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
            const double acceptance = move(state, beta, step, draw_number(pilot_phase, ++moves));
            step = std::min(start_.scale, step * std::exp(adaptation_rate * (acceptance - settings_.acceptance)));
        }
    };
    while (path.beta.back() < 1) {
        const double deviation = std::sqrt(variance_of(log_ratio(state)));
        if (!std::isfinite(deviation)) fail("annealing: an energy is not finite; the model cannot be used");
        if (int64_t(path.beta.size()) > max_pilot_steps)
            fail("annealing: after ", max_pilot_steps, " pilot temperatures beta is ", path.beta.back(),
                 "; give a higher --temperature");
        path.beta.push_back(std::min(1.0, path.beta.back() + 1 / deviation));
        adapt(path.beta.back(), pilot_moves);
    }
    // Chains that lag behind β lose energy and accept steps that chains in equilibrium would reject. On the way back
    // it is the other way round, so the step sizes found there are short enough.
    path.step.resize(path.beta.size());
    adapt(1, moves_at_the_end);
    for (size_t k = path.beta.size(); k-- > 0;) {
        adapt(path.beta[k], pilot_moves);
        path.step[k] = step;
    }
    return spread_evenly(path, settings_.temperatures);
}

Annealing::Run Annealing::anneal(const Schedule& schedule, Points x, bool backwards, uint64_t phase) const {
    const int64_t last = int64_t(schedule.beta.size()) - 1;
    ChainState state = at(std::move(x));
    Run run{std::vector<double>(state.target.value.size(), 0), std::vector<double>(size_t(last), 0), {}};
    for (int64_t i = 1; i <= last; ++i) {
        const int64_t k = backwards ? last + 1 - i : i;
        const double beta = schedule.beta[size_t(k)], difference = beta - schedule.beta[size_t(k - 1)];
        auto weigh = [&] {
            const std::vector<double> ratio = log_ratio(state);
            for (size_t chain = 0; chain < ratio.size(); ++chain) run.log_weight[chain] += difference * ratio[chain];
        };
        if (!backwards) weigh();
        run.acceptance[size_t(k - 1)] = move(state, beta, schedule.step[size_t(k)], draw_number(Phase(phase), i));
        if (backwards) weigh();
    }
    run.end = std::move(state.x);
    return run;
}

Annealing::Run Annealing::forward(const Schedule& schedule) const {
    return anneal(schedule, start_.draw(settings_.chains, settings_.seed, draw_number(forward_phase, 0)), false,
                  forward_phase);
}

Annealing::Run Annealing::reverse(const Schedule& schedule, const Points& samples) const {
    return anneal(schedule, samples, true, reverse_phase);
}

LogZ log_z(const std::vector<double>& log_weight, bool reverse) {
    const double sign = reverse ? -1 : 1, count = double(log_weight.size());
    std::vector<double> once, twice;
    for (const double w : log_weight) once.push_back(sign * w), twice.push_back(2 * sign * w);
    return {mean_of(log_weight), std::sqrt(variance_of(log_weight) / count),
            sign * (log_sum_exp(once) - std::log(count)), std::exp(2 * log_sum_exp(once) - log_sum_exp(twice))};
}

}  // namespace dualmcmc
