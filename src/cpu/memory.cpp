// Device memory, and copies between host and device. On the CPU these are the same memory.
#include "launch.h"

#include <cstring>
#include <new>

namespace dualmcmc::DEVICE_NAMESPACE {

void* allocate(size_t bytes) { return ::operator new(bytes, std::align_val_t(64)); }
void release(void* pointer) { ::operator delete(pointer, std::align_val_t(64)); }

void copy(real* y, const real* x, int64_t n) { std::memcpy(y, x, size_t(n) * sizeof(real)); }
void upload(real* y, const real* host, int64_t n) { copy(y, host, n); }
void download(real* host, const real* x, int64_t n) { copy(host, x, n); }

}  // namespace dualmcmc::DEVICE_NAMESPACE
