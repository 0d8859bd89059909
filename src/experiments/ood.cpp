// Energies of sets of images. All sets are 8-bit images, and all see the same weights W / σ: one power iteration at
// the start, as before any forward pass, and none after it.
#include "experiments/ood.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "experiments/statistics.h"
#include "hash.h"

namespace dualmcmc {

namespace {

constexpr int histogram_bins = 60;

// Every channel of every pixel independent, uniform on the 256 levels.
ImageSet uniform_noise(int64_t count, int64_t size, uint64_t seed) {
    ImageSet set = empty_images("uniform noise", count, size);
    for (size_t i = 0; i < set.pixels.size(); ++i) set.pixels[i] = uint8_t(hash64(hash64(seed, 0), i) >> 56);
    return set;
}

// One uniformly random colour per image.
ImageSet constant_images(int64_t count, int64_t size, uint64_t seed) {
    ImageSet set = empty_images("constant images", count, size);
    const int64_t values = size * size * 3;
    for (int64_t i = 0; i < count * values; ++i)
        set.pixels[size_t(i)] = uint8_t(hash64(hash64(seed, 1), uint64_t(i / values * 3 + i % 3)) >> 56);
    return set;
}

// Image i is the mean of image i and the image a third of the set further on, rounded up: no pair comes twice.
ImageSet means_of_two(const ImageSet& images) {
    ImageSet set = empty_images("means of two test images", images.count, images.size);
    const size_t values = size_t(images.size * images.size * 3), shift = size_t((images.count + 1) / 3) * values;
    for (size_t i = 0; i < set.pixels.size(); ++i)
        set.pixels[i] = uint8_t((images.pixels[i] + images.pixels[(i + shift) % images.pixels.size()] + 1) / 2);
    return set;
}

}  // namespace

OodCommand::OodCommand(CLI::App& app)
    : Experiment(app, "ood", "AUROC of the energy: test images against other sets", 1000, "images of each set") {
    command_
        ->add_option(
            "--against", against_,
            "another set: a folder of PNG or JPEG pictures, a .npy of uint8 (N,H,W,3), a folder with CIFAR-10 or "
            "CIFAR-100 "
            "(its test images), or one of their .bin files; repeatable. SVHN's test_32x32.mat becomes a .npy by: "
            "python3 -c \"import numpy, "
            "scipy.io; "
            "numpy.save('svhn.npy', scipy.io.loadmat('test_32x32.mat')['X'].transpose(3, 0, 1, 2).copy('C'))\"")
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

std::vector<ImageSet> OodCommand::other_sets() const {
    const int64_t size = test().size;
    std::vector<ImageSet> sets{uniform_noise(count_, size, seed()), constant_images(count_, size, seed()),
                               means_of_two(spread_images(test(), count_))};
    auto add = [&](const std::string& name, const ImageSet& set) {
        sets.push_back(set);
        sets.back().name = name;
    };
    if (config_.data != "shapes") add("shapes", load_train("shapes", size, seed(), count_));
    add("training images", load_train(config_.data, size, uint64_t(config_.seed), count_));
    for (const std::string& path : against_) {
        // The model did not train on these, so a file or a folder of pictures counts as a whole, without its split into
        // training and held-out images.
        const std::optional<ImageSet> whole = load_unsplit(path, size, count_);
        const ImageSet set = whole ? *whole : load_held_out(path, size, seed(), count_);
        add(set.name, set);
    }
    return sets;
}

std::vector<real> OodCommand::energies(const ImageSet& set) {
    std::vector<real> out;
    for (int64_t first = 0; first < set.count; first += batch_) {
        NoGrad no_grad;
        const std::vector<real> batch = models_->ebm.energy(Var(batch_of(set, first))).value().to_host();
        out.insert(out.end(), batch.begin(), batch.begin() + std::min(batch_, set.count - first));
    }
    for (const real energy : out)
        if (!std::isfinite(energy))
            fail("ood: an energy of the set '", set.name, "' is not finite; the model cannot be used");
    return out;
}

// Energies and AUROC of the test images and of `sets`; writes ood.csv and energies.csv.
std::vector<OodCommand::Scores> OodCommand::score(const std::vector<ImageSet>& sets) {
    Csv table({"set", "images", "auroc", "energy_mean", "energy_p10", "energy_p90"}), all({"set", "image", "energy"});
    std::vector<Scores> scores;
    auto row = [&](const ImageSet& set) {
        scores.push_back({set.name, energies(set)});
        const std::vector<real>& e = scores.back().energy;
        const double area = auroc(scores.front().energy, e);
        const MeanDeciles m = mean_and_deciles(e);
        table.row(set.name, {double(e.size()), area, m.mean, m.p10, m.p90});
        for (size_t i = 0; i < e.size(); ++i) all.row(set.name, {double(i), double(e[i])});
        const std::string padding(set.name.size() < 28 ? 28 - set.name.size() : 0, ' ');
        log(text(set.name, padding, formatted(" %6.0f images", double(e.size())), formatted(": AUROC %.4f", area),
                 formatted(", mean energy %.5g", m.mean), formatted(" (10th percentile %.5g", m.p10),
                 formatted(", 90th %.5g)", m.p90)));
    };
    ImageSet images = spread_images(test(), count_);
    images.name = "test images";
    row(images);
    for (const ImageSet& set : sets) row(set);
    table.write(file("ood.csv"));
    all.write(file("energies.csv"));
    return scores;
}

// One histogram per set over the range of all energies, as shares of the set; `energy` is the centre of a bin.
void OodCommand::write_histogram(const std::vector<Scores>& scores) const {
    real lowest = scores[0].energy[0], highest = lowest;
    for (const Scores& s : scores)
        for (const real energy : s.energy) lowest = std::min(lowest, energy), highest = std::max(highest, energy);
    std::vector<std::string> header{"energy"};
    for (const Scores& s : scores) header.push_back("share_" + s.name);
    std::vector<std::vector<double>> bins(histogram_bins, std::vector<double>(header.size(), 0.0));
    const double width = std::max(double(highest) - double(lowest), 1e-12) / histogram_bins;
    for (int b = 0; b < histogram_bins; ++b) bins[size_t(b)][0] = double(lowest) + (b + 0.5) * width;
    for (size_t s = 0; s < scores.size(); ++s)
        for (const real energy : scores[s].energy) {
            const int bin = std::min(histogram_bins - 1, int((double(energy) - double(lowest)) / width));
            bins[size_t(bin)][s + 1] += 1 / double(scores[s].energy.size());
        }
    Csv histogram(header);
    for (const auto& bin : bins) histogram.row(bin);
    histogram.write(file("histogram.csv"));
}

// A few images of each set.
void OodCommand::write_picture(const std::vector<ImageSet>& sets) const {
    const ImageSet shown = first_images(test(), std::min<int64_t>(count_, 4));
    std::vector<ImageSet> few;
    for (const ImageSet& set : sets) few.push_back(first_images(set, 4));
    std::vector<const ImageSet*> panels{&shown};
    for (const ImageSet& set : few) panels.push_back(&set);
    write_grid(file("sets.png"), panels, 2, picture_scale(shown));
}

void OodCommand::measure() {
    const std::vector<ImageSet> sets = other_sets();
    {
        NoGrad no_grad;
        models_->ebm.power_iteration();
    }
    log(text("score: the energy E, lower on data; AUROC = P(E_other > E_test) + 1/2 P(equal); energies at temperature ",
             config_.step.chain_x.temperature()));
    write_histogram(score(sets));
    write_picture(sets);
    log("sets.png: images of each set, in this order");
}

}  // namespace dualmcmc
