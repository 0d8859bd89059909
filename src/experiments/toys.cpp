// Training on the plane, the truth by quadrature, one table and one picture.
#include "experiments/toys.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <numbers>

#include "files.h"
#include "image.h"

namespace dualmcmc {

namespace {

constexpr int64_t batch = 100, latent = 2, width = 32;
constexpr int64_t posteriors = 16;  // data points whose posterior is compared

constexpr Grid plane{4, 160};        // of x
constexpr Grid latent_plane{4.5, 200}; // of z
constexpr double negligible = 1e-10; // mass of a cell that a chain need not carry on

// The numbers of an (n, 2) tensor, in double precision.
std::vector<Point> points_of(const Tensor& x) {
    const std::vector<float> values = x.to_host();
    std::vector<Point> out(values.size() / 2);
    for (size_t i = 0; i < out.size(); ++i) out[i] = {double(values[2 * i]), double(values[2 * i + 1])};
    return out;
}

double log_normal(double x, double mean, double variance) {
    return -0.5 * ((x - mean) * (x - mean) / variance + std::log(2 * std::numbers::pi * variance));
}

// g and its Jacobian at points z: a backward pass for each output.
struct GeneratorField {
    std::vector<Point> value;
    std::vector<std::array<Point, 2>> jacobian;  // [output][input]
    GeneratorField(const Generator& generator, const Tensor& z) {
        std::vector<Point> rows[2];
        for (int output = 0; output < 2; ++output) {
            const Var latents(z), x = generator(latents);
            std::vector<float> seed;
            for (int64_t i = 0; i < z.dim(0); ++i)
                for (int axis = 0; axis < 2; ++axis) seed.push_back(axis == output);
            backward(x, {latents}, Tensor::from_host(x.shape(), seed));
            value = points_of(x.value());
            rows[output] = points_of(latents.grad());
        }
        for (size_t i = 0; i < value.size(); ++i) jacobian.push_back({rows[0][i], rows[1][i]});
    }
};

// p_θ(x) = ∫ N(z) N(x; g(z), σ²) dz.
Field generator_density(const Generator& generator, double sigma) {
    const Grid fine{5, 320};  // neighbours' Gaussians must overlap
    NoTape no_tape;
    const std::vector<Point> centres = points_of(generator(Var(grid_points(fine))).value());
    Field out(size_t(plane.size()), 0);
    for (int64_t cell = 0; cell < fine.size(); ++cell) {
        const Point z = fine.centre(cell);
        const double weight = std::exp(log_normal(z[0], 0, 1) + log_normal(z[1], 0, 1)) * fine.area();
        if (weight > negligible) deposit(plane, out, centres[size_t(cell)], sigma, weight);
    }
    return out;
}

// One step's drift, -½ s² ∇ potential, at each cell of the grid.
using Drift = std::function<Point(int64_t cell)>;

// The density after one Langevin step: each cell's mass moves by the drift and spreads by the noise.
Field step_density(const Grid& grid, const Field& density, const Drift& drift, double noise) {
    Field out(density.size(), 0);
    for (int64_t cell = 0; cell < grid.size(); ++cell) {
        const double mass = density[size_t(cell)] * grid.area();
        if (mass < negligible) continue;
        const Point centre = grid.centre(cell), move = drift(cell);
        deposit(grid, out, {centre[0] + move[0], centre[1] + move[1]}, noise, mass);
    }
    return out;
}

// Mean KL of the z-chain's density to the true posterior, at its start and at its end.
void compare_posteriors(Models& models, const StepSettings& s, const PlaneData& data, PlaneTruth& truth) {
    const Tensor x = data.sample(posteriors, 99, 0);
    std::vector<Point> mu(posteriors, Point{0, 0}), logvar(posteriors, Point{0, 0});
    if (s.start_z == "encoder") {
        NoTape no_tape;
        const auto [mean, log_variance] = models.encoder(Var(x));
        mu = points_of(mean.value());
        logvar = points_of(log_variance.value());
    }
    const GeneratorField g(models.generator, grid_points(latent_plane));
    const double variance = double(s.sigma) * double(s.sigma), half_step = 0.5 * double(s.chain_z.step_size) * double(s.chain_z.step_size);
    double before = 0, after = 0;
    for (size_t i = 0; i < posteriors; ++i) {
        const Point target = points_of(x)[i];
        Field log_posterior, log_start;
        for (int64_t cell = 0; cell < latent_plane.size(); ++cell) {
            const Point z = latent_plane.centre(cell), centre = g.value[size_t(cell)];
            double posterior = 0, start = 0;
            for (size_t axis = 0; axis < 2; ++axis) {
                posterior += log_normal(z[axis], 0, 1) + log_normal(target[axis], centre[axis], variance);
                start += log_normal(z[axis], mu[i][axis], std::max(std::exp(logvar[i][axis]), latent_plane.area()));
            }
            log_posterior.push_back(posterior);
            log_start.push_back(start);
        }
        const Field posterior = normalised_exp(latent_plane, log_posterior);
        Field density = normalised_exp(latent_plane, log_start);
        before += kl_divergence(latent_plane, density, posterior) / double(posteriors);
        const Drift drift = [&](int64_t cell) -> Point {
            const Point z = latent_plane.centre(cell), centre = g.value[size_t(cell)];
            const auto& jacobian = g.jacobian[size_t(cell)];
            const double dx = (centre[0] - target[0]) / variance, dy = (centre[1] - target[1]) / variance;
            return {-half_step * (dx * jacobian[0][0] + dy * jacobian[1][0] + z[0]), -half_step * (dx * jacobian[0][1] + dy * jacobian[1][1] + z[1])};
        };
        for (int64_t k = 0; k < s.chain_z.steps; ++k) density = step_density(latent_plane, density, drift, double(s.chain_z.noise));
        after += kl_divergence(latent_plane, density, posterior) / double(posteriors);
    }
    truth.posterior_encoder = before;
    truth.posterior_revised = after;
}

}  // namespace

PlaneTruth plane_truth(Models& models, const StepSettings& s, const PlaneData& data, PlaneFields& fields) {
    PlaneTruth truth;
    fields.grid = plane;
    fields.data = data.density(plane);
    if (s.learn_generator) {
        fields.generator = generator_density(models.generator, double(s.sigma));
        truth.data_generator = kl_divergence(plane, fields.data, fields.generator);
    }
    if (s.learn_ebm) {
        const EnergyGradient e = energy_gradient(models.energy, grid_points(plane));
        const std::vector<float> energy = e.energy.to_host();
        const std::vector<Point> gradient = points_of(e.gradient);
        Field log_density;
        for (const float value : energy) log_density.push_back(-double(value) / double(s.chain_x.temperature()));
        fields.ebm = normalised_exp(plane, log_density);
        truth.data_ebm = kl_divergence(plane, fields.data, fields.ebm);
        if (s.learn_generator) truth.ebm_generator = kl_divergence(plane, fields.ebm, fields.generator);

        // What the x-chain makes of its start, without the noise of p(x|z): the chain starts at g(z) itself, blurred here by a cell.
        Field density(size_t(plane.size()), 1 / (4.0 * 1.0 * 1.0));
        if (s.start_x == "noise")
            for (int64_t cell = 0; cell < plane.size(); ++cell)
                if (const Point p = plane.centre(cell); std::abs(p[0]) > 1 || std::abs(p[1]) > 1) density[size_t(cell)] = 0;
        if (s.start_x == "generator") density = generator_density(models.generator, plane.step());
        const double half_step = 0.5 * double(s.chain_x.step_size) * double(s.chain_x.step_size);
        const Drift drift = [&](int64_t cell) -> Point {
            return {-half_step * gradient[size_t(cell)][0], -half_step * gradient[size_t(cell)][1]};
        };
        for (int64_t k = 0; k < s.chain_x.steps; ++k) density = step_density(plane, density, drift, double(s.chain_x.noise));
        fields.revised = density;
        truth.data_revised = kl_divergence(plane, fields.data, density);
    }
    if (s.learn_generator && (s.learn_encoder || s.start_z == "noise")) compare_posteriors(models, s, data, truth);
    return truth;
}

StepSettings toy_settings(const std::string& method) {
    StepSettings s;
    s.chain_x = {20, 0.1f, 0.1f};  // temperature 1
    s.chain_z = {10, 0.05f, 0.05f};
    s.sigma = 0.1f;
    s.lambda_data = s.lambda_ebm = s.lambda_prior = 1;
    s.resample = false;
    s.adam_generator = s.adam_ebm = s.adam_encoder = {0, 0};  // the rates: train_toy
    apply_method(s, method);
    return s;
}

ToyRun train_toy(const std::string& name, const std::string& method, int64_t iterations, int64_t evaluations, uint64_t seed) {
    const PlaneData data = plane_data(name);
    StepSettings settings = toy_settings(method);
    ModelSettings sizes;
    sizes.architecture = "toy2d";
    sizes.width_generator = sizes.width_ebm = sizes.width_encoder = width;
    sizes.latent = latent;
    Models models(sizes, seed);
    ToyRun run{name, method, {}, {}};
    for (int64_t iteration = 0; iteration < iterations;) {
        // The learning rate falls to a thirtieth over the run.
        const float rate = 3e-3f * std::pow(1 / 30.0f, float(iteration) / float(iterations));
        for (AdamSettings* adam : {&settings.adam_generator, &settings.adam_ebm, &settings.adam_encoder}) adam->learning_rate = rate;
        const Tensor x = data.sample(batch, seed, uint64_t(iteration));
        dual_mcmc_step(models, x, philox_noise(seed, uint64_t(iteration), x.shape(), latent), settings, iteration + 1);
        ++iteration;
        if (iteration == iterations || iteration * evaluations / iterations > (iteration - 1) * evaluations / iterations)
            run.history.emplace_back(iteration, plane_truth(models, settings, data, run.fields));
    }
    return run;
}

// ---- the command ----------------------------------------------------------------------------------------------------------------

namespace {

// Columns of the table, in order.
const std::vector<std::pair<const char*, std::optional<double> PlaneTruth::*>> columns{
    {"data|EBM", &PlaneTruth::data_ebm},           {"data|generator", &PlaneTruth::data_generator}, {"data|x-chain", &PlaneTruth::data_revised},
    {"EBM|generator", &PlaneTruth::ebm_generator}, {"z-start|post.", &PlaneTruth::posterior_encoder}, {"z-chain|post.", &PlaneTruth::posterior_revised}};

// A density as a picture: white where there is none, dark where it is as high as the data's highest.
void append_picture(ImageSet& set, const Field& field, double highest, int64_t n) {
    set.size = n;
    set.count += 1;
    for (int64_t row = n; row-- > 0;)  // y points up
        for (int64_t column = 0; column < n; ++column) {
            const double value = field.empty() ? 0 : std::min(1.0, field[size_t(row * n + column)] / highest), shade = std::sqrt(value);
            const double colour[3] = {field.empty() ? 0.93 : 1 - 0.95 * shade, field.empty() ? 0.93 : 1 - 0.75 * shade, field.empty() ? 0.93 : 1 - 0.35 * value};
            for (const double part : colour) set.pixels.push_back(uint8_t(std::lround(255 * part)));
        }
}

std::string cell(const std::optional<double>& value) {
    if (!value) return "-";
    char out[32];
    std::snprintf(out, sizeof out, "%.3f", *value);
    return out;
}

}  // namespace

ToysCommand::ToysCommand(CLI::App& app)
    : command_(app.add_subcommand("toys", "all methods on densities of the plane, where the truth is known: one table, one picture")) {
    command_->add_option("--data", data_, "gaussians25, rings, checkerboard, moons, pinwheel; several joined by commas (default: all)")->delimiter(',');
    command_->add_option("--method", methods_, "dual, cooperative, triangle, shortrun, abp, vae; several joined by commas (default: all)")->delimiter(',');
    command_->add_option("--iterations", iterations_, "of each training")->capture_default_str();
    command_->add_option("--evaluations", evaluations_, "rows of the table's history for each training")->capture_default_str();
    command_->add_option("--out", out_, "folder for toys.csv and toys.png")->capture_default_str();
    command_->add_option("--seed", seed_)->capture_default_str();
    command_->add_option("--device", device_)->capture_default_str();
    command_->add_option("--threads", threads_, "CPU threads: as many trainings at a time")->capture_default_str();
}

int ToysCommand::run() {
    if (iterations_ < 1 || iterations_ > 10000000) fail("--iterations ", iterations_, ": must be from 1 to 10000000");
    if (evaluations_ < 1 || evaluations_ > iterations_) fail("--evaluations ", evaluations_, ": must be from 1 to --iterations");
    if (seed_ < 0) fail("--seed ", seed_, ": must be at least 0");
    if (data_.empty()) data_ = plane_names;
    if (methods_.empty()) methods_ = method_names;
    for (const std::string& name : data_) plane_data(name);
    for (const std::string& name : methods_) toy_settings(name);
    std::printf("device: %s\n", select_device(device_, threads_).c_str());
    const StepSettings s = toy_settings("dual");
    std::printf("%lld iterations of %lld points; perceptrons of width %lld, latent %lld, sigma %g; x-chain %lld steps of %g at temperature %g, "
                "z-chain %lld steps of %g\n", (long long)iterations_, (long long)batch, (long long)width, (long long)latent, double(s.sigma),
                (long long)s.chain_x.steps, double(s.chain_x.step_size), double(s.chain_x.temperature()), (long long)s.chain_z.steps,
                double(s.chain_z.step_size));
    std::error_code error;
    std::filesystem::create_directories(out_, error);
    if (error) fail("--out: cannot make the folder ", out_, ": ", error.message());

    std::vector<ToyRun> runs(data_.size() * methods_.size());
    std::mutex lock;
    parallel_tasks(int64_t(runs.size()), [&](int64_t i) {
        const std::string &data = data_[size_t(i) / methods_.size()], &method = methods_[size_t(i) % methods_.size()];
        runs[size_t(i)] = train_toy(data, method, iterations_, evaluations_, uint64_t(seed_));
        std::lock_guard guard(lock);
        std::fprintf(stderr, "%s, %s: done\n", data.c_str(), method.c_str());
    });

    std::string csv = "data,method,iteration";
    for (const auto& [name, field] : columns) csv += text(",", name);
    std::printf("\nKullback-Leibler divergences in nats, by quadrature\n%-13s %-12s", "data", "method");
    for (const auto& [name, field] : columns) std::printf("%15s", name);
    std::printf("\n");
    ImageSet panels[4];
    for (const ToyRun& run : runs) {
        for (const auto& [iteration, truth] : run.history) {
            csv += text("\n", run.data, ",", run.method, ",", iteration);
            for (const auto& [name, field] : columns) csv += truth.*field ? text(",", *(truth.*field)) : ",";
        }
        std::printf("%-13s %-12s", run.data.c_str(), run.method.c_str());
        for (const auto& [name, field] : columns) std::printf("%15s", cell(run.history.back().second.*field).c_str());
        std::printf("\n");
        const double highest = *std::max_element(run.fields.data.begin(), run.fields.data.end());
        int panel = 0;
        for (const Field* field : {&run.fields.data, &run.fields.ebm, &run.fields.generator, &run.fields.revised})
            append_picture(panels[panel++], *field, highest, run.fields.grid.n);
    }
    csv += "\n";
    AtomicFile file(out_ + "/toys.csv");
    file.write(csv.data(), int64_t(csv.size()));
    file.commit();
    write_grid(out_ + "/toys.png", {&panels[0], &panels[1], &panels[2], &panels[3]}, 1);
    std::printf("\n%s/toys.png: a row for each line above; data, exp(-E/T)/Z, generator, end of the x-chain. History over training: %s/toys.csv\n",
                out_.c_str(), out_.c_str());
    return 0;
}

}  // namespace dualmcmc
