// Wrappers of the cuBLAS functions that cuda/gpu calls. They load the library at the first call, so that the program
// also starts on machines without it.
#include "gpu/load_library.h"

#include <cublas_v2.h>

namespace {

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

void* library() {
    static void* const instance = [] {
        std::vector<std::string> paths{"libcublas.so." TEXT(CUBLAS_VER_MAJOR)};  // where the loader looks
        // CUDA_LIBRARIES: the folders of the toolkit that built this, separated by colons.
        std::string folders = std::string(CUDA_LIBRARIES) + ":/usr/local/cuda/lib64:";
        for (size_t end; (end = folders.find(':')) != std::string::npos; folders.erase(0, end + 1))
            if (end > 0) paths.push_back(folders.substr(0, end) + "/" + paths[0]);
        try {
            return dualmcmc::load_library(paths);
        } catch (const std::runtime_error& error) {
            throw std::runtime_error(
                "cuBLAS cannot be loaded (" + std::string(error.what()) +
                "): install CUDA " TEXT(CUBLAS_VER_MAJOR) "'s cuBLAS, or add its folder to LD_LIBRARY_PATH");
        }
    }();
    return instance;
}

template <class Function>
Function* find(const char* name) {
    if (void* const symbol = dlsym(library(), name)) return reinterpret_cast<Function*>(symbol);
    throw std::runtime_error("cuBLAS has no function " + std::string(name) +
                             ": install CUDA " TEXT(CUBLAS_VER_MAJOR) "'s cuBLAS");
}

}  // namespace

#define FORWARD(result, name, parameters, arguments)                 \
    extern "C" result name parameters {                              \
        static const auto function = find<result parameters>(#name); \
        return function arguments;                                   \
    }

FORWARD(cublasStatus_t, cublasCreate_v2, (cublasHandle_t * handle), (handle))
FORWARD(cublasStatus_t, cublasSetStream_v2, (cublasHandle_t handle, cudaStream_t stream), (handle, stream))
FORWARD(cublasStatus_t, cublasSetWorkspace_v2, (cublasHandle_t handle, void* workspace, size_t bytes),
        (handle, workspace, bytes))
FORWARD(const char*, cublasGetStatusString, (cublasStatus_t status), (status))
FORWARD(cublasStatus_t, cublasGemmEx,
        (cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
         const void* alpha, const void* a, cudaDataType a_type, int lda, const void* b, cudaDataType b_type, int ldb,
         const void* beta, void* c, cudaDataType c_type, int ldc, cublasComputeType_t compute,
         cublasGemmAlgo_t algorithm),
        (handle, transa, transb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute,
         algorithm))
