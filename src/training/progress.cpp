// See progress.h.
#include "training/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace dualmcmc {

std::string duration(double seconds) {
    const long long whole = std::llround(std::max(0.0, seconds));
    char text[32];
    if (whole >= 3600) std::snprintf(text, sizeof text, "%lldh%02lldm", whole / 3600, whole / 60 % 60);
    else std::snprintf(text, sizeof text, "%lldm%02llds", whole / 60, whole % 60);
    return text;
}

}  // namespace dualmcmc
