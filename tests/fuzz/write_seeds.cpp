// Writes small well-formed inputs for each harness, from which the fuzzer starts: write_seeds FOLDER.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "formats/npy.h"
#include "fuzz.h"
#include "training/checkpoint.h"

using namespace dualmcmc;

namespace {

std::string out;

void seed(const std::string& harness, const std::string& name, const std::string& bytes) {
    std::filesystem::create_directories(out + "/" + harness);
    write_file(out + "/" + harness + "/" + name, bytes);
}

std::string safetensors_bytes(const SafetensorsFile& file) {
    const std::string path = out + "/scratch";
    write_safetensors(path, file);
    const std::string bytes = read_file(path);
    std::filesystem::remove(path);
    return bytes;
}

std::string npy_bytes(const std::vector<int64_t>& shape) {
    size_t bytes = 1;
    for (const int64_t side : shape) bytes *= static_cast<size_t>(side);
    write_npy(out + "/scratch", shape, std::vector<uint8_t>(bytes, 7).data());
    const std::string file = read_file(out + "/scratch");
    std::filesystem::remove(out + "/scratch");
    return file;
}

// The smallest networks, all zero, with their names behind `before`.
void add_networks(SafetensorsFile& file, const ModelSettings& settings) {
    Models shapes(settings, std::nullopt);
    for (const auto& [prefix, state] : shapes.networks())
        for (const NamedTensor& entry : state->entries()) {
            const Shape& shape = entry.layout.file_shape;
            const std::vector<float> zero(size_t(element_count(shape)), 0);
            file.tensors[prefix + entry.name] = store_values(shape, zero.data());
        }
}

SafetensorsFile checkpoint() {
    SafetensorsFile file;
    Config config;
    config.model = {"cifar10", 1, 1, 1, 1};
    file.metadata = config_to_map(config);
    file.metadata["format"] = checkpoint_format;
    file.metadata["iteration"] = "2";
    file.metadata["rollbacks"] = "0";
    add_networks(file, config.model);
    const float states[3] = {1, 2, 3};
    file.tensors["latents"] = store_values({3, 1}, states);
    return file;
}

SafetensorsFile step_file() {
    SafetensorsFile file;
    file.metadata = {{"format", "dual-mcmc-step-1"},
                     {"architecture", "cifar10"},
                     {"width", "1"},
                     {"inference_width", "1"},
                     {"latent", "1"},
                     {"batch", "1"},
                     {"steps_x", "0"},
                     {"steps_z", "1"},
                     {"resample", "0"},
                     {"method", "dual"},
                     {"negatives", "chain"}};
    for (const char* key : {"e_l_step_size", "e_n_step_size", "l_step_size", "n_step_size", "sig", "Gfactor", "Sfactor",
                            "Ifactor", "lrG", "wdG", "lrE", "lrI", "wdI"})
        file.metadata[key] = "0.5";
    add_networks(file, {"cifar10", 1, 1, 1, 1});
    const std::vector<float> image(3 * 32 * 32, 0);
    file.tensors["batch.x"] = store_values({1, 3, 32, 32}, image.data());
    file.tensors["noise.langevin_z"] = store_values({1, 1, 1}, image.data());
    return file;
}

void text_seeds() {
    std::string flags;
    for (const auto& [name, value] : config_to_map(preset_config("demo"))) flags += "--" + name + " " + value + "\n";
    seed("settings", "demo", flags);
    seed("settings", "numbers", "--batch 010\n--sigma 1e-30\n--noise-x 0\n--minutes 1e300\n--seed -1\n--batch \n");
    for (const char* preset : {"demo", "cifar10", "celeba64"})
        seed("config", preset, config_to_text(preset_config(preset)));
    seed("config", "former", "keep = 3\nresample = true\n# a comment\nguard=9\n");
    const std::string config = "preset = demo\nnoise-x = 0.002\n",
                      metrics = "iteration,epoch,mse,energy_gap,seconds\n1,0,0.5,-1e-3,0.25\n2,0,0.25,,0.5\n",
                      table = "step,mse_encoder,mse_noise\n0,1,2\n1,0.5,1\n",
                      words = "set,auroc\n\"a, \"\"b\"\"\",0.5\n";
    seed("report", "run", config + "----\n" + metrics + "----\n" + table + "----\nsummary <b>\n----\n\x89PNG");
    seed("report", "words", config + "----\n" + metrics + "----\n" + words);
    const std::string result =
        "cell,seed,count,iterations,returns,gave_up,processor_seconds,seconds,seconds_chain_x,seconds_chain_z,"
        "seconds_generator,seconds_encoder,seconds_ebm,mse,distance_generator,distance_revised\n"
        "vae,1,6,2,0,0,0.1,0.2,0,0,0,0,0,0.5,,\n";
    seed("grid", "all",
         result + "----\ncell,minutes,seconds,iterations\nvae,2,0.5,7\n----\n" + metrics + "----\n" +
             npy_bytes({20, 8, 8, 3}));
}

void plot_seeds() {
    const double tiny = std::numeric_limits<double>::denorm_min(), most = std::numeric_limits<double>::max();
    const std::vector<std::vector<double>> curves{{0, 1, 1, 2, 2, 3},           {0, 1, 1, std::nextafter(1.0, 2.0)},
                                                  {0, tiny, 1, 2 * tiny},       {0, -most, 1, most},
                                                  {most, 1e-300, -most, 1e300}, {0, NAN, INFINITY, 1}};
    for (size_t i = 0; i < curves.size(); ++i) {
        std::string bytes(curves[i].size() * sizeof(double), 0);
        std::memcpy(bytes.data(), curves[i].data(), bytes.size());
        seed("plot", std::to_string(i), bytes);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    out = argv[1];
    std::filesystem::create_directories(out);
    SafetensorsFile small;
    small.metadata = {{"key", "a \"quoted\" \\ \x01 text"}};
    const float values[2] = {1, -2};
    small.tensors["a"] = store_values({2, 1}, values);
    small.tensors["b"] = {"U8", {3}, {1, 2, 3}};
    seed("safetensors", "small", safetensors_bytes(small));
    seed("checkpoint", "small", safetensors_bytes(checkpoint()));
    seed("step_file", "small", safetensors_bytes(step_file()));
    seed("npy", "two", npy_bytes({2, 32, 32, 3}));
    seed("npy", "tiny", npy_bytes({1, 2, 2, 3}));
    seed("npy", "celeba", npy_bytes({1, 218, 178, 3}));
    seed("cifar", "short", std::string(20, '\3'));
    seed("cifar", "cifar10", std::string(65, '\3'));
    seed("cifar", "cifar100", std::string(64, '\3'));
    text_seeds();
    plot_seeds();
    return 0;
}
