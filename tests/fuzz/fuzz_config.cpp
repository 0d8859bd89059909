// Any file as config.txt. What could be read is checked, written and read again.
#include "fuzz.h"
#include "training/config.h"

using namespace dualmcmc;

FUZZ_HARNESS {
    const std::string path = fuzz::file_of("config.txt", data, size);
    fuzz::expect_value_or_line([&] {
        Config config;
        for (const auto& [name, value] : read_config(path)) set_setting(config, name, value);
        check_config(config);
        Config again;
        for (const auto& [name, value] : read_config(fuzz::file_of("again.txt", config_to_text(config))))
            set_setting(again, name, value);
        for (const auto& [name, value] : config_to_map(config)) {
            const std::string other = config_to_map(again).at(name);
            const bool trimmed = !value.empty() && (value.front() == ' ' || value.back() == ' ');
            if (other != value && !trimmed) fuzz::finding("another setting after writing", name + " " + value);
        }
    });
    return 0;
}
