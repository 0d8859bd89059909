// Evaluation of trained networks: resumable folders of PNGs, and the generator's batch norm in each mode.
#include "training/evaluation.h"

#include <cmath>
#include <filesystem>
#include <map>

#include "compare.h"
#include "experiments/png_folder.h"
#include "file_helpers.h"
#include "png_helpers.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;

// ---- folders of PNGs ----------------------------------------------------------------------------

class Folder : public testing::Test {
protected:
    Folder() {
        fs::remove_all(path);
        for (size_t i = 0; i < images.pixels.size(); ++i) images.pixels[i] = uint8_t(i * 7 + i / 300);
    }
    ~Folder() override { fs::remove_all(path); }
    std::string file(const std::string& name) const { return path + "/" + name; }

    const std::string path = temporary_path("folder");
    ImageSet images{5, 8, std::vector<uint8_t>(5 * 8 * 8 * 3), "five"};
};

TEST_F(Folder, HoldsTheImagesAndNoOthers) {
    const PngFolder folder(path, 7);
    EXPECT_EQ(folder.complete(), 0);
    folder.write(0, images);
    EXPECT_THROW(folder.check(), std::runtime_error);
    folder.write(5, images);  // images 5 and 6; the others exceed the count
    folder.check();
    EXPECT_EQ(std::distance(fs::directory_iterator(path), fs::directory_iterator()), 7);
    for (int64_t i = 0; i < 7; ++i) {
        const Picture picture = decode(file("00000" + std::to_string(i) + ".png"));
        EXPECT_EQ(picture.width, 8);
        const uint8_t* expected = image_at(images, i % 5);
        EXPECT_EQ(picture.pixels, std::vector<uint8_t>(expected, expected + 8 * 8 * 3)) << i;
    }
    write_bytes(file("000007.png"), "one too many");
    expect_failure([&] { folder.check(); }, {path, "8 files", "7 images"});
}

TEST_F(Folder, ResumesAfterTheWholeFiles) {
    PngFolder(path, 5).write(0, images);
    EXPECT_EQ(PngFolder(path, 9).complete(), 5);
    fs::resize_file(file("000003.png"), fs::file_size(file("000003.png")) - 1);
    write_bytes(file("000004.png.123.tmp"), "cut off");
    const PngFolder folder(path, 5);
    EXPECT_EQ(folder.complete(), 3);
    EXPECT_FALSE(fs::exists(file("000004.png.123.tmp")));
    expect_failure([&] { folder.check(); }, {"000003.png", "incomplete"});
    write_bytes(file("000000.png"), "");
    EXPECT_EQ(PngFolder(path, 5).complete(), 0);
}

TEST_F(Folder, RefusesOtherFiles) {
    PngFolder(path, 5).write(0, images);
    expect_failure([&] { PngFolder(path, 4); }, {"--out", path, "000004.png", "4 images"});
    for (const char* name :
         {"cat.png", "1.png", "0000001.png", "000001.jpg", "notes.txt", "000001.png.tmp.png", "000001.png.tmp"}) {
        write_bytes(file(name), "x");
        expect_failure([&] { PngFolder(path, 5); }, {path, name});
        EXPECT_TRUE(fs::exists(file(name)));
        fs::remove(file(name));
    }
    EXPECT_EQ(PngFolder(path, 5).complete(), 5);
}

// ---- batch norm ---------------------------------------------------------------------------------

constexpr int64_t latent = 6;

Tensor image_of(Models& models, const Tensor& z) {
    NoGrad no_grad;
    return models.generator(Var(z)).value();
}

// A generator whose running statistics have seen a few batches.
Models warmed_up(const ModelSettings& settings) {
    Models models(settings, 3);
    for (uint32_t i = 0; i < 30; ++i) image_of(models, random_tensor({8, settings.latent}, i, -2, 2));
    return models;
}

TEST(BatchNorm, FixedStatisticsMakeImagesIndependent) {
    const WithThreads one(1);
    for (const ModelSettings& settings :
         {ModelSettings{"cifar10", 5, 3, 1, latent}, ModelSettings{"celeba64", 16, 16, 1, latent}}) {
        Models models = warmed_up(settings);
        const Tensor z = Tensor::normal({4, latent}, {1, 2, 3});
        for (const char* mode : {"batch", "running", "recalibrated"}) {
            set_batch_norm(models, {mode, 3}, 5, 1);
            const Tensor all = image_of(models, z).slice_copy(1, 1), alone = image_of(models, z.slice_copy(1, 1));
            if (std::string(mode) == "batch") EXPECT_GT(relative_l2(alone, all), 0.05);
            else EXPECT_EQ(alone.to_host(), all.to_host()) << mode;
        }
    }
}

// The first norm's input is a linear map of z. Its mean and variance over all batches are summed here, image by image.
TEST(BatchNorm, RecalibratedPoolsAllBatches) {
    const WithThreads one(1);
    constexpr int64_t width = 5, batches = 7, batch = 3, seed = 9;
    Models models = warmed_up({"cifar10", width, 3, 1, latent});
    std::map<std::string, Values> entries;
    for (const NamedTensor& entry : models.generator.state.entries())
        entries[entry.name] = entry.value.value().to_host();
    const Values &weight = entries.at("lin_1.weight"),
                 &bias = entries.at("lin_1.bias");  // (d, 4, 4, width), (4, 4, width)
    std::vector<std::vector<rounding::Running>> seen(width);
    for (uint64_t b = 0; b < batches; ++b) {
        const Values z =
            Tensor::normal({batch, latent}, random_key(seed, RngPurpose::sample_prior, (uint64_t{1} << 55) + b))
                .to_host();
        for (int64_t i = 0; i < batch; ++i)
            for (int64_t i_out = 0; i_out < 16 * width; ++i_out) {
                rounding::Running sum = bias[size_t(i_out)];
                for (int64_t k = 0; k < latent; ++k)
                    sum = sum + rounding::Running(z[size_t(i * latent + k)]) * weight[size_t(k * 16 * width + i_out)];
                seen[size_t(i_out % width)].push_back(sum);
            }
    }
    // A batch's statistics sum over its pixels in `real`, and are pooled in double. Two more roundings turn a sum into
    // the statistics that are pooled, and one ends it.
    std::vector<rounding::Running> mean, var;
    for (const auto& values : seen) {
        rounding::RandomSum sum, squares;
        for (const rounding::Running& v : values) sum.add(v);
        const double n = double(values.size()), pixels = in_double ? n : 16 * batch;
        mean.push_back(1 * (1 * (sum.get(pixels) / n)));
        for (const rounding::Running& v : values) squares.add(square(v - mean.back().value));
        var.push_back(1 * (1 * (squares.get(pixels) / (n - 1))));
    }
    set_batch_norm(models, {"recalibrated", batches}, batch, seed);
    const auto norms = models.generator.norms();
    ASSERT_EQ(norms.size(), 7u);
    expect_close(norms[0].first->running_mean.to_host(), mean, "mean");
    expect_close(norms[0].first->running_var.to_host(), var, "variance");
}

// Recalibrated on one batch, the generator gives the images of that batch's own statistics, except that the variances
// are unbiased: larger by n / (n - 1), n at least 16 · 64, in each of seven layers.
TEST(BatchNorm, RecalibratedOnOneBatchIsThatBatch) {
    const WithThreads one(1);
    Models models = warmed_up({"cifar10", 5, 3, 1, latent});
    const Tensor z = Tensor::normal({64, latent}, random_key(2, RngPurpose::sample_prior, uint64_t{1} << 55));
    const Tensor by_batch = image_of(models, z);
    set_batch_norm(models, {"running", 1}, 64, 2);
    EXPECT_GT(relative_l2(image_of(models, z), by_batch), 0.05);
    set_batch_norm(models, {"recalibrated", 1}, 64, 2);
    EXPECT_LT(relative_l2(image_of(models, z), by_batch), 7 * 0.5 / 1023);
}

TEST(BatchNorm, IsRestoredAndRefusesUnknownModes) {
    const WithThreads one(1);
    Models models = warmed_up({"cifar10", 4, 3, 1, latent});
    const Tensor z = Tensor::normal({3, latent}, {1, 2, 3});
    const Values before = image_of(models, z).to_host();
    {
        const ScopedStateRestore restore(models);
        set_batch_norm(models, {"recalibrated", 2}, 4, 1);
        EXPECT_NE(image_of(models, z).to_host(), before);
    }
    set_batch_norm(models, {}, 4, 1);
    EXPECT_EQ(image_of(models, z).to_host(), before);
    expect_failure(
        [&] {
            set_batch_norm(models, {"layer", 2}, 4, 1);
        },
        {"--batch-norm layer", "running", "recalibrated"});
    expect_failure([&] { set_batch_norm(models, {"recalibrated", 0}, 4, 1); }, {"--batch-norm-batches 0"});
}

// One step of a z-chain without noise moves by -½ s² times the gradient of ‖x - g(z)‖² / (2σ²) + ½ ‖z‖².
// Here it is computed by central differences. Each image has its own gradient, as its g(z) depends on no other image.
// Each ReLU whose kink lies within the step takes away from the derivative in proportion to the step h, so that the
// difference between steps 2h and h tells the size of that error at h. It is allowed twice.
TEST(BatchNorm, ChainDescendsUnderFixedStatistics) {
    const WithThreads one(1);
    const ExactConvolutions exact;
    constexpr int64_t batch = 3;
    constexpr double sigma = 0.5, h = 1.0 / 1024;
    Models models = warmed_up({"cifar10", 5, 3, 1, latent});
    const Tensor z = Tensor::normal({batch, latent}, {1, 2, 3}), x = random_tensor({batch, 32, 32, 3}, 5);
    const Values data = x.to_host(), start = z.to_host();
    const NoiseFunction no_noise = [&](int64_t) { return Tensor::full(z.shape(), 0); };
    const auto gradient = [&] {
        const Values end = langevin_z(z, x, models.generator, real(sigma), {1, 1, 0}, no_noise).end.to_host();
        Values out(end.size());
        for (size_t i = 0; i < out.size(); ++i) out[i] = 2 * (start[i] - end[i]);
        return out;
    };
    const auto potential = [&](const Values& at) {
        const Values image = image_of(models, Tensor::from_host(z.shape(), at)).to_host();
        double sum = 0;
        for (size_t i = 0; i < image.size(); ++i)
            sum += std::pow(double(data[i]) - double(image[i]), 2) / (2 * sigma * sigma);
        for (const real v : at) sum += 0.5 * double(v) * double(v);
        return sum;
    };
    for (const char* mode : {"running", "recalibrated"}) {
        set_batch_norm(models, {mode, 3}, 5, 1);
        const auto central_differences = [&](double step) {
            Values out;
            for (size_t i = 0; i < start.size(); ++i) {
                Values up = start, down = start;
                up[i] += real(step);
                down[i] -= real(step);
                out.push_back(real((potential(up) - potential(down)) / (double(up[i]) - double(down[i]))));
            }
            return out;
        };
        const Values numeric = central_differences(h), coarser = central_differences(2 * h);
        EXPECT_LT(relative_l2(gradient(), numeric), 2 * relative_l2(coarser, numeric)) << mode;
        set_batch_norm(models, {}, 5, 1);
        EXPECT_GT(relative_l2(gradient(), numeric), 0.1) << "batch statistics have a different gradient";
    }
}

}  // namespace
}  // namespace dualmcmc::test
