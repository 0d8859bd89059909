// What the GPU's own bodies (gpu_*.cu) share.
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

// Made at first use, on the stream, with a workspace of its own: cuBLAS then chooses the same kernels in every run.
cublasHandle_t cublas();

// Working memory of one kernel call, by slot; what must live at the same time takes different ones. The stream's order
// makes it safe to use it again in the next call.
void* workspace_bytes(int slot, size_t bytes);
template <class Element>
Element* workspace(int slot, int64_t n) {
    return static_cast<Element*>(workspace_bytes(slot, size_t(n) * sizeof(Element)));
}
enum Slot { source_slot, target_slot, weight_slot, partial_slot, vector_slot, slot_count };

}  // namespace dualmcmc::DEVICE_NAMESPACE
