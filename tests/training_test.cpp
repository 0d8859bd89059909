// The training loop: results do not depend on threads, evaluations or interruptions; divergence and rollback; metrics,
// learning rates, order of the images, checkpoints, former names of settings. Runs on a handful of images with networks
// a few channels wide.
#include "training/train.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <set>
#include <sstream>

#include "compare.h"
#include "experiments/statistics_distance.h"
#include "file_helpers.h"
#include "formats/npy.h"
#include "parallel.h"
#include "training/checkpoint.h"
#include "training/evaluation.h"
#include "training/metrics.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;

// Half a unit of the last of six digits, as metrics are printed, and a few roundings of what is printed.
constexpr double six_digits = 5e-6 + 4 * unit;

const TrainingHooks hooks{[](const ImageSet& data) { return StatisticsDistance(data); }, {}};

// Every tensor of the networks, and Adam's moments, by name.
std::map<std::string, Values> snapshot(Models& models) {
    std::map<std::string, Values> out;
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries()) {
            out[prefix + entry.name] = entry.value.value().to_host();
            if (!entry.trainable) continue;
            out["adam1." + std::string(prefix) + entry.name] = entry.moment1.to_host();
            out["adam2." + std::string(prefix) + entry.name] = entry.moment2.to_host();
        }
    return out;
}

void expect_identical(const std::map<std::string, Values>& a, const std::map<std::string, Values>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, values] : a) {
        ASSERT_TRUE(b.count(name)) << name;
        ASSERT_EQ(values.size(), b.at(name).size()) << name;
        EXPECT_EQ(std::memcmp(values.data(), b.at(name).data(), values.size() * sizeof(real)), 0) << name;
    }
}

StepSettings short_steps() {
    StepSettings s;
    s.chain_x.steps = 2;
    s.chain_z.steps = 2;
    return s;
}

// ---- iterations in memory -----------------------------------------------------------------------

std::map<std::string, Values> run_iterations(Models& models, int64_t batch, int64_t first, int64_t count) {
    const int64_t side = models.settings.image_size();
    std::map<std::string, Values> out;
    for (int64_t i = first; i < first + count; ++i) {
        const Tensor x = random_tensor({batch, side, side, 3}, uint32_t(100 + i));
        const StepResult r = dual_mcmc_step(models, x, philox_noise(5, uint64_t(i), x.shape(), models.settings.latent),
                                            short_steps(), i + 1);
        for (const auto& [name, tensor] : {std::pair("x_resampled", r.x_resampled),
                                           {"z_revised", r.z_revised},
                                           {"loss_recon", r.loss_recon},
                                           {"nll_prior", r.nll_generated},
                                           {"energy_model", r.energy_model}})
            out[text(name, " ", i)] = tensor.to_host();
    }
    out.merge(snapshot(models));
    return out;
}

// Say, a failed allocation in a kernel: it must not end the program, and the other tasks are done.
TEST(Tasks, AnExceptionReachesTheCaller) {
    std::atomic<int> done = 0;
    const auto task = [&](int64_t i) {
        if (i == 3) throw std::bad_alloc();
        ++done;
    };
    EXPECT_THROW(parallel_dynamic(8, task), std::bad_alloc);
    EXPECT_EQ(done, 7);
}

class Threads : public EachBackend {};
INSTANTIATE_TEST_SUITE_P(Cpu, Threads, testing::ValuesIn(cpu_backends()), backend_name);
INSTANTIATE_TEST_SUITE_P(Gpu, Threads, testing::ValuesIn(gpu_backends()), backend_name);

// Sizes above the kernels' thresholds for parallel work, and divisible by no number of threads.
TEST_P(Threads, DoNotChangeAnyBit) {
    for (const auto& [settings, batch] :
         {std::pair(ModelSettings{"cifar10", 9, 7, 5, 6}, 7), {ModelSettings{"celeba64", 16, 32, 3, 5}, 3}}) {
        std::map<std::string, Values> first;
        for (const int threads : {1, 2, 3}) {
            SCOPED_TRACE(text(settings.architecture, ", ", threads, " threads"));
            const WithThreads with(threads);
            Models models(settings, 3);
            const auto found = run_iterations(models, batch, 0, settings.architecture == "cifar10" ? 3 : 2);
            if (threads == 1) first = found;
            else expect_identical(found, first);
        }
    }
}

TEST(Iteration, SameSeedSameResult) {
    const WithThreads one(1);
    const ModelSettings settings{"cifar10", 4, 5, 2, 6};
    Models a(settings, 3), b(settings, 3);
    expect_identical(run_iterations(a, 3, 0, 2), run_iterations(b, 3, 0, 2));
}

// On one thread: with several, the number of buffers in use at a time varies.
TEST(Iteration, AllocatesNothingAfterTheSecond) {
    const WithThreads one(1);
    Models models({"cifar10", 5, 6, 3, 4}, 3);
    run_iterations(models, 4, 0, 2);
    const int64_t allocations = pool_allocations(), bytes = pool_bytes();
    run_iterations(models, 4, 2, 4);
    EXPECT_EQ(pool_allocations(), allocations);
    EXPECT_EQ(pool_bytes(), bytes);
}

// The averages are computed again from the parameters' values. Samples use them; training does not.
TEST(Average, FollowsTheParameters) {
    const WithThreads one(1);
    Models models({"cifar10", 4, 4, 2, 3}, 1);
    ParameterStore& state = models.generator.state;
    const NamedTensor& weight = state.entries().front();
    std::vector<rounding::Running> expected;
    for (int64_t i = 0; i < 4; ++i) {
        run_iterations(models, 2, i, 1);
        update_ema(state, 0.75);
        const Values now = weight.value.value().to_host();
        if (i == 0) expected.assign(now.begin(), now.end());
        else
            for (size_t j = 0; j < now.size(); ++j) expected[j] = 0.75 * expected[j] + 0.25 * rounding::Running(now[j]);
    }
    const Values current = weight.value.value().to_host(), average = weight.ema.to_host();
    expect_close(average, expected, "average");
    EXPECT_NE(average, current);
    {
        ScopedStateRestore restore(models);
        restore.use_averages();
        EXPECT_EQ(weight.value.value().to_host(), average);
    }
    EXPECT_EQ(weight.value.value().to_host(), current);
    EXPECT_FALSE(models.ebm.state.entries().front().ema.defined());

    const std::string path = temporary_path("average.safetensors");
    save_checkpoint(path, models, {}, 4, 0);
    const SafetensorsFile file = read_safetensors(path);
    Models trains({"cifar10", 4, 4, 2, 3}, 2), samples({"cifar10", 4, 4, 2, 3}, 2);
    load_checkpoint(file, path, trains, true);
    EXPECT_EQ(trains.generator.state.entries().front().value.value().to_host(), current);
    EXPECT_EQ(trains.generator.state.entries().front().ema.to_host(), average);
    load_checkpoint(file, path, samples, false);
    EXPECT_EQ(samples.generator.state.entries().front().value.value().to_host(), average);
    fs::remove(path);
}

TEST(Checkpoint, GivesBackEveryBit) {
    const WithThreads one(1);
    const std::string path = temporary_path("round_trip.safetensors");
    for (const ModelSettings& settings :
         {ModelSettings{"cifar10", 4, 5, 2, 6}, ModelSettings{"celeba64", 16, 16, 2, 3}}) {
        SCOPED_TRACE(settings.architecture);
        Models trained(settings, 3), fresh(settings, 4), weights(settings, 4);
        run_iterations(trained, 2, 0, 2);
        Config config;
        config.model = settings;
        config.step.sigma = 0.7f;
        save_checkpoint(path, trained, config, 2, 3);
        const LoadedCheckpoint checkpoint = read_checkpoint(path);
        EXPECT_EQ(config_to_map(checkpoint.config), config_to_map(config));
        EXPECT_EQ(checkpoint.iteration, 2);
        EXPECT_EQ(checkpoint.rollbacks, 3);
        const SafetensorsFile& file = checkpoint.file;
        EXPECT_EQ(file.metadata.at("format"), checkpoint_format);
        load_checkpoint(file, path, fresh, true);
        expect_identical(snapshot(fresh), snapshot(trained));
        // Without the optimiser, from a file without moments (as the authors' converted checkpoint): they stay 0.
        SafetensorsFile bare = file;
        std::erase_if(bare.tensors, [](const auto& t) { return t.first.starts_with("adam"); });
        load_checkpoint(bare, path, weights, false);
        for (const auto& [name, values] : snapshot(weights)) {
            if (name.starts_with("adam")) {
                EXPECT_EQ(values, Values(values.size(), 0)) << name;
            } else {
                EXPECT_EQ(values, snapshot(trained).at(name)) << name;
            }
        }
        EXPECT_THROW(load_checkpoint(bare, path, weights, true), std::runtime_error);
    }
    fs::remove(path);
}

TEST(ScopedStateRestore, EvaluationLeavesNoTrace) {
    const WithThreads one(1);
    Models models({"cifar10", 4, 5, 2, 6}, 3);
    run_iterations(models, 3, 0, 1);
    const auto before = snapshot(models);
    ImageSet images{4, 32, std::vector<uint8_t>(4 * 32 * 32 * 3, 90), "grey"};
    {
        const ScopedStateRestore restore(models);
        const Samples samples = draw_samples(models, 5, 3, "generator", {2, 0.5f, 0.01f}, 1);
        EXPECT_EQ(snapshot(models).at("netE.block2.conv1.weight_u"), before.at("netE.block2.conv1.weight_u"))
            << "each batch starts from there";
        EXPECT_EQ(draw_batch(models, 1, 3, "generator", {2, 0.5f, 0.01f}, 1).revised.pixels[0],
                  samples.revised.pixels[3 * 3072]);
        models.ebm.power_iteration();
        draw_reconstructions(models, images, short_steps(), 1);
        const auto during = snapshot(models);
        for (const char* name : {"netE.block2.conv1.weight_u", "netE.block2.conv1.weight_v", "netG.bn_5.running_mean",
                                 "netG.bn_5.running_var"})
            EXPECT_NE(during.at(name), before.at(name)) << name;
    }
    expect_identical(snapshot(models), before);
}

// ---- whole runs ---------------------------------------------------------------------------------

constexpr int64_t image_count = 7, batch_size = 2, per_epoch = 3;  // one image of each epoch is left out

class Training : public testing::Test {
protected:
    Training() {
        fs::remove_all(folder_);
        fs::create_directories(folder_);
        std::vector<uint8_t> pixels;
        for (const real value : random_values(image_count * 32 * 32 * 3, 5, 0, 256)) pixels.push_back(uint8_t(value));
        write_npy(folder_ + "/images.npy", {image_count, 32, 32, 3}, pixels.data());
    }
    ~Training() override { fs::remove_all(folder_); }

    Config config(const std::string& name, int64_t iterations) const {
        Config c;
        c.data = folder_ + "/images.npy";
        c.out = folder_ + "/" + name;
        c.model = {"cifar10", 4, 5, 2, 6};
        c.step = short_steps();
        c.step.long_steps = 3;
        c.step.long_every = 4;
        c.batch = batch_size;
        c.iterations = iterations;
        c.lr_decay = 0.7;
        c.checkpoint_every = 7;
        c.eval_every = 1000;
        c.flip = true;
        c.ema = 0.9;
        c.ema_ebm = 0.8;
        return c;
    }
    // Trains, from the newest checkpoint if `resume`, and returns what it printed.
    static std::string run(const Config& config, bool resume = false) {
        std::optional<LoadedCheckpoint> from;
        if (resume) from = read_checkpoint(newest_checkpoint(config.out));
        testing::internal::CaptureStdout();
        try {
            EXPECT_TRUE(train(config, from, hooks));
        } catch (...) {
            testing::internal::GetCapturedStdout();
            throw;
        }
        return testing::internal::GetCapturedStdout();
    }
    static SafetensorsFile last(const Config& config) { return read_safetensors(newest_checkpoint(config.out)); }
    // A run of so many iterations equals one of half of them that is resumed for the rest.
    void expect_two_halves(int64_t iterations) const;

    const std::string folder_ = temporary_path("training");
    const WithThreads one_{1};
};

void expect_same_tensors(const SafetensorsFile& a, const SafetensorsFile& b) {
    ASSERT_EQ(a.tensors.size(), b.tensors.size());
    for (const auto& [name, tensor] : a.tensors) EXPECT_EQ(tensor.bytes, b.tensors.at(name).bytes) << name;
}
bool same_parameters(const SafetensorsFile& a, const SafetensorsFile& b) {
    for (const auto& [name, tensor] : a.tensors)
        if (name.starts_with("adam1.") && tensor.bytes.size() > 4) {
            const std::string parameter = name.substr(6);
            if (a.tensors.at(parameter).bytes != b.tensors.at(parameter).bytes) return false;
        }
    return true;
}

// metrics.csv as rows of cells, header first; without the row of the untrained networks.
std::vector<std::vector<std::string>> read_table(const Config& config) {
    std::istringstream lines(read_bytes(config.out + "/metrics.csv"));
    std::vector<std::vector<std::string>> rows;
    for (std::string line; std::getline(lines, line);) {
        std::vector<std::string> cells{""};
        for (const char c : line) {
            if (c == ',') cells.emplace_back();
            else cells.back() += c;
        }
        if (cells[0] != "0") rows.push_back(cells);
    }
    return rows;
}
size_t column(const std::vector<std::vector<std::string>>& table, const std::string& name) {
    const auto found = std::find(table.at(0).begin(), table.at(0).end(), name);
    EXPECT_NE(found, table[0].end()) << name;
    return size_t(found - table[0].begin());
}
double largest_gap(const Config& config) {
    const auto table = read_table(config);
    double largest = 0;
    for (size_t i = 1; i < table.size(); ++i)
        largest = std::max(largest, std::abs(std::stod(table[i][column(table, "energy_gap")])));
    return largest;
}
// The rows without times, and without the distances, which not every row has.
std::vector<std::vector<std::string>> results(const Config& config) {
    auto table = read_table(config);
    for (auto& row : table) row.resize(9);
    EXPECT_EQ(table.at(0).back(), "nll_prior");
    return table;
}

// Persistent chains (--start-z persistent): the checkpoint holds their states, so that ten and ten iterations equal
// twenty.
TEST_F(Training, PersistentChainsResumeExactly) {
    auto persistent = [&](const std::string& name, int64_t iterations) {
        Config c = config(name, iterations);
        apply_method(c.step, c.method = "abp");
        c.step.start_z = "persistent";
        c.flip = false;
        return c;
    };
    const Config whole = persistent("whole", 20), halves = persistent("halves", 20);
    run(whole);
    run(persistent("halves", 10));
    run(halves, true);
    expect_same_tensors(last(whole), last(halves));
    EXPECT_EQ(last(whole).tensors.at("latents").shape, (Shape{image_count, 6}));
}

// A generator that does not learn, chains without noise, all images in one batch: two epochs of two steps equal one of
// four, up to the order of the images in batch norm's sums over pixels: 8 sqrt(n) roundings (rounding.h). Restarted
// chains would end elsewhere.
TEST_F(Training, PersistentChainsGoOnWhereTheyEnded) {
    auto latents = [&](const std::string& name, int64_t iterations, int64_t steps) {
        Config c = config(name, iterations);
        apply_method(c.step, c.method = "abp");
        c.step.start_z = "persistent";
        c.step.chain_z = {steps, 0.1f, 0};
        c.step.adam_generator.learning_rate = 0;
        c.flip = false;
        c.batch = image_count;
        run(c);
        return values_of<real>(last(c).tensors.at("latents"), "latents");
    };
    const std::vector<real> twice = latents("twice", 2, 2), once = latents("once", 1, 4), half = latents("half", 1, 2);
    const double rounding = 8 * std::sqrt(double(image_count) * 32 * 32) * unit;
    EXPECT_LE(relative_l2(twice, once), rounding);
    EXPECT_GT(relative_l2(half, once), 10 * rounding) << "two more steps make a difference";
}

void Training::expect_two_halves(int64_t iterations) const {
    const Config whole = config("whole", iterations), halves = config("halves", iterations);
    Config first = halves;
    first.iterations = iterations / 2;
    run(whole);
    run(first);
    EXPECT_EQ(last(first).metadata.at("iteration"), std::to_string(first.iterations));
    run(halves, true);
    const SafetensorsFile a = last(whole), b = last(halves);
    EXPECT_EQ(a.metadata.at("iteration"), std::to_string(iterations));
    expect_same_tensors(a, b);
    auto without_out = [](std::map<std::string, std::string> m) { return m.erase("out"), m; };
    EXPECT_EQ(without_out(a.metadata), without_out(b.metadata));
    EXPECT_EQ(results(whole), results(halves));
    EXPECT_EQ(results(whole).size(), size_t(iterations) + 1);
}

TEST_F(Training, TwentyIterationsAreTenAndTen) {
    expect_two_halves(20);
    // And --flip matters.
    Config straight = config("straight", 10);
    straight.flip = false;
    run(straight);
    const Config flipped = config("flipped", 10);
    run(flipped);
    EXPECT_FALSE(same_parameters(last(straight), last(flipped)));
}

class GpuTraining : public Training, public testing::WithParamInterface<const Backend*> {
protected:
    void SetUp() override {
        if (!why_not(*GetParam()).empty()) GTEST_SKIP() << GetParam()->name << ": " << why_not(*GetParam());
    }

private:
    const WithBackend with_{*GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Gpu, GpuTraining, testing::ValuesIn(gpu_backends()), backend_name);

TEST_P(GpuTraining, FourIterationsAreTwoAndTwo) { expect_two_halves(4); }

TEST_F(Training, EvaluationsDoNotChangeIt) {
    const Config rare = config("rare", 5);
    Config often = config("often", 5);
    often.eval_every = 2;
    often.log_every = 1;
    often.checkpoint_every = 1;
    run(rare);
    run(often);
    expect_same_tensors(last(rare), last(often));
    EXPECT_EQ(results(rare), results(often));
    for (const int64_t iteration : {0, 2, 4, 5})
        for (const char* what : {"samples", "reconstructions"})
            EXPECT_TRUE(fs::exists(text(often.out, "/samples/iteration-00000", iteration, "-", what, ".png")))
                << iteration << what;
    EXPECT_FALSE(fs::exists(often.out + "/samples/iteration-000003-samples.png"));
}

// Averages of the networks that the flags name, of an iteration's parameters at first, and of the EBM after its first
// update with the warm-up's weights 2/11 and 9/11.
TEST_F(Training, AveragesOfTheEbmAndOfTheGenerator) {
    const std::string ebm = "netE.conv_1.conv1.weight_orig";
    const auto values = [](const SafetensorsFile& file, const std::string& name) {
        return values_of<real>(file.tensors.at(name), name);
    };
    Config c = config("one", 1);
    c.ema = 0;
    run(c);
    const SafetensorsFile one = last(c);
    EXPECT_EQ(values(one, "ema." + ebm), values(one, ebm));
    EXPECT_EQ(one.tensors.count("ema.netG.lin_1.weight"), 0u);
    c.out = folder_ + "/two", c.iterations = 2;
    run(c);
    const SafetensorsFile two = last(c);
    const auto before = values(one, ebm), after = values(two, ebm), average = values(two, "ema." + ebm);
    const rounding::Running kept = rounding::rounded(2 / 11.0);
    std::vector<rounding::Running> expected;
    for (size_t i = 0; i < average.size(); ++i) expected.push_back(kept * before[i] + (1 - kept) * after[i]);
    expect_close(average, expected, ebm);
    EXPECT_NE(before, after);
    // Averages that a resumed run no longer keeps are gone: they would go stale.
    c.ema_ebm = 0, c.iterations = 3;
    run(c, true);
    EXPECT_EQ(last(c).tensors.count("ema." + ebm), 0u);
}

TEST_F(Training, SeedsDiffer) {
    Config a = config("a", 1), b = config("b", 1);
    b.seed = 2;
    run(a);
    run(b);
    EXPECT_FALSE(same_parameters(last(a), last(b)));
}

TEST_F(Training, MetricsHaveARowForEachIteration) {
    Config c = config("run", 7);
    c.eval_every = 3;
    const std::string printed = run(c);
    const auto table = read_table(c);
    ASSERT_EQ(table.size(), 8u);
    EXPECT_EQ(table[0].front(), "iteration");
    const size_t columns = table[0].size(), distance = column(table, "distance_generator"),
                 rate = column(table, "lr_generator"), mse = column(table, "mse"), gap = column(table, "energy_gap"),
                 model = column(table, "energy_model"), data = column(table, "energy_data"),
                 epoch = column(table, "epoch");
    for (size_t i = 1; i < table.size(); ++i) {
        ASSERT_EQ(table[i].size(), columns) << i;
        EXPECT_EQ(table[i][0], std::to_string(i));
        EXPECT_EQ(table[i][epoch], std::to_string((i - 1) / size_t(per_epoch)));
        for (size_t j = 0; j < columns; ++j) {
            const bool measured = i == 3 || i == 6 || i == 7, is_distance = j >= distance && j < rate;
            if (is_distance) {
                EXPECT_EQ(table[i][j].empty(), !measured) << "iteration " << i << ", " << table[0][j];
            }
            if (!is_distance || measured) {
                EXPECT_TRUE(std::isfinite(std::stod(table[i][j]))) << "iteration " << i << ", " << table[0][j];
            }
        }
        EXPECT_GT(std::stod(table[i][mse]), 0);
        EXPECT_LT(std::stod(table[i][mse]), 4);  // pixels and images lie in [-1, 1]
        const double difference = std::stod(table[i][gap]), of_model = std::stod(table[i][model]),
                     of_data = std::stod(table[i][data]);
        EXPECT_NEAR(difference, of_model - of_data,
                    six_digits * (std::abs(difference) + std::abs(of_model) + std::abs(of_data)));
    }
    // The learning rates of each epoch, and the distances of the untrained networks.
    const double base[] = {double(c.step.adam_generator.learning_rate), double(c.step.adam_ebm.learning_rate),
                           double(c.step.adam_encoder.learning_rate)};
    for (size_t i = 1; i < table.size(); ++i)
        for (size_t k = 0; k < 3; ++k)
            EXPECT_NEAR(std::stod(table[i][rate + k]), base[k] * std::pow(c.lr_decay, std::stod(table[i][epoch])),
                        six_digits * base[k]);
    const MetricsTable whole = parse_metrics(read_bytes(c.out + "/metrics.csv"));
    ASSERT_EQ(whole.rows.size(), 8u);
    EXPECT_EQ(whole.rows[0][0], "0");
    for (size_t j = 2; j < columns; ++j) EXPECT_EQ(whole.rows[0][j].empty(), j < distance) << whole.header[j];
    EXPECT_NE(printed.find("7/7"), std::string::npos) << printed;
    EXPECT_NE(printed.find("statistics distance of "), std::string::npos) << printed;
}

// A crash can leave torn rows; a resumed run keeps the whole ones, and a file of an earlier version gets the columns
// that it lacks.
TEST_F(Training, TornRowsOfMetricsAreDropped) {
    const std::string torn =
        "iteration,mse\n"
        "1,0.5\n"
        "2\n"  // cut off
        "3,0.25\n"
        "4,0.4,0\n"  // two rows in one
        "5,0.x\n"
        "612,0.125\n"  // the beginning of 6 and the end of 12
        "7,\n"
        "3,0.25\n"  // again
        "8,1e-3\n"
        "9,0.";  // still being written
    const auto iterations = [](const MetricsTable& table) {
        std::string out;
        for (const auto& row : table.rows) out += row[0] + " ";
        return out;
    };
    EXPECT_EQ(iterations(parse_metrics(torn)), "1 3 7 8 ");
    EXPECT_EQ(iterations(parse_metrics("")), "");

    const Config c = config("run", 3);
    run(c);
    const auto whole = results(c);
    const std::string path = c.out + "/metrics.csv", text = read_bytes(path);
    const size_t second = text.find("\n2,") + 1;
    write_bytes(path, text.substr(0, second) + "2,0,0.1\n" + text.substr(second));
    Config more = c;
    more.iterations = 4;
    run(more, true);
    const auto resumed = results(more);
    ASSERT_EQ(resumed.size(), 5u);
    EXPECT_EQ(std::vector(resumed.begin(), resumed.begin() + 4), whole);

    write_bytes(path, "iteration,mse,other\n4,0.5,7\n");
    more.iterations = 5;
    run(more, true);
    const MetricsTable table = parse_metrics(read_bytes(path));
    ASSERT_EQ(iterations(table), "4 5 ");
    EXPECT_EQ(table.rows[0][2], "0.5");
    EXPECT_EQ(std::count(table.rows[0].begin(), table.rows[0].end(), ""), int64_t(table.header.size()) - 2);
}

// With another batch size or other images, a resumed run goes on at the same place in its epoch, counted in images, and
// with the learning rates of that epoch.
TEST_F(Training, ResumesWithAnotherBatchSizeOrOtherImages) {
    Config c = config("run", 4);  // one epoch of three iterations, and one iteration
    run(c);
    EXPECT_EQ(read_checkpoint(newest_checkpoint(c.out)).position->images_seen, 2);
    c.batch = 3;
    c.iterations = 6;
    EXPECT_NE(run(c, true).find("--resume: epoch 1 goes on after 2 of 7 images\n"), std::string::npos);
    auto table = read_table(c);
    const size_t epoch = column(table, "epoch"), rate = column(table, "lr_ebm");
    EXPECT_EQ(table.at(5)[epoch], "1");  // images 3 to 5 of the second epoch
    EXPECT_EQ(table.at(6)[epoch], "2");  // the two that were left are less than a batch
    EXPECT_NEAR(std::stod(table.at(5)[rate]), 0.7 * double(c.step.adam_ebm.learning_rate),
                six_digits * double(c.step.adam_ebm.learning_rate));

    // Twice as many images: three of seven become six of fourteen.
    std::vector<uint8_t> pixels(14 * 32 * 32 * 3, 100);
    write_npy(folder_ + "/more.npy", {14, 32, 32, 3}, pixels.data());
    c.data = folder_ + "/more.npy";
    c.iterations = 9;
    const std::string printed = run(c, true);
    EXPECT_NE(printed.find("other images"), std::string::npos) << printed;
    EXPECT_NE(printed.find("epoch 2 goes on after 6 of 14 images\n"), std::string::npos) << printed;
    table = read_table(c);
    EXPECT_EQ(table.at(7)[epoch] + table.at(8)[epoch] + table.at(9)[epoch], "223");

    // By epochs: what is left of the epoch, and the next one.
    c.iterations = 0;
    c.epochs = 5;
    run(c, true);
    EXPECT_EQ(last(c).metadata.at("iteration"), std::to_string(9 + (14 - 3) / 3 + 4));
    EXPECT_EQ(read_table(c).back()[epoch], "4");
    // The same images again need no words.
    c.epochs = 6;
    EXPECT_EQ(run(c, true).find("goes on after"), std::string::npos);
}

TEST_F(Training, PersistentChainsStayWithTheirImages) {
    Config c = config("run", 2);
    apply_method(c.step, c.method = "abp");
    c.step.start_z = "persistent";
    c.flip = false;
    run(c);
    std::vector<uint8_t> pixels(image_count * 32 * 32 * 3, 100);
    write_npy(folder_ + "/other.npy", {image_count, 32, 32, 3}, pixels.data());
    c.data = folder_ + "/other.npy";
    c.iterations = 3;
    expect_failure([&] { run(c, true); }, {"--resume", "other.npy", "persistent", "--data"});
}

// A file of an earlier version does not say where in its data the run was.
TEST_F(Training, ResumesCheckpointsWithoutAPosition) {
    const Config whole = config("whole", 7);
    run(whole);
    Config parts = config("parts", 4);
    run(parts);
    SafetensorsFile file = last(parts);
    for (const char* name : {"epoch", "epoch-images-seen", "training-images", "training-images-checksum", "checksum"})
        EXPECT_EQ(file.metadata.erase(name), 1u) << name;
    write_safetensors(newest_checkpoint(parts.out), file);
    parts.iterations = 7;
    run(parts, true);
    expect_same_tensors(last(parts), last(whole));
}

// A damaged checkpoint is kept under another name, and the one before it is taken. Files that this program does not
// write are left alone.
TEST_F(Training, DamagedCheckpointsAreSetAside) {
    Config c = config("run", 3);
    c.checkpoint_every = 1;
    c.keep_checkpoints = 3;
    run(c);
    const std::string folder = c.out + "/checkpoints/";
    const std::string others[] = {"iteration-best.safetensors", "iteration-9.safetensors",
                                  "iteration-000009.safetensors.bak", "iteration-0000009.safetensors"};
    for (const std::string& name : others) write_bytes(folder + name, "mine");
    fs::create_directories(folder + "iteration-000008.safetensors");
    const std::string newest = checkpoint_path(c.out, 3), before = checkpoint_path(c.out, 2);
    EXPECT_EQ(newest_checkpoint(c.out), newest);

    std::string bytes = read_bytes(newest);
    bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 4);  // one bit of one tensor
    write_bytes(newest, bytes);
    EXPECT_THROW(read_checkpoint(newest), DamagedFile);
    write_bytes(before, read_bytes(before).substr(0, 1000));
    std::vector<std::string> said;
    const auto sound = newest_sound_checkpoint(c.out, [&](const std::string& line) { said.push_back(line); });
    ASSERT_TRUE(sound);
    EXPECT_EQ(sound->iteration, 1);
    ASSERT_EQ(said.size(), 2u);
    for (const auto& [line, path] : {std::pair(said[0], newest), std::pair(said[1], before)}) {
        EXPECT_NE(line.find("damaged"), std::string::npos) << line;
        EXPECT_NE(line.find(path), std::string::npos) << line;
        EXPECT_FALSE(fs::exists(path));
        EXPECT_TRUE(fs::exists(path + ".damaged"));
    }
    EXPECT_EQ(read_bytes(newest + ".damaged"), bytes);

    // A checkpoint of another kind, or one that cannot be read, is not damaged: it stays.
    SafetensorsFile foreign = sound->file;
    foreign.metadata["format"] = "dual-mcmc-checkpoint-2";
    write_safetensors(newest, foreign);
    expect_failure([&] { newest_sound_checkpoint(c.out, {}); }, {newest, "dual-mcmc-checkpoint-2"});
    EXPECT_TRUE(fs::exists(newest));
    fs::remove(newest);

    // Where every one is damaged, none is left.
    fs::create_directories(folder_ + "/lost/checkpoints");
    for (const int64_t iteration : {1, 2}) write_bytes(checkpoint_path(folder_ + "/lost", iteration), "not one");
    said.clear();
    EXPECT_FALSE(newest_sound_checkpoint(folder_ + "/lost", [&](const std::string& line) { said.push_back(line); }));
    EXPECT_EQ(said.size(), 2u);

    c.iterations = 6;
    run(c, true);
    for (const std::string& name : others) EXPECT_EQ(read_bytes(folder + name), "mine") << name;
    EXPECT_TRUE(fs::exists(folder + "iteration-000008.safetensors"));
}

TEST_F(Training, OldCheckpointsAreRemoved) {
    Config c = config("run", 5);
    c.checkpoint_every = 1;
    c.keep_checkpoints = 2;
    run(c);
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(c.out + "/checkpoints"))
        names.insert(entry.path().filename().string());
    EXPECT_EQ(names, (std::set<std::string>{"iteration-000004.safetensors", "iteration-000005.safetensors"}));
    EXPECT_EQ(fs::path(newest_checkpoint(c.out)).filename().string(), "iteration-000005.safetensors");
}

// A seventh digit makes a later iteration of what would be sorted before the others.
TEST_F(Training, OldCheckpointsAreTheEarlierIterations) {
    const std::string out = folder_ + "/run";
    fs::create_directories(out + "/checkpoints");
    for (const int64_t iteration : {999'998, 999'999, 1'000'000, 1'000'001})
        write_bytes(checkpoint_path(out, iteration), "");
    EXPECT_EQ(newest_checkpoint(out), out + "/checkpoints/iteration-1000001.safetensors");
    remove_old_checkpoints(out, 3);
    EXPECT_FALSE(fs::exists(checkpoint_path(out, 999'998)));
    for (const int64_t iteration : {999'999, 1'000'000, 1'000'001})
        EXPECT_TRUE(fs::exists(checkpoint_path(out, iteration))) << iteration;
}

TEST_F(Training, ConfigFileIsComplete) {
    const Config c = config("run", 2);
    run(c);
    Config again;
    for (const auto& [name, value] : read_config(c.out + "/config.txt")) set_setting(again, name, value);
    EXPECT_EQ(config_to_map(again), config_to_map(c));
}

TEST_F(Training, AFinishedRunIsLeftAsItIs) {
    const Config c = config("run", 2);
    run(c);
    const std::string before = read_bytes(newest_checkpoint(c.out));
    EXPECT_NE(run(c, true).find("nothing to do"), std::string::npos);
    EXPECT_EQ(read_bytes(newest_checkpoint(c.out)), before);
    expect_failure([&] { run(c); }, {"--resume", c.out});
    EXPECT_EQ(read_bytes(newest_checkpoint(c.out)), before);
    // Nor is one whose checkpoints somebody has moved away overwritten.
    std::filesystem::remove_all(c.out + "/checkpoints");
    const std::string metrics = read_bytes(c.out + "/metrics.csv");
    expect_failure([&] { run(c); }, {"already holds a run", c.out});
    EXPECT_EQ(read_bytes(c.out + "/metrics.csv"), metrics);
}

// Learning rates are base · decay^epoch: the same as halving them by hand at the start of each epoch.
TEST_F(Training, LearningRatesDecayByEpoch) {
    Config decaying = config("decaying", 2 * per_epoch + 1);
    decaying.lr_decay = 0.5;
    run(decaying);
    Config by_hand = config("by_hand", per_epoch);
    by_hand.lr_decay = 1;
    run(by_hand);
    for (const int64_t until : {2 * per_epoch, 2 * per_epoch + 1}) {
        by_hand.iterations = until;
        for (AdamSettings* adam : {&by_hand.step.adam_generator, &by_hand.step.adam_ebm, &by_hand.step.adam_encoder})
            adam->learning_rate *= 0.5f;
        run(by_hand, true);
    }
    expect_same_tensors(last(decaying), last(by_hand));
}

// Where short epochs end the learning before the run ends, it says so, and which decay would be as in CIFAR-10's
// epochs: 0.01^(7 / 50,000) for seven images.
TEST_F(Training, SaysThatLearningRatesWillVanish) {
    Config c = config("vanishing", per_epoch + 1);
    c.lr_decay = 0.01;
    const std::string warned = run(c);
    EXPECT_NE(warned.find("in each epoch of 3 iterations the learning rates fall to 1 % in 3; --lr-decay 0.9994 "),
              std::string::npos)
        << warned;
    c = config("in_time", per_epoch);
    c.lr_decay = 0.01;
    EXPECT_EQ(run(c).find("warning"), std::string::npos);
}

// ---- former names of settings -------------------------------------------------------------------

// The same values under former names, as an earlier version would have written them.
std::map<std::string, std::string> with_former_names(std::map<std::string, std::string> values) {
    for (const auto& [former, current] : former_names) {
        auto entry = values.extract(current);
        EXPECT_FALSE(entry.empty()) << current;
        entry.key() = former;
        values.insert(std::move(entry));
    }
    return values;
}

// Values other than the defaults for all settings that have been renamed.
Config with_renamed_settings(Config c) {
    c.step.lambda_generated = 0.375f;
    c.step.negatives = "chain";
    c.step.joint_elbo = true;
    c.max_energy_gap = 123;
    c.rollback_lr_factor = 0.5;
    c.eval_every = 17;
    c.keep_checkpoints = 9;
    return c;
}

TEST(FormerNames, SetTheSettings) {
    const Config c = with_renamed_settings({});
    const auto wanted = config_to_map(c);
    Config found;
    for (const auto& [former, current] : former_names) {
        EXPECT_NE(config_to_map(found).at(current), wanted.at(current)) << current;
        const bool negatives = std::string(former) == "resample";  // once a switch
        set_setting(found, former, negatives ? "false" : wanted.at(current));
        EXPECT_EQ(config_to_map(found).at(current), wanted.at(current)) << former;
        EXPECT_EQ(wanted.count(former), 0u) << former;
    }
    EXPECT_EQ(config_to_map(found), wanted);
    set_setting(found, "resample", "true");
    EXPECT_EQ(found.step.negatives, "resampled");
    expect_failure([&] { set_setting(found, "guard", "high"); }, {"--max-energy-gap high", "number"});
    expect_failure([&] { set_setting(found, "amortised", "perhaps"); }, {"--joint-elbo perhaps", "true or false"});
    expect_failure([&] { set_setting(found, "returns", "1"); }, {"'returns'", "train --help"});
}

TEST(FormerNames, AreFlags) {
    const std::pair<std::string, std::string> cases[] = {{"--guard", "--max-energy-gap"},
                                                         {"--guard=9", "--max-energy-gap=9"},
                                                         {"--keep=guard", "--keep-checkpoints=guard"},
                                                         {"--resample", "--ebm-negatives=resampled"},
                                                         {"--no-resample", "--ebm-negatives=chain"},
                                                         {"--amortised", "--joint-elbo"},
                                                         {"--no-amortised", "--no-joint-elbo"},
                                                         {"--no-amortised=1", "--no-joint-elbo=1"},
                                                         {"--max-energy-gap", "--max-energy-gap"},
                                                         {"--guards", "--guards"},
                                                         {"--", "--"},
                                                         {"guard", "guard"},
                                                         {"-guard", "-guard"},
                                                         {"", ""}};
    for (const auto& [word, current] : cases) EXPECT_EQ(with_current_flag(word), current);
}

TEST(FormerNames, AreReadInConfigFiles) {
    const std::string path = temporary_path("former_config.txt");
    const auto wanted = config_to_map(with_renamed_settings({}));
    std::string lines;
    for (const auto& [name, value] : with_former_names(wanted)) lines += name + " = " + value + "\n";
    write_bytes(path, lines);
    Config found;
    for (const auto& [name, value] : read_config(path)) {
        EXPECT_TRUE(wanted.count(name)) << name << " is a former name";
        set_setting(found, name, value);
    }
    EXPECT_EQ(config_to_map(found), wanted);
    for (const auto& [former, current] : former_names) {
        EXPECT_EQ(config_to_text(found).find(text("\n", former, " = ")), std::string::npos) << former;
        write_bytes(path, text(current, " = ", wanted.at(current), "\nseed = 1\n", former, " = ", wanted.at(current)));
        expect_failure([&] { read_config(path); }, {path + ":3", text("'", current, "' is set twice")});
    }
    fs::remove(path);
}

// A checkpoint as an earlier version wrote it resumes as the same run.
TEST_F(Training, ResumesCheckpointsWithFormerNames) {
    Config c = with_renamed_settings(config("now", 3));
    c.step.joint_elbo = false;
    run(c);
    Config old = c;
    old.out = folder_ + "/old";
    fs::copy(c.out, old.out, fs::copy_options::recursive);
    SafetensorsFile file = last(c);
    file.metadata = with_former_names(file.metadata);
    EXPECT_EQ(file.metadata.erase("rollbacks"), 1u);
    file.metadata["returns"] = "2";
    write_safetensors(newest_checkpoint(old.out), file);

    const LoadedCheckpoint checkpoint = read_checkpoint(newest_checkpoint(old.out));
    EXPECT_EQ(config_to_map(checkpoint.config), config_to_map(c));
    EXPECT_EQ(checkpoint.rollbacks, 2);
    // Both continue to the same end; the file that is then written has current names only.
    file = last(c);
    file.metadata["rollbacks"] = "2";
    write_safetensors(newest_checkpoint(c.out), file);
    c.iterations = old.iterations = 5;
    run(c, true);
    run(old, true);
    expect_same_tensors(last(old), last(c));
    EXPECT_EQ(last(old).metadata.at("rollbacks"), "2");
    EXPECT_EQ(last(old).metadata.count("returns"), 0u);
    for (const auto& [former, current] : former_names) EXPECT_EQ(last(old).metadata.count(former), 0u) << former;
}

// ---- divergence ---------------------------------------------------------------------------------

std::vector<std::string> lines_with(const std::string& printed, const std::string& part) {
    std::istringstream in(printed);
    std::vector<std::string> found;
    for (std::string line; std::getline(in, line);)
        if (line.find(part) != std::string::npos) found.push_back(line);
    return found;
}

// Runs until it fails; returns what it printed and the message.
std::pair<std::string, std::string> run_to_failure(const Config& config, bool resume) {
    std::optional<LoadedCheckpoint> from;
    if (resume) from = read_checkpoint(newest_checkpoint(config.out));
    testing::internal::CaptureStdout();
    std::string message;
    try {
        train(config, from, hooks);
    } catch (const std::runtime_error& error) {
        message = error.what();
    }
    return {testing::internal::GetCapturedStdout(), message};
}

TEST_F(Training, GivesUpAfterSomeRollbacksAndKeepsTheGoodCheckpoint) {
    Config c = config("run", 4);
    run(c);
    const std::string path = newest_checkpoint(c.out), before = read_bytes(path),
                      metrics = read_bytes(c.out + "/metrics.csv");
    c.iterations = 9;
    c.max_energy_gap = 1e-30;  // every gap is beyond it
    const auto [printed, message] = run_to_failure(c, true);
    const auto rollbacks = lines_with(printed, "diverged");
    EXPECT_EQ(rollbacks.size(), 5u) << printed;
    std::set<std::string> gaps;
    for (size_t i = 0; i < rollbacks.size(); ++i) {
        EXPECT_NE(rollbacks[i].find("iteration 5"), std::string::npos) << rollbacks[i];
        EXPECT_NE(rollbacks[i].find(path), std::string::npos) << rollbacks[i];
        EXPECT_NE(rollbacks[i].find(text("rollback ", i + 1, " of 5")), std::string::npos) << rollbacks[i];
        gaps.insert(rollbacks[i].substr(rollbacks[i].find("energy gap"),
                                        rollbacks[i].find(", mse") - rollbacks[i].find("energy gap")));
    }
    EXPECT_EQ(gaps.size(), 5u) << "each rollback has fresh noise:\n" << printed;
    EXPECT_NE(message.find("diverged"), std::string::npos) << message;
    EXPECT_NE(message.find("learning rate"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_EQ(newest_checkpoint(c.out), path);
    EXPECT_EQ(read_bytes(path), before);
    EXPECT_EQ(read_bytes(c.out + "/metrics.csv"), metrics);
    // The checkpoint is intact: with the former limit the run continues.
    c.max_energy_gap = 1e4;
    run(c, true);
    EXPECT_EQ(last(c).metadata.at("iteration"), "9");
}

TEST_F(Training, ANonFiniteValueIsADivergence) {
    Config exploding = config("exploding", 6);  // the second iteration's losses are not finite
    exploding.step.adam_generator.learning_rate = 1e30f;
    Config overflowing = config("overflowing", 6);  // the first one's are; the new parameters are not
    overflowing.step.lambda_data = std::numeric_limits<real>::max() * real(0.9);
    overflowing.step.negatives = "chain";
    overflowing.checkpoint_every = 1;
    for (const Config& c : {exploding, overflowing}) {
        SCOPED_TRACE(c.out);
        const auto [printed, message] = run_to_failure(c, false);
        EXPECT_EQ(lines_with(printed, "diverged").size(), 5u) << printed;
        EXPECT_NE(message.find("diverged"), std::string::npos) << message;
        // What is left is finite (load_state would refuse anything else).
        const std::string path = newest_checkpoint(c.out);
        EXPECT_EQ(fs::path(path).filename().string(), "iteration-000000.safetensors");
        Models models(c.model, 1);
        load_checkpoint(read_safetensors(path), path, models, true);
    }
}

// A run whose gap exceeds the limit rolls back to the checkpoint and finishes with fresh noise; metrics.csv has each
// row once. The checkpoint holds the number of rollbacks, so that a resumed run draws the same noise as an
// uninterrupted one.
TEST_F(Training, RollsBackAndContinues) {
    const Config calm = config("calm", 6);
    run(calm);
    const auto table = read_table(calm);
    const size_t gap = column(table, "energy_gap");
    size_t worst = 2;  // not the first, so that there are rows to drop
    for (size_t i = 2; i < table.size(); ++i)
        if (std::abs(std::stod(table[i][gap])) > std::abs(std::stod(table[worst][gap]))) worst = i;
    // Just below the largest gap: with other noise that iteration falls on either side.
    Config whole = config("whole", 8);
    whole.checkpoint_every = int64_t(worst) + 1;
    whole.max_energy_gap = std::abs(std::stod(table[worst][gap])) * 0.9999;
    const auto [printed, message] = run_to_failure(whole, false);
    ASSERT_EQ(message, "");
    const auto rollbacks = lines_with(printed, "diverged");
    ASSERT_GE(rollbacks.size(), 1u);
    EXPECT_NE(printed.find(text("iteration ", worst, ": diverged")), std::string::npos) << printed;
    EXPECT_EQ(last(whole).metadata.at("iteration"), "8");
    EXPECT_EQ(last(whole).metadata.at("rollbacks"), std::to_string(rollbacks.size()));
    const auto rows = read_table(whole);
    ASSERT_EQ(rows.size(), 9u);
    for (size_t i = 1; i < rows.size(); ++i) {
        EXPECT_EQ(rows[i][0], std::to_string(i));
        EXPECT_LE(std::abs(std::stod(rows[i][gap])), whole.max_energy_gap * (1 + six_digits)) << i;
    }
    // The same in two parts; the second resumes from the checkpoint after the rollback.
    Config parts = whole;
    parts.out = folder_ + "/parts";
    parts.iterations = whole.checkpoint_every;
    ASSERT_EQ(run_to_failure(parts, false).second, "");
    EXPECT_NE(last(parts).metadata.at("rollbacks"), "0");
    parts.iterations = 8;
    ASSERT_EQ(run_to_failure(parts, true).second, "");
    EXPECT_EQ(last(parts).metadata.at("rollbacks"), last(whole).metadata.at("rollbacks"));
    expect_same_tensors(last(parts), last(whole));
    EXPECT_EQ(results(parts), results(whole));
}

// --rollback-lr-factor: after its rollbacks the run equals one that starts with that many rollbacks and those learning
// rates.
TEST_F(Training, LearningRatesFallWithEachRollback) {
    const Config calm = config("calm", 5);
    run(calm);
    const double largest = largest_gap(calm);
    Config cut = config("cut", 5);
    cut.max_energy_gap = largest * 0.9999;  // one iteration is beyond it; with other noise it falls on either side
    cut.rollback_lr_factor = 0.25;
    const auto [printed, message] = run_to_failure(cut, false);
    const auto rollbacks = lines_with(printed, "diverged");
    ASSERT_GE(rollbacks.size(), 1u) << printed;
    EXPECT_NE(rollbacks[0].find("0.25 of the learning rates"), std::string::npos) << rollbacks[0];
    ASSERT_EQ(message, "") << printed;
    EXPECT_EQ(last(cut).metadata.at("rollback-lr-factor"), "0.25");

    Config by_hand = config("by_hand", 5);
    for (AdamSettings* adam : {&by_hand.step.adam_generator, &by_hand.step.adam_ebm, &by_hand.step.adam_encoder})
        adam->learning_rate *= real(std::pow(0.25, double(rollbacks.size())));
    Models models(by_hand.model, uint64_t(by_hand.seed));
    fs::create_directories(by_hand.out + "/checkpoints");
    save_checkpoint(checkpoint_path(by_hand.out, 0), models, by_hand, 0, int64_t(rollbacks.size()));
    run(by_hand, true);
    expect_same_tensors(last(cut), last(by_hand));

    // A resumed run keeps the factor: both end the same.
    cut.iterations = by_hand.iterations = 6;
    cut.max_energy_gap = 1e4;
    run(cut, true);
    run(by_hand, true);
    expect_same_tensors(last(cut), last(by_hand));
}

// A run that rolls back equals one that starts at the checkpoint with that many rollbacks, chain states and all.
TEST_F(Training, ARollbackRestoresPersistentChains) {
    const auto persistent = [&](const std::string& name) {
        Config c = config(name, 5);
        c.step.start_z = "persistent";
        c.flip = false;  // a flipped image has a different latent
        return c;
    };
    const Config calm = persistent("calm");
    run(calm);
    const double largest = largest_gap(calm);
    Config cut = persistent("cut");
    cut.max_energy_gap = largest * 0.9999;  // one iteration is beyond it; with other noise it falls on either side
    const auto [printed, message] = run_to_failure(cut, false);
    ASSERT_EQ(message, "") << printed;
    const size_t rollbacks = lines_with(printed, "diverged").size();
    ASSERT_GE(rollbacks, 1u) << printed;

    const Config by_hand = persistent("by_hand");
    SafetensorsFile file = read_safetensors(checkpoint_path(calm.out, 0));
    file.metadata.at("rollbacks") = std::to_string(rollbacks);
    fs::create_directories(by_hand.out + "/checkpoints");
    write_safetensors(checkpoint_path(by_hand.out, 0), file);
    run(by_hand, true);
    expect_same_tensors(last(cut), last(by_hand));
}

// ---- the order of the images --------------------------------------------------------------------

// Eight grey images, the i-th of value 2^i out of 255, a generator that draws black for every z, and learning rates of
// 0. The squared error per pixel is then the mean of (2 · 2^i / 255)² over the batch, whose base-4 digits tell which
// images are in it.
TEST_F(Training, EachEpochSeesEveryImageAtMostOnce) {
    constexpr int64_t count = 8, epochs = 12;
    std::vector<uint8_t> pixels;
    for (int64_t i = 0; i < count; ++i) pixels.insert(pixels.end(), 32 * 32 * 3, uint8_t(1 << i));
    Config c = config("run", epochs * 2);
    write_npy(folder_ + "/grey.npy", {count, 32, 32, 3}, pixels.data());
    c.data = folder_ + "/grey.npy";
    c.batch = 3;
    for (AdamSettings* adam : {&c.step.adam_generator, &c.step.adam_ebm, &c.step.adam_encoder}) *adam = {0, 0};
    Models models(c.model, 1);
    for (NamedTensor& entry : models.generator.state.entries()) {
        if (entry.name == "conv5.weight") entry.value.value().copy_from(Tensor::full(entry.value.shape(), 0));
        if (entry.name == "conv5.bias") entry.value.value().copy_from(Tensor::full(entry.value.shape(), -20));
    }
    fs::create_directories(c.out + "/checkpoints");
    save_checkpoint(checkpoint_path(c.out, 0), models, c, 0, 0);
    run(c, true);

    const auto table = read_table(c);
    const size_t mse = column(table, "mse");
    ASSERT_EQ(table.size(), size_t(2 * epochs + 1));  // 8 / 3: two batches an epoch
    std::array<int, count> seen{};
    std::set<std::vector<int64_t>> orders;
    for (size_t epoch = 0; epoch < size_t(epochs); ++epoch) {
        std::vector<int64_t> order;
        for (size_t i = 0; i < 2; ++i) {
            const double sum = std::stod(table[1 + 2 * epoch + i][mse]) * 3 * 255 * 255 / 4;
            int64_t digits = std::llround(sum);
            // To six digits; and a grey level is rounded in [-1, 1], which moves 4^i by 255 · 2^i roundings.
            ASSERT_NEAR(sum, double(digits), six_digits * sum + 255 * 255 * unit);
            int64_t images = 0;
            for (int64_t image = 0; image < count; ++image, digits /= 4) {
                ASSERT_LE(digits % 4, 1) << "image " << image << " twice in a batch of epoch " << epoch;
                if (digits % 4 == 1) order.push_back(image), ++seen[size_t(image)], ++images;
            }
            EXPECT_EQ(images, 3);
            EXPECT_EQ(digits, 0);
        }
        EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 6u) << "an image twice in epoch " << epoch;
        orders.insert(order);
    }
    EXPECT_GE(orders.size(), size_t(epochs - 1)) << "each epoch draws a new order";
    // Each image is in 3/4 of the epochs: 9 of 12 on average, with a standard deviation of 1.5.
    for (size_t i = 0; i < seen.size(); ++i) EXPECT_GE(seen[i], 3) << "image " << i;
}

}  // namespace
}  // namespace dualmcmc::test
