// Any doubles as the curves of a plot, eight bytes each: x, y, x, y, …
#include <cmath>
#include <cstring>

#include "experiments/report.h"
#include "fuzz.h"

using namespace dualmcmc;

FUZZ_HARNESS {
    std::vector<double> x, y;
    for (size_t at = 0; at + 16 <= size && at < 16 * 1000; at += 16) {
        double point[2];
        std::memcpy(point, data + at, sizeof point);
        x.push_back(point[0]);
        y.push_back(point[1]);
    }
    const std::string svg = plot("title", "x", x, {{"y", y}});
    for (const char* bad : {"=\"nan", "=\"-nan", "=\"inf", "=\"-inf", "\"nan", " nan", "inf,", ",inf"})
        if (svg.find(bad) != std::string::npos) fuzz::finding("a position that is no number", svg);
    if (svg.size() > 200'000) fuzz::finding("a plot with too many ticks", svg.substr(0, 2000));
    return 0;
}
