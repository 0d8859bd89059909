// The CPU threads of a program that may share its machine: how many there are, and how they wait for work.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace dualmcmc {

// The processors' time that the control groups of this process grant it (a container's --cpus, systemd's CPUQuota), in
// processors, rounded up: the smallest of its group's and of all groups above. Empty without a limit. Versions 1 and 2.
// Reads /proc and /sys under `root`.
std::optional<int64_t> cgroup_cpus(const std::string& root = "");

// Sets OpenMP's number of threads to the smaller of the processors that this process may run on and cgroup_cpus().
// OMP_NUM_THREADS goes first.
void set_default_threads();

// OpenMP's idle threads spin for milliseconds by default, which takes the processor from other programs. This lets them
// spin only as long as it takes to wake them. OpenMP's library reads that setting as it is loaded, so the program is
// started again in this process with the setting in its environment; settings of the user's own stay as they are.
void limit_spinning(char** argv);

}  // namespace dualmcmc
