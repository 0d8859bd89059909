// Tasks on OpenMP's threads.
#pragma once
#include <cstdint>
#include <exception>

namespace dualmcmc {

// Calls task(0 … count - 1), each on the thread that is free next. What one throws (working memory that cannot be had) is thrown again here, once
// all are done.
template <class Task>
void run_tasks(int64_t count, const Task& task) {
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
