// Several processes: N ranks compute what one computes. The tests of UnderMpirun run in each of N processes; the others
// start these, and the program, by mpirun, or what $MPIRUN names, where there is one, and say so where there is none.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "compare.h"
#include "engine/graphed_function.h"
#include "file_helpers.h"
#include "formats/safetensors.h"
#include "method/dual_mcmc.h"
#include "ranks/shared_batch.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;

// ---- in each of N processes ---------------------------------------------------------------------

class UnderMpirun : public testing::Test {
protected:
    static void SetUpTestSuite() { start_ranks(); }
    static void TearDownTestSuite() { end_ranks(); }
    void SetUp() override {
        if (ranks().count == 1) GTEST_SKIP() << "one process; Ranks.* starts several";
    }
    WithThreads one_{1};
};

struct Case {
    std::string name, architecture;
    StepSettings settings;
};

// Every method, and the options that change what is summed.
std::vector<Case> cases() {
    StepSettings s;
    s.chain_x = {2, 5, 0.05};
    s.chain_z = {2, 0.1, 0.1};
    std::vector<Case> out;
    for (const std::string& name : method_names) {
        out.push_back({name, "cifar10", s});
        apply_method(out.back().settings, name);
        out.back().settings.chain_x.steps = std::min<int64_t>(out.back().settings.chain_x.steps, 2);
    }
    for (const std::string negatives : {"chain", "generated"}) {
        out.push_back({"dual, negatives " + negatives, "cifar10", s});
        out.back().settings.negatives = negatives;
    }
    out.push_back({"dual, long chains", "cifar10", s});
    out.back().settings.long_steps = 3;
    out.back().settings.long_every = 1;
    out.push_back({"abp, persistent", "cifar10", s});
    apply_method(out.back().settings, "abp");
    out.back().settings.start_z = "persistent";
    out.push_back({"dual, x-chain from noise", "cifar10", s});
    out.back().settings.start_x = "noise";
    out.push_back({"dual, no z-chain, without generated pairs", "cifar10", s});
    out.back().settings.chain_z.steps = 0;
    out.back().settings.lambda_generated = 0;
    out.push_back({"dual, celeba64", "celeba64", s});
    return out;
}

// All that iterations of a whole batch of 5 leave behind: networks, moments, averages, scalars, latents.
struct Trained {
    std::vector<std::string> names;
    std::vector<Values> values;
    void add(const std::string& name, const Values& of) {
        names.push_back(name);
        values.push_back(of);
    }
};

Trained train(const Case& c, int iterations) {
    const bool celeba = c.architecture == "celeba64";
    Models models({c.architecture, celeba ? 19 : 5, celeba ? 19 : 5, 3, 7}, 3);
    const int64_t whole = 5, side = models.settings.image_size();
    const SharedBatch shared(whole);
    const BatchShare& own = shared.own();
    Trained out;
    Values states = random_values(whole * 7, 8);
    for (int i = 0; i < iterations; ++i) {
        const Tensor x = random_tensor({whole, side, side, 3}, 100 + uint32_t(i)).slice_copy(own.first, own.count);
        StepNoise noise = philox_noise(9, uint64_t(i), x.shape(), 7, own.first);
        if (c.settings.start_z == "persistent")
            noise.start_z = Tensor::from_host({whole, 7}, states).slice_copy(own.first, own.count);
        const StepResult r = dual_mcmc_step(models, x, noise, c.settings, i + 1);
        update_ema(models.generator.state, 0.5);
        if (r.z_revised.defined()) out.add(text("latents ", i), states = joined_of_all_ranks(r.z_revised.to_host()));
        for (const Tensor& scalar :
             {r.loss_recon, r.loss_revise, r.nll_posterior, r.nll_generated, r.kl, r.energy_data, r.energy_model})
            if (scalar.defined()) out.add(text("scalar ", i), scalar.to_host());
    }
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries()) {
            const std::string name = prefix + entry.name;
            out.add((entry.trainable ? "parameter " : "buffer ") + name, entry.value.value().to_host());
            if (entry.value.grad().defined()) out.add("gradient of " + name, entry.value.grad().to_host());
            if (entry.ema.defined()) out.add("average of " + name, entry.ema.to_host());
        }
    return out;
}

double largest(const Values& values) {
    double out = 0;
    for (const real value : values) out = std::max(out, std::abs(double(value)));
    return out;
}

// The loss does not change with a bias before batch norm, whose gradient is rounding alone. Adam divides it by itself,
// so that the biases follow the rounding, and the running means the biases.
bool follows_rounding(const std::string& name) {
    const bool bias = name.ends_with("conv1.bias") || name.ends_with("conv2.bias") || name.ends_with("sc.bias");
    return bias || name.ends_with("running_mean");
}

// Ten iterations in double precision. In fp32 one: its gradients, before Adam divides small ones by themselves.
constexpr bool proof = std::is_same_v<real, double>;
constexpr int iterations = proof ? 10 : 1;

// Gradients are compared with their network's largest: that of a bias before batch norm is rounding alone. In fp32 sums
// over the batch's pixels, which are taken in another order, are off by up to 8 sqrt(n) roundings (rounding.h).
void expect_same(const Trained& together, const Trained& expected) {
    ASSERT_EQ(together.names, expected.names);
    std::map<std::string, double> scales;  // of each network's gradients
    const auto network_of = [](const std::string& name) { return name.substr(0, name.find('.')); };
    for (size_t i = 0; i < expected.names.size(); ++i) {
        double& scale = scales[network_of(expected.names[i])];
        scale = std::max(scale, largest(expected.values[i]));
    }
    for (size_t i = 0; i < expected.names.size(); ++i) {
        const std::string& name = expected.names[i];
        const bool updated = name.starts_with("parameter") || name.starts_with("average");
        const bool gradient = name.starts_with("gradient");
        if (!proof && (updated || (follows_rounding(name) && !gradient))) continue;
        const double scale = gradient ? scales.at(network_of(name)) : std::max(1.0, largest(expected.values[i]));
        const double in_double = follows_rounding(name) && !gradient ? 1e-6 : 1e-12;
        const double tolerance = proof ? in_double : 8 * std::sqrt(5 * 64 * 64) * unit;
        expect_close(together.values[i], expected.values[i], 0, tolerance * scale, name);
    }
}

TEST_F(UnderMpirun, TrainAsOneProcessDoes) {
    for (const Case& c : cases()) {
        SCOPED_TRACE(c.name);
        const Trained together = train(c, iterations);
        std::string bytes;
        for (const Values& values : together.values) bytes += to_bytes(values);
        EXPECT_TRUE(of_first_rank(bytes) == bytes) << "not the same on all ranks";
        if (!first_rank()) continue;
        const WorkAlone alone;
        expect_same(together, train(c, iterations));
    }
}

TEST_F(UnderMpirun, ARankThatWorksAloneKnowsOfTheOthers) {
    const int all = ranks().count;
    EXPECT_EQ(process_count(), all);
    const WorkAlone alone;
    EXPECT_EQ(ranks().count, 1);
    EXPECT_EQ(process_count(), all);
}

TEST_F(UnderMpirun, TheSameBitsTwice) {
    const Case c = cases()[0];
    EXPECT_EQ(train(c, 2).values, train(c, 2).values);
}

#ifndef DOUBLE
// Sums go through the host; both chains' gradients are captured as graphs, the z-chain's between its messages.
TEST_F(UnderMpirun, TrainOnTheEmulatedGpu) {
    const WithBackend with(backend_simt_fp32);
    Case c = cases()[0];
    c.settings.chain_x.steps = c.settings.chain_z.steps = 3;
    c.settings.long_steps = 5;  // a second chain, of another length
    c.settings.long_every = 1;
    const int64_t before = traffic().messages;
    const Trained together = train(c, 1);
    const int64_t messages = traffic().messages - before;
    {
        const DisableGraphs eager;
        EXPECT_EQ(train(c, 1).values, together.values);
    }
    EXPECT_EQ(traffic().messages - before, 2 * messages);
    if (first_rank()) {
        const WorkAlone alone;
        expect_same(together, train(c, 1));
    }
    check_emulated_memory();
}
#endif

// Gradients of three networks and the scalars; batch norm's sums, one message a pass.
TEST_F(UnderMpirun, NoMessageIsSentThatIsNotNeeded) {
    const Case c = cases()[0];
    const Traffic before = traffic();
    train(c, 1);
    const int64_t norms = 7, forward = 1 + c.settings.chain_z.steps + 2 + 1, backward = c.settings.chain_z.steps + 2;
    const int64_t own_of_the_test = 1;  // the latents
    EXPECT_EQ(traffic().messages - before.messages, 3 + 1 + norms * (forward + backward) + own_of_the_test);
}

void expect_sums_in_the_order_of_ranks() {
    for (const int64_t n : {1, 7, 8191, 8192, 20011}) {  // whole, and in parts
        const auto values_of = [&](int rank) { return random_values(n, uint32_t(rank + 1)); };
        Values expected;
        for (int64_t i = 0; i < n; ++i) {
            double sum = 0;
            for (int rank = 0; rank < ranks().count; ++rank) sum += double(values_of(rank)[size_t(i)]);
            expected.push_back(real(0.5 * sum));
            if (n > 10) i += 97;
        }
        const Tensor own = Tensor::from_host({n}, values_of(ranks().rank));
        const Tensor first = own.slice_copy(0, 1);
        sum_over_ranks({own, first}, 0.5);
        const Values all = own.to_host();
        Values some;
        for (int64_t i = 0; i<n; i += n> 10 ? 98 : 1) some.push_back(all[size_t(i)]);
        EXPECT_EQ(some, expected) << n;
        EXPECT_EQ(first.item(), all[0]) << n;
    }
}

TEST_F(UnderMpirun, SumsAreTakenInTheOrderOfRanks) { expect_sums_in_the_order_of_ranks(); }

// The emulated GPU's memory is the host's, which MPI reads as it reads a GPU's where it is CUDA-aware.
TEST_F(UnderMpirun, SumsFromGpuToGpuAreTheSame) {
    ASSERT_EQ(setenv("DUALMCMC_GPU_MESSAGES", "1", 1), 0);
    expect_sums_in_the_order_of_ranks();
#ifndef DOUBLE
    const WithBackend with(backend_simt_fp32);
    expect_sums_in_the_order_of_ranks();
    check_emulated_memory();
#endif
    ASSERT_EQ(setenv("DUALMCMC_GPU_MESSAGES", "yes", 1), 0);
    expect_failure([] { gpu_messages(); }, {"DUALMCMC_GPU_MESSAGES=yes", "0 or 1"});
    ASSERT_EQ(unsetenv("DUALMCMC_GPU_MESSAGES"), 0);
}

TEST_F(UnderMpirun, OtherBuildsAreRefused) {
    require_same_build("1.0");
    const std::string own = ranks().rank == 1 ? "2.0" : "1.0";
    expect_failure([&] { require_same_build(own); }, {"different builds", "rank 0 is 1.0; rank 1 is 2.0"});
}

TEST_F(UnderMpirun, WorkIsTakenInOrderAndStopsOnAll) {
    std::string taken;
    const auto work = [](int64_t k) { return std::string(size_t(k % 4), char('a' + k)); };
    const auto take = [&](int64_t k, const std::string& bytes) { taken += std::to_string(k) + bytes; };
    EXPECT_EQ(share_out(2, 9, work, take), 9);
    EXPECT_EQ(taken, first_rank() ? "2cc3ddd45f6gg7hhh8" : "");
    taken.clear();
    int64_t asked = 0;  // the last rank stops all before the second turn
    const auto stop = [&] { return ++asked == 2 && ranks().rank == ranks().count - 1; };
    EXPECT_EQ(share_out(0, 100, work, take, stop), ranks().count);
    EXPECT_EQ(on_any_rank(ranks().rank == 1), true);
    EXPECT_EQ(on_any_rank(false), false);
    EXPECT_EQ(of_first_rank(ranks().rank + 5), 5);
}

// The last rank is late, then the first. The lowest of the others prints a line, which names it alone: the others have
// come meanwhile. A wait within ten times the patience that follows is silent.
TEST_F(UnderMpirun, ALateRankIsNamed) {
    const int last = ranks().count - 1;
    for (const int late : {last, 0}) {
        const bool is_late = ranks().rank == late, prints = ranks().rank == (late == 0 ? 1 : 0);
        RankWatch watch(2);
        watch.at("iteration 7");
        const Values own = random_values(20011, uint32_t(ranks().rank));
        Values in_time = own, waited = own;
        sum_over_ranks(in_time);
        testing::internal::CaptureStderr();
        if (!prints) usleep(is_late ? 3'500'000 : 1'200'000);  // after the first has asked
        sum_over_ranks(waited);
        if (is_late) usleep(1'500'000);
        of_all_ranks({1});
        const std::string line = testing::internal::GetCapturedStderr();
        EXPECT_EQ(waited, in_time);
        if (!prints) {
            EXPECT_EQ(line, "");
            continue;
        }
        const std::string expected = text("dualmcmc: iteration 7: no answer for 2 s from rank ", late, " on ");
        EXPECT_TRUE(line.starts_with(expected) && line.ends_with("; the others wait\n")) << line;
        EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
        EXPECT_EQ(line.find(','), std::string::npos) << line;
    }
}

// The time in which a rank was stopped itself is none in which the others have not answered.
TEST_F(UnderMpirun, ARankThatWasStoppedBlamesNobody) {
    RankWatch watch(2);
    of_all_ranks({1});
    testing::internal::CaptureStderr();
    const std::string self = std::to_string(getpid());
    const std::string stop = "(sleep 0.3; kill -STOP " + self + "; sleep 2.5; kill -CONT " + self + ") &";
    if (first_rank()) ASSERT_EQ(std::system(stop.c_str()), 0);
    else usleep(1'800'000);
    of_all_ranks({1});
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(UnderMpirun, ABatchNeedsAnImageForEachRank) {
    const int64_t count = ranks().count;
    expect_failure([&] { SharedBatch shared(count - 1); }, {text("--batch ", count - 1), "start fewer"});
    SharedBatch shared(count + 1);
    EXPECT_EQ(shared.own().count, ranks().rank == count - 1 ? 2 : 1);
}

// ---- what starts them ---------------------------------------------------------------------------

// Whatever --mpi of srun's; no srun is needed to see it. Otherwise each task would train by itself.
TEST(RanksOfSlurm, TasksThatDoNotFindEachOtherAreRefused) {
    const std::string error_file = temporary_path("error.txt");
    const auto run = [&](int tasks, int task, const std::string& more = "") {
        const std::string step = text(more, " SLURM_STEP_NUM_TASKS=", tasks, " SLURM_PROCID=", task, " ");
        const std::string unset =
            "unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMIX_RANK PMI_RANK PMI_SIZE PALS_RANKID SLURM_JOBID "
            "SLURM_JOB_ID SLURM_STEPID SLURM_STEP_ID; ";
        const int status = std::system((unset + step + program_path() + " --help >/dev/null 2>" + error_file).c_str());
        return WEXITSTATUS(status);
    };
    EXPECT_EQ(run(2, 0), 1);
    const std::string line = read_bytes(error_file);
    EXPECT_TRUE(line.starts_with("dualmcmc: 2 processes were started, but ")) << line;
    EXPECT_EQ(run(2, 1), 1);
    EXPECT_EQ(read_bytes(error_file), "");  // the first one's line is enough
    EXPECT_EQ(run(1, 0), 0);
    // Of another MPI's launcher.
    EXPECT_EQ(run(1, 0, "PMI_SIZE=2 PMI_RANK=1"), 1);
    EXPECT_EQ(read_bytes(error_file), "");
    fs::remove(error_file);
}

#ifdef WITH_MPI

struct Outcome {
    int code;
    std::string out, error;
};

class Ranks : public testing::Test {
protected:
    void SetUp() override {
        if (std::system("command -v ${MPIRUN:-mpirun} >/dev/null") != 0) GTEST_SKIP() << "there is no mpirun";
        fs::remove_all(folder_);
        fs::create_directories(folder_);
    }
    void TearDown() override { fs::remove_all(folder_); }

    std::string in(const std::string& name) const { return folder_ + "/" + name; }

    // The shell runs `script` in the folder; $dualmcmc is the program, $mpirun starts it.
    Outcome shell(const std::string& script) const {
        // What Open MPI needs as root, and with more processes than cores.
        const std::string command = "cd '" + folder_ +
                                    "' && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                                    "OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none "
                                    "OMPI_MCA_mpi_yield_when_idle=1 OMP_NUM_THREADS=1 "
                                    "CUDA_VISIBLE_DEVICES= && mpirun=${MPIRUN:-mpirun} && dualmcmc='" +
                                    fs::absolute(program_path()).string() + "' && { " + script +
                                    "; } >out.txt 2>error.txt";
        const int status = std::system(command.c_str());
        return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_bytes(in("out.txt")), read_bytes(in("error.txt"))};
    }
    // The program on so many processes; 1: without mpirun.
    Outcome run(int processes, const std::string& arguments) const {
        return shell((processes == 1 ? "" : text("$mpirun -np ", processes, " ")) + "$dualmcmc " + arguments);
    }
    void expect_runs(int processes, const std::string& arguments) const {
        const Outcome result = run(processes, arguments);
        EXPECT_EQ(result.code, 0) << processes << " processes: " << arguments << "\n" << result.out << result.error;
    }
    // Not 0, and one line of the program with all of `parts`; what mpirun adds is its own.
    void expect_refused(int processes, const std::string& arguments, const std::vector<std::string>& parts) const {
        expect_refused(run(processes, arguments), arguments, parts);
    }
    // The same of two processes with their own arguments, of which the second fails.
    void expect_second_refused(const std::string& first, const std::string& second, const std::string& part) const {
        const std::string program = "-np 1 $dualmcmc ";
        const Outcome result = shell("$mpirun " + program + first + " : " + program + second);
        expect_refused(result, second, {"dualmcmc: rank 1 on ", part});
    }
    void expect_refused(const Outcome& result, const std::string& arguments,
                        const std::vector<std::string>& parts) const {
        EXPECT_NE(result.code, 0) << arguments;
        const size_t first = result.error.find("dualmcmc: ");
        ASSERT_NE(first, std::string::npos) << arguments << "\n" << result.error;
        EXPECT_EQ(result.error.find("dualmcmc: ", first + 1), std::string::npos) << result.error;
        const std::string line = result.error.substr(first, result.error.find('\n', first) - first);
        for (const std::string& part : parts) EXPECT_NE(line.find(part), std::string::npos) << line;
    }

    // Every file in `a` is in `b`, byte for byte, and none else.
    void expect_same_files(const std::string& a, const std::string& b) const {
        const auto files = [&](const std::string& folder) {
            std::map<std::string, std::string> out;
            for (const auto& entry : fs::recursive_directory_iterator(in(folder)))
                if (entry.is_regular_file())
                    out[fs::relative(entry.path(), in(folder)).string()] = read_bytes(entry.path().string());
            return out;
        };
        const auto one = files(a), other = files(b);
        EXPECT_FALSE(one.empty());
        EXPECT_EQ(one.size(), other.size());
        for (const auto& [name, bytes] : one)
            EXPECT_TRUE(other.count(name) && other.at(name) == bytes) << name << " in " << a << " and " << b;
    }
    // All networks, moments and states of two checkpoints.
    void expect_same_tensors(const std::string& a, const std::string& b) const {
        const SafetensorsFile one = read_safetensors(in(a)), other = read_safetensors(in(b));
        ASSERT_EQ(one.tensors.size(), other.tensors.size());
        for (const auto& [name, tensor] : one.tensors) EXPECT_EQ(tensor.bytes, other.tensors.at(name).bytes) << name;
    }
    // The last line's value in this column of a run's metrics.csv.
    double last_metric(const std::string& run, size_t column) const {
        const std::string all = read_bytes(in(run + "/metrics.csv"));
        std::istringstream line(all.substr(all.rfind('\n', all.size() - 2) + 1));
        std::string field;
        for (size_t c = 0; c <= column; ++c) std::getline(line, field, ',');
        return std::stod(field);
    }

    inline static const std::string tiny =
        "train --preset demo --width-generator 2 --width-ebm 2 --width-encoder 1 --latent 3 --batch 5 --steps-x 1 "
        "--steps-z 1 --sampler-batch 50 ";
    const std::string folder_ = temporary_path("ranks");
};

// In double precision only what is about numbers.
TEST_F(Ranks, TheTestsAboveOnSeveralProcesses) {
    const std::string self = fs::read_symlink("/proc/self/exe").string();
    const std::string suite = "UnderMpirun", test = proof ? "TrainAsOneProcessDoes" : "*";
    const testing::UnitTest& all = *testing::UnitTest::GetInstance();
    int tests = 0;
    for (int i = 0; i < all.total_test_suite_count(); ++i)
        if (all.GetTestSuite(i)->name() == suite) tests = proof ? 1 : all.GetTestSuite(i)->total_test_count();
    for (const int processes : proof ? std::vector{2, 3, 5} : std::vector{2, 3}) {
        const Outcome result = shell(text("$mpirun -np ", processes, " '", self, "' --gtest_filter='", suite, ".", test,
                                          "' --gtest_brief=1 --gtest_color=no"));
        EXPECT_EQ(result.code, 0) << processes << " processes:\n" << result.out << result.error;
        // None was skipped: they found each other. (The first one prints.)
        EXPECT_NE(result.out.find(text("[  PASSED  ] ", tests, tests == 1 ? " test." : " tests.")), std::string::npos)
            << tests << "\n"
            << result.out;
    }
}

#ifndef DOUBLE

// The same number of processes gives the same bits; another number resumes, and the next iteration is that of one
// process to the six digits of the metrics.
TEST_F(Ranks, TrainAndResume) {
    const Outcome result = run(2, tiny + "--method abp --start-z persistent --ema 0.9 --iterations 3 --out two");
    EXPECT_EQ(result.code, 0) << result.error;
    EXPECT_EQ(result.error, "");
    EXPECT_EQ(result.out.find("device: "), result.out.rfind("device: ")) << "printed twice:\n" << result.out;
    EXPECT_NE(result.out.find("2 processes"), std::string::npos) << result.out;
    expect_runs(2, tiny + "--method abp --start-z persistent --ema 0.9 --iterations 3 --out again");
    expect_same_tensors("two/checkpoints/iteration-000003.safetensors",
                        "again/checkpoints/iteration-000003.safetensors");
    expect_runs(3, "train --resume --iterations 4 --out two");
    expect_runs(1, "train --resume --iterations 4 --out again");
    const double mse = last_metric("again", 2);
    EXPECT_NEAR(last_metric("two", 2), mse, 2 * 5e-6 * mse) << "half a unit of the last digit each";
    expect_runs(1, "train --resume --iterations 5 --out two");
}

TEST_F(Ranks, SampleAndReconstructWriteTheSameFiles) {
    expect_runs(1, tiny + "--iterations 2 --out model");
    const std::string model = " --model model/checkpoints/iteration-000002.safetensors ";
    for (const int processes : {1, 3}) {
        const std::string n = std::to_string(processes);
        expect_runs(processes, "sample --count 230 --steps-x 1 --out sample" + n + model);
        expect_runs(processes,
                    "sample --count 230 --steps-x 1 --npy --batch-norm recalibrated --batch-norm-batches 2 "
                    "--out npy" +
                        n + model);
        expect_runs(processes, "reconstruct --count 130 --out reconstruct" + n + model);
    }
    expect_same_files("sample1", "sample3");
    expect_same_files("npy1", "npy3");
    expect_same_files("reconstruct1", "reconstruct3");
    // Continued where it was interrupted, by another number of processes.
    fs::remove(in("sample3/revised/000111.png"));
    expect_runs(2, "sample --count 230 --steps-x 1 --out sample3" + model);
    expect_same_files("sample1", "sample3");
}

TEST_F(Ranks, CompareSharesItsRunsOut) {
    const std::string grid =
        "compare --preset demo --method abp,vae,cooperative --iterations 2 --seeds 1 --count 12 --set "
        "width-generator=2 --set width-ebm=2 --set width-encoder=1 --set latent=2 --set batch=2 --set steps-x=1 --set "
        "sampler-batch=6 --set sampler-steps=1 --out ";
    expect_runs(1, grid + "one");
    expect_runs(2, grid + "two");
    for (const std::string run : {"abp-1", "vae-1", "cooperative-1"}) {
        expect_same_tensors("one/" + run + "/checkpoints/iteration-000002.safetensors",
                            "two/" + run + "/checkpoints/iteration-000002.safetensors");
        EXPECT_EQ(read_bytes(in("one/" + run + "/result.npy")), read_bytes(in("two/" + run + "/result.npy"))) << run;
    }
    EXPECT_EQ(read_bytes(in("one/compare.png")), read_bytes(in("two/compare.png")));
}

// One line, whoever fails, and nobody waits for the others.
TEST_F(Ranks, ErrorsEndAllProcesses) {
    expect_refused(3, "train --preset demo --batch 2 --out run", {"--batch 2", "3 processes"});
    expect_refused(2, "train --preset nope", {"--preset nope"});
    expect_refused(2, tiny + "--data nowhere --out run", {"nowhere"});
    // Only the first process writes; the others wait for it in the next iteration.
    fs::create_directories(in("run/checkpoints/iteration-000002.safetensors"));  // in the way of the file
    expect_refused(2, tiny + "--iterations 2 --out run", {"iteration-000002.safetensors", "cannot write"});
    fs::remove_all(in("run/checkpoints/iteration-000002.safetensors"));
    expect_runs(2, "train --resume --out run --iterations 2");
    // Only the second process fails.
    expect_runs(1, tiny + "--iterations 1 --out model");
    const std::string resume = "train --resume --out model --iterations 2 ";
    expect_second_refused(resume, resume + "--sigma -1", "--sigma");
    expect_second_refused(tiny + "--out other", tiny + "--out other --width-ebm 3", "settings");
    expect_second_refused(tiny + "--out other", tiny + "--out other --iterations 2", "settings");
    std::vector<std::string> devices;
    for (const InstructionSet& set : instruction_sets())
        if (set.supported) devices.push_back(tiny + "--out other --device " + set.device);
    if (devices.size() > 1) expect_second_refused(devices[0], devices[1], "choose one that all have");
}

// All ranks roll back at the same iteration: the run equals one that starts at the checkpoint with that many rollbacks.
TEST_F(Ranks, RollBackTogether) {
    expect_runs(2, tiny + "--iterations 4 --out calm");
    std::istringstream rows(read_bytes(in("calm/metrics.csv")));
    double largest = 0;
    std::string row, cell;
    std::getline(rows, row);  // the header
    std::getline(rows, row);  // the untrained networks
    while (std::getline(rows, row)) {
        std::istringstream cells(row);
        for (int column = 0; column < 6; ++column) std::getline(cells, cell, ',');
        largest = std::max(largest, std::abs(std::stod(cell)));
    }
    // One iteration is beyond it; with other noise it falls on either side.
    const Outcome cut = run(2, text(tiny, "--iterations 4 --max-energy-gap ", 0.9999 * largest, " --out cut"));
    EXPECT_EQ(cut.code, 0) << cut.out << cut.error;
    size_t rollbacks = 0;
    for (size_t at = 0; (at = cut.out.find("with fresh noise", at)) != std::string::npos; ++at) ++rollbacks;
    ASSERT_GE(rollbacks, 1u) << cut.out;

    SafetensorsFile start = read_safetensors(in("calm/checkpoints/iteration-000000.safetensors"));
    start.metadata.at("rollbacks") = std::to_string(rollbacks);
    fs::create_directories(in("by_hand/checkpoints"));
    write_safetensors(in("by_hand/checkpoints/iteration-000000.safetensors"), start);
    expect_runs(2, "train --resume --out by_hand");
    expect_same_tensors("cut/checkpoints/iteration-000004.safetensors",
                        "by_hand/checkpoints/iteration-000004.safetensors");
}

// A run is killed and one is interrupted, both at some iteration after the first checkpoint; --resume goes on.
TEST_F(Ranks, KilledAndInterrupted) {
    const std::string start = "$mpirun -np 2 $dualmcmc " + tiny + "--iterations 1000000 --checkpoint-every 2 --out ";
    const std::string until =
        "& pid=$!; until ls {}/checkpoints/*[2468].safetensors >ls.txt 2>&1 || [ ! -d /proc/$pid ]; "
        "do sleep 0.1; done; ";
    const auto script = [&](const std::string& run, const std::string& kill) {
        std::string wait = until;
        wait.replace(wait.find("{}"), 2, run);
        return start + run + wait + kill + "; wait $pid";
    };
    const Outcome killed = shell(
        script("killed", "for child in $(cat /proc/$pid/task/*/children); do :; done; kill -9 $child || kill $pid"));
    EXPECT_NE(killed.code, 0);
    // Open MPI waits so many seconds before it kills what it has asked to end.
    const Outcome interrupted =
        shell("export OMPI_MCA_odls_base_sigkill_timeout=5; " + script("interrupted", "kill -INT $pid"));
    EXPECT_NE(interrupted.code, 0);
    EXPECT_NE(interrupted.out.find("interrupted; continue with"), std::string::npos) << interrupted.out;
    for (const std::string run : {"killed", "interrupted"}) {
        const int64_t done = int64_t(last_metric(run, 0));
        EXPECT_GE(done, 2) << run;
        expect_runs(3, text("train --resume --iterations ", done + 2, " --out ", run));
        EXPECT_EQ(last_metric(run, 0), double(done + 2)) << run;
    }
}

#endif  // DOUBLE

#else

TEST(Ranks, ABuildWithoutMpiRefusesSeveralProcesses) {
    const int status = std::system(
        text("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 ", program_path(), " --help 2>/dev/null").c_str());
    EXPECT_EQ(WEXITSTATUS(status), 1);
    GTEST_SKIP() << "built without MPI: the tests of several processes need an MPI compiler (libopenmpi-dev)";
}

#endif  // WITH_MPI

}  // namespace
}  // namespace dualmcmc::test
