// The GPU: the device itself, its stream, memory, copies from and to the host, and CUDA graphs.
#include "gpu/gpu.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>
#include <unordered_map>
#include <utility>

namespace dualmcmc::DEVICE_NAMESPACE {

void library_failure(const char* file, int line, const char* expression, const char* library, const char* message) {
    throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + expression + ": " + library +
                             " says: " + message);
}

// ---- the device ---------------------------------------------------------------------------------

namespace {

__global__ void probe() {}

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

// Why there is no usable GPU, given what cudaGetDeviceCount returned.
std::string no_device(cudaError_t status) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return "no NVIDIA driver found";
    if (status == cudaErrorInsufficientDriver)
        return "the NVIDIA driver supports CUDA " + version(driver) + " and this build needs " + version(runtime) +
               ": update the driver";
    return status == cudaSuccess ? "no NVIDIA GPU found"
                                 : std::string("no NVIDIA GPU found: ") + cudaGetErrorString(status);
}

std::string capability(const cudaDeviceProp& of) { return std::to_string(of.major) + std::to_string(of.minor); }

// Throws why the GPU or this build's kernels cannot be used, given what CUDA said.
void expect_usable(cudaError_t status, const cudaDeviceProp& properties) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // clears the error
    const std::string name = properties.name, says = cudaGetErrorString(status);
    switch (int(status)) {
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorInvalidDeviceFunction:
        case cudaErrorInvalidPtx:  // this one and the next: of a driver older than nvcc
        case cudaErrorUnsupportedPtxVersion:
        case cudaErrorJitCompilerNotFound:
        case cudaErrorJitCompilationDisabled:
            throw std::runtime_error("this build has no code that the driver can run on the " + name + " (" + says +
                                     "): build it with CUDA_ARCH=" + capability(properties) + ", or update the driver");
        case cudaErrorMemoryAllocation:
            throw std::runtime_error("the memory of the " + name + " is full: end the programs that use it " +
                                     "(nvidia-smi lists them), or choose another GPU by CUDA_VISIBLE_DEVICES");
        default:
            throw std::runtime_error("the " + name + " cannot be used: " + says +
                                     " (nvidia-smi shows what runs there; CUDA_VISIBLE_DEVICES chooses another GPU)");
    }
}

// Whether the driver has to compile the build's PTX for GPUs of this generation, which is later than all that the build
// holds machine code for. (Code for 8.0 runs on 8.9, but not on 9.0. The list holds 100 times the capabilities.)
bool needs_compiler(int major) {
    for (const int compiled : {__CUDA_ARCH_LIST__})
        if (compiled / 100 >= major) return false;
    return true;
}

// Loads a kernel. Where the driver first has to compile it from PTX, that takes long enough to say so.
void check_kernels(const cudaDeviceProp& properties) {
    static bool told = false;
    if (needs_compiler(properties.major) && !std::exchange(told, true))
        std::fprintf(stderr,
                     "the %s is newer than this build's code, which the driver now compiles for it: up to a minute, "
                     "the first time (a build with CUDA_ARCH=%s starts at once)\n",
                     properties.name, capability(properties).c_str());
    cudaFuncAttributes attributes;
    expect_usable(cudaFuncGetAttributes(&attributes, probe), properties);
}

// Throws bad_alloc where a call found the memory full.
void check_memory(cudaError_t status) {
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // clears the error
        throw std::bad_alloc();
    }
    CUDA_CHECK(status);
}

}  // namespace

std::string start(int index) {
    int count = 0;
    const cudaError_t found = cudaGetDeviceCount(&count);
    if (found != cudaSuccess || count == 0) throw std::runtime_error(no_device(found));
    const int device = index % count;
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    if (properties.major < 8)
        throw std::runtime_error(std::string("the ") + properties.name +
                                 " has neither TF32 nor bf16: compute capability 8.0 or later is needed");
    expect_usable(cudaSetDevice(device), properties);  // creates its context, which takes memory
    check_kernels(properties);
    try {
        cublas();
    } catch (const std::bad_alloc&) {
        expect_usable(cudaErrorMemoryAllocation, properties);
    }
    return std::string(properties.name) + ", " + std::to_string(properties.totalGlobalMem >> 20) + " MiB" +
           (count > 1
                ? ", " + std::to_string(device + 1) + " of " + std::to_string(count) + " (CUDA_VISIBLE_DEVICES chooses)"
                : "");
}

cudaStream_t cuda_stream() {
    static const cudaStream_t instance = [] {
        cudaStream_t made;
        CUDA_CHECK(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
        return made;
    }();
    return instance;
}

constexpr int64_t cublas_needs = int64_t(256) << 20;  // bytes at its start, generously

cublasHandle_t cublas() {
    static const cublasHandle_t instance = [] {
        cublasHandle_t made;
        const cublasStatus_t status = cublasCreate(&made);
        // In full memory it says the one or the other.
        if (status == CUBLAS_STATUS_ALLOC_FAILED ||
            (status == CUBLAS_STATUS_NOT_INITIALIZED && free_bytes() < cublas_needs))
            throw std::bad_alloc();
        if (status != CUBLAS_STATUS_SUCCESS)
            throw std::runtime_error(std::string("cuBLAS does not start: ") + cublasGetStatusString(status));
        CUBLAS_CHECK(cublasSetStream(made, cuda_stream()));
        constexpr size_t workspace = size_t(32) << 20;  // cuBLAS's own default on Hopper
        CUBLAS_CHECK(cublasSetWorkspace(made, with_room([] { return allocate(workspace); }), workspace));
        return made;
    }();
    return instance;
}

// ---- memory -------------------------------------------------------------------------------------

namespace {
bool capturing = false;             // between begin_capture and end_capture
std::vector<void*> deferred_frees;  // of a capture, which cannot call cudaFree, since that waits for the device
int64_t workspace_generation = 0;   // how often some slot has grown

// What this program has allocated: tensors, workspaces and cuBLAS's.
struct Allocated {
    std::unordered_map<void*, size_t> blocks;
    size_t bytes = 0, peak = 0;
} allocated;

struct Memory {
    void* data = nullptr;
    size_t size = 0;
};
}  // namespace

void* allocate(size_t bytes) {
    void* memory = nullptr;
    check_memory(cudaMalloc(&memory, bytes));
    allocated.blocks[memory] = bytes;
    allocated.peak = std::max(allocated.peak, allocated.bytes += bytes);
    return memory;
}

void release(void* pointer) {
    if (capturing) return deferred_frees.push_back(pointer);
    CUDA_CHECK(cudaFree(pointer));
    if (const auto block = allocated.blocks.find(pointer); block != allocated.blocks.end()) {
        allocated.bytes -= block->second;
        allocated.blocks.erase(block);
    }
}

int64_t peak_bytes() { return int64_t(allocated.peak); }

int64_t free_bytes() {
    size_t available = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&available, &total));
    return int64_t(available);
}

// Graphs hold these pointers. Capture follows an eager run of the same work, so the workspace already has its size;
// launch_graph refuses graphs that were captured before it grew.
void* workspace_bytes(int slot, size_t bytes) {
    static Memory memory[slot_count];
    Memory& m = memory[slot];
    if (m.size < bytes) {
        if (capturing)
            throw std::runtime_error(
                "a chain step needs more workspace than in its eager run: it cannot be captured as a graph "
                "(DisableGraphs)");
        release(m.data);
        m = {};
        ++workspace_generation;
        try {
            m.data = with_room([&] { return allocate(bytes); });
        } catch (const std::bad_alloc&) {
            throw std::runtime_error("out of memory on the GPU: a kernel needs " + std::to_string(bytes >> 20) +
                                     " MiB of workspace, " + std::to_string(free_bytes() >> 20) +
                                     " MiB are free; lower --batch or the widths");
        }
        m.size = bytes;
    }
    return m.data;
}

void copy(float* y, const float* x, int64_t n) {
    CUDA_CHECK(cudaMemcpyAsync(y, x, size_t(n) * sizeof(float), cudaMemcpyDeviceToDevice, cuda_stream()));
}

namespace {
// Host memory that the GPU reads and writes at full speed; it grows.
void* pinned_bytes(Memory& m, size_t bytes) {
    if (m.size < bytes) {
        CUDA_CHECK(cudaFreeHost(m.data));
        m = {};
        CUDA_CHECK(cudaMallocHost(&m.data, bytes));
        m.size = bytes;
    }
    return m.data;
}
}  // namespace

// Staged through pinned memory: the caller's buffer is free at once. Waits only for the previous upload.
void upload(float* y, const float* host, int64_t n) {
    if (capturing)
        throw std::runtime_error(
            "a chain step uploads data from the host: it cannot be captured as a graph (DisableGraphs)");
    static Memory pinned;
    static cudaEvent_t uploaded = nullptr;
    const size_t bytes = size_t(n) * sizeof(float);
    if (!uploaded) CUDA_CHECK(cudaEventCreateWithFlags(&uploaded, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventSynchronize(uploaded));
    void* const staged = pinned_bytes(pinned, bytes);
    std::memcpy(staged, host, bytes);
    CUDA_CHECK(cudaMemcpyAsync(y, staged, bytes, cudaMemcpyHostToDevice, cuda_stream()));
    CUDA_CHECK(cudaEventRecord(uploaded, cuda_stream()));
}

void download(float* host, const float* x, int64_t n) {
    static Memory pinned;
    const size_t bytes = size_t(n) * sizeof(float);
    void* const staged = pinned_bytes(pinned, bytes);
    CUDA_CHECK(cudaMemcpyAsync(staged, x, bytes, cudaMemcpyDeviceToHost, cuda_stream()));
    CUDA_CHECK(cudaStreamSynchronize(cuda_stream()));
    std::memcpy(host, staged, bytes);
}

// ---- graphs -------------------------------------------------------------------------------------

namespace {

struct Graph {
    cudaGraphExec_t executable;
    size_t nodes;
    int64_t generation;  // workspace_generation at its capture
};

// Executables of destroyed graphs, by their number of nodes: to update one (cudaGraphExecUpdate) costs less than to
// instantiate another.
std::multimap<size_t, cudaGraphExec_t>& graph_exec_cache() {
    static auto& instance = *new std::multimap<size_t, cudaGraphExec_t>;
    return instance;
}

cudaGraphExec_t make_executable(cudaGraph_t graph, size_t nodes) {
    const auto cached = graph_exec_cache().find(nodes);
    if (cached != graph_exec_cache().end()) {
        const cudaGraphExec_t executable = cached->second;
        graph_exec_cache().erase(cached);
        cudaGraphExecUpdateResultInfo result;
        if (cudaGraphExecUpdate(executable, graph, &result) == cudaSuccess) return executable;
        cudaGetLastError();  // as many nodes, but a different graph
        CUDA_CHECK(cudaGraphExecDestroy(executable));
    }
    cudaGraphExec_t executable;
    with_room([&] { check_memory(cudaGraphInstantiate(&executable, graph, 0)); });
    return executable;
}

}  // namespace

// Relaxed, since the pool may call cudaMalloc during the capture.
void begin_capture() {
    CUDA_CHECK(cudaStreamBeginCapture(cuda_stream(), cudaStreamCaptureModeRelaxed));
    capturing = true;
}

void* end_capture() {
    capturing = false;
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(cuda_stream(), &graph);
    for (void* const pointer : std::exchange(deferred_frees, {})) release(pointer);
    if (status != cudaSuccess || !graph) {
        cudaGetLastError();
        return nullptr;
    }
    size_t nodes = 0;
    CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
    const cudaGraphExec_t executable = make_executable(graph, nodes);
    CUDA_CHECK(cudaGraphDestroy(graph));
    return new Graph{executable, nodes, workspace_generation};
}

void launch_graph(void* graph) {
    const Graph& captured = *static_cast<Graph*>(graph);
    if (captured.generation != workspace_generation)
        throw std::runtime_error("a graph is launched after its workspace moved (DisableGraphs)");
    CUDA_CHECK(cudaGraphLaunch(captured.executable, cuda_stream()));
}

void destroy_graph(void* graph) {
    const Graph* const done = static_cast<Graph*>(graph);
    graph_exec_cache().emplace(done->nodes, done->executable);
    delete done;
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
