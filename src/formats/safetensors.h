// The safetensors format: named tensors and a table of strings in one file. Not a checkpoint: what the names mean is
// checkpoint.h's business.
//
// File: uint64 (little endian) header length n; n bytes of JSON; the tensors' bytes, one after the other.
// JSON: {"__metadata__": {"key": "text", ...}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dualmcmc {

// A tensor as it lies in the file: dtype is the format's own name (F32, I64, U8, ...); bytes little endian, row major.
struct StoredTensor {
    std::string dtype;
    std::vector<int64_t> shape;
    std::vector<char> bytes;
};

// An F32 tensor with a copy of the product-of-shape floats at `values`; shape {} is a scalar.
StoredTensor store_floats(const std::vector<int64_t>& shape, const float* values);

// The values of an F32 tensor; fails, naming it `name`, for any other dtype.
std::vector<float> as_floats(const StoredTensor& tensor, const std::string& name);

struct SafetensorsFile {
    std::map<std::string, std::string> metadata;
    std::map<std::string, StoredTensor> tensors;
};

// Reads a whole file. Trusts nothing in it: every malformed file is one line that names the file and what is wrong.
SafetensorsFile read_safetensors(const std::string& path);

// Writes a whole file, complete or not at all (AtomicFile in files.h).
void write_safetensors(const std::string& path, const SafetensorsFile& file);

}  // namespace dualmcmc
