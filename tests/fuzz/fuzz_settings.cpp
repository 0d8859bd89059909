// Flags and their values, one per line, as the command line gives them to the settings.
#include <sstream>

#include "fuzz.h"
#include "method/dual_mcmc.h"
#include "numbers.h"
#include "training/config.h"

using namespace dualmcmc;

FUZZ_HARNESS {
    std::istringstream lines(std::string(reinterpret_cast<const char*>(data), size));
    Config config;
    for (std::string line; std::getline(lines, line);) {
        const size_t space = line.find(' ');
        const std::string word = with_current_flag(line.substr(0, space)),
                          value = space == std::string::npos ? "" : line.substr(space + 1);
        fuzz::expect_value_or_line([&] { set_setting(config, word.substr(std::min<size_t>(2, word.size())), value); });
        to_number<int64_t>(value);
        to_number<int>(value);
        to_number<float>(value);
        fuzz::expect_value_or_line([&] { preset_config(value); });
    }
    fuzz::expect_value_or_line([&] {
        check_config(config);
        if (!(config.step.chain_x.temperature() > 0) || !std::isfinite(1 / config.step.chain_x.temperature()))
            fuzz::finding("a temperature", std::to_string(config.step.chain_x.temperature()));
    });
    return 0;
}
