// Annealed importance sampling of the EBM, and its bounds as bits per dimension.
#include "experiments/ais.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>

#include "experiments/statistics.h"
#include "training/evaluation.h"

namespace dualmcmc {

PotentialFunction tempered_energy(Models& models, const Shape& point, double temperature) {
    return [&models, point, temperature](const Points& x) {
        const ScopedStateRestore restore(models);
        Shape shape{int64_t(x.size()) / element_count(point)};
        shape.insert(shape.end(), point.begin(), point.end());
        const EnergyGradient e =
            energy_gradient(models.ebm, Tensor::from_host(shape, std::vector<real>(x.begin(), x.end())));
        const std::vector<real> energy = e.energy.to_host(), gradient = e.gradient.to_host();
        Potential out{{energy.begin(), energy.end()}, {gradient.begin(), gradient.end()}};
        for (double& value : out.value) value /= temperature;
        for (double& value : out.gradient) value /= temperature;
        return out;
    };
}

double bits_per_dimension(double potential, double log_z, int64_t dimension) {
    return (potential + log_z) / (double(dimension) * std::numbers::ln2) + std::log2(127.5);
}

double log_cell_volume(int64_t dimension) { return -double(dimension) * std::log(127.5); }

namespace {
// x + (u - ½) / 127.5, u uniform in (0, 1], of images x.
Points dequantise(Points x, RandomKey key) {
    const std::vector<real> u = Tensor::uniform({int64_t(x.size())}, key, 0, 1).to_host();
    for (size_t i = 0; i < x.size(); ++i) x[i] += (double(u[i]) - 0.5) / 127.5;
    return x;
}
}  // namespace

CellBound cell_bound(const PotentialFunction& potential, const Points& image, int64_t draws, int64_t batch,
                     uint64_t seed) {
    std::vector<double> values;
    // From the largest step of a key downwards: none that the images themselves are dequantised with.
    for (uint64_t step = (uint64_t(1) << 56) - 1; int64_t(values.size()) < draws; --step) {
        Points x;
        for (int64_t i = 0; i < std::min(batch, draws - int64_t(values.size())); ++i)
            x.insert(x.end(), image.begin(), image.end());
        const std::vector<double> more =
            potential(dequantise(std::move(x), random_key(seed, RngPurpose::start_x, step))).value;
        values.insert(values.end(), more.begin(), more.end());
    }
    return {log_cell_volume(int64_t(image.size())) - mean_of(values), std::sqrt(variance_of(values) / double(draws))};
}

AisCommand::AisCommand(CLI::App& app)
    : Experiment(app, "ais", "bounds on log Z of the EBM and on the bits per dimension of test images", 100,
                 "test images") {
    command_->add_option("--chains", annealing_.chains, "chains in each direction")->capture_default_str();
    command_
        ->add_option("--temperatures", annealing_.temperatures, "temperatures between the uniform density and the EBM")
        ->capture_default_str();
    command_->add_option("--leapfrog", annealing_.leapfrog, "leapfrog steps per move")->capture_default_str();
    command_
        ->add_option("--acceptance", annealing_.acceptance, "acceptance rate that the pilot run tunes the moves for")
        ->capture_default_str();
    command_
        ->add_option("--reverse-from", reverse_from_,
                     "start of the reverse chains: ends (of the forward chains) or images (test images)")
        ->capture_default_str();
    command_->add_option("--settle", settle_, "moves under the EBM itself before the reverse run")
        ->capture_default_str();
    command_->add_option("--temperature", temperature_, "T (default: that of training, (noise-x / step-size-x)^2)");
}

void AisCommand::check() const {
    if (annealing_.chains < 2 || annealing_.chains > 65536)
        fail("--chains ", annealing_.chains, ": must be from 2 to 65536");
    if (annealing_.temperatures < 1 || annealing_.temperatures > 10'000'000)
        fail("--temperatures ", annealing_.temperatures, ": must be from 1 to 10000000");
    if (annealing_.leapfrog < 1 || annealing_.leapfrog > 65536)
        fail("--leapfrog ", annealing_.leapfrog, ": must be from 1 to 65536");
    if (!(annealing_.acceptance > 0 && annealing_.acceptance < 1))
        fail("--acceptance ", annealing_.acceptance, ": must be above 0 and below 1");
    if (reverse_from_ != "ends" && reverse_from_ != "images")
        fail("--reverse-from ", reverse_from_, ": unknown; give ends or images");
    if (settle_ < 0 || settle_ > 10'000'000) fail("--settle ", settle_, ": must be from 0 to 10000000");
    if (command_->count("--temperature") && !(temperature_ > 0 && std::isfinite(temperature_)))
        fail("--temperature ", temperature_, ": must be above 0");
}

// One batch of test images, starting at `first`.
Points AisCommand::dequantized(int64_t first) const {
    const std::vector<real> x = batch_of(test(), first).to_host();
    return dequantise({x.begin(), x.end()}, random_key(seed(), RngPurpose::start_x, uint64_t(first)));
}

std::vector<double> AisCommand::image_potentials(const PotentialFunction& potential) {
    std::vector<double> out;
    for (int64_t first = 0; first < count_; first += batch_) {
        const std::vector<double> values = potential(dequantized(first)).value;
        out.insert(out.end(), values.begin(), values.begin() + std::min(batch_, count_ - first));
    }
    return out;
}

void AisCommand::log_run(const std::string& name, const LogZ& z, const std::vector<double>& acceptance) {
    log(text(name, ": log Z ", digits(z.mean), " +- ", z.error, " (mean log weight), ", digits(z.log_mean),
             " (log mean weight); effective chains ", z.effective, " of ", annealing_.chains, "; acceptance ",
             mean_of(acceptance), " on average, at least ", *std::min_element(acceptance.begin(), acceptance.end())));
}

// Exact samples of the EBM cannot be drawn. These, after some moves under the EBM, take their place.
Points AisCommand::reverse_start(const Annealing::Run& forward) const {
    if (reverse_from_ == "ends") return forward.end;
    Points out;
    for (int64_t first = 0; out.size() < forward.end.size(); first += batch_) {
        const Points batch = dequantized(first);
        out.insert(out.end(), batch.begin(), batch.end());
    }
    out.resize(forward.end.size());
    return out;
}

// Of the image with the lowest energy.
CellBound AisCommand::best_cell(const PotentialFunction& potential, const std::vector<double>& data) const {
    const int64_t index = std::min_element(data.begin(), data.end()) - data.begin();
    const std::vector<real> image = image_batch(test(), index, 1).to_host();
    return cell_bound(potential, {image.begin(), image.end()}, 100, batch_, seed());
}

void AisCommand::log_bits(const std::vector<double>& data, const CellBound& cell, double lower, double upper) {
    const int64_t dimension = 3 * test().size * test().size;
    log(text("log Z is at least ", digits(cell.log_z), " +- ", cell.error,
             ", from the pixel cell of the test image with the lowest energy alone"));
    const bool refuted = cell.log_z > upper;
    if (refuted)
        log("this contradicts the bound of the reverse run: its chains are not samples of the EBM, so there is no "
            "upper bound on log Z");
    lower = std::max(lower, cell.log_z);
    if (refuted) upper = INFINITY;
    Csv bits({"image", "potential", "bits_lower", "bits_upper"});
    for (size_t i = 0; i < data.size(); ++i)
        bits.row({double(i), data[i], bits_per_dimension(data[i], lower, dimension),
                  bits_per_dimension(data[i], upper, dimension)});
    bits.write(file("bits.csv"));
    log(text("bits per dimension of ", data.size(), " dequantised test images (8: uniform density): at least ",
             bits_per_dimension(mean_of(data), lower, dimension), ", at most ",
             bits_per_dimension(mean_of(data), upper, dimension)));
}

void AisCommand::write_tables(const Schedule& schedule, const Annealing::Run& forward, const Annealing::Run& reverse) {
    Csv path({"k", "beta", "step", "acceptance_forward", "acceptance_reverse"}),
        table({"direction", "mean", "error", "log_mean", "effective_chains"});
    for (size_t k = 1; k < schedule.beta.size(); ++k)
        path.row({double(k), schedule.beta[k], schedule.step[k], forward.acceptance[k - 1], reverse.acceptance[k - 1]});
    for (const auto& [name, z] : {std::pair("forward", log_z(forward.log_weight, false)),
                                  std::pair("reverse", log_z(reverse.log_weight, true))})
        table.row(name, {z.mean, z.error, z.log_mean, z.effective});
    table.write(file("ais.csv"));
    path.write(file("path.csv"));
}

void AisCommand::measure() {
    const int64_t side = config_.model.image_size(), dimension = 3 * side * side;
    const double temperature = temperature_ > 0 ? temperature_ : double(config_.step.chain_x.temperature());
    annealing_.seed = seed();
    // Positions, momenta and gradients in double precision, and the images that the EBM sees.
    check_host_memory("--chains", annealing_.chains, double(dimension) * (3 * sizeof(double) + sizeof(real)));
    log(text("annealing: ", annealing_.chains, " chains, ", annealing_.temperatures, " temperatures, moves of ",
             annealing_.leapfrog, " leapfrog steps; from the uniform density on [-h, h]^", dimension,
             ", h = 256/255, to exp(-E/T) on it, T = ", temperature));
    const PotentialFunction potential = tempered_energy(*models_, {side, side, 3}, temperature);
    const std::vector<double> data = image_potentials(potential);
    const CellBound cell = best_cell(potential, data);
    const Annealing annealing({StartDensity::Kind::cube, dimension, image_cube}, potential, annealing_);
    const auto stage = [](const char* name) { std::fprintf(stderr, "%s ...\n", name); };  // each takes minutes
    stage("pilot run: temperatures and step sizes");
    const Schedule schedule = annealing.find_schedule();
    stage("forward run");
    const Annealing::Run forward = annealing.forward(schedule);
    const LogZ lower = log_z(forward.log_weight, false);
    log_run("forward, a lower bound", lower, forward.acceptance);
    stage("moves under the EBM, and reverse run");
    const Points start = reverse_start(forward);
    Points samples = start;
    const double settled = annealing.move_on(samples, schedule.step.back(), settle_);
    const std::vector<double> before = potential(start).value, after = potential(samples).value;
    log(text("mean E/T of the ", reverse_from_, ": ", digits(mean_of(before)), ", after ", settle_,
             " moves under the EBM: ", digits(mean_of(after)), " (acceptance ", settled,
             "); of the test images: ", digits(mean_of(data))));
    const Annealing::Run reverse = annealing.reverse(schedule, samples);
    const LogZ upper = log_z(reverse.log_weight, true);
    log_run("reverse, an upper bound if it starts from samples of the EBM, which cannot be verified", upper,
            reverse.acceptance);
    if (std::min(*std::min_element(after.begin(), after.end()), *std::min_element(data.begin(), data.end())) < 0)
        log("E is negative for some images: without the walls of the cube Z would be infinite, since E(lambda x) = "
            "lambda E(x)");
    log_bits(data, cell, lower.mean, upper.mean);
    write_tables(schedule, forward, reverse);

    const ImageSet ends = pictures(
        Tensor::from_host({annealing_.chains, side, side, 3}, std::vector<real>(samples.begin(), samples.end())));
    const ImageSet shown = first_images(ends, 64);
    write_grid(file("settled.png"), {&shown}, 8, picture_scale(shown));
    log("settled.png: the chains after their moves under the EBM itself");
}

}  // namespace dualmcmc
