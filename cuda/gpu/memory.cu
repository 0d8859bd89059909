// The GPU: finding it, its stream, its memory, copies across its edge, and recorded launches (CUDA graphs).
#include "gpu/gpu.h"

#include <cstring>
#include <map>
#include <new>
#include <stdexcept>
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

// Why no GPU can be had, where cudaGetDeviceCount says `status`.
std::string no_device(cudaError_t status) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return "no NVIDIA driver answers here";
    if (status == cudaErrorInsufficientDriver)
        return "the NVIDIA driver knows CUDA " + version(driver) + " and this build needs " + version(runtime) +
               ": update the driver";
    return std::string("no NVIDIA GPU answers: ") +
           (status == cudaSuccess ? "there is none" : cudaGetErrorString(status));
}

}  // namespace

std::string start() {
    int count = 0;
    const cudaError_t found = cudaGetDeviceCount(&count);
    if (found != cudaSuccess || count == 0) throw std::runtime_error(no_device(found));
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
    if (properties.major < 8)
        throw std::runtime_error(std::string("the ") + properties.name +
                                 " has neither TF32 nor bf16: compute capability 8.0 is needed");
    const std::string capability = std::to_string(properties.major) + std::to_string(properties.minor);
    cudaFuncAttributes attributes;
    const cudaError_t code = cudaFuncGetAttributes(&attributes, probe);
    if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction)
        throw std::runtime_error(std::string("this build holds no code for the ") + properties.name +
                                 ": build it with CUDA_ARCH=" + capability);
    CUDA_CHECK(code);
    try {
        cublas();
    } catch (const std::bad_alloc&) {
        throw std::runtime_error(std::string("the memory of the ") + properties.name + " is in use");
    }
    return std::string(properties.name) + ", " + std::to_string(properties.totalGlobalMem >> 20) + " MiB";
}

cudaStream_t cuda_stream() {
    static const cudaStream_t instance = [] {
        cudaStream_t made;
        CUDA_CHECK(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
        return made;
    }();
    return instance;
}

namespace {
// For this file's own needs: with what waits for tensors, where there is nothing else.
void* allocate_or_trim(size_t bytes) {
    try {
        return allocate(bytes);
    } catch (const std::bad_alloc&) {
        empty_cache();
    }
    return allocate(bytes);
}
}  // namespace

cublasHandle_t cublas() {
    static const cublasHandle_t instance = [] {
        cublasHandle_t made;
        CUBLAS_CHECK(cublasCreate(&made));
        CUBLAS_CHECK(cublasSetStream(made, cuda_stream()));
        constexpr size_t workspace = size_t(32) << 20;  // what cuBLAS itself takes on Hopper
        CUBLAS_CHECK(cublasSetWorkspace(made, allocate_or_trim(workspace), workspace));
        return made;
    }();
    return instance;
}

// ---- memory -------------------------------------------------------------------------------------

namespace {
bool recording = false;       // between begin_capture and end_capture
std::vector<void*> released;  // meanwhile: cudaFree waits for the device, which a recording cannot
int64_t workspace_generation = 0;
}  // namespace

void* allocate(size_t bytes) {
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // it is dealt with
        throw std::bad_alloc();
    }
    CUDA_CHECK(status);
    return memory;
}

void release(void* pointer) {
    if (recording) released.push_back(pointer);
    else CUDA_CHECK(cudaFree(pointer));
}

int64_t free_bytes() {
    size_t available = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&available, &total));
    return int64_t(available);
}

// A recorded graph names this memory, too; but it is recorded after the same work has been done plainly, so that it
// fits, and is gone before other work makes it grow (launch_graph sees to that).
void* workspace_bytes(int slot, size_t bytes) {
    struct Memory {
        void* data;
        size_t size;
    };
    static Memory memory[slot_count] = {};
    Memory& m = memory[slot];
    if (m.size < bytes) {
        if (recording)
            throw std::runtime_error(
                "a step of a chain wants more working memory than before: it cannot be recorded as a graph "
                "(DisableGraphs)");
        release(m.data);
        m = {};
        ++workspace_generation;
        try {
            m.data = allocate_or_trim(bytes);
        } catch (const std::bad_alloc&) {
            throw std::runtime_error("out of memory on the GPU: a kernel wanted " + std::to_string(bytes >> 20) +
                                     " MiB of working memory, " + std::to_string(free_bytes() >> 20) +
                                     " MiB are free; lower --batch or the widths");
        }
        m.size = bytes;
    }
    return m.data;
}

void copy(float* y, const float* x, int64_t n) {
    CUDA_CHECK(cudaMemcpyAsync(y, x, size_t(n) * sizeof(float), cudaMemcpyDeviceToDevice, cuda_stream()));
}

// Through pinned memory, so that the caller's may go at once and nobody waits, but for the last upload to have left it.
void upload(float* y, const float* host, int64_t n) {
    if (recording)
        throw std::runtime_error(
            "a step of a chain loads numbers from the host: it cannot be recorded as a graph (DisableGraphs)");
    static struct {
        void* data;
        size_t size;
        cudaEvent_t left;
    } pinned = {};
    const size_t bytes = size_t(n) * sizeof(float);
    if (!pinned.left) CUDA_CHECK(cudaEventCreateWithFlags(&pinned.left, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventSynchronize(pinned.left));
    if (pinned.size < bytes) {
        CUDA_CHECK(cudaFreeHost(pinned.data));
        pinned = {nullptr, 0, pinned.left};
        CUDA_CHECK(cudaMallocHost(&pinned.data, bytes));
        pinned.size = bytes;
    }
    std::memcpy(pinned.data, host, bytes);
    CUDA_CHECK(cudaMemcpyAsync(y, pinned.data, bytes, cudaMemcpyHostToDevice, cuda_stream()));
    CUDA_CHECK(cudaEventRecord(pinned.left, cuda_stream()));
}

void download(float* host, const float* x, int64_t n) {
    CUDA_CHECK(cudaMemcpyAsync(host, x, size_t(n) * sizeof(float), cudaMemcpyDeviceToHost, cuda_stream()));
    CUDA_CHECK(cudaStreamSynchronize(cuda_stream()));
}

// ---- graphs -------------------------------------------------------------------------------------

namespace {

struct Graph {
    cudaGraphExec_t executable;
    size_t nodes;
    int64_t growths;  // workspace_generation when it was recorded
};

// Executable graphs that are free for a recording of as many nodes: to change one's arguments costs less than to make
// one.
std::multimap<size_t, cudaGraphExec_t>& spare_graphs() {
    static auto& instance = *new std::multimap<size_t, cudaGraphExec_t>;
    return instance;
}

cudaGraphExec_t make_executable(cudaGraph_t graph, size_t nodes) {
    const auto spare = spare_graphs().find(nodes);
    if (spare != spare_graphs().end()) {
        const cudaGraphExec_t executable = spare->second;
        spare_graphs().erase(spare);
        cudaGraphExecUpdateResultInfo result;
        if (cudaGraphExecUpdate(executable, graph, &result) == cudaSuccess) return executable;
        cudaGetLastError();  // of another form, though of as many nodes
        CUDA_CHECK(cudaGraphExecDestroy(executable));
    }
    cudaGraphExec_t executable;
    CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
    return executable;
}

}  // namespace

// Relaxed: the pool may ask for memory meanwhile.
void begin_capture() {
    CUDA_CHECK(cudaStreamBeginCapture(cuda_stream(), cudaStreamCaptureModeRelaxed));
    recording = true;
}

void* end_capture() {
    recording = false;
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(cuda_stream(), &graph);
    for (void* const pointer : std::exchange(released, {})) release(pointer);
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
    const Graph& recorded = *static_cast<Graph*>(graph);
    if (recorded.growths != workspace_generation)
        throw std::runtime_error("a recorded graph is sent again after larger work (DisableGraphs)");
    CUDA_CHECK(cudaGraphLaunch(recorded.executable, cuda_stream()));
}

void destroy_graph(void* graph) {
    const Graph* const done = static_cast<Graph*>(graph);
    spare_graphs().emplace(done->nodes, done->executable);
    delete done;
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
