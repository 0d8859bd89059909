// What only a GPU has: chains as CUDA graphs. Then, on the emulated GPU (tests/simt), which can produce and count such
// events: no allocation and no waiting within an iteration, full memory, absent and unsuitable devices. Then the choice
// of device and precision. Kernels are compared with references in kernels_test.cpp, networks and iterations in
// networks_test.cpp and reference_test.cpp.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "compare.h"
#include "engine/autograd.h"
#include "engine/graphed_function.h"
#include "gpu/load_library.h"
#include "method/dual_mcmc.h"
#include "simt/cuda_runtime.h"
#include "training/evaluation.h"

namespace dualmcmc::test {

void check_emulated_memory() { simt::check_memory(); }

namespace {

class EmulatedGpu : public testing::Test {
protected:
    ~EmulatedGpu() override {
        simt::machine.limit = size_t(-1);
        simt::machine.devices = 1, simt::machine.driver = 13000;
        simt::machine.major = 8, simt::machine.minor = 0;
        simt::machine.device_status = simt::machine.context_status = simt::machine.code_status = cudaSuccess;
        simt::machine.copies_until_failure = -1;
        simt::check_memory();
    }
    const WithThreads one_{1};
    const WithBackend with_{backend_simt_fp32};
};

const ModelSettings small{"cifar10", 4, 5, 2, 6};
const Shape images{3, 32, 32, 3};

StepSettings chains_of(int64_t steps) {
    StepSettings s;
    s.chain_x.steps = s.chain_z.steps = steps;
    return s;
}

// All results of an iteration, and the networks after it.
std::vector<Values> iterate(Models& models, const StepSettings& settings, int64_t iteration) {
    const Tensor x = random_tensor(images, uint32_t(iteration));
    const StepResult r =
        dual_mcmc_step(models, x, philox_noise(5, uint64_t(iteration), images, small.latent), settings, iteration + 1);
    std::vector<Values> out;
    for (const Tensor& tensor : {r.x_revised, r.x_resampled, r.z_revised, r.loss_recon, r.loss_revise, r.nll_posterior,
                                 r.nll_generated, r.energy_model})
        out.push_back(tensor.to_host());
    for (const auto& trace : {r.energy_trace, r.sse_trace})
        for (const Tensor& value : trace) out.push_back(value.to_host());
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries()) out.push_back(entry.value.value().to_host());
    return out;
}

// ---- graphs -------------------------------------------------------------------------------------

class GpuChains : public EachBackend {
    WithThreads one_{1};
};
INSTANTIATE_TEST_SUITE_P(Gpu, GpuChains, testing::ValuesIn(gpu_backends_of_all_precisions()), backend_name);

TEST_P(GpuChains, ReplayedGraphsGiveTheBitsOfEagerSteps) {
    Models replayed(small, 3), eager(small, 3);
    for (int64_t iteration = 0; iteration < 3; ++iteration) {
        const auto found = iterate(replayed, chains_of(4), iteration);
        const DisableGraphs no_graphs;
        EXPECT_EQ(iterate(eager, chains_of(4), iteration), found) << "iteration " << iteration;
    }
}

TEST_F(EmulatedGpu, EveryChainStepButTheFirstIsAGraphLaunch) {
    Models models(small, 3);
    const int64_t before = simt::machine.graph_launches;
    iterate(models, chains_of(4), 0);
    EXPECT_EQ(simt::machine.graph_launches - before, 3 * 3);
    const DisableGraphs no_graphs;
    iterate(models, chains_of(4), 1);
    EXPECT_EQ(simt::machine.graph_launches - before, 3 * 3);
}

// A replayed step is one graph and, outside it, the copy of its input, the update, which draws its own noise, and the
// trace's entry.
TEST_F(EmulatedGpu, AReplayedStepIsAFewLaunches) {
    Models models(small, 3);
    const Tensor start = random_tensor(images, 1);
    const auto launches = [&](int64_t steps) {
        const int64_t before = simt::machine.launches;
        langevin_x(
            start, [&](const Tensor& x) { return energy_gradient(models.ebm, x); }, {steps, 0.5f, 0.01f},
            [&](int64_t k) {
                return RandomKey{1, 2, uint64_t(k)};
            });
        return simt::machine.launches - before;
    };
    const int64_t two = launches(2), seven = launches(7);
    EXPECT_GT(two, 90);             // one eager step, one captured
    EXPECT_EQ(seven - two, 5 * 3);  // the update, and the trace's sum, which is two
}

TEST_F(EmulatedGpu, AllSpectralNormsTakeFiveLaunches) {
    Models models(small, 3);
    const NoGrad no_grad;
    const int64_t before = simt::machine.launches;
    models.ebm.power_iteration();
    EXPECT_EQ(simt::machine.launches - before, 5);
}

// The next chain with the same graph updates the existing executable.
TEST_F(EmulatedGpu, GraphsAreInstantiatedOnce) {
    Models models(small, 3);
    iterate(models, chains_of(3), 0);
    const int64_t instantiated = simt::machine.graphs_instantiated, updated = simt::machine.graphs_updated;
    iterate(models, chains_of(3), 1);
    EXPECT_EQ(simt::machine.graphs_instantiated, instantiated);
    EXPECT_EQ(simt::machine.graphs_updated, updated + 3);
}

// Tensors allocated and written between two calls must not share memory with the graph, nor with those of its results
// that the network keeps.
TEST_F(EmulatedGpu, AGraphsMemoryIsPrivate) {
    Models models(small, 3);
    const Tensor first = random_tensor(images, 1), second = random_tensor(images, 2);
    GraphedFunction gradient([&](const Tensor& x) { return std::vector{energy_gradient(models.ebm, x).gradient}; });
    gradient(first);
    gradient(first);
    const auto disturb = [] {
        std::vector<Tensor> others;
        for (int64_t n = 1; n < int64_t(1) << 20; n *= 2)
            for (int i = 0; i < 4; ++i) others.push_back(Tensor::full({n}, 7));
        return others;
    };
    const std::vector<Tensor> others = disturb();
    const Values found = gradient(second)[0].to_host();
    for (const Tensor& other : others) {
        const Values values = other.to_host();
        EXPECT_EQ(std::count(values.begin(), values.end(), 7.0f), int64_t(values.size()));
    }
    Models again(small, 3);
    const DisableGraphs no_graphs;
    for (int i = 0; i < 2; ++i) energy_gradient(again.ebm, first);
    EXPECT_EQ(found, energy_gradient(again.ebm, second).gradient.to_host());
    // The network has the weights of the last power iteration, which ran in the graph.
    EXPECT_EQ(models.ebm.energy(Var(first)).value().to_host(), again.ebm.energy(Var(first)).value().to_host());
}

// If memory is full the pool may free its cached blocks during a capture.
TEST_F(EmulatedGpu, FreesDuringACaptureAreDeferred) {
    const Tensor x = random_tensor({4}, 1);
    Tensor::full({int64_t(1) << 20}, 0);  // cached by the pool from now on
    size_t within = 0;
    GraphedFunction empties([&](const Tensor& y) {
        empty_cache();
        within = simt::machine.allocated;
        return std::vector{y.clone()};
    });
    empties(x);
    Tensor::full({int64_t(1) << 20}, 0);
    EXPECT_EQ(empties(x)[0].to_host(), x.to_host());
    EXPECT_LE(simt::machine.allocated + (size_t(3) << 20), within);
}

// A capture frees nothing until it ends; memory that the pool gave up for it must serve a second try.
TEST_F(EmulatedGpu, ACaptureInFullMemoryTriesAgain) {
    constexpr int64_t mebi = int64_t(1) << 18;  // floats
    const Tensor x = random_tensor({4}, 1);
    Tensor kept;  // like W / σ in the networks: the next call's is made while this one's is held
    GraphedFunction f([&](const Tensor& y) {
        const Var recorded = scale(Var(y), 2);
        Tensor made = Tensor::full({12 * mebi}, 3);
        kept = made;
        return std::vector{recorded.value(), made};
    });
    f(x);
    truncate_tape(0);
    Tensor::full({16 * mebi}, 0);  // waits in the pool
    simt::machine.limit = simt::machine.allocated;
    for (int call = 2; call < 5; ++call) {
        const std::vector<Tensor> found = f(x);
        EXPECT_EQ(found[0].to_host(), scale(Var(x), 2).value().to_host()) << call;
        EXPECT_EQ(found[1].to_host().back(), 3) << call;
    }
    EXPECT_EQ(tape_size(), 1 + 3) << "the failed capture's ops are forgotten: the tape has the capture's, and ours";
    truncate_tape(0);
}

// A graph's executable takes memory that the pool does not hand out.
TEST_F(EmulatedGpu, AGraphMayTakeCachedBlocks) {
    const Tensor x = random_tensor({4}, 1);
    const auto ops = [&](int count) {  // as many nodes as in no other test, so that an executable must be made
        return [count](const Tensor& y) {
            Var sum(y);
            for (int i = 0; i < count; ++i) sum = scale(sum, 1);
            return std::vector{sum.value()};
        };
    };
    constexpr size_t for_tensors = size_t(64) << 10;
    GraphedFunction f(ops(57)), other(ops(58));
    f(x), other(x);
    { const Tensor cached = Tensor::full({int64_t(1) << 22}, 1); }
    const int64_t before = pool_bytes();
    simt::machine.limit = simt::machine.allocated + for_tensors;
    EXPECT_EQ(f(x)[0].to_host(), x.to_host());
    EXPECT_LT(pool_bytes(), before);
    empty_cache();
    simt::machine.limit = simt::machine.allocated + for_tensors;
    try {
        other(x);
        ADD_FAILURE() << "a graph was made in full memory";
    } catch (const OutOfMemory&) {
        ADD_FAILURE() << "it is to be the executable that does not fit";
    } catch (const std::bad_alloc&) {}
    truncate_tape(0);
}

TEST_F(EmulatedGpu, ACaptureThatNeedsTooMuchMemorySaysSo) {
    const Tensor x = random_tensor({4}, 1);
    std::vector<Tensor> kept;
    GraphedFunction f([&](const Tensor& y) {
        kept.push_back(Tensor::full({int64_t(1) << 22}, 3));
        return std::vector{y.clone()};
    });
    f(x);
    empty_cache();
    simt::machine.limit = simt::machine.allocated + (1 << 20);
    EXPECT_THROW(f(x), OutOfMemory);
    simt::machine.limit = size_t(-1);
    EXPECT_EQ(x.clone().to_host(), random_values(4, 1)) << "the stream works again";
}

// The graph holds pointers to the workspace, which has grown and moved.
TEST_F(EmulatedGpu, AGraphIsRefusedAfterItsWorkspaceMoved) {
    const Tensor w = random_tensor({3, 3, 8, 8}, 1), x = random_tensor({1, 6, 5, 8}, 2);
    const auto convolved = [&](const Tensor& images) {
        return conv2d(Var(images), Var(w), Var(), {.padding = 1}).value();
    };
    GraphedFunction convolve([&](const Tensor& images) { return std::vector{convolved(images)}; });
    for (int i = 0; i < 3; ++i) convolve(x);
    convolved(random_tensor({64, 64, 65, 8}, 3));
    EXPECT_THROW(convolve(x), std::runtime_error);
}

TEST_F(EmulatedGpu, AFunctionThatDownloadsIsRefused) {
    const Tensor x = random_tensor({4}, 1);
    GraphedFunction downloads([](const Tensor& y) { return std::vector{Tensor::from_host({4}, y.to_host())}; });
    EXPECT_EQ(downloads(x)[0].to_host(), x.to_host());
    EXPECT_THROW(downloads(x), std::runtime_error);
    EXPECT_EQ(x.clone().to_host(), random_values(4, 1)) << "the stream works again";
    const DisableGraphs no_graphs;
    EXPECT_EQ(downloads(x)[0].to_host(), x.to_host());
}

// The graph would upload whatever is in the host's memory at its launch.
TEST_F(EmulatedGpu, AFunctionThatUploadsIsRefused) {
    const Tensor x = random_tensor({4}, 1);
    GraphedFunction uploads([](const Tensor&) { return std::vector{Tensor::from_host({4}, {1, 2, 3, 4})}; });
    uploads(x);
    EXPECT_THROW(uploads(x), std::runtime_error);
    EXPECT_EQ(Tensor::from_host({2}, {5, 6}).to_host(), (Values{5, 6})) << "uploading works again";
}

// Work of the host's sees the kernels before it, and those after it see what it wrote: at each call, and once.
TEST_F(EmulatedGpu, WorkBetweenGraphsRunsAtEachCall) {
    int64_t works = 0;
    const auto f = [&](const Tensor& y) {
        Tensor z = y;
        for (int part = 0; part < 2; ++part) {
            const Tensor doubled = scale(Var(z), 2).value(), next(z.shape());
            between_graphs([=, &works] {
                Values values = doubled.to_host();
                for (real& value : values) value = 1 / value;
                next.copy_from_host(values);
                ++works;
            });
            z = scale(Var(next), 3).value();
        }
        return std::vector{z};
    };
    GraphedFunction graphed(f);
    for (uint32_t call = 1; call < 5; ++call) {
        const Tensor x = random_tensor({5}, call);
        const Values found = graphed(x)[0].to_host();
        EXPECT_EQ(std::exchange(works, 0), 2) << call;
        EXPECT_EQ(found, f(x)[0].to_host()) << call;
        works = 0;
    }
    truncate_tape(0);
}

TEST_F(EmulatedGpu, AFunctionThatDownloadsAfterAPartIsRefused) {
    const Tensor x = random_tensor({4}, 1);
    GraphedFunction downloads([](const Tensor& y) {
        const Tensor copy = y.clone();
        between_graphs([] {});
        return std::vector{Tensor::from_host({4}, copy.to_host())};
    });
    for (int call = 0; call < 3; ++call) {
        if (call == 0) downloads(x);
        else EXPECT_THROW(downloads(x), std::runtime_error);
        EXPECT_EQ(x.clone().to_host(), random_values(4, 1)) << "the stream works";
    }
}

// ---- memory and waiting -------------------------------------------------------------------------

TEST_F(EmulatedGpu, AnIterationNeitherAllocatesNorWaits) {
    Models models(small, 3);
    for (int64_t i = 0; i < 2; ++i) iterate(models, chains_of(3), i);
    const Tensor x = random_tensor(images, 1);
    const int64_t allocations = simt::machine.allocations, waits = simt::machine.waits;
    for (uint64_t i = 2; i < 4; ++i) {
        dual_mcmc_step(models, x, philox_noise(5, i, images, small.latent), chains_of(3), int64_t(i) + 1);
        EXPECT_EQ(simt::machine.waits, waits);
        EXPECT_EQ(simt::machine.allocations, allocations) << "iteration " << i;
        x.to_host();
        EXPECT_EQ(simt::machine.waits, waits + 1) << "a wait is counted";
        simt::machine.waits = waits;
    }
}

TEST_F(EmulatedGpu, FullMemoryEmptiesTheCacheAndRetries) {
    constexpr int64_t mebi = int64_t(1) << 18;  // floats
    { const Tensor large = Tensor::full({32 * mebi}, 1); }
    simt::machine.limit = simt::machine.allocated + (8 << 20);
    const Tensor other = Tensor::full({24 * mebi}, 2);  // fits only after `large` has been freed
    EXPECT_EQ(other.to_host().back(), 2);
    EXPECT_LE(simt::machine.allocated, simt::machine.limit);
    try {
        const Tensor too_large = Tensor::full({1024 * mebi}, 3);
        FAIL() << "1024 MiB were allocated";
    } catch (const std::runtime_error& error) {
        const std::string message = error.what();
        for (const char* part : {"out of memory", "1024 MiB", "MiB are free", "--batch"})
            EXPECT_NE(message.find(part), std::string::npos) << message;
    }
    EXPECT_EQ(other.to_host().front(), 2) << "memory in use is kept";
}

TEST_F(EmulatedGpu, TheWorkspaceMayTakeCachedBlocks) {
    { const Tensor large = Tensor::full({int64_t(1) << 24}, 1); }  // 64 MiB, now cached
    const Tensor x = Tensor::full({1, 256, 256, 64}, 1), w = Tensor::full({3, 3, 64, 1}, 1);
    Tensor y({1, 256, 256, 1});
    simt::machine.limit = simt::machine.allocated + (1 << 20);
    const int64_t before = pool_bytes();
    (backend().exact ? *backend().exact : backend())
        .conv2d(y.data(), x.data(), w.data(), nullptr, nullptr, {1, 256, 256, 64, 1, 3, 1, 1});  // x padded: 16 MiB
    EXPECT_EQ(y.to_host()[256 * 128 + 128], 9 * 64);
    EXPECT_LT(pool_bytes(), before);
}

// Also the workspace and cuBLAS's, which the pool does not know.
TEST_F(EmulatedGpu, PeakMemoryCountsTensorsAndWorkspaces) {
    const auto peak = [] { return size_t(backend().peak_bytes()); };
    const Tensor x = Tensor::full({1, 256, 256, 64}, 1), w = Tensor::full({3, 3, 64, 1}, 1);
    conv2d(Var(x), Var(w), Var(), {.padding = 1});
    truncate_tape(0);
    const size_t all = simt::machine.allocated, tensors = size_t(x.size() + w.size()) * sizeof(real);
    EXPECT_GT(all, 2 * tensors) << "x padded is workspace";
    EXPECT_GE(peak(), all);
    const size_t before = peak();
    { const Tensor more = Tensor::full({int64_t(1) << 24}, 1); }
    EXPECT_GE(peak(), std::max(before, all + (size_t(4) << 24)));
    const size_t after = peak();
    empty_cache();
    EXPECT_EQ(peak(), after) << "the peak stays";
    EXPECT_LT(simt::machine.allocated, after);
}

// ---- work that must not come back ---------------------------------------------------------------

// Between few channels and many, one GEMM over patches in place of one a tap; with ReLU, strides and paddings.
TEST_F(EmulatedGpu, WeightGradientsOfColoursAreOneGemm) {
    for (const ConvShape& s : {ConvShape{2, 8, 6, 3, 64, 3, 1, 1, true},
                               {2, 8, 6, 64, 3, 3, 1, 1, true},
                               {2, 8, 6, 3, 64, 4, 2, 1},
                               {2, 8, 6, 1, 64, 3, 1, 0},
                               {2, 4, 4, 3, 64, 4, 1, 0}})
        for (const Backend* table : {&backend_simt_fp32, &backend_simt_tf32, &backend_simt_bf16}) {
            const WithBackend with(*table);
            const Tensor x({s.x_size()}), dy({s.y_size()}), dw({s.kernel * s.kernel * s.in * s.out});
            const int64_t before = simt::machine.gemms;
            backend().conv2d_backward_weight(dw.data(), x.data(), dy.data(), s);
            EXPECT_EQ(simt::machine.gemms - before, 1) << backend().name << " " << s.in << " to " << s.out;
        }
    const Tensor x({2 * 8 * 6 * 64}), dw({9 * 64 * 64});
    const int64_t before = simt::machine.gemms;
    backend().conv2d_backward_weight(dw.data(), x.data(), x.data(), {2, 8, 6, 64, 64, 3, 1, 1});
    EXPECT_EQ(simt::machine.gemms - before, 9) << "many channels: one a tap";
}

// The emulated cuBLAS cuts TF32's lower bits off, as tensor cores may. A sum of values that all would lose ¾ of a unit
// shows whether they were rounded before.
TEST_F(EmulatedGpu, Tf32WeightGradientsAreRoundedToNearest) {
    const WithBackend with(backend_simt_tf32);
    for (const ConvShape& s :
         {ConvShape{1, 8, 8, 32, 32, 1, 1, 0}, {1, 8, 8, 32, 32, 3, 1, 1}, {1, 8, 8, 3, 32, 3, 1, 1}}) {
        const Tensor x = Tensor::full({s.x_size()}, 1 + 3 * 0x1p-12f), dy = Tensor::full({s.y_size()}, 1);
        const Tensor dw({s.kernel * s.kernel * s.in * s.out});
        backend().conv2d_backward_weight(dw.data(), x.data(), dy.data(), s);
        const int64_t middle = s.kernel / 2 * (s.kernel + 1);  // the tap that meets all pixels
        EXPECT_EQ(dw.to_host()[size_t(middle * s.in * s.out)], 64 * (1 + 0x1p-10f)) << s.in << ", kernel " << s.kernel;
    }
}

// ---- absent and unsuitable devices --------------------------------------------------------------

void expect_reason(const std::string& part) {
    try {
        backend_simt_tf32.start(0);
        ADD_FAILURE() << "started, though: " << part;
    } catch (const std::runtime_error& error) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
}

TEST_F(EmulatedGpu, SaysWhyItIsNotUsable) {
    EXPECT_NE(backend_simt_fp32.start(0).find("emulated GPU"), std::string::npos);
    simt::machine.devices = 3;
    backend_simt_fp32.start(4);  // the fifth process of a machine with three GPUs
    EXPECT_EQ(simt::machine.device, 1);
    const auto no_code = [](int status) {
        return text("this build has no code that the driver can run on the emulated GPU (error ", status,
                    "): build it with CUDA_ARCH=80, or update the driver");
    };
    const std::vector<std::pair<cudaError_t, std::string>> reasons{
        {cudaErrorInvalidDeviceFunction, no_code(98)},
        {cudaErrorNoKernelImageForDevice, no_code(209)},
        {cudaErrorInvalidPtx, no_code(218)},
        {cudaErrorJitCompilerNotFound, no_code(221)},
        {cudaErrorUnsupportedPtxVersion, no_code(222)},
        {cudaErrorJitCompilationDisabled, no_code(223)},
        {cudaErrorUnknown, "the emulated GPU cannot be used: error 999"}};
    for (const auto& [status, reason] : reasons) {
        simt::machine.code_status = status;
        expect_reason(reason);
    }
    simt::machine.code_status = cudaSuccess;
    simt::machine.context_status = cudaErrorMemoryAllocation;
    expect_reason("the memory of the emulated GPU is full: end the programs");
    simt::machine.context_status = cudaErrorDevicesUnavailable;
    expect_reason("the emulated GPU cannot be used: error 46 (nvidia-smi shows what runs there");
    simt::machine.devices = 0;
    expect_reason("no NVIDIA GPU found");
    simt::machine.device_status = cudaErrorNoDevice;
    expect_reason("no NVIDIA GPU found: error 100");
    simt::machine.device_status = cudaErrorInsufficientDriver;
    simt::machine.driver = 11080;
    expect_reason("supports CUDA 11.8 and this build needs 13.0: update the driver");
    simt::machine.driver = 0;
    expect_reason("no NVIDIA driver found");
}

TEST_F(EmulatedGpu, NamesTheVariableThatChoosesAmongSeveral) {
    EXPECT_EQ(backend_simt_fp32.start(0).find("CUDA_VISIBLE_DEVICES"), std::string::npos);
    simt::machine.devices = 4;
    EXPECT_NE(backend_simt_fp32.start(0).find(", 1 of 4 (CUDA_VISIBLE_DEVICES chooses)"), std::string::npos);
    EXPECT_NE(backend_simt_fp32.start(6).find(", 3 of 4 "), std::string::npos) << "each rank the GPU of its place";
}

// The emulator's build has code for 8.0 and 9.0, as the default of the Makefile.
TEST_F(EmulatedGpu, SaysOnceThatTheDriverCompiles) {
    const auto told = [](int major, int minor) {
        simt::machine.major = major, simt::machine.minor = minor;
        testing::internal::CaptureStderr();
        backend_simt_fp32.start(0);
        return testing::internal::GetCapturedStderr();
    };
    for (const auto& [major, minor] : {std::pair(8, 0), {8, 9}, {9, 0}}) EXPECT_EQ(told(major, minor), "");
    const std::string line = told(12, 0);
    EXPECT_NE(line.find("a build with CUDA_ARCH=120 starts at once"), std::string::npos) << line;
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
    EXPECT_EQ(told(12, 0), "");
}

// In a process of its own, since cuBLAS starts once.
void start_with_cublas_status(int status, size_t limit) {
    simt::machine.cublas_status = status;
    simt::machine.limit = limit;
    try {
        backend_simt_tf32.start(0);
    } catch (const std::runtime_error& error) {
        std::fprintf(stderr, "%s", error.what());
        std::exit(3);
    }
}
TEST(EmulatedGpuDeathTest, CublasThatDoesNotStart) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const std::string full = "the memory of the emulated GPU is full: end the programs";
    EXPECT_EXIT(start_with_cublas_status(3, size_t(-1)), testing::ExitedWithCode(3), full);
    EXPECT_EXIT(start_with_cublas_status(1, 1 << 20), testing::ExitedWithCode(3), full);
    EXPECT_EXIT(start_with_cublas_status(1, size_t(1) << 40), testing::ExitedWithCode(3),
                "cuBLAS does not start: not init");
    EXPECT_EXIT(start_with_cublas_status(0, 1 << 20), testing::ExitedWithCode(3), full);  // its workspace
}

TEST(LoadLibrary, NamesEachPlacesError) {
    const std::string no_library = testing::TempDir() + "/dualmcmc_no_library.so";
    { std::ofstream(no_library) << "text"; }
    try {
        load_library({no_library, "/nowhere/libcublas.so.13"});
        FAIL() << "loaded a library that does not exist";
    } catch (const std::runtime_error& error) {
        const std::string message = error.what();
        EXPECT_NE(message.find("dualmcmc_no_library.so"), std::string::npos) << message;
        EXPECT_NE(message.find("/nowhere/libcublas.so.13"), std::string::npos) << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
    std::remove(no_library.c_str());
    EXPECT_NE(load_library({"/nowhere/libm.so.6", "libm.so.6"}), nullptr);
}

// A device that fails within an evaluation, at whatever point, ends in one exception, the first.
TEST_F(EmulatedGpu, ADeviceThatFailsInAnEvaluationThrows) {
    Models models(small, 3);
    const auto draw = [&] { draw_batch(models, 0, 3, "generator", chains_of(2).chain_x, 1, true); };
    draw();
    int64_t failures = 0;
    for (int64_t copies = 0;; ++copies, ++failures) {
        simt::machine.copies_until_failure = copies;
        try {
            draw();
            break;
        } catch (const std::runtime_error& error) {
            EXPECT_NE(std::string(error.what()).find("CUDA says: error 999"), std::string::npos) << error.what();
        }
    }
    EXPECT_GT(failures, 20) << "buffers saved, a step, pictures, buffers restored";
}

TEST_F(EmulatedGpu, ErrorsNameFileExpressionLibraryAndMessage) {
    try {
        backend_simt_fp32.release(this);
        FAIL() << "released memory that was not allocated";
    } catch (const std::runtime_error& error) {
        const std::string message = error.what();
        for (const char* part : {"gpu/memory.cu:", "cudaFree(pointer)", "CUDA says", "error 1"})
            EXPECT_NE(message.find(part), std::string::npos) << message;
    }
}

// ---- what the emulator must detect --------------------------------------------------------------

TEST(EmulatedGpuDeathTest, BarriersThatSomeThreadsMissAndWritesOutsideMemory) {
    const WithThreads one(1);
    EXPECT_DEATH(simt::run_grid(1, 32,
                                [] {
                                    if (threadIdx.x < 16) __syncthreads();
                                }),
                 "a barrier that not all threads");
    EXPECT_DEATH(
        {
            auto* const values = static_cast<float*>(backend_simt_fp32.allocate(4 * sizeof(float)));
            backend_simt_fp32.fill(values, 1, 5);
            simt::check_memory();
        },
        "outside device memory");
}

// ---- the real device's choice -------------------------------------------------------------------

std::string refusal(const std::string& device, const std::string& precision) {
    try {
        select_device(device, 1, precision);
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "";
}

TEST(Device, PrecisionsOfTheCpu) {
    const WithThreads one(1);
    const WithBackend keep(backend());
    for (const char* precision : {"auto", "fp32"})
        EXPECT_NE(select_device("cpu", 1, precision).find("CPU"), std::string::npos);
    for (const std::string precision : {"tf32", "bf16"})
        EXPECT_EQ(refusal("cpu", precision), "--precision " + precision + ": the CPU computes in fp32; leave it out");
    EXPECT_NE(refusal("cpu", "fp16").find("--precision fp16: unknown; give auto, fp32, tf32 or bf16"),
              std::string::npos);
}

TEST(Device, WithoutAGpuSaysSo) {
    const WithThreads one(1);
    const WithBackend keep(backend());
    if (!cuda_backends().empty() && why_not(*cuda_backends()[0]).empty()) GTEST_SKIP() << "a GPU is available here";
    const std::string reason =
        cuda_backends().empty() ? "this build holds no code for GPUs" : why_not(*cuda_backends()[0]);
    EXPECT_EQ(refusal("cuda", "auto"), "--device cuda: " + reason + " (--device cpu needs none)");
    const std::string line = select_device("auto", 1);
    EXPECT_TRUE(line.starts_with("CPU") && line.ends_with("; " + reason)) << line;
}

}  // namespace
}  // namespace dualmcmc::test
