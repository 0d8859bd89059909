// Launches and memory traffic on a GPU at the paper's widths (512/512/128, batch 100), counted without a GPU and
// without computing (simt/counting.h). A change that launches or moves more fails here; one that needs less shows what
// to write. With DUALMCMC_PRINT=1 the test prints reference/RESULTS.md's table.
#include <cstdio>
#include <cstdlib>

#include "compare.h"
#include "method/dual_mcmc.h"
#include "simt/cuda_runtime.h"

namespace dualmcmc {
extern const Backend backend_counted_fp32, backend_counted_tf32, backend_counted_bf16;
}

// What -fsanitize=thread calls before each load and store of the counted objects.
extern "C" {
#define HOOKS(bytes)                                                            \
    void __tsan_read##bytes(void* p) { simt::record_load(p, bytes); }           \
    void __tsan_write##bytes(void* p) { simt::record_store(p, bytes); }         \
    void __tsan_unaligned_read##bytes(void* p) { simt::record_load(p, bytes); } \
    void __tsan_unaligned_write##bytes(void* p) { simt::record_store(p, bytes); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
#undef HOOKS
void __tsan_read_range(void* p, size_t bytes) { simt::record_load(p, bytes); }
void __tsan_write_range(void* p, size_t bytes) { simt::record_store(p, bytes); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
// Of reference counts and local statics, on the host; which of them depends on the compiler.
#define ATOMICS(bits, Type)                                                                                       \
    Type __tsan_atomic##bits##_load(const volatile Type* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
    void __tsan_atomic##bits##_store(volatile Type* p, Type v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
    Type __tsan_atomic##bits##_fetch_add(volatile Type* p, Type v, int) {                                         \
        return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                                        \
    }                                                                                                             \
    Type __tsan_atomic##bits##_exchange(volatile Type* p, Type v, int) {                                          \
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                       \
    }
ATOMICS(8, char)
ATOMICS(32, int)
ATOMICS(64, long long)
#undef ATOMICS
}

namespace dualmcmc::test {
namespace {

class Traffic : public testing::Test {
protected:
    Traffic() { simt::counter.on = true; }
    ~Traffic() override {
        empty_cache();
        simt::counter.on = false;
    }
    void SetUp() override {
        if (!simt::reserve(1)) GTEST_SKIP() << "this needs 64 GiB of address space";
    }
    const WithThreads one_{1};
};

const ModelSettings paper{"cifar10", 512, 512, 128, 128};
const Shape images{100, 32, 32, 3};

template <class Work>
simt::Counts counted(const Work& work) {
    const simt::Counts before = simt::counter.counts;
    work();
    return simt::counter.counts - before;
}

// One replayed step of a chain of each kind, and one iteration, the second of two.
simt::Counts x_step() {
    Models models(paper, 1);
    const Tensor x = Tensor::full(images, 0);
    const auto chain = [&](int64_t steps) {
        const auto energy = [&](const Tensor& y) { return energy_gradient(models.ebm, y); };
        const auto noise = [](int64_t k) { return RandomKey{1, 2, uint64_t(k)}; };
        return counted([&] { langevin_x(x, energy, {steps, 0.5f, 0.01f}, noise); });
    };
    chain(3);
    const simt::Counts three = chain(3);
    return chain(4) - three;
}

simt::Counts z_step() {
    Models models(paper, 1);
    const Tensor x = Tensor::full(images, 0), z = Tensor::full({images[0], paper.latent}, 0);
    const auto chain = [&](int64_t steps) {
        const auto noise = [](int64_t k) { return RandomKey{1, 2, uint64_t(k)}; };
        return counted([&] { langevin_z(z, x, models.generator, 0.3f, {steps, 0.1f, 0.1f}, noise); });
    };
    chain(3);
    const simt::Counts three = chain(3);
    return chain(4) - three;
}

simt::Counts iteration() {
    Models models(paper, 1);
    const Tensor x = Tensor::full(images, 0);
    const auto iterate = [&](uint64_t i) {
        return counted([&] {
            dual_mcmc_step(models, x, philox_noise(1, i, images, paper.latent), StepSettings(), int64_t(i) + 1);
        });
    };
    iterate(0);
    return iterate(1);
}

struct Expected {
    int64_t launches, copies;
    double product_mb, other_mb;  // decimal megabytes
};

void expect_counts(const char* what, const simt::Counts& found, const Expected& expected) {
    const double product_mb = found.product_bytes / 1e6, other_mb = found.other_bytes / 1e6;
    if (std::getenv("DUALMCMC_PRINT"))
        std::printf("| %s | %lld | %lld | %.0f | %.0f |\n", what, static_cast<long long>(found.kernels + found.gemms),
                    static_cast<long long>(found.copies), product_mb, other_mb);
    EXPECT_EQ(found.kernels + found.gemms, expected.launches) << what;
    EXPECT_EQ(found.copies, expected.copies) << what;
    EXPECT_NEAR(product_mb, expected.product_mb, 1 + 1e-3 * expected.product_mb) << what;
    EXPECT_NEAR(other_mb, expected.other_mb, 1 + 1e-3 * expected.other_mb) << what;
}

TEST_F(Traffic, Bf16) {
    const WithBackend with(backend_counted_bf16);
    expect_counts("x-step, bf16", x_step(), {88, 1, 9872, 3031});
    expect_counts("z-step, bf16", z_step(), {141, 2, 25610, 8987});
    expect_counts("iteration, bf16", iteration(), {8061, 121, 966587, 316303});
}

TEST_F(Traffic, Tf32) {
    const WithBackend with(backend_counted_tf32);
    expect_counts("x-step, TF32", x_step(), {88, 1, 18597, 3531});
    expect_counts("z-step, TF32", z_step(), {141, 2, 49477, 9800});
    expect_counts("iteration, TF32", iteration(), {8061, 121, 1838414, 360761});
}

// The box filter of a pooled convolution reads its input once: of the nine pixels that a place needs, those that its
// neighbours in the block share count once.
TEST_F(Traffic, TheBoxFilterReadsItsInputOnce) {
    const WithBackend with(backend_counted_bf16);
    const ConvShape s{100, 32, 32, 512, 2, 3, 1, 1, true, true};
    const Tensor x({s.x_size()}), w({9 * 512 * 2}), y({s.y_size()});
    const simt::Counts found = counted([&] { backend().conv2d(y.data(), x.data(), w.data(), nullptr, nullptr, s); });
    // x in fp32, read up to 1.6 times, and its filtered phases in bf16, a little larger, written once.
    const double x_bytes = 4.0 * double(s.x_size());
    EXPECT_LT(found.other_bytes, (1.6 + 0.6) * x_bytes + 1e6);
    EXPECT_GT(found.other_bytes, 1.5 * x_bytes);
}

// The counting itself, on what can be done by hand.
TEST_F(Traffic, CountsKernelsCopiesAndGraphs) {
    const WithBackend with(backend_counted_fp32);
    constexpr int64_t n = int64_t(1) << 26;  // 256 MiB
    const Tensor a({n}), b({n});
    const simt::Counts sum = counted([&] { backend().add(b.data(), a.data(), b.data(), n); });
    EXPECT_EQ(sum.kernels, 1);
    EXPECT_EQ(sum.other_bytes, 3.0 * 4 * n);
    const simt::Counts copied = counted([&] { backend().copy(b.data(), a.data(), n); });
    EXPECT_EQ(copied.copies, 1);
    EXPECT_EQ(copied.other_bytes, 2.0 * 4 * n);
    backend().begin_capture();
    backend().add(b.data(), a.data(), b.data(), n);
    void* const graph = backend().end_capture();
    const simt::Counts launched = counted([&] {
        for (int i = 0; i < 3; ++i) backend().launch_graph(graph);
    });
    EXPECT_EQ(launched.kernels, 3);
    EXPECT_EQ(launched.other_bytes, 3 * sum.other_bytes);
    backend().destroy_graph(graph);
    const simt::Counts product = counted([&] {
        backend().conv2d(b.data(), a.data(), a.data(), nullptr, nullptr, {100, 1, 1, 64, 32, 1, 1, 0});
    });
    EXPECT_EQ(product.gemms, 1);
    EXPECT_EQ(product.product_bytes, 4 * (100.0 * 64 + 64 * 32 + 100 * 32));
}

}  // namespace
}  // namespace dualmcmc::test
