// A step file (check_step.h): its metadata as settings, its tensors in the layout of memory.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "method/dual_mcmc.h"

namespace dualmcmc {

struct StepFile {
    // Reads the file. Fails unless it is a step file. All further calls fail with one line that names the file and the
    // metadata's key or the tensor.
    explicit StepFile(const std::string& path);

    std::string word(const std::string& key) const;
    double number(const std::string& key) const;  // one that a setting can hold
    int64_t count(const std::string& key, int64_t min) const;
    // The networks' sizes; the file holds tensors of these shapes.
    ModelSettings model_settings() const;
    StepSettings step_settings() const;

    // The largest relative error that the tensor's storage alone explains.
    double storage_error(const std::string& name) const;
    std::vector<real> values(const std::string& name, const Layout& layout) const;
    Tensor tensor(const std::string& name, const Layout& layout) const;
    // U of each step, stored as (steps, shape of one step).
    NoiseFunction noise(const std::string& name, int64_t steps, const Layout& layout) const;

    std::string path;
    SafetensorsFile file;

private:
    std::string negatives() const;
    // Calls `check`, and fails with its message behind the file's name.
    void in_metadata(const std::function<void()>& check) const;
};

}  // namespace dualmcmc
