// What the GPU's own kernels share: cuBLAS and the workspace.
#pragma once
#include <cublas_v2.h>

#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE {

#define CUBLAS_CHECK(expression)                                                                              \
    do {                                                                                                      \
        const cublasStatus_t cublas_status = (expression);                                                    \
        if (cublas_status != CUBLAS_STATUS_SUCCESS)                                                           \
            library_failure(__FILE__, __LINE__, #expression, "cuBLAS", cublasGetStatusString(cublas_status)); \
    } while (0)

// The handle, created at first use on the program's stream. It has a workspace of its own, so that cuBLAS chooses the
// same kernels in every run.
cublasHandle_t cublas();

// The workspace of one kernel call, by slot; buffers that are in use together take different slots. The next call may
// reuse them, as the stream runs calls in order. Throws std::runtime_error if the GPU is out of memory.
void* workspace_bytes(int slot, size_t bytes);
template <class Element>
Element* workspace(int slot, int64_t n) {
    return static_cast<Element*>(workspace_bytes(slot, size_t(n) * sizeof(Element)));
}
enum WorkspaceSlot { source_slot, result_slot, weight_slot, partial_slot, vector_slot, slot_count };

}  // namespace dualmcmc::DEVICE_NAMESPACE
