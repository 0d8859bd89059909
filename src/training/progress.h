// Text about long commands: readable durations.
#pragma once
#include <string>

namespace dualmcmc {

// "1h05m" or "3m07s".
std::string duration(double seconds);

}  // namespace dualmcmc
