// Training on 2-D densities, metrics by quadrature, one table and one picture.
#include "experiments/toys.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <numbers>

#include "data/images.h"
#include "experiments/ais.h"
#include "experiments/report.h"
#include "formats/files.h"

namespace dualmcmc {

namespace {

constexpr int64_t batch = 100, latent = 2, width = 64;
constexpr int64_t posteriors = 16;  // data points whose posteriors are compared

constexpr Grid x_grid{4, 160}, z_grid{4.5, 200};
constexpr double negligible = 1e-10;  // mass of a cell below which it is dropped

// The points of an (n, 2) tensor, in double precision.
std::vector<Point> points_of(const Tensor& x) {
    const std::vector<real> values = x.to_host();
    std::vector<Point> out(values.size() / 2);
    for (size_t i = 0; i < out.size(); ++i) out[i] = {double(values[2 * i]), double(values[2 * i + 1])};
    return out;
}

double log_normal(double x, double mean, double variance) {
    return -0.5 * ((x - mean) * (x - mean) / variance + std::log(2 * std::numbers::pi * variance));
}

// g and its Jacobian at points z, by one backward pass per output.
struct GeneratorField {
    std::vector<Point> value;
    std::vector<std::array<Point, 2>> jacobian;  // [output][input]
    GeneratorField(const Generator& generator, const Tensor& z) {
        std::vector<Point> rows[2];
        for (int output = 0; output < 2; ++output) {
            const Var latents(z), x = generator(latents);
            std::vector<real> grad_output;
            for (int64_t i = 0; i < z.dim(0); ++i)
                for (int axis = 0; axis < 2; ++axis) grad_output.push_back(axis == output);
            backward(x, {latents}, Tensor::from_host(x.shape(), grad_output));
            value = points_of(x.value());
            rows[output] = points_of(latents.grad());
        }
        for (size_t i = 0; i < value.size(); ++i) jacobian.push_back({rows[0][i], rows[1][i]});
    }
};

// -E / T at each cell.
Field log_tempered(const Tensor& energy, const StepSettings& s) {
    Field out;
    for (const real value : energy.to_host()) out.push_back(-double(value) / double(s.chain_x.temperature()));
    return out;
}

// p_θ(x) = ∫ N(z) N(x; g(z), σ²) dz.
Field generator_density(const Generator& generator, double sigma) {
    const Grid fine{5, 320};  // fine enough that neighbouring Gaussians overlap
    NoGrad no_grad;
    const std::vector<Point> centres = points_of(generator(Var(grid_points(fine))).value());
    Field out(size_t(x_grid.size()), 0);
    for (int64_t cell = 0; cell < fine.size(); ++cell) {
        const Point z = fine.centre(cell);
        const double weight = std::exp(log_normal(z[0], 0, 1) + log_normal(z[1], 0, 1)) * fine.area();
        if (weight > negligible) deposit(x_grid, out, centres[size_t(cell)], sigma, weight);
    }
    return out;
}

// The drift of one step, -½ s² ∇ potential, at a cell of the grid.
using Drift = std::function<Point(int64_t cell)>;

// The density after one Langevin step: the mass of each cell moves by the drift and spreads by the noise.
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

// The density at the end of the x-chain. The chain starts at g(z) itself, without the noise of p(x|z) but blurred here
// by one cell, or uniformly on the square [-1, 1]². `gradient`: ∇E at each cell.
Field end_of_chain_x(const Models& models, const StepSettings& s, const std::vector<Point>& gradient) {
    Field density;
    if (s.start_x == "generator") {
        density = generator_density(models.generator, x_grid.step());
    } else {
        for (int64_t cell = 0; cell < x_grid.size(); ++cell) {
            const Point p = x_grid.centre(cell);
            density.push_back(std::abs(p[0]) > 1 || std::abs(p[1]) > 1 ? 0 : 1 / 4.0);
        }
    }
    const double half_step = 0.5 * double(s.chain_x.step_size) * double(s.chain_x.step_size);
    const Drift drift = [&](int64_t cell) -> Point {
        return {-half_step * gradient[size_t(cell)][0], -half_step * gradient[size_t(cell)][1]};
    };
    for (int64_t k = 0; k < s.chain_x.steps; ++k)
        density = step_density(x_grid, density, drift, double(s.chain_x.noise_std));
    return density;
}

// Mean KL divergence of the z-chain's density from the true posterior, at its start and at its end.
void compare_posteriors(Models& models, const StepSettings& s, const Density2d& data, Metrics2d& metrics,
                        Fields2d& fields) {
    const Tensor x = data.sample(posteriors, 99, 0);
    std::vector<Point> mu(posteriors, Point{0, 0}), logvar(posteriors, Point{0, 0});
    if (s.start_z == "encoder") {
        NoGrad no_grad;
        const auto [mean, log_variance] = models.encoder(Var(x));
        mu = points_of(mean.value());
        logvar = points_of(log_variance.value());
    }
    const GeneratorField g(models.generator, grid_points(z_grid));
    const double variance = double(s.sigma) * double(s.sigma),
                 half_step = 0.5 * double(s.chain_z.step_size) * double(s.chain_z.step_size);
    double before = 0, after = 0;
    for (size_t i = 0; i < posteriors; ++i) {
        const Point target = points_of(x)[i];
        Field log_posterior, log_start;
        for (int64_t cell = 0; cell < z_grid.size(); ++cell) {
            const Point z = z_grid.centre(cell), centre = g.value[size_t(cell)];
            double posterior = 0, start = 0;
            for (size_t axis = 0; axis < 2; ++axis) {
                posterior += log_normal(z[axis], 0, 1) + log_normal(target[axis], centre[axis], variance);
                start += log_normal(z[axis], mu[i][axis], std::max(std::exp(logvar[i][axis]), z_grid.area()));
            }
            log_posterior.push_back(posterior);
            log_start.push_back(start);
        }
        const Field posterior = normalized_exp(z_grid, log_posterior);
        Field density = normalized_exp(z_grid, log_start);
        before += kl_divergence(z_grid, density, posterior) / double(posteriors);
        if (i == 0) fields.posterior = posterior, fields.latent_start = density;
        const Drift drift = [&](int64_t cell) -> Point {
            const Point z = z_grid.centre(cell), centre = g.value[size_t(cell)];
            const auto& jacobian = g.jacobian[size_t(cell)];
            const double dx = (centre[0] - target[0]) / variance, dy = (centre[1] - target[1]) / variance;
            return {-half_step * (dx * jacobian[0][0] + dy * jacobian[1][0] + z[0]),
                    -half_step * (dx * jacobian[0][1] + dy * jacobian[1][1] + z[1])};
        };
        for (int64_t k = 0; k < s.chain_z.steps; ++k)
            density = step_density(z_grid, density, drift, double(s.chain_z.noise_std));
        after += kl_divergence(z_grid, density, posterior) / double(posteriors);
        if (i == 0) fields.latent_revised = density;
    }
    metrics.posterior_encoder = before;
    metrics.posterior_revised = after;
}

}  // namespace

Metrics2d exact_metrics(Models& models, const StepSettings& s, const Density2d& data, Fields2d& fields) {
    Metrics2d metrics;
    fields.grid = x_grid;
    fields.latent_grid = z_grid;
    fields.data = data.density(x_grid);
    if (s.learn_generator) {
        fields.generator = generator_density(models.generator, double(s.sigma));
        metrics.data_generator = kl_divergence(x_grid, fields.data, fields.generator);
    }
    if (s.learn_ebm) {
        const EnergyGradient e = energy_gradient(models.ebm, grid_points(x_grid));
        const std::vector<Point> gradient = points_of(e.gradient);
        const Field log_density = log_tempered(e.energy, s);
        fields.ebm = normalized_exp(x_grid, log_density);
        const size_t peak = size_t(std::max_element(log_density.begin(), log_density.end()) - log_density.begin());
        metrics.log_z = log_density[peak] - std::log(fields.ebm[peak]);
        metrics.data_ebm = kl_divergence(x_grid, fields.data, fields.ebm);
        if (s.learn_generator) metrics.ebm_generator = kl_divergence(x_grid, fields.ebm, fields.generator);

        if (s.chain_x.steps > 0) {
            fields.revised = end_of_chain_x(models, s, gradient);
            metrics.data_revised = kl_divergence(x_grid, fields.data, fields.revised);
        }
    }
    if (s.learn_generator && (s.learn_encoder || s.start_z == "noise"))
        compare_posteriors(models, s, data, metrics, fields);
    return metrics;
}

LogZBounds annealed_log_z(Models& models, const StepSettings& s, const Fields2d& fields, uint64_t seed) {
    const AnnealingSettings settings{100, 100, 5, 0.7, seed};
    const PotentialFunction target = tempered_energy(models, {2}, double(s.chain_x.temperature()));
    const Annealing annealing({StartDensity::Kind::cube, 2, fields.grid.half}, target, settings);
    const Schedule schedule = annealing.find_schedule();
    const std::vector<real> samples =
        sample_field(fields.grid, fields.ebm, settings.chains, random_key(seed, RngPurpose::sample_prior, 1)).to_host();
    const Annealing::Run forward = annealing.forward(schedule),
                         reverse = annealing.reverse(schedule, {samples.begin(), samples.end()});
    return {log_z(forward.log_weight, false), log_z(reverse.log_weight, true)};
}

const std::vector<std::string>& toy_methods() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> out = method_names;
        out.insert(std::find(out.begin(), out.end(), "shortrun") + 1, "exact");
        return out;
    }();
    return names;
}

StepSettings toy_settings(const std::string& method) {
    StepSettings s;
    s.chain_x = {30, 0.1, 0.1};  // temperature 1
    s.chain_z = {10, 0.05, 0.05};
    s.sigma = 0.15;
    s.lambda_data = s.lambda_ebm = s.lambda_generated = 1;
    s.negatives = "chain";
    s.adam_generator = s.adam_ebm = s.adam_encoder = {0, 0, 0.5, 0.999};  // learning rates: train_toy
    apply_method(s, method == "exact" ? "shortrun" : method);
    if (method == "shortrun") s.chain_x.steps = 60;
    // A chain from noise has far to go: with the chain of the other methods the generator collapses.
    if (method == "abp") s.chain_z = {40, 0.1, 0.1};
    if (method == "exact") s.chain_x.steps = 0;
    return s;
}

namespace {

// An EBM trained with exact samples can take larger steps than one that must not outrun its chains.
real first_rate(const std::string& method) { return method == "exact" ? real(5e-3) : real(1e-3); }

// Replaces the uniform start of x-chains from noise by exact samples of the EBM, drawn from a grid.
std::function<Tensor()> exact_samples(Models& models, const StepSettings& s, RandomKey key) {
    const Grid coarse{x_grid.half, x_grid.n / 2};
    NoGrad no_grad;
    const Field density = normalized_exp(coarse, log_tempered(models.ebm.forward(Var(grid_points(coarse))).value(), s));
    return [samples = sample_field(coarse, density, batch, key)] { return samples; };
}

}  // namespace

ToyRun train_toy(const std::string& name, const std::string& method, int64_t iterations, int64_t evaluations,
                 uint64_t seed) {
    const Density2d data = density2d(name);
    StepSettings settings = toy_settings(method);
    ModelSettings sizes;
    sizes.architecture = "toy2d";
    sizes.width_generator = sizes.width_ebm = sizes.width_encoder = width;
    sizes.latent = latent;
    Models models(sizes, seed);
    ToyRun run{name, method, {}, {}, {}};
    for (int64_t iteration = 0; iteration < iterations;) {
        // The learning rate decays to a tenth over the run.
        const real rate = first_rate(method) * std::pow(1 / real(10), real(iteration) / real(iterations));
        for (AdamSettings* adam : {&settings.adam_generator, &settings.adam_ebm, &settings.adam_encoder})
            adam->learning_rate = rate;
        const Tensor x = data.sample(batch, seed, uint64_t(iteration));
        StepNoise noise = philox_noise(seed, uint64_t(iteration), x.shape(), latent);
        if (method == "exact")
            noise.start_x = exact_samples(models, settings, random_key(seed, RngPurpose::start_x, uint64_t(iteration)));
        dual_mcmc_step(models, x, noise, settings, iteration + 1);
        ++iteration;
        if (iteration == iterations ||
            iteration * evaluations / iterations > (iteration - 1) * evaluations / iterations)
            run.history.emplace_back(iteration, exact_metrics(models, settings, data, run.fields));
    }
    if (settings.learn_ebm) run.log_z = annealed_log_z(models, settings, run.fields, seed);
    return run;
}

// ---- the command --------------------------------------------------------------------------------

namespace {

// Columns of the table, in order.
const std::vector<std::pair<const char*, std::optional<double> Metrics2d::*>> columns{
    {"data|EBM", &Metrics2d::data_ebm},
    {"data|generator", &Metrics2d::data_generator},
    {"data|x-chain", &Metrics2d::data_revised},
    {"EBM|generator", &Metrics2d::ebm_generator},
    {"z-start|post.", &Metrics2d::posterior_encoder},
    {"z-chain|post.", &Metrics2d::posterior_revised},
    {"log Z", &Metrics2d::log_z}};

// Columns of the picture, in order. A latent density is scaled to its own peak, the others to that of the data.
struct Panel {
    const char* name;
    Field Fields2d::*field;
    bool latent;
};
const std::vector<Panel> panels{{"data", &Fields2d::data, false},
                                {"exp(-E/T)/Z", &Fields2d::ebm, false},
                                {"generator", &Fields2d::generator, false},
                                {"end of the x-chain", &Fields2d::revised, false},
                                {"one posterior p(z|x)", &Fields2d::posterior, true},
                                {"start of its z-chain", &Fields2d::latent_start, true},
                                {"end of its z-chain", &Fields2d::latent_revised, true}};
constexpr int64_t panel_side = 80;

// A density as a picture: white at 0, dark at `highest`, grey if the method has no such model.
void append_picture(ImageSet& set, const Grid& grid, const Field& field, double highest) {
    set.size = panel_side;
    set.count += 1;
    for (int64_t row = panel_side; row-- > 0;)  // y points up
        for (int64_t column = 0; column < panel_side; ++column) {
            const auto nearest = [&](int64_t i) { return (2 * i + 1) * grid.n / (2 * panel_side); };
            double colour[3] = {0.93, 0.93, 0.93};
            if (!field.empty()) {
                const double value = std::min(1.0, field[size_t(nearest(row) * grid.n + nearest(column))] / highest),
                             shade = std::sqrt(value);
                colour[0] = 1 - 0.95 * shade, colour[1] = 1 - 0.75 * shade, colour[2] = 1 - 0.35 * value;
            }
            for (const double part : colour) set.pixels.push_back(uint8_t(std::lround(255 * part)));
        }
}

void write_picture(const std::string& path, const std::vector<ToyRun>& runs) {
    std::vector<ImageSet> sets(panels.size());
    for (const ToyRun& run : runs)
        for (size_t i = 0; i < panels.size(); ++i) {
            const Field& field = run.fields.*panels[i].field;
            const Field& scale = panels[i].latent ? field : run.fields.data;
            append_picture(sets[i], panels[i].latent ? run.fields.latent_grid : run.fields.grid, field,
                           scale.empty() ? 1 : *std::max_element(scale.begin(), scale.end()));
        }
    std::vector<const ImageSet*> pointers;
    for (const ImageSet& set : sets) pointers.push_back(&set);
    write_grid(path, pointers, 1);
}

// The history: one figure per column and data set, with one curve per method.
std::string curves(const std::vector<ToyRun>& runs) {
    std::string page;
    for (const auto& [name, field] : columns)
        for (size_t first = 0; first < runs.size();) {
            std::vector<double> x;
            for (const auto& [iteration, metrics] : runs[first].history) x.push_back(double(iteration));
            std::vector<Curve> lines;
            size_t next = first;
            for (; next < runs.size() && runs[next].data == runs[first].data; ++next) {
                lines.push_back({runs[next].method, {}});
                for (const auto& [iteration, metrics] : runs[next].history)
                    lines.back().y.push_back((metrics.*field).value_or(NAN));
            }
            page += plot(text(runs[first].data, ": ", name), "iteration", x, lines);
            first = next;
        }
    return page;
}

std::string cell(const std::optional<double>& value) { return value ? formatted("%.3f", *value) : "-"; }

}  // namespace

ToysCommand::ToysCommand(CLI::App& app)
    : command_(app.add_subcommand(
          "toys", "all methods on 2-D densities, where everything can be computed: one table, one picture")) {
    const auto joined = [](const std::vector<std::string>& names) {
        std::string out;
        for (const std::string& name : names) out += name + (&name == &names.back() ? "" : ", ");
        return out + "; separate several by commas (default: all)";
    };
    command_->add_option("--data", data_, joined(density2d_names))->delimiter(',');
    command_->add_option("--method", methods_, joined(toy_methods()))->delimiter(',');
    command_->add_option("--iterations", iterations_, "iterations per training")->capture_default_str();
    command_->add_option("--evaluations", evaluations_, "evaluations per training, rows of toys.csv")
        ->capture_default_str();
    command_->add_option("--out", out_, "folder for toys.csv, toys.png and toys.html")->capture_default_str();
    command_->add_option("--seed", seed_, "seed of data, noise and initial parameters")->capture_default_str();
    command_->add_option("--device", device_, "as in train")->capture_default_str();
    command_->add_option("--threads", threads_, "CPU threads, one training each; 0 for all")->capture_default_str();
}

void ToysCommand::print_settings() const {
    const StepSettings s = toy_settings("dual"), shortrun = toy_settings("shortrun"), abp = toy_settings("abp");
    std::printf(
        "%lld iterations of %lld points; MLPs of width %lld, latent %lld, sigma %g; x-chain %lld steps of %g at "
        "temperature %g, z-chain %lld steps of %g; shortrun: %lld steps from noise; abp: %lld of %g; learning rate %g, "
        "exact: %g, decaying to a tenth\n",
        (long long)iterations_, (long long)batch, (long long)width, (long long)latent, double(s.sigma),
        (long long)s.chain_x.steps, double(s.chain_x.step_size), double(s.chain_x.temperature()),
        (long long)s.chain_z.steps, double(s.chain_z.step_size), (long long)shortrun.chain_x.steps,
        (long long)abp.chain_z.steps, double(abp.chain_z.step_size), double(first_rate("dual")),
        double(first_rate("exact")));
}

int ToysCommand::run() {
    if (iterations_ < 1 || iterations_ > 10000000) fail("--iterations ", iterations_, ": must be from 1 to 10000000");
    if (evaluations_ < 1 || evaluations_ > iterations_)
        fail("--evaluations ", evaluations_, ": must be from 1 to --iterations");
    if (seed_ < 0) fail("--seed ", seed_, ": must be at least 0");
    if (data_.empty()) data_ = density2d_names;
    if (methods_.empty()) methods_ = toy_methods();
    for (const std::string& name : data_) density2d(name);
    for (const std::string& name : methods_)
        if (std::find(toy_methods().begin(), toy_methods().end(), name) == toy_methods().end())
            fail("--method ", name, ": unknown; give ", method_list(), ", or exact");
    std::printf("device: %s\n", select_device(device_, threads_, "fp32").c_str());
    print_settings();
    make_folder(out_);

    std::vector<ToyRun> runs(data_.size() * methods_.size());
    std::mutex lock;
    for_each_task(int64_t(runs.size()), [&](int64_t i) {
        const std::string &data = data_[size_t(i) / methods_.size()], &method = methods_[size_t(i) % methods_.size()];
        runs[size_t(i)] = train_toy(data, method, iterations_, evaluations_, uint64_t(seed_));
        std::lock_guard guard(lock);
        std::fprintf(stderr, "%s, %s: done\n", data.c_str(), method.c_str());
    });
    print_table(runs);
    write_files(runs);
    return 0;
}

void ToysCommand::print_table(const std::vector<ToyRun>& runs) const {
    std::printf(
        "\nKullback-Leibler divergences in nats and log Z, by quadrature; AIS: bounds on log Z by annealing, mean log "
        "weights\n%-13s %-12s",
        "data", "method");
    for (const auto& [name, field] : columns) std::printf("%15s", name);
    std::printf("%20s%20s\n", "AIS lower", "AIS upper");
    for (const ToyRun& run : runs) {
        std::printf("%-13s %-12s", run.data.c_str(), run.method.c_str());
        for (const auto& [name, field] : columns) std::printf("%15s", cell(run.history.back().second.*field).c_str());
        if (run.log_z)
            for (const LogZ* bound : {&run.log_z->lower, &run.log_z->upper})
                std::printf("%11.3f +- %5.3f", bound->mean, bound->error);
        std::printf("\n");
    }
}

void ToysCommand::write_files(const std::vector<ToyRun>& runs) const {
    std::string csv = "data,method,iteration";
    for (const auto& [name, field] : columns) csv += text(",", name);
    csv += ",AIS lower,AIS lower error,AIS upper,AIS upper error";
    for (const ToyRun& run : runs)
        for (const auto& [iteration, metrics] : run.history) {
            csv += text("\n", run.data, ",", run.method, ",", iteration);
            for (const auto& [name, field] : columns) csv += metrics.*field ? text(",", *(metrics.*field)) : ",";
            const bool last = run.log_z && iteration == run.history.back().first;
            if (!last) csv += ",,,,";
            else
                for (const LogZ* bound : {&run.log_z->lower, &run.log_z->upper})
                    csv += text(",", bound->mean, ",", bound->error);
        }
    write_file(out_ + "/toys.csv", csv + "\n");
    write_picture(out_ + "/toys.png", runs);
    write_file(out_ + "/toys.html",
               "<!DOCTYPE html><meta charset=\"utf-8\"><title>dualmcmc toys</title>\n" + curves(runs));
    std::string names;
    for (const Panel& panel : panels) names += text(names.empty() ? "" : ", ", panel.name);
    std::printf(
        "\n%s/toys.png: one row per line above; columns: %s. Over training: %s/toys.csv, curves in %s/toys.html\n",
        out_.c_str(), names.c_str(), out_.c_str(), out_.c_str());
}

}  // namespace dualmcmc
