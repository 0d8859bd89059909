// Any files as those of a grid: result.csv, budget.csv, metrics.csv and result.npy, separated by lines of four dashes.
#include "experiments/grid_files.h"
#include "fuzz.h"

using namespace dualmcmc;

FUZZ_HARNESS {
    std::string rest(reinterpret_cast<const char*>(data), size);
    const auto next = [&rest] {
        const size_t end = rest.find("----\n");
        const std::string part = rest.substr(0, end);
        rest = end == std::string::npos ? "" : rest.substr(end + 5);
        return part;
    };
    for (const char* name : {"result.csv", "budget.csv", "metrics.csv", "result.npy"}) fuzz::file_of(name, next());
    const std::string& folder = fuzz::folder();
    fuzz::expect_value_or_line([&] {
        std::string damage;
        read_result(folder, 6, 8, damage);
        if (escaped(damage) != damage) fuzz::finding("a message that is not escaped", escaped(damage));
    });
    fuzz::expect_value_or_line([&] { read_budget(folder + "/budget.csv"); });
    fuzz::expect_value_or_line([&] { median(read_rows(folder + "/metrics.csv"), "seconds"); });
    fuzz::expect_value_or_line([&] { read_result_pictures(folder + "/result.npy", 8); });
    return 0;
}
