// Dynamically scheduled loops on OpenMP's threads.
#pragma once
#include <omp.h>

#include <cstdint>
#include <exception>

namespace dualmcmc {

// Calls task(0 … count - 1), each on the next free thread; sequentially inside another parallel region. The first
// exception (say, bad_alloc) is rethrown here once all are done.
template <class Task>
void parallel_dynamic(int64_t count, const Task& task) {
    if (count <= 1 || omp_in_parallel()) {
        for (int64_t i = 0; i < count; ++i) task(i);
        return;
    }
    std::exception_ptr error;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i) {
        try {
            task(i);
        } catch (...) {
#pragma omp critical
            if (!error) error = std::current_exception();
        }
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace dualmcmc
