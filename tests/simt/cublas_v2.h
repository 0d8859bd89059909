// The emulated GPU's cuBLAS (cuda_runtime.h): the functions that cuda/gpu calls, as simple loops. TF32 inputs lose
// their lower 13 bits, as on tensor cores. Not emulated: cuBLAS's order of accumulation.
#pragma once
#include "cuda_runtime.h"

enum cublasStatus_t {
    CUBLAS_STATUS_SUCCESS,
    CUBLAS_STATUS_NOT_INITIALIZED,
    CUBLAS_STATUS_ALLOC_FAILED = 3,
    CUBLAS_STATUS_INVALID_VALUE = 7
};
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cudaDataType_t { CUDA_R_32F, CUDA_R_16BF };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_COMPUTE_32F_FAST_TF32 };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT };
using cublasHandle_t = void*;

inline const char* cublasGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_INVALID_VALUE ? "an invalid value" : status ? "not initialised" : "success";
}
inline cublasStatus_t cublasCreate(cublasHandle_t* handle) {
    return *handle = &simt::machine, cublasStatus_t(simt::machine.cublas_status);
}
inline cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetWorkspace(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }

namespace simt {

// op(matrix) (rows, columns), column-major, with its elements as the GEMM sees them.
inline std::vector<float> operand(const void* matrix, cudaDataType_t type, cublasComputeType_t compute,
                                  cublasOperation_t operation, int rows, int columns, int leading) {
    std::vector<float> out(size_t(rows) * size_t(columns));
    for (int c = 0; c < columns; ++c)
        for (int r = 0; r < rows; ++r) {
            const size_t offset = operation == CUBLAS_OP_N ? size_t(c) * size_t(leading) + size_t(r)
                                                           : size_t(r) * size_t(leading) + size_t(c);
            uint32_t bits = type == CUDA_R_16BF
                                ? uint32_t(static_cast<const uint16_t*>(matrix)[offset]) << 16
                                : __builtin_bit_cast(uint32_t, static_cast<const float*>(matrix)[offset]);
            if (compute == CUBLAS_COMPUTE_32F_FAST_TF32) bits &= 0xffffe000;
            out[size_t(c) * size_t(rows) + size_t(r)] = __builtin_bit_cast(float, bits);
        }
    return out;
}

}  // namespace simt

// C (m, n) = op(A) (m, k) op(B) (k, n) + beta C, column-major; alpha 1, beta 0 or 1.
inline cublasStatus_t cublasGemmEx(cublasHandle_t, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                                   int k, const void* alpha, const void* a, cudaDataType_t a_type, int lda,
                                   const void* b, cudaDataType_t b_type, int ldb, const void* beta, void* c,
                                   cudaDataType_t c_type, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
    const float add = *static_cast<const float*>(beta);
    if (m < 0 || n < 0 || k < 0 || lda < (transa == CUBLAS_OP_N ? m : k) || ldb < (transb == CUBLAS_OP_N ? k : n) ||
        ldc < m || c_type != CUDA_R_32F || *static_cast<const float*>(alpha) != 1 || (add != 0 && add != 1))
        return CUBLAS_STATUS_INVALID_VALUE;
    ++simt::machine.gemms;
    const auto run = [=] {
        const std::vector<float> left = simt::operand(a, a_type, compute, transa, m, k, lda);
        const std::vector<float> right = simt::operand(b, b_type, compute, transb, k, n, ldb);
        for (int column = 0; column < n; ++column) {
            float* target = static_cast<float*>(c) + size_t(column) * size_t(ldc);
            std::vector<float> total(size_t(m), 0.0f);
            for (int i = 0; i < k; ++i) {
                const float factor = right[size_t(column) * size_t(k) + size_t(i)],
                            *values = &left[size_t(i) * size_t(m)];
                for (int row = 0; row < m; ++row) total[size_t(row)] += factor * values[row];
            }
            for (int row = 0; row < m; ++row) target[row] = (add != 0 ? target[row] : 0) + total[size_t(row)];
        }
    };
    const auto bytes = [](cudaDataType_t type, double elements) { return (type == CUDA_R_16BF ? 2 : 4) * elements; };
    const double traffic = bytes(a_type, double(m) * k) + bytes(b_type, double(k) * n) + 4.0 * m * n * (1 + add);
    simt::submit({run, [=] { simt::count(simt::counter.counts.gemms, {traffic, true}); }});
    return CUBLAS_STATUS_SUCCESS;
}
