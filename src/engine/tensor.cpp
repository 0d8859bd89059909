// The pool behind Tensor, and the choice of the device.
#include "engine/tensor.h"

#include <cpuid.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <new>

#include "parallel.h"

namespace dualmcmc {

int64_t element_count(const Shape& shape) {
    int64_t count = 1;
    for (const int64_t side : shape) count *= side;
    return count;
}

std::string to_string(const Shape& shape) {
    std::string out = "(";
    for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + ")";
}

// ---- device -----------------------------------------------------------------------------------------------------------------

namespace {
const Backend* current_backend = nullptr;

bool cpu_has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}
bool cpu_has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
// AMX's registers are large: Linux (5.16 and later) gives them to a process that asks, for its threads to come.
bool cpu_has_amx() {
    constexpr int get_permission = 0x1022, request_permission = 0x1023, tile_data = 18;
    static const bool has = [] {
        uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0, leaf1 = 0, unused = 0;
        if (!cpu_has_avx512() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !__get_cpuid_count(7, 1, &leaf1, &ebx, &ecx, &unused)) return false;
        constexpr uint32_t amx_bf16 = 1u << 22, amx_tile = 1u << 24, avx512_bf16 = 1u << 5;
        if (!(edx & amx_bf16) || !(edx & amx_tile) || !(leaf1 & avx512_bf16)) return false;
        uint64_t permitted = 0;
        return syscall(SYS_arch_prctl, request_permission, tile_data) == 0 && syscall(SYS_arch_prctl, get_permission, &permitted) == 0 &&
               (permitted >> tile_data & 1);
    }();
    return has;
}
}  // namespace

const Backend& best_cpu_backend() {
    return cpu_has_amx() ? backend_cpu_amx : cpu_has_avx512() ? backend_cpu_avx512 : cpu_has_avx2() ? backend_cpu_avx2 : backend_cpu_sse2;
}

const Backend& backend() {
    if (!current_backend) current_backend = &best_cpu_backend();
    return *current_backend;
}

void set_backend(const Backend& table) { current_backend = &table; }

DirectConvolutions::DirectConvolutions() : before_(backend()) {
    Backend& direct = *new Backend(before_);  // never freed: tensors made meanwhile remember it
    direct.conv2d = direct.conv2d_direct;
    direct.conv2d_backward_input = direct.conv2d_backward_input_direct;
    direct.conv2d_backward_weight = direct.conv2d_backward_weight_direct;
    set_backend(direct);
}
DirectConvolutions::~DirectConvolutions() { set_backend(before_); }

namespace {
// Makes the GPU's table of this precision (an index) the backend and says what it is; throws, in one line, why there is none.
std::string start_gpu(size_t precision) {
    const std::vector<const Backend*> tables = cuda_backends();
    if (tables.empty()) fail("this build holds no code for GPUs");
    const std::string device = tables[precision]->start();
    set_backend(*tables[precision]);
    return text(backend().name, ": ", device);
}
}  // namespace

std::string select_device(const std::string& name, int threads, const std::string& precision) {
    if (threads < 0 || threads > 1024) fail("--threads ", threads, ": give the number of CPU threads, at most 1024, or 0 for all");
    if (threads > 0) omp_set_num_threads(threads);
    const std::string cpus = text(", ", omp_get_max_threads(), omp_get_max_threads() == 1 ? " thread" : " threads");
    const std::vector<std::string> precisions{"fp32", "tf32", "bf16"};  // as cuda_backends() has them
    const size_t chosen = size_t(std::find(precisions.begin(), precisions.end(), precision == "auto" ? "tf32" : precision) - precisions.begin());
    if (chosen == precisions.size()) fail("--precision ", precision, ": unknown; give auto, fp32, tf32 or bf16");

    std::string reason;  // why no GPU is used
    if (name == "cuda" || name == "auto") {
        try {
            return start_gpu(chosen);
        } catch (const std::runtime_error& error) {
            if (name == "cuda") fail("--device cuda: ", error.what(), " (--device cpu needs none)");
            reason = text("; ", error.what());
        }
    }
    if (precision == "tf32" || precision == "bf16") fail("--precision ", precision, ": the CPU computes in fp32; leave it out", reason);
    if (name == "auto" || name == "cpu") set_backend(best_cpu_backend());
    else if (name == "cpu-amx" && cpu_has_amx()) set_backend(backend_cpu_amx);
    else if (name == "cpu-avx512" && cpu_has_avx512()) set_backend(backend_cpu_avx512);
    else if (name == "cpu-avx2" && cpu_has_avx2()) set_backend(backend_cpu_avx2);
    else if (name == "cpu-sse2") set_backend(backend_cpu_sse2);
    else if (name == "cpu-amx" || name == "cpu-avx512" || name == "cpu-avx2") fail("--device ", name, ": this processor lacks these instructions; use --device cpu");
    else fail("--device ", name, ": unknown; give auto, cpu, cuda, cpu-amx, cpu-avx512, cpu-avx2 or cpu-sse2");
    return text(backend().name, cpus, reason);
}

void parallel_tasks(int64_t count, const std::function<void(int64_t)>& task) {
    if (!backend().concurrent || count <= 1) {  // not in a region of one thread: those that its kernels open would be nested, with new threads each
        for (int64_t i = 0; i < count; ++i) task(i);
        return;
    }
    run_tasks(count, task);
}

// ---- pool -------------------------------------------------------------------------------------------------------------------

namespace {

using Place = std::pair<const Backend*, size_t>;  // device and size class

}  // namespace

struct FreeBlocks : std::map<Place, std::vector<void*>> {
    void* take(const Place& place) {
        const auto waiting = find(place);
        if (waiting == end() || waiting->second.empty()) return nullptr;
        void* memory = waiting->second.back();
        waiting->second.pop_back();
        return memory;
    }
};

namespace {

// Freed buffers wait here for the next tensor of their size class. The lock is held for a look-up alone.
struct Pool {
    std::mutex lock;
    FreeBlocks free;
    std::shared_ptr<FreeBlocks> apart;  // the private memory in use
    int64_t allocations = 0, bytes = 0;
};

// Never destroyed: tensors with static storage may outlive it.
Pool& pool() {
    static Pool& instance = *new Pool;
    return instance;
}

// Size classes: an eighth of a power of two apart, so that at most an eighth is wasted.
size_t size_class(size_t bytes) {
    size_t step = 256;
    while (step * 16 <= bytes) step *= 2;
    return (bytes + step - 1) / step * step;
}

void* allocate_on(const Backend& device, size_t bytes) {
    try {
        return device.allocate(bytes);
    } catch (const std::bad_alloc&) {
        trim_pool();
    }
    try {
        return device.allocate(bytes);
    } catch (const std::bad_alloc&) {
        fail("out of memory (", device.name, "): ", bytes >> 20, " MiB more were wanted after ", pool_bytes() >> 20, " MiB",
             device.free_bytes ? text("; ", device.free_bytes() >> 20, " MiB are free") : "", "; lower --batch or the widths");
    }
}

std::shared_ptr<float> pooled(int64_t n) {
    const Place place{&backend(), size_class(std::max<size_t>(1, size_t(n)) * sizeof(float))};
    void* memory = nullptr;
    std::weak_ptr<FreeBlocks> home;
    {
        std::lock_guard guard(pool().lock);
        home = pool().apart;
        if (pool().apart) memory = pool().apart->take(place);
        if (!memory) memory = pool().free.take(place);
    }
    if (!memory) {
        memory = allocate_on(*place.first, place.second);
        std::lock_guard guard(pool().lock);
        pool().allocations += 1;
        pool().bytes += int64_t(place.second);
    }
    return {static_cast<float*>(memory), [place, home](float* p) {
                std::lock_guard guard(pool().lock);
                const auto apart = home.lock();
                (apart ? *apart : pool().free)[place].push_back(p);
            }};
}

}  // namespace

void trim_pool() {
    std::lock_guard guard(pool().lock);
    for (auto& [place, blocks] : pool().free) {
        while (!blocks.empty()) {  // one by one: a device that refuses leaves a list that is right
            place.first->release(blocks.back());
            blocks.pop_back();
            pool().bytes -= int64_t(place.second);
        }
    }
}

int64_t pool_allocations() {
    std::lock_guard guard(pool().lock);
    return pool().allocations;
}
int64_t pool_bytes() {
    std::lock_guard guard(pool().lock);
    return pool().bytes;
}

PrivateMemory::PrivateMemory() : free_(std::make_shared<FreeBlocks>()) {}
PrivateMemory::~PrivateMemory() {
    std::lock_guard guard(pool().lock);
    for (const auto& [place, blocks] : *free_) pool().free[place].insert(pool().free[place].end(), blocks.begin(), blocks.end());
    free_.reset();
}
PrivateMemory::Use::Use(const PrivateMemory& memory) {
    std::lock_guard guard(pool().lock);
    pool().apart = memory.free_;
}
PrivateMemory::Use::~Use() {
    std::lock_guard guard(pool().lock);
    pool().apart.reset();
}

// ---- tensor -----------------------------------------------------------------------------------------------------------------

Tensor::Tensor(const Shape& shape) : shape_(shape), size_(element_count(shape)), buffer_(pooled(size_)) {}

Tensor Tensor::full(const Shape& shape, float value) {
    Tensor out(shape);
    backend().fill(out.data(), value, out.size());
    return out;
}

Tensor Tensor::from_host(const Shape& shape, const float* values) {
    Tensor out(shape);
    backend().upload(out.data(), values, out.size());
    return out;
}

Tensor Tensor::from_host(const Shape& shape, const std::vector<float>& values) {
    CHECK_EQ(element_count(shape), int64_t(values.size()));
    return from_host(shape, values.data());
}

Tensor Tensor::normal(const Shape& shape, RandomKey key) {
    Tensor out(shape);
    backend().normal(out.data(), key, out.size());
    return out;
}

Tensor Tensor::uniform(const Shape& shape, RandomKey key, float low, float high) {
    Tensor out(shape);
    backend().uniform(out.data(), key, low, high, out.size());
    return out;
}

std::vector<float> Tensor::to_host() const {
    std::vector<float> out(static_cast<size_t>(size_));
    if (size_ > 0) backend().download(out.data(), data(), size_);
    return out;
}

float Tensor::item() const {
    CHECK_EQ(size_, 1);
    return to_host()[0];
}

Tensor Tensor::reshaped(const Shape& shape) const {
    CHECK_EQ(element_count(shape), size_);
    Tensor out = *this;
    out.shape_ = shape;
    return out;
}

Tensor Tensor::clone() const {
    Tensor out(shape_);
    out.copy_from(*this);
    return out;
}

void Tensor::copy_from(const Tensor& other) const {
    CHECK_EQ(size_, other.size_);
    backend().copy(data(), other.data(), size_);
}

void Tensor::copy_from_host(const std::vector<float>& values) const {
    CHECK_EQ(size_, int64_t(values.size()));
    backend().upload(data(), values.data(), size_);
}

Tensor Tensor::rows(int64_t first, int64_t count) const {
    CHECK_GE(first, 0);
    CHECK_LE(first + count, dim(0));
    Shape shape = shape_;
    shape[0] = count;
    Tensor out(shape);
    const int64_t row = size_ / dim(0);
    backend().copy(out.data(), data() + first * row, count * row);
    return out;
}

Tensor Tensor::view(int64_t first, int64_t count) const {
    CHECK_GE(first, 0);
    CHECK_LE(first + count, dim(0));
    Tensor y = *this;
    y.shape_.at(0) = count;
    y.size_ = element_count(y.shape_);
    y.buffer_ = std::shared_ptr<float>(buffer_, buffer_.get() + (dim(0) > 0 ? size_ / dim(0) * first : 0));
    return y;
}

}  // namespace dualmcmc
