// Loads a shared library from the first of several places.
#pragma once
#include <dlfcn.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace dualmcmc {

// The handle of the first of `paths` that loads. Throws std::runtime_error, in one line, with each path's error: the
// first may exist and lack a library of its own.
inline void* load_library(const std::vector<std::string>& paths) {
    std::string errors;
    for (const std::string& path : paths) {
        if (void* const found = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return found;
        const char* const error = dlerror();
        errors += (errors.empty() ? "" : "; ") + std::string(error ? error : path + ": unknown error");
    }
    throw std::runtime_error(errors);
}

}  // namespace dualmcmc
