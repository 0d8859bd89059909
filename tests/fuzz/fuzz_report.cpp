// Any files as those of a run. The input is config.txt, metrics.csv, an experiment's table and its summary, and a
// picture, separated by lines of four dashes.
#include <sys/stat.h>

#include "experiments/report.h"
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
    mkdir((fuzz::folder() + "/ood").c_str(), 0700);
    for (const char* name : {"config.txt", "metrics.csv", "ood/ood.csv", "ood/summary.txt", "ood/a.png"})
        fuzz::file_of(name, next());
    fuzz::expect_value_or_line([] { write_report(fuzz::folder()); });
    return 0;
}
