// What src/machine/toolkit.sh compiles and links to see whether nvcc works here. It is no part of the program.
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <concepts>
#include <functional>
#include <string>

template <std::integral T>
__global__ void fill(T* x) {
    *x = 1;
}

int main() {
    fill<<<1, 1>>>(static_cast<int*>(nullptr));
    return int(cudaGetLastError());
}
