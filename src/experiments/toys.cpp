// Training on the plane, the truth by quadrature, one table and one picture.
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
constexpr int64_t posteriors = 16;  // data points whose posterior is compared

constexpr Grid plane{4, 160};           // of x
constexpr Grid latent_plane{4.5, 200};  // of z
constexpr double negligible = 1e-10;    // mass of a cell that a chain need not carry on

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

// -E / T at each cell.
Field log_tempered(const Tensor& energy, const StepSettings& s) {
    Field out;
    for (const float value : energy.to_host()) out.push_back(-double(value) / double(s.chain_x.temperature()));
    return out;
}

// p_θ(x) = ∫ N(z) N(x; g(z), σ²) dz.
Field generator_density(const Generator& generator, double sigma) {
    const Grid fine{5, 320};  // neighbours' Gaussians must overlap
    NoGrad no_grad;
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

// What the x-chain makes of its start, without the noise of p(x|z): the chain starts at g(z) itself, blurred here by a
// cell, or on the square [-1, 1]². `gradient`: ∇E at each cell.
Field end_of_chain_x(const Models& models, const StepSettings& s, const std::vector<Point>& gradient) {
    Field density;
    if (s.start_x == "generator") {
        density = generator_density(models.generator, plane.step());
    } else {
        for (int64_t cell = 0; cell < plane.size(); ++cell) {
            const Point p = plane.centre(cell);
            density.push_back(std::abs(p[0]) > 1 || std::abs(p[1]) > 1 ? 0 : 1 / 4.0);
        }
    }
    const double half_step = 0.5 * double(s.chain_x.step_size) * double(s.chain_x.step_size);
    const Drift drift = [&](int64_t cell) -> Point {
        return {-half_step * gradient[size_t(cell)][0], -half_step * gradient[size_t(cell)][1]};
    };
    for (int64_t k = 0; k < s.chain_x.steps; ++k)
        density = step_density(plane, density, drift, double(s.chain_x.noise_std));
    return density;
}

// Mean KL of the z-chain's density to the true posterior, at its start and at its end.
void compare_posteriors(Models& models, const StepSettings& s, const PlaneData& data, PlaneTruth& truth,
                        PlaneFields& fields) {
    const Tensor x = data.sample(posteriors, 99, 0);
    std::vector<Point> mu(posteriors, Point{0, 0}), logvar(posteriors, Point{0, 0});
    if (s.start_z == "encoder") {
        NoGrad no_grad;
        const auto [mean, log_variance] = models.encoder(Var(x));
        mu = points_of(mean.value());
        logvar = points_of(log_variance.value());
    }
    const GeneratorField g(models.generator, grid_points(latent_plane));
    const double variance = double(s.sigma) * double(s.sigma),
                 half_step = 0.5 * double(s.chain_z.step_size) * double(s.chain_z.step_size);
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
        if (i == 0) fields.posterior = posterior, fields.latent_start = density;
        const Drift drift = [&](int64_t cell) -> Point {
            const Point z = latent_plane.centre(cell), centre = g.value[size_t(cell)];
            const auto& jacobian = g.jacobian[size_t(cell)];
            const double dx = (centre[0] - target[0]) / variance, dy = (centre[1] - target[1]) / variance;
            return {-half_step * (dx * jacobian[0][0] + dy * jacobian[1][0] + z[0]),
                    -half_step * (dx * jacobian[0][1] + dy * jacobian[1][1] + z[1])};
        };
        for (int64_t k = 0; k < s.chain_z.steps; ++k)
            density = step_density(latent_plane, density, drift, double(s.chain_z.noise_std));
        after += kl_divergence(latent_plane, density, posterior) / double(posteriors);
        if (i == 0) fields.latent_revised = density;
    }
    truth.posterior_encoder = before;
    truth.posterior_revised = after;
}

}  // namespace

PlaneTruth plane_truth(Models& models, const StepSettings& s, const PlaneData& data, PlaneFields& fields) {
    PlaneTruth truth;
    fields.grid = plane;
    fields.latent_grid = latent_plane;
    fields.data = data.density(plane);
    if (s.learn_generator) {
        fields.generator = generator_density(models.generator, double(s.sigma));
        truth.data_generator = kl_divergence(plane, fields.data, fields.generator);
    }
    if (s.learn_ebm) {
        const EnergyGradient e = energy_gradient(models.ebm, grid_points(plane));
        const std::vector<Point> gradient = points_of(e.gradient);
        const Field log_density = log_tempered(e.energy, s);
        fields.ebm = normalised_exp(plane, log_density);
        const size_t peak = size_t(std::max_element(log_density.begin(), log_density.end()) - log_density.begin());
        truth.log_z = log_density[peak] - std::log(fields.ebm[peak]);
        truth.data_ebm = kl_divergence(plane, fields.data, fields.ebm);
        if (s.learn_generator) truth.ebm_generator = kl_divergence(plane, fields.ebm, fields.generator);

        if (s.chain_x.steps > 0) {
            fields.revised = end_of_chain_x(models, s, gradient);
            truth.data_revised = kl_divergence(plane, fields.data, fields.revised);
        }
    }
    if (s.learn_generator && (s.learn_encoder || s.start_z == "noise"))
        compare_posteriors(models, s, data, truth, fields);
    return truth;
}

PlaneLogZ annealed_log_z(Models& models, const StepSettings& s, const PlaneFields& fields, uint64_t seed) {
    const AnnealingSettings settings{100, 100, 5, 0.7, seed};
    const PotentialFunction target = tempered_energy(models, {2}, double(s.chain_x.temperature()));
    const Annealing annealing({StartDensity::Kind::cube, 2, fields.grid.half}, target, settings);
    const Schedule schedule = annealing.find_schedule();
    const std::vector<float> samples =
        sample_field(fields.grid, fields.ebm, settings.chains, random_key(seed, RngPurpose::sample_prior, 1)).to_host();
    const Annealing::Run forward = annealing.forward(schedule),
                         reverse = annealing.reverse(schedule, {samples.begin(), samples.end()});
    return {log_z(forward.log_weight, false), log_z(reverse.log_weight, true)};
}

StepSettings toy_settings(const std::string& method) {
    StepSettings s;
    s.chain_x = {30, 0.1f, 0.1f};  // temperature 1
    s.chain_z = {10, 0.05f, 0.05f};
    s.sigma = 0.15f;
    s.lambda_data = s.lambda_ebm = s.lambda_generated = 1;
    s.resample = false;
    s.adam_generator = s.adam_ebm = s.adam_encoder = {0, 0, 0.5, 0.999};  // the rates: train_toy
    apply_method(s, method == "exact" ? "shortrun" : method);
    if (method == "shortrun") s.chain_x.steps = 60;
    if (method == "abp")
        s.chain_z = {40, 0.1f, 0.1f};  // from noise the way is long: with the others' chain its generator collapses
    if (method == "exact") s.chain_x.steps = 0;
    return s;
}

namespace {

// An EBM that is taught by exact samples can take larger steps than one that must not run away from its chains.
float first_rate(const std::string& method) { return method == "exact" ? 5e-3f : 1e-3f; }

// Where x-chains from noise start, replaced by points of the EBM itself, drawn from a grid.
std::function<Tensor()> exact_samples(Models& models, const StepSettings& s, RandomKey key) {
    const Grid coarse{plane.half, plane.n / 2};
    NoGrad no_grad;
    const Field density = normalised_exp(coarse, log_tempered(models.ebm.forward(Var(grid_points(coarse))).value(), s));
    return [samples = sample_field(coarse, density, batch, key)] { return samples; };
}

}  // namespace

ToyRun train_toy(const std::string& name, const std::string& method, int64_t iterations, int64_t evaluations,
                 uint64_t seed) {
    const PlaneData data = plane_data(name);
    StepSettings settings = toy_settings(method);
    ModelSettings sizes;
    sizes.architecture = "toy2d";
    sizes.width_generator = sizes.width_ebm = sizes.width_encoder = width;
    sizes.latent = latent;
    Models models(sizes, seed);
    ToyRun run{name, method, {}, {}, {}};
    for (int64_t iteration = 0; iteration < iterations;) {
        // The learning rate falls to a tenth over the run.
        const float rate = first_rate(method) * std::pow(1 / 10.0f, float(iteration) / float(iterations));
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
            run.history.emplace_back(iteration, plane_truth(models, settings, data, run.fields));
    }
    if (settings.learn_ebm) run.log_z = annealed_log_z(models, settings, run.fields, seed);
    return run;
}

// ---- the command --------------------------------------------------------------------------------

namespace {

const std::vector<std::string> toy_methods{"dual", "cooperative", "triangle", "shortrun", "exact", "abp", "vae"};

// Columns of the table, in order.
const std::vector<std::pair<const char*, std::optional<double> PlaneTruth::*>> columns{
    {"data|EBM", &PlaneTruth::data_ebm},
    {"data|generator", &PlaneTruth::data_generator},
    {"data|x-chain", &PlaneTruth::data_revised},
    {"EBM|generator", &PlaneTruth::ebm_generator},
    {"z-start|post.", &PlaneTruth::posterior_encoder},
    {"z-chain|post.", &PlaneTruth::posterior_revised},
    {"log Z", &PlaneTruth::log_z}};

// Columns of the picture, in order; a latent density's own peak is its darkest colour.
struct Panel {
    const char* name;
    Field PlaneFields::*field;
    bool latent;
};
const std::vector<Panel> panels{{"data", &PlaneFields::data, false},
                                {"exp(-E/T)/Z", &PlaneFields::ebm, false},
                                {"generator", &PlaneFields::generator, false},
                                {"end of the x-chain", &PlaneFields::revised, false},
                                {"one posterior p(z|x)", &PlaneFields::posterior, true},
                                {"start of its z-chain", &PlaneFields::latent_start, true},
                                {"end of its z-chain", &PlaneFields::latent_revised, true}};
constexpr int64_t panel_side = 80;

// A density as a picture: white where there is none, dark at `highest`, grey where the method has no such model.
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

// The history: of each column, a figure for each data set, with a curve for each method.
std::string curves(const std::vector<ToyRun>& runs) {
    std::string page;
    for (const auto& [name, field] : columns)
        for (size_t first = 0; first < runs.size();) {
            std::vector<double> x;
            for (const auto& [iteration, truth] : runs[first].history) x.push_back(double(iteration));
            std::vector<Curve> lines;
            size_t next = first;
            for (; next < runs.size() && runs[next].data == runs[first].data; ++next) {
                lines.push_back({runs[next].method, {}});
                for (const auto& [iteration, truth] : runs[next].history)
                    lines.back().y.push_back((truth.*field).value_or(NAN));
            }
            page += plot(text(runs[first].data, ": ", name), "iteration", x, lines);
            first = next;
        }
    return page;
}

std::string cell(const std::optional<double>& value) {
    if (!value) return "-";
    char out[32];
    std::snprintf(out, sizeof out, "%.3f", *value);
    return out;
}

}  // namespace

ToysCommand::ToysCommand(CLI::App& app)
    : command_(app.add_subcommand(
          "toys", "all methods on densities of the plane, where the truth is known: one table, one picture")) {
    command_
        ->add_option("--data", data_,
                     "gaussians25, rings, checkerboard, moons, pinwheel; several joined by commas (default: all)")
        ->delimiter(',');
    command_
        ->add_option("--method", methods_,
                     "dual, cooperative, triangle, shortrun, exact, abp, vae; several joined by commas (default: all)")
        ->delimiter(',');
    command_->add_option("--iterations", iterations_, "of each training")->capture_default_str();
    command_->add_option("--evaluations", evaluations_, "rows of the table's history for each training")
        ->capture_default_str();
    command_->add_option("--out", out_, "folder for toys.csv, toys.png and toys.html")->capture_default_str();
    command_->add_option("--seed", seed_, "of data, noise and first parameters")->capture_default_str();
    command_->add_option("--device", device_, "as in train")->capture_default_str();
    command_->add_option("--threads", threads_, "CPU threads: as many trainings at a time")->capture_default_str();
}

int ToysCommand::run() {
    if (iterations_ < 1 || iterations_ > 10000000) fail("--iterations ", iterations_, ": must be from 1 to 10000000");
    if (evaluations_ < 1 || evaluations_ > iterations_)
        fail("--evaluations ", evaluations_, ": must be from 1 to --iterations");
    if (seed_ < 0) fail("--seed ", seed_, ": must be at least 0");
    if (data_.empty()) data_ = plane_names;
    if (methods_.empty()) methods_ = toy_methods;
    for (const std::string& name : data_) plane_data(name);
    for (const std::string& name : methods_)
        if (std::find(toy_methods.begin(), toy_methods.end(), name) == toy_methods.end())
            fail("--method ", name, ": unknown; give dual, cooperative, triangle, shortrun, exact, abp or vae");
    std::printf("device: %s\n", select_device(device_, threads_, "fp32").c_str());
    const StepSettings s = toy_settings("dual");
    std::printf(
        "%lld iterations of %lld points; perceptrons of width %lld, latent %lld, sigma %g; x-chain %lld steps of %g at "
        "temperature %g, "
        "z-chain %lld steps of %g; shortrun: %lld steps from noise; abp: %lld of %g; learning rate %g, exact: %g, "
        "falling to a tenth\n",
        (long long)iterations_, (long long)batch, (long long)width, (long long)latent, double(s.sigma),
        (long long)s.chain_x.steps, double(s.chain_x.step_size), double(s.chain_x.temperature()),
        (long long)s.chain_z.steps, double(s.chain_z.step_size), (long long)toy_settings("shortrun").chain_x.steps,
        (long long)toy_settings("abp").chain_z.steps, double(toy_settings("abp").chain_z.step_size),
        double(first_rate("dual")), double(first_rate("exact")));
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
        "\nKullback-Leibler divergences in nats and log Z, by quadrature; AIS: bounds of log Z by annealing, mean log "
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
        for (const auto& [iteration, truth] : run.history) {
            csv += text("\n", run.data, ",", run.method, ",", iteration);
            for (const auto& [name, field] : columns) csv += truth.*field ? text(",", *(truth.*field)) : ",";
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
    std::printf("\n%s/toys.png: a row for each line above; %s. Over training: %s/toys.csv, curves in %s/toys.html\n",
                out_.c_str(), names.c_str(), out_.c_str(), out_.c_str());
}

}  // namespace dualmcmc
