// What only a GPU has: chains as CUDA graphs. Then, on the emulated GPU (tests/simt), which can produce and count such
// events: no allocation and no waiting within an iteration, full memory, absent and unsuitable devices. Then the choice
// of device and precision. Kernels are compared with references in kernels_test.cpp, networks and iterations in
// networks_test.cpp and reference_test.cpp.
#include <algorithm>

#include "compare.h"
#include "engine/graphed_function.h"
#include "method/dual_mcmc.h"
#include "simt/cuda_runtime.h"

namespace dualmcmc::test {

void check_emulated_memory() { simt::check_memory(); }

namespace {

class EmulatedGpu : public testing::Test {
protected:
    ~EmulatedGpu() override {
        simt::machine.limit = size_t(-1);
        simt::machine.devices = 1, simt::machine.driver = 13000;
        simt::machine.device_status = simt::machine.code_status = cudaSuccess;
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

// ---- absent and unsuitable devices --------------------------------------------------------------

void expect_reason(const std::string& part) {
    try {
        backend_simt_tf32.start();
        ADD_FAILURE() << "started, though: " << part;
    } catch (const std::runtime_error& error) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
}

TEST_F(EmulatedGpu, SaysWhyItIsNotUsable) {
    EXPECT_NE(backend_simt_fp32.start().find("emulated GPU"), std::string::npos);
    simt::machine.code_status = cudaErrorNoKernelImageForDevice;
    expect_reason("has no code for the emulated GPU: build it with CUDA_ARCH=80");
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
