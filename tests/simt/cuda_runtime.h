// The SIMT emulator: CUDA's runtime on the host, in place of CUDA's headers. With it g++ compiles cuda/gpu and
// kernels.cu, the same sources as nvcc, so that the tests run them on machines without a GPU.
//
//   threads   A block's threads are fibers, which run one after the other and switch at barriers; blocks run one after
//             the other. The order of both depends on the number of OpenMP threads (1: forward, 2: backward, 3: odd
//             ones first), so tests that compare those find results that depend on it. A barrier that some threads do
//             not reach aborts the program.
//   stream    Work is queued and runs only when somebody waits, so that reading too early, or overwriting data that is
//             still needed, shows in the results.
//   graphs    What is queued during a capture is kept; each launch queues it again.
//   memory    Fresh memory holds NaN. Guard zones around each allocation are checked by cudaFree and check_memory().
//             `limit` emulates a full GPU.
//   counting  In place of running, launches and the memory they move can be counted (counting.h).
//   errors    Launches are checked against CUDA's limits. `device_status` and the like emulate absent or unsuitable
//             devices.
//
// Not emulated: speed; threads that really run concurrently (the memory model, warps); the rounding of the GPU's
// arithmetic and of cuBLAS; a driver's departures from what is described here.
#pragma once
#include <omp.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "counting.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one copy is enough, since blocks run one after the other
#define __launch_bounds__(...)
#define __grid_constant__
#define __CUDA_ARCH_LIST__ 800, 900  // as nvcc defines it for the Makefile's default

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

enum cudaError_t {
    cudaSuccess,
    cudaErrorInvalidValue,
    cudaErrorMemoryAllocation,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorDevicesUnavailable = 46,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorInvalidPtx = 218,
    cudaErrorJitCompilerNotFound = 221,
    cudaErrorUnsupportedPtxVersion = 222,
    cudaErrorJitCompilationDisabled = 223,
    cudaErrorUnknown = 999,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorGraphExecUpdateFailure = 910
};

namespace simt {

// What is queued: its work, and how it is counted in place of that (counting.h).
struct Item {
    std::function<void()> run, count;
};
using Work = std::vector<Item>;

struct Machine {
    // Set by the tests.
    size_t limit = size_t(-1);
    int devices = 1, driver = 13000, major = 8, minor = 0;
    cudaError_t device_status = cudaSuccess, context_status = cudaSuccess, code_status = cudaSuccess;
    int cublas_status = 0;              // of cublasCreate
    int64_t copies_until_failure = -1;  // on the device: from then on each copy fails; negative: none does
    // Counters.
    size_t allocated = 0;
    int64_t allocations = 0, launches = 0, gemms = 0, graph_launches = 0, graphs_instantiated = 0, graphs_updated = 0,
            waits = 0;
    // State.
    int device = 0;  // that cudaSetDevice chose
    Work queue, *captured = nullptr;
    bool capture_failed = false;
    std::map<void*, size_t> blocks;
};
inline Machine machine;

[[noreturn]] inline void die(const char* what) {
    std::fprintf(stderr, "simt: %s\n", what);
    std::abort();
}

// ---- fibers: contexts are created once, then switched by _setjmp and _longjmp, without system calls ----

struct Fiber {
    ucontext_t context;
    jmp_buf resume_point;
    std::unique_ptr<char[]> stack;
    enum { nowhere, at_block, at_warp } waiting = nowhere;
};
inline jmp_buf scheduler;
inline Fiber* running = nullptr;  // null: the thread runs on the scheduler's stack and cannot wait
inline const std::function<void()>* body = nullptr;

inline void fiber_main() {
    for (;;) {
        (*body)();
        running->waiting = Fiber::nowhere;
        if (_setjmp(running->resume_point) == 0) _longjmp(scheduler, 1);
    }
}

// Runs `fiber` until it waits at a barrier or returns.
inline void resume(Fiber& fiber) {
    running = &fiber;
    if (_setjmp(scheduler) == 0) {
        if (fiber.stack) _longjmp(fiber.resume_point, 1);
        constexpr size_t size = 64 << 10;
        fiber.stack = std::make_unique<char[]>(size);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = size;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
        setcontext(&fiber.context);
    }
    running = nullptr;
}

// The i-th of n in this run's order.
inline unsigned in_order(unsigned i, unsigned n) {
    switch (omp_get_max_threads() % 3) {
        case 1:
            return i;
        case 2:
            return n - 1 - i;
        default:
            return i < n / 2 ? 2 * i + 1 : 2 * (i - n / 2);
    }
}

inline void set_thread(unsigned i) { threadIdx = {i % blockDim.x, i / blockDim.x}; }

// Runs one block. If its first thread meets no barrier, none may, and the others run without fibers.
inline void run_block() {
    static Fiber fibers[1024];
    const unsigned threads = blockDim.x * blockDim.y;
    std::vector<unsigned> left;
    for (unsigned i = 0; i < threads; ++i) left.push_back(in_order(i, threads));
    set_thread(left[0]);
    resume(fibers[left[0]]);
    const bool no_barriers = fibers[left[0]].waiting == Fiber::nowhere;
    for (size_t i = 1; i < threads; ++i) {
        set_thread(left[i]);
        if (no_barriers) (*body)();
        else resume(fibers[left[i]]);
    }
    while (!no_barriers) {
        unsigned at_block = 0, at_warp[32] = {}, resumed = 0;
        for (const unsigned i : left) {
            at_block += fibers[i].waiting == Fiber::at_block;
            at_warp[i / 32] += fibers[i].waiting == Fiber::at_warp;
        }
        const auto warp_complete = [&](unsigned i) { return at_warp[i / 32] == std::min(32u, threads - i / 32 * 32); };
        for (const unsigned i : left) {
            if (at_block < threads && !warp_complete(i)) continue;
            ++resumed;
            set_thread(i);
            resume(fibers[i]);
        }
        if (resumed > 0) continue;
        for (const unsigned i : left)
            if (fibers[i].waiting != Fiber::nowhere) die("a barrier that not all threads of the block or warp reach");
        return;
    }
}

inline void set_block(unsigned i) { blockIdx = {i % gridDim.x, i / gridDim.x}; }

inline void run_grid(dim3 grid, dim3 block, const std::function<void()>& kernel) {
    gridDim = grid, blockDim = block, body = &kernel;
    const unsigned blocks = grid.x * grid.y;
    for (unsigned b = 0; b < blocks; ++b) {
        set_block(in_order(b, blocks));
        run_block();
    }
}

inline void count_grid(const std::string& key, dim3 grid, dim3 block, const std::function<void()>& kernel) {
    gridDim = grid, blockDim = block, body = &kernel;
    count(counter.counts.kernels, measure_kernel(key, grid.x * grid.y, set_block, run_block));
}

// ---- stream -------------------------------------------------------------------------------------

inline void submit(Item item) {
    if (machine.captured) machine.captured->push_back(std::move(item));
    else if (counter.on) item.count();
    else machine.queue.push_back(std::move(item));
}

inline void finish() {
    const Work work = std::exchange(machine.queue, {});
    for (const Item& item : work) item.run();
}

// Runs the queue. Not allowed during a capture, which then fails.
inline cudaError_t wait() {
    ++machine.waits;
    if (machine.captured) {
        machine.capture_failed = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    finish();
    return cudaSuccess;
}

// ---- memory -------------------------------------------------------------------------------------

constexpr size_t guard = 256;           // bytes on either side of an allocation
constexpr unsigned char poison = 0xff;  // NaN as float, double and bf16

inline void check_block(const void* pointer, size_t bytes) {
    const auto* memory = static_cast<const unsigned char*>(pointer);
    for (size_t i = 0; i < guard; ++i)
        if (memory[-1 - int64_t(i)] != poison || memory[bytes + i] != poison) die("a write outside device memory");
}
inline void check_memory() {
    finish();
    for (const auto& [pointer, bytes] : machine.blocks)
        if (!in_arena(pointer)) check_block(pointer, bytes);
}

// ---- barriers -----------------------------------------------------------------------------------

inline void wait_at(decltype(Fiber::waiting) barrier) {
    if (!running) die("a barrier that the block's first thread did not reach");
    running->waiting = barrier;
    if (_setjmp(running->resume_point) == 0) _longjmp(scheduler, 1);
    running->waiting = Fiber::nowhere;
}
}  // namespace simt
inline void __syncthreads() { simt::wait_at(simt::Fiber::at_block); }
inline void __syncwarp() { simt::wait_at(simt::Fiber::at_warp); }

// ---- the part of CUDA's runtime that cuda/gpu calls ---------------------------------------------

using cudaStream_t = void*;
using cudaEvent_t = void*;
using cudaGraph_t = simt::Work*;
using cudaGraphExec_t = simt::Work*;
struct cudaGraphExecUpdateResultInfo {};
struct cudaFuncAttributes {};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor;
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };

inline const char* cudaGetErrorString(cudaError_t error) {
    static char name[32];
    std::snprintf(name, sizeof name, "error %d", int(error));
    return name;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDeviceCount(int* count) {
    return *count = simt::machine.devices, simt::machine.device_status;
}
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = simt::machine.driver, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return simt::machine.device = device, simt::machine.context_status; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    return *properties = {"emulated GPU", 1 << 30, simt::machine.major, simt::machine.minor}, cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
    return simt::machine.code_status;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    return *stream = &simt::machine, cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return simt::wait(); }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    return *event = &simt::machine, cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return simt::finish(), cudaSuccess; }

inline cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    if (simt::machine.allocated + bytes > simt::machine.limit) return cudaErrorMemoryAllocation;
    if (simt::counter.on) {
        *pointer = simt::reserve(bytes);
        if (!*pointer) return cudaErrorMemoryAllocation;
    } else {
        auto* memory =
            static_cast<unsigned char*>(std::aligned_alloc(256, (bytes + 2 * simt::guard + 255) / 256 * 256));
        std::memset(memory, simt::poison, bytes + 2 * simt::guard);
        *pointer = memory + simt::guard;
    }
    simt::machine.allocated += bytes;
    ++simt::machine.allocations;
    simt::machine.blocks[*pointer] = bytes;
    return cudaSuccess;
}
inline cudaError_t cudaFree(void* pointer) {
    if (!pointer) return cudaSuccess;
    if (simt::machine.captured) return simt::wait();
    simt::finish();
    const auto block = simt::machine.blocks.find(pointer);
    if (block == simt::machine.blocks.end()) return cudaErrorInvalidValue;
    const bool arena = simt::in_arena(pointer);  // whose addresses are not used again
    if (!arena) simt::check_block(pointer, block->second);
    simt::machine.allocated -= block->second;
    simt::machine.blocks.erase(block);
    if (!arena) std::free(static_cast<unsigned char*>(pointer) - simt::guard);
    return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return *pointer = std::malloc(bytes), cudaSuccess; }
inline cudaError_t cudaFreeHost(void* pointer) { return std::free(pointer), cudaSuccess; }
inline cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
    return *total = simt::machine.limit, *available = simt::machine.limit - simt::machine.allocated, cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    if (simt::machine.copies_until_failure == 0) return cudaErrorUnknown;
    if (simt::machine.copies_until_failure > 0) --simt::machine.copies_until_failure;
    simt::submit({[=] { std::memcpy(to, from, bytes); },
                  [=] {
                      simt::count(simt::counter.counts.copies, {2 * double(bytes), false});
                  }});
    return cudaSuccess;
}

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments, size_t,
                             cudaStream_t) {
    const unsigned threads = block.x * block.y * block.z;
    if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.x > 0x7fffffff || grid.y > 65535)
        return cudaErrorInvalidConfiguration;
    ++simt::machine.launches;
    auto values = [&]<size_t... i>(std::index_sequence<i...>) {
        return std::tuple<Parameters...>(*static_cast<Parameters*>(arguments[i])...);
    }
    (std::index_sequence_for<Parameters...>{});
    std::string key;
    if (simt::counter.on) {
        key = std::to_string(reinterpret_cast<uintptr_t>(kernel)) + ' ' + std::to_string(grid.x) + ' ' +
              std::to_string(grid.y) + ' ';
        [&]<size_t... i>(std::index_sequence<i...>) {
            (simt::append_arguments(key, arguments[i], sizeof(Parameters)), ...);
        }
        (std::index_sequence_for<Parameters...>{});
    }
    simt::submit({[=] { simt::run_grid(grid, block, [&] { std::apply(kernel, values); }); },
                  [=] { simt::count_grid(key, grid, block, [&] { std::apply(kernel, values); }); }});
    return cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    simt::machine.capture_failed = false;
    return simt::machine.captured = new simt::Work, cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
    *graph = std::exchange(simt::machine.captured, nullptr);
    if (!simt::machine.capture_failed) return cudaSuccess;
    delete std::exchange(*graph, nullptr);
    return cudaErrorStreamCaptureUnsupported;
}
inline cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void*, size_t* nodes) {
    return *nodes = graph->size(), cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned) {
    constexpr size_t node_bytes = 10 << 10;  // that must be free; about what a driver takes
    if (simt::machine.allocated + graph->size() * node_bytes > simt::machine.limit) return cudaErrorMemoryAllocation;
    ++simt::machine.graphs_instantiated;
    return *executable = new simt::Work(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph, cudaGraphExecUpdateResultInfo*) {
    if (executable->size() != graph->size()) return cudaErrorGraphExecUpdateFailure;
    ++simt::machine.graphs_updated;
    return *executable = *graph, cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
    ++simt::machine.graph_launches;
    for (const simt::Item& item : *executable) simt::submit(item);
    return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return delete executable, cudaSuccess; }
