// Any file as safetensors. What could be read is written and read again.
#include "formats/safetensors.h"
#include "fuzz.h"

using namespace dualmcmc;

FUZZ_HARNESS {
    const std::string path = fuzz::file_of("a.safetensors", data, size);
    fuzz::expect_value_or_line([&] {
        const SafetensorsFile file = read_safetensors(path);
        for (const auto& [name, tensor] : file.tensors)
            if (tensor.dtype == "F32" || tensor.dtype == "F64") values_of<float>(tensor, name);
        const std::string again = fuzz::folder() + "/again.safetensors";
        write_safetensors(again, file);
        const SafetensorsFile second = read_safetensors(again);
        if (second.metadata != file.metadata || second.tensors.size() != file.tensors.size())
            fuzz::finding("another file after writing", path);
    });
    return 0;
}
