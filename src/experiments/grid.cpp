// The grid: files, budget, measuring; then, in the order of a run, flags and variants, training, tables.
#include "experiments/grid.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>

#include "data/pictures.h"
#include "experiments/common.h"
#include "experiments/grid_files.h"
#include "experiments/reconstruct.h"
#include "experiments/report.h"
#include "experiments/statistics_distance.h"
#include "formats/crc32.h"
#include "formats/npy.h"
#include "ranks/ranks.h"
#include "training/checkpoint.h"
#include "training/evaluation.h"
#include "training/signals.h"
#include "training/train.h"

namespace dualmcmc {

namespace fs = std::filesystem;

namespace {

constexpr int64_t inference_steps = 30;  // of z-chains from noise, for methods without an encoder
constexpr int64_t evaluations = 2;       // during a training, after the one at its start
constexpr int timed_iterations = 3;      // per variant, after one untimed, to measure its cost

// Settings that --set cannot change, because the grid has flags of its own for them or sets them itself.
const std::vector<std::string> own_flags{"preset", "method",  "data",       "out",     "seed",
                                         "device", "threads", "iterations", "minutes", "epochs"};

// Fails unless an existing run has this grid's settings, apart from those that do not affect results.
void check_same(const std::string& folder, const Config& there, const Config& wanted, const std::string& out) {
    const auto now = config_to_map(wanted);
    const auto check = [&](const std::string& name, const std::string& value) {
        const bool harmless = name == "out" || name == "device" || name == "threads" || name == "log-every";
        if (!harmless && now.at(name) != value)
            fail("--out ", out, ": ", folder, " was trained with ", name, " = ", excerpt(value), "; it is now ",
                 now.at(name), "; give the settings that the grid was started with, or another --out");
    };
    for (const auto& [name, value] : read_config(folder + "/config.txt")) check(name, value);
    for (const auto& [name, value] : config_to_map(there)) check(name, value);  // those that an older config.txt lacks
}

// The same before iterations are timed, for what is not yet known then.
void check_trained(const std::string& folder, Config wanted, const std::string& out) {
    if (newest_checkpoint(folder).empty()) return;
    Config there;
    for (const auto& [name, value] : read_config(folder + "/config.txt")) set_setting(there, name, value);
    wanted.iterations = there.iterations;
    wanted.eval_every = there.eval_every;
    check_same(folder, there, wanted, out);
}

// ---- budget -------------------------------------------------------------------------------------

bool on_cpu() { return std::string(backend().name).starts_with("CPU"); }

// CPU seconds of all threads of this program; on a GPU, wall-clock seconds.
double seconds_used() {
    if (on_cpu()) return double(std::clock()) / CLOCKS_PER_SEC;
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The lowest cost of a few iterations for each configuration, taken in turns, so that other load on the machine affects
// all configurations alike.
std::vector<double> lowest_costs(const std::vector<Config>& configs) {
    std::vector<Models> models;
    models.reserve(configs.size());
    for (const Config& c : configs) models.emplace_back(c.model, uint64_t(c.seed));
    std::vector<double> lowest(configs.size(), INFINITY);
    for (int round = 0; round <= timed_iterations; ++round)
        for (size_t i = 0; i < configs.size(); ++i) {
            const Config& c = configs[i];
            const Shape shape{c.batch, c.model.image_size(), c.model.image_size(), 3};
            const Tensor x = Tensor::uniform(shape, random_key(1, RngPurpose::start_x, uint64_t(round)), -1, 1);
            const double before = seconds_used();
            dual_mcmc_step(models[i], x, philox_noise(1, uint64_t(round), shape, c.model.latent), c.step, round + 1);
            for (const auto& [prefix, state] : models[i].networks())
                state->parameters().front().value().to_host();  // waits for the device
            if (round > 0) lowest[i] = std::min(lowest[i], seconds_used() - before);
        }
    return lowest;
}

// The cost of an iteration for each configuration. With --long-steps, of 1 / long_every with long chains.
std::vector<double> iteration_costs(const std::vector<Config>& configs) {
    const auto has_long_chains = [](const Config& c) { return c.step.learn_ebm && c.step.long_steps > 0; };
    std::vector<Config> all = configs, with_long;
    for (Config& c : all) {
        if (has_long_chains(c)) with_long.push_back(c), with_long.back().step.long_every = 1;
        c.step.long_steps = 0;
    }
    all.insert(all.end(), with_long.begin(), with_long.end());
    std::vector<double> costs = lowest_costs(all);
    size_t next = configs.size();
    for (size_t i = 0; i < configs.size(); ++i)
        if (has_long_chains(configs[i])) costs[i] += (costs[next++] - costs[i]) / double(configs[i].step.long_every);
    costs.resize(configs.size());
    return costs;
}

// Of the settings on which an iteration's cost depends.
std::string settings_checksum(Config c) {
    c.out = "", c.device = "auto", c.seed = 0, c.threads = 0, c.iterations = 0;
    const std::string settings = config_to_text(c);
    return crc32_text(crc32(settings.data(), settings.size()));
}

// ---- measuring ----------------------------------------------------------------------------------

// The picture's images of one kind; white if the method has none, or where fewer were drawn.
ImageSet shown_images(const ImageSet& set, bool has_any) {
    ImageSet out{picture_images, set.size, std::vector<uint8_t>(size_t(picture_images * set.size * set.size * 3), 255),
                 ""};
    const ImageSet some = first_images(set, picture_images);
    if (has_any) std::copy(some.pixels.begin(), some.pixels.end(), out.pixels.begin());
    return out;
}

// The median over iterations of a part's seconds, without those that the machine spent on something else; with long
// chains the mean, since they are in few iterations.
std::optional<double> usual_seconds(const StepSettings& s, const std::vector<CsvRow>& metrics, const char* part) {
    return s.learn_ebm && s.long_steps > 0 ? mean(metrics, part) : median(metrics, part);
}

// Measures the checkpoint of a run, fills in the result, and writes result.npy and result.csv to the run's folder.
Result measure(Result r, const LoadedCheckpoint& checkpoint, const std::string& folder, int64_t count) {
    const Config& c = checkpoint.config;
    const uint64_t seed = uint64_t(c.seed);
    const Dataset data = load_dataset(c.data, c.model.image_size(), seed);
    Models models(c.model, 0);
    load_checkpoint(checkpoint.file, checkpoint.path, models, false);
    r.seed = double(c.seed), r.count = double(count);
    r.iterations = double(checkpoint.iteration), r.rollbacks = double(checkpoint.rollbacks);
    const auto metrics = read_rows(folder + "/metrics.csv");
    for (const auto& [name, field] : result_columns())  // metrics.csv has the same names
        if (std::string(name).starts_with("seconds")) r.*field = usual_seconds(c.step, metrics, name);

    const Samples samples = draw_samples(models, count, c.sampler_batch, c.step.start_x, c.sampler, seed);
    const StatisticsDistance distance(data.train);
    if (c.step.learn_generator) r.distance_generator = distance(samples.generated);
    if (c.step.learn_ebm) r.distance_revised = distance(samples.revised);
    if (const auto inference = inference_of(c.step)) {
        StepSettings settings = c.step;
        settings.chain_z.steps = inference->steps;
        r.mse = reconstruction_mse(models, data.held_out, count, c.sampler_batch, inference->start, settings, seed);
    }
    ImageSet shown = shown_images(samples.generated, c.step.learn_generator);
    append_images(shown, shown_images(samples.revised, c.step.learn_ebm));
    write_npy(folder + "/result.npy", {shown.count, shown.size, shown.size, 3}, shown.pixels.data());
    write_results(folder + "/result.csv", {r});
    return r;
}

std::string fixed(double value, int decimals) {
    char out[64];
    std::snprintf(out, sizeof out, "%.*f", decimals, value);
    return out;
}

}  // namespace

int64_t iterations_in(double minutes, int64_t threads, double cpu_seconds) {
    const double fitting = 60 * minutes * double(threads) / std::max(cpu_seconds, 1e-9);
    return int64_t(std::clamp(fitting, 1.0, double(max_iterations)));
}

std::optional<Inference> inference_of(const StepSettings& s) {
    if (!s.learn_generator) return {};
    if (!s.learn_encoder) return Inference{"noise", std::max(s.chain_z.steps, inference_steps)};
    return Inference{s.start_z == "encoder" && s.chain_z.steps == 0 ? "mean" : s.start_z, s.chain_z.steps};
}

// ---- flags and variants -------------------------------------------------------------------------

GridCommand::GridCommand(CLI::App& app, const std::string& name, const std::string& help, double minutes,
                         int64_t iterations, const std::vector<int64_t>& seeds)
    : command_(app.add_subcommand(name, help)), name_(name), out_("runs/" + name), minutes_(minutes),
      iterations_(iterations), seeds_(seeds) {
    const std::string standard =
        minutes > 0 ? text("; default: ", minutes, " minutes") : text("; default: ", iterations, " iterations");
    command_->add_option("--preset", preset_, "as in train")->capture_default_str();
    command_->add_option("--data", data_, "as in train; its test images are used for measuring");
    command_->add_option("--set", sets_,
                         "NAME=VALUE: a setting of train for all variants; VARIANT:NAME=VALUE: for one; repeatable");
    auto* time = command_->add_option(
        "--minutes", minutes_,
        "CPU minutes per training and thread, converted to an iteration count beforehand" + standard);
    auto* number = command_->add_option("--iterations", iterations_, "iterations per training, instead of --minutes");
    time->excludes(number);
    command_->add_option("--seeds", seeds_, "seeds, separated by commas; each variant is trained once per seed")
        ->delimiter(',')
        ->capture_default_str();
    command_->add_option("--count", count_, "held-out images for measuring the trained networks")
        ->capture_default_str();
    command_->add_option("--out", out_, "folder of the grid; results that it already holds are kept")
        ->capture_default_str();
    command_->add_option("--device", device_, "as in train")->capture_default_str();
    command_->add_option("--threads", threads_, "CPU threads, 0 for all")->capture_default_str();
}

void GridCommand::check_flags() const {
    if (command_->count("--iterations") && (iterations_ < 1 || iterations_ > max_iterations))
        fail("--iterations ", iterations_, ": must be at least 1 and at most ", max_iterations);
    if (command_->count("--minutes") && !(minutes_ > 0 && minutes_ <= max_minutes))
        fail("--minutes ", minutes_, ": must be above 0 and at most ", max_minutes);
    if (count_ < 2) fail("--count ", count_, ": must be at least 2");
    std::set<int64_t> seen;
    for (const int64_t seed : seeds_) {
        if (seed < 0) fail("--seeds ", seed, ": must be at least 0");
        if (!seen.insert(seed).second) fail("--seeds ", seed, ": given twice");
    }
    std::set<std::string> names;
    for (const std::string& set : sets_) {
        const std::string name = set.substr(0, set.find('='));
        if (name.empty() || name == set) fail("--set ", set, ": expected NAME=VALUE or VARIANT:NAME=VALUE");
        const size_t setting = name.find(':') + 1;  // after the colon, or 0 where there is none
        if (!names.insert(name.substr(0, setting) + current_name(name.substr(setting))).second)
            fail("--set ", set, ": ", name, " is given twice");
    }
}

namespace {

// The parts of "VARIANT:NAME=VALUE"; an empty variant means all.
struct Override {
    std::string variant, name, value;
    explicit Override(const std::string& set) {
        const size_t equals = set.find('=');
        name = set.substr(0, equals);
        value = set.substr(equals + 1);
        if (const size_t colon = name.find(':'); colon != std::string::npos) {
            variant = name.substr(0, colon);
            name = name.substr(colon + 1);
        }
        name = current_name(name);
    }
};

}  // namespace

// In order of increasing precedence: preset, --set, method, variant, --set for this variant.
Config GridCommand::variant_config(const Variant& variant) const {
    Config c = preset_config(preset_);
    const auto apply_sets = [&](const std::string& scope) {
        for (const std::string& set : sets_)
            if (const Override o(set); o.variant == scope) set_setting(c, o.name, o.value);
    };
    apply_sets("");
    apply_method(c.step, c.method = variant.method);
    for (const auto& [name, value] : variant.settings) set_setting(c, name, value);
    apply_sets(variant.name);
    if (!data_.empty()) c.data = data_;
    if (c.data.empty()) c.data = default_data(c.model.image_size());
    c.device = device_, c.threads = threads_;
    c.minutes = 0, c.iterations = iterations_;
    check_config(c);
    check_memory(c.model, std::max(c.batch, c.sampler_batch));
    return c;
}

// Fails for a --set without effect: of one of the grid's own flags, an unknown variant, or a setting that the variants
// override.
void GridCommand::check_sets(const std::vector<Training>& trainings) const {
    for (const std::string& set : sets_) {
        const Override o(set);
        if (std::find(own_flags.begin(), own_flags.end(), o.name) != own_flags.end())
            fail("--set ", set, ": the grid sees to ", o.name, " itself; 'dualmcmc ", name_,
                 " --help' lists its flags");
        Config wanted;
        set_setting(wanted, o.name, o.value);
        const std::string value = config_to_map(wanted).at(o.name);
        std::string names;
        bool named = o.variant.empty(), used = false;
        for (const Training& t : trainings) {
            names += (names.empty() ? "" : ", ") + t.variant.name;
            named |= t.variant.name == o.variant;
            used |= (o.variant.empty() || t.variant.name == o.variant) && config_to_map(t.config).at(o.name) == value;
        }
        if (!named) fail("--set ", set, ": there is no variant ", o.variant, "; the variants are ", names);
        if (!used)
            fail("--set ", set, ": the variants set ", o.name, " themselves; give VARIANT:", o.name,
                 "=VALUE with one of the variants ", names);
    }
}

// Each variant's cost of an iteration and number of iterations. The cost is measured once and kept in budget.csv, so
// that all seeds, and a grid that is continued later, get the same number.
void GridCommand::measure_costs(std::vector<Training>& trainings) const {
    const std::string path = out_ + "/budget.csv";
    const double minutes = iterations_ > 0 ? 0 : minutes_;
    std::vector<BudgetRow> rows = read_budget(path);
    const auto known = [&](const Training& t) {
        return std::find_if(rows.begin(), rows.end(), [&](const BudgetRow& r) {
            return r.variant == t.variant.name && r.minutes == minutes &&
                   (r.settings.empty() || r.settings == settings_checksum(t.config));
        });
    };
    std::vector<Config> unknown;
    for (const Training& t : trainings)
        if (known(t) == rows.end()) {
            rows.push_back({t.variant.name, settings_checksum(t.config), minutes, 0, 0});
            unknown.push_back(t.config);
        }
    if (!unknown.empty()) {
        std::fprintf(stderr, "timing iterations of %zu variants ...\n", unknown.size());
        const std::vector<double> seconds = iteration_costs(unknown);
        for (size_t i = 0; i < unknown.size(); ++i) {
            BudgetRow& row = rows[rows.size() - unknown.size() + i];
            row.seconds = seconds[i];
            row.iterations = iterations_ > 0 ? iterations_
                                             : iterations_in(minutes, on_cpu() ? omp_get_max_threads() : 1, seconds[i]);
        }
        write_budget(path, rows);
    }
    for (Training& t : trainings) {
        t.cpu_seconds = known(t)->seconds;
        t.config.iterations = iterations_ > 0 ? iterations_ : known(t)->iterations;
    }
}

// Fixes the number of iterations and the intervals of evaluations. The first rank measures for all.
void GridCommand::plan(std::vector<Training>& trainings) const {
    if (first_rank()) measure_costs(trainings);
    for (Training& t : trainings) {
        t.cpu_seconds = from_bytes<double>(of_first_rank(to_bytes(std::vector{t.cpu_seconds})))[0];
        t.config.iterations = of_first_rank(t.config.iterations);
        const auto sets_interval = [&](const std::string& set) {
            const Override o(set);
            return o.name == "eval-every" && (o.variant.empty() || o.variant == t.variant.name);
        };
        if (std::none_of(sets_.begin(), sets_.end(), sets_interval))
            t.config.eval_every = (t.config.iterations + evaluations - 1) / evaluations;
    }
}

// ---- the run ------------------------------------------------------------------------------------

// Returns false after an interrupt.
bool GridCommand::train_and_measure(const Training& training) {
    const Config& c = training.config;
    const std::string folder = c.out;
    const auto say = [](const std::string& line) { std::printf("%s\n", line.c_str()); };
    const std::optional<LoadedCheckpoint> resume = newest_sound_checkpoint(folder, say);
    if (resume) {
        check_same(folder, resume->config, c, out_);
        std::string damage;
        if (const auto known = read_result(folder, count_, test_.size, damage)) {
            std::printf("%s: already done\n", folder.c_str());
            results_.push_back(*known);
            return true;
        }
        if (!damage.empty()) std::printf("%s; it is measured again\n", damage.c_str());
    }
    std::printf("%s: %lld iterations%s\n", folder.c_str(), (long long)c.iterations,
                resume ? text(", resuming from ", resume->iteration).c_str() : "");
    std::optional<Diverged> gave_up;
    try {
        const auto distance_to = [](const ImageSet& data) { return StatisticsDistance(data); };
        const bool finished = resume && resume->iteration >= c.iterations;
        if (!finished && !train(c, resume, {distance_to, {}})) return false;
    } catch (const Diverged& error) {
        std::printf("%s: gave up: %s\n", folder.c_str(), explain(error).c_str());
        gave_up = error;
    }
    Result result;
    result.variant = training.variant.name;
    result.cpu_seconds = training.cpu_seconds;
    result.gave_up = gave_up.has_value();
    LoadedCheckpoint checkpoint = read_checkpoint(newest_checkpoint(folder));
    if (gave_up) checkpoint.rollbacks = gave_up->rollbacks;  // also those since that checkpoint
    results_.push_back(measure(result, checkpoint, folder, count_));
    write_report(folder);
    return true;
}

void GridCommand::write() const {
    write_results(out_ + "/" + name_ + ".csv", results_);
    write_file(out_ + "/" + name_ + ".md", tables());
    ImageSet generated = shown_images(test_, true), revised = generated;
    for (const Result& result : results_) {
        if (result.seed != double(seeds_[0])) continue;
        const ResultPictures pictures =
            read_result_pictures(text(out_, "/", result.variant, "-", seeds_[0], "/result.npy"), test_.size);
        append_images(generated, pictures.generated);
        append_images(revised, pictures.revised);
    }
    write_grid(out_ + "/" + name_ + ".png", {&generated, &revised}, picture_images, picture_scale(test_));
}

void GridCommand::log(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    summary_ += line + "\n";
}

void GridCommand::log_settings(const Config& c, const Dataset& data) {
    const ModelSettings& m = c.model;
    std::string seeds;
    for (const int64_t seed : seeds_) seeds += text(seeds.empty() ? "" : ", ", seed);
    if (seeds_.size() > 1) seeds += ": each value is the mean (minimum–maximum)";
    log(text(name_, ": preset ", preset_, " on ", c.data, "; ", m.architecture, ", widths ", m.width_generator, "/",
             m.width_ebm, "/", m.width_encoder, " (generator/EBM/encoder), latent ", m.latent, ", batch ", c.batch,
             "; seeds ", seeds));
    for (const std::string& set : sets_) log("set " + set);
    const std::string time = on_cpu() ? text("CPU time (threads: ", omp_get_max_threads(), ")") : "wall-clock time";
    if (iterations_ > 0) log(text("budget: ", iterations_, " iterations per training"));
    else
        log(text(
            "budget: ", minutes_, " minutes of ", time,
            " per training, converted beforehand to an iteration count (budget.csv), so that other programs on the "
            "machine cost a training nothing and its evaluations are not counted"));
    log(text("cost: seconds of ", time, " per iteration, minimum of ", timed_iterations,
             ", measured for all variants in turns before any training"));
    const StatisticsDistance distance(data.train);
    const double floor = distance(first_images(test_, count_));
    log(text("measured on ", count_, " held-out images (", test_.name,
             "): MSE per pixel and channel in [-1, 1] after the z-chain of training"));
    log(text("(without a z-chain: at the encoder's mean; without an encoder: from noise, at least ", inference_steps,
             " steps);"));
    log(text("statistics distances of ", count_,
             " samples to the training images, where as many held-out images are at ", fixed(floor, 4), ";"));
    log("s/iteration and its parts: median wall-clock times; with --long-steps, means");
}

// Trains and measures all, each on one of the ranks in turn. Returns false after an interrupt.
bool GridCommand::train_all(const std::vector<Training>& trainings) {
    bool interrupted = false;
    for (size_t i = 0; i < trainings.size() && !interrupted; ++i) {
        if (int(i % size_t(ranks().count)) != ranks().rank) continue;
        const bool only_rank = ranks().count == 1;
        const WorkAlone alone;
        interrupted = !train_and_measure(trainings[i]);
        if (only_rank && !interrupted) write();
    }
    if (on_any_rank(interrupted)) return false;
    if (ranks().count == 1 || !first_rank()) return true;
    results_.clear();
    for (const Training& training : trainings) {
        std::string damage;
        const auto result = read_result(training.config.out, count_, test_.size, damage);
        if (!result) fail(training.config.out, ": ", damage.empty() ? "holds no result" : damage);
        results_.push_back(*result);
    }
    write();
    return true;
}

// Each variant with each seed, in its folder.
std::vector<GridCommand::Training> GridCommand::of_all_seeds(const std::vector<Training>& trainings) const {
    std::vector<Training> all;
    for (const int64_t seed : seeds_)
        for (Training training : trainings) {
            training.config.seed = seed;
            training.config.out = text(out_, "/", training.variant.name, "-", seed);
            all.push_back(training);
        }
    return all;
}

int GridCommand::run() {
    check_flags();
    if (command_->count("--minutes")) iterations_ = 0;
    std::vector<Training> trainings;
    for (const Variant& variant : variants()) trainings.push_back({variant, variant_config(variant), 0});
    check_sets(trainings);
    std::printf("device: %s\n", select_device(device_, threads_).c_str());
    const KeepPictures keep;  // each training loads the data set anew
    Config first = trainings.at(0).config;
    first.seed = seeds_.at(0);
    const Dataset data = load_dataset(first.data, first.model.image_size(), uint64_t(first.seed));
    if (count_ > data.held_out.count)
        fail("--count ", count_, ": there are ", data.held_out.count, " held-out images (", data.held_out.name, ")");
    test_ = data.held_out;
    make_folder(out_);
    log_settings(first, data);
    for (const Training& training : of_all_seeds(trainings)) check_trained(training.config.out, training.config, out_);
    plan(trainings);
    if (!train_all(of_all_seeds(trainings))) {
        std::printf("interrupted; run the same command again to continue\n");
        return exit_code_of_interrupt();
    }
    if (!first_rank()) return 0;
    log(tables());
    write_summary(out_, summary_);
    write_report(out_);
    return 0;
}

// ---- tables -------------------------------------------------------------------------------------

std::string GridCommand::over_seeds(const std::string& variant, std::optional<double> Result::*field,
                                    int decimals) const {
    std::vector<double> values;
    for (const Result& result : results_)
        if (result.variant == variant && result.*field) values.push_back(*(result.*field));
    if (values.empty()) return "–";
    const auto [lowest, highest] = std::minmax_element(values.begin(), values.end());
    const std::string mean =
        fixed(std::accumulate(values.begin(), values.end(), 0.0) / double(values.size()), decimals);
    const std::string low = fixed(*lowest, decimals), high = fixed(*highest, decimals);
    return low == high ? mean : text(mean, " (", low, "–", high, ")");
}

std::string GridCommand::row(const std::vector<std::string>& texts) {
    std::string out = "|";
    for (const std::string& field : texts) out += " " + field + " |";
    return out + "\n";
}

std::string GridCommand::heading(const std::vector<std::string>& texts) {
    return row(texts) + row(std::vector<std::string>(texts.size(), "---"));
}

}  // namespace dualmcmc
