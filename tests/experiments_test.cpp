// The experiments' statistics against direct formulas, closed forms, and constants from NumPy and SciPy
// (reference/write_statistics.py); their commands on a tiny model, with the values that they write recomputed; and the
// report.
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <sstream>

#include "compare.h"
#include "data/dataset.h"
#include "data/shapes.h"
#include "experiments/ais.h"
#include "experiments/chains_command.h"
#include "experiments/csv.h"
#include "experiments/interpolate.h"
#include "experiments/report.h"
#include "experiments/statistics.h"
#include "experiments/statistics_distance.h"
#include "file_helpers.h"
#include "formats/npy.h"
#include "formats/png.h"
#include "png_helpers.h"
#include "training/checkpoint.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;
using rounding::Running;

constexpr double double_unit = 0x1p-53;

// ---- images -------------------------------------------------------------------------------------

// The images of reference/write_statistics.py.
std::pair<std::vector<real>, std::vector<real>> two_images(int64_t side) {
    std::vector<real> a, b;
    for (int64_t y = 0; y < side; ++y)
        for (int64_t x = 0; x < side; ++x)
            for (int64_t c = 0; c < 3; ++c) {
                const double value = double((y * 37 + x * 91 + c * 53 + x * y % 17 * 11) % 256) / 127.5 - 1;
                a.push_back(real(value));
                b.push_back(real(0.8 * value + 0.15 * std::sin(0.7 * double(x) + 0.3 * double(y) + double(c))));
            }
    return {a, b};
}

// SSIM as Wang et al. define it, window by window, with the running error of these sums; product and SciPy, which blur
// along rows and then along columns, round less.
Running direct_ssim(const std::vector<real>& a, const std::vector<real>& b, int64_t side) {
    Running weights[11][11], total;
    for (int i = 0; i < 11; ++i)
        for (int j = 0; j < 11; ++j)
            total = total + (weights[i][j] = exp(Running(-((i - 5) * (i - 5) + (j - 5) * (j - 5))) / 4.5));
    const Running c1 = rounding::rounded(0.0004), c2 = rounding::rounded(0.0036);
    Running sum;
    int64_t windows = 0;
    for (int64_t c = 0; c < 3; ++c)
        for (int64_t top = 0; top + 11 <= side; ++top)
            for (int64_t left = 0; left + 11 <= side; ++left, ++windows) {
                auto weighted = [&](const std::vector<real>& x, const std::vector<real>* y = nullptr) {
                    Running result;
                    for (int64_t i = 0; i < 11; ++i)
                        for (int64_t j = 0; j < 11; ++j) {
                            const size_t at = size_t(((top + i) * side + left + j) * 3 + c);
                            const Running value = y ? Running(x[at]) * (*y)[at] : Running(x[at]);
                            result = result + weights[i][j] / total * value;
                        }
                    return result;
                };
                const Running mean_a = weighted(a), mean_b = weighted(b), ab = mean_a * mean_b,
                              squares = square(mean_a) + square(mean_b), covariance = weighted(a, &b) - ab,
                              variances = weighted(a, &a) + weighted(b, &b) - squares;
                sum = sum + (2 * ab + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2));
            }
    return sum / double(windows);
}
// Of SSIM as two programs compute it.
double rounding_of(const Running& ssim) { return 2 * ssim.error * double_unit; }

TEST(ImageQuality, EqualsSciPyAndTheDirectFormula) {
    // Printed by reference/write_statistics.py.
    const struct {
        int64_t side;
        double mse, psnr, ssim;
    } cases[] = {{32, 0.024843592695, 22.0684559085, 0.484145947357},
                 {19, 0.024064906352, 22.2067581537, 0.567798246037}};
    for (const auto& c : cases) {
        const auto [a, b] = two_images(c.side);
        // Both sides round the images to floats, which hides the last bits of the sine in b. Half a unit of the last
        // digit; and in each program a rounding of each term and each partial sum.
        const double mse = mean_squared_error(a.data(), b.data(), int64_t(a.size())),
                     relative = 4 * double(a.size()) * double_unit;
        EXPECT_NEAR(mse, c.mse, 5e-13 + relative * mse);
        EXPECT_NEAR(psnr(mse), c.psnr, 5e-11 + relative * 10 / std::log(10));
        const Running direct = direct_ssim(a, b, c.side);
        EXPECT_NEAR(structural_similarity(a.data(), b.data(), c.side), c.ssim, 5e-13 + rounding_of(direct));
        EXPECT_NEAR(structural_similarity(a.data(), b.data(), c.side), direct.value, rounding_of(direct));
    }
}

TEST(ImageQuality, KnownCases) {
    auto [a, b] = two_images(17);
    EXPECT_EQ(mean_squared_error(a.data(), a.data(), int64_t(a.size())), 0);
    EXPECT_TRUE(std::isinf(psnr(0)));
    EXPECT_EQ(psnr(4), 0);
    EXPECT_NEAR(psnr(0.04), 20, 6 * 20 * double_unit);  // a constant and a quotient, the logarithm (4), a product
    EXPECT_NEAR(structural_similarity(a.data(), a.data(), 17), 1, rounding_of(direct_ssim(a, a, 17)));
    // For constant images u and v the variances vanish, and SSIM is (2uv + c1) / (u² + v² + c1).
    std::fill(a.begin(), a.end(), 0.5f);
    std::fill(b.begin(), b.end(), -0.25f);
    EXPECT_NEAR(structural_similarity(a.data(), b.data(), 17), (-0.25 + 0.0004) / (0.3125 + 0.0004),
                rounding_of(direct_ssim(a, b, 17)));
    EXPECT_THROW(structural_similarity(a.data(), b.data(), 10), std::runtime_error);
}

// ---- area under the ROC curve -------------------------------------------------------------------

double direct_auroc(const std::vector<real>& low, const std::vector<real>& high) {
    double wins = 0;
    for (const real l : low)
        for (const real h : high) wins += h > l ? 1 : h == l ? 0.5 : 0;
    return wins / double(low.size()) / double(high.size());
}

TEST(Auroc, EqualsAllPairs) {
    std::mt19937 random(1);
    for (const int levels : {1, 2, 5, 40, 100000}) {
        std::uniform_int_distribution<int> level(0, levels - 1);
        std::vector<real> low, high;
        for (int i = 0; i < 137; ++i) low.push_back(real(level(random)) - 0.3f * real(levels));
        for (int i = 0; i < 61; ++i) high.push_back(real(level(random)) - 0.3f * real(levels));
        EXPECT_EQ(auroc(low, high), direct_auroc(low, high)) << levels;  // both are exact in double precision
        EXPECT_NEAR(auroc(low, high) + auroc(high, low), 1, 2 * double_unit) << levels;  // two quotients, their sum
    }
}

TEST(Auroc, EqualsSciPyAndKnownCases) {
    std::vector<real> low, high;
    for (int i = 0; i < 60; ++i) low.push_back(real(i * 7 % 23));
    for (int i = 0; i < 45; ++i) high.push_back(real(i * 5 % 29 + 2));
    // scipy.stats.mannwhitneyu, by reference/write_statistics.py.
    EXPECT_NEAR(auroc(low, high), 0.647037037037, 5e-13);
    EXPECT_EQ(auroc({1, 2}, {3, 4}), 1);
    EXPECT_EQ(auroc({3, 4}, {1, 2}), 0);
    EXPECT_EQ(auroc({1, 1}, {1}), 0.5);
    EXPECT_EQ(auroc({-INFINITY, 0}, {INFINITY}), 1);
    EXPECT_THROW(auroc({1}, {}), std::runtime_error);
    EXPECT_THROW(auroc({1}, {NAN}), std::runtime_error);
}

// ---- chains -------------------------------------------------------------------------------------

// x_t = ρ x_t-1 + sqrt(1 - ρ²) u, started from the stationary density.
Chains autoregressive(size_t chains, size_t draws, double rho, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    Chains out(chains);
    for (auto& chain : out) {
        double x = normal(random);
        for (size_t t = 0; t < draws; ++t, x = rho * x + std::sqrt(1 - rho * rho) * normal(random)) chain.push_back(x);
    }
    return out;
}

// The chains of reference/write_statistics.py.
Chains four_chains() {
    Chains out(4);
    for (int m = 0; m < 4; ++m)
        for (int t = 0; t < 101; ++t)
            out[size_t(m)].push_back(std::sin(0.9 * t * (m + 1)) + 0.3 * std::cos(0.05 * t + m) +
                                     (m == 3 ? 0.004 * t : 0));
    return out;
}

TEST(Mixing, EqualsNumPy) {
    // Half a unit of the last digit; and roundings of each program's sums over up to 50 draws in 8 halves: some 100 of
    // R̂, and 2500 of the ESS, whose τ near 1 is what is left of twice eight correlations.
    const auto expect_mixing = [](const Chains& chains, double rhat, double ess) {
        EXPECT_NEAR(split_rhat(chains), rhat, 5e-13 + 2 * 100 * double_unit * rhat);
        EXPECT_NEAR(effective_sample_size(chains), ess, 5e-10 + 2 * 2500 * double_unit * ess);
    };
    const Chains chains = four_chains();
    expect_mixing(chains, 1.042486536400, 313.889652301);
    Chains sums;
    for (const auto& chain : chains) {
        sums.emplace_back();
        double sum = 0;
        for (int t = 0; t < 24; ++t) sums.back().push_back(sum += chain[size_t(t)]);
    }
    expect_mixing(sums, 3.682768308801, 4.507662946);
}

// ESS from the variogram instead of autocovariances (Bayesian Data Analysis 3, section 11.5), with the squares at the
// edges: ab = ½ (a² + b² - (a - b)²). R̂ from the between- and within-sequence variances B and W by definition.
TEST(Mixing, AgreesWithTheVariogram) {
    const Chains chains = autoregressive(3, 30000, 0.7, 5);
    Chains half;
    for (const auto& chain : chains) {
        half.emplace_back(chain.begin(), chain.begin() + long(chain.size() / 2));
        half.emplace_back(chain.begin() + long(chain.size() / 2), chain.end());
    }
    const double n = double(half[0].size()), m = double(half.size());
    double grand = 0, between = 0, within = 0;
    std::vector<double> means;
    for (const auto& chain : half) {
        double sum = 0;
        for (const double v : chain) sum += v;
        means.push_back(sum / n);
        grand += sum / n / m;
    }
    for (size_t j = 0; j < half.size(); ++j) {
        between += n / (m - 1) * (means[j] - grand) * (means[j] - grand);
        for (const double v : half[j]) within += (v - means[j]) * (v - means[j]) / (n - 1) / m;
    }
    const double plus = (n - 1) / n * within + between / n;
    // R̂² is (n - 1) / n plus B / (n W), so little that the sums' roundings do not count, but four of R̂ each.
    EXPECT_LT(between / n / within, 1e-3);
    EXPECT_NEAR(split_rhat(chains), std::sqrt(plus / within), 8 * double_unit);
    auto rho = [&](size_t lag) {
        double covariance = 0;
        for (size_t j = 0; j < half.size(); ++j)
            for (size_t t = lag; t < half[j].size(); ++t) {
                const double a = half[j][t] - means[j], b = half[j][t - lag] - means[j];
                covariance += (a * a + b * b - (a - b) * (a - b)) / (2 * n * m);
            }
        return 1 - (within - covariance) / plus;
    };
    double tau = -1, before = 2;
    for (size_t lag = 0; lag < 1000; lag += 2) {
        const double pair = (lag == 0 ? 1 : rho(lag)) + rho(lag + 1);
        if (pair < 0) break;
        tau += 2 * (before = std::min(before, pair));
    }
    // Each program divides a sum of mn terms by another, each of which is off by 8 sqrt(mn) u (rounding.h).
    EXPECT_NEAR(effective_sample_size(chains) / (m * n / tau), 1, 4 * 8 * std::sqrt(m * n) * double_unit);
}

TEST(Mixing, KnownCases) {
    // Madras and Sokal 1988, eq. 3.19: an estimate of τ with a window of w lags has relative variance 2 (2w + 1) / N.
    // For |ρ| ≤ 0.6 a window of 40 lags covers all but 0.6^40 of τ. The tolerance is four standard deviations.
    // The 8 means of n draws each make R̂² - 1 at most χ²_7 τ / (7 n), and χ²_7 is above 42 once in two million.
    const size_t draws = 100000;
    const double tolerance = 4 * std::sqrt(2 * 81 / (4.0 * double(draws)));  // 0.08
    for (const double rho : {0.0, 0.3, 0.6, -0.5}) {
        const Chains chains = autoregressive(4, draws, rho, 7);
        const double expected = 4 * double(draws) * (1 - rho) / (1 + rho);
        EXPECT_NEAR(effective_sample_size(chains) / expected, 1, tolerance) << rho;
        EXPECT_NEAR(split_rhat(chains), 1, 0.5 * 42.0 / 7 * (1 + rho) / (1 - rho) / (draws / 2)) << rho;
    }
    // A drift within each chain, and chains with different means.
    Chains drifting = autoregressive(4, 1000, 0, 9), apart = drifting;
    for (size_t c = 0; c < 4; ++c)
        for (size_t t = 0; t < 1000; ++t) {
            drifting[c][t] += 0.004 * double(t);
            apart[c][t] += 3 * double(c);
        }
    EXPECT_GT(split_rhat(drifting), 1.3);
    EXPECT_GT(split_rhat(apart), 2);
    EXPECT_LT(effective_sample_size(apart), 20);
    EXPECT_TRUE(std::isnan(split_rhat({{1, 1, 1, 1, 1, 1, 1, 1}})));
    EXPECT_TRUE(std::isnan(effective_sample_size({{1, 1, 1, 1, 1, 1, 1, 1}})));
    EXPECT_THROW(split_rhat({{1, 2, 3}}), std::runtime_error);
    EXPECT_THROW(effective_sample_size({{1, 2, 3, 4, 5, 6, 7, 8}, {1, 2}}), std::runtime_error);
}

// ---- latents ------------------------------------------------------------------------------------

TEST(Interpolation, LinesAndCircles) {
    const std::vector<real> a{3, 0, 4, 1}, b{-1, 2, 0.5f, 6};
    auto length = [](const std::vector<real>& v) {
        double sum = 0;
        for (const real value : v) sum += double(value) * double(value);
        return std::sqrt(sum);
    };
    auto angle = [&](const std::vector<real>& u, const std::vector<real>& v) {
        double dot = 0;
        for (size_t i = 0; i < u.size(); ++i) dot += double(u[i]) * double(v[i]);
        return std::acos(dot / length(u) / length(v));
    };
    for (const bool spherical : {false, true}) {
        EXPECT_EQ(interpolate_latent(a, b, 0, spherical), a);
        EXPECT_EQ(interpolate_latent(a, b, 1, spherical), b);
    }
    EXPECT_EQ(interpolate_latent(a, b, 0.25, false), (std::vector<real>{2, 0.5, 3.125, 2.25}));
    // Rounding to float moves a point by `unit` of its length, and turns it by as much; double adds a millionth of it.
    const double once = (1 + 1e-6) * unit;
    for (const double t : {0.1, 0.5, 0.8}) {
        const std::vector<real> point = interpolate_latent(a, b, t, true);
        const double expected = (1 - t) * length(a) + t * length(b);
        EXPECT_NEAR(length(point), expected, once * expected) << t;
        EXPECT_NEAR(angle(a, point), t * angle(a, b), once) << t;
        EXPECT_NEAR(angle(point, b), (1 - t) * angle(a, b), once) << t;
    }
    // Without a unique circle: the line.
    EXPECT_EQ(interpolate_latent({1, 0}, {-1, 0}, 0.25, true)[0], 0.5);
    EXPECT_EQ(interpolate_latent({0, 0}, {0, 2}, 0.5, true)[1], 1);
}

// ---- the commands -------------------------------------------------------------------------------

using Table = std::map<std::string, std::vector<std::string>>;  // by column

Table read_table(const std::string& path) {
    std::istringstream lines(read_bytes(path));
    std::vector<std::string> header;
    Table table;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream cells(line);
        std::vector<std::string> row;
        for (std::string cell; std::getline(cells, cell, ',');) row.push_back(cell);
        if (header.empty()) header = row;
        else
            for (size_t i = 0; i < header.size(); ++i) table[header[i]].push_back(row.at(i));
    }
    return table;
}

double number(const Table& table, const std::string& column, size_t row) { return std::stod(table.at(column).at(row)); }

constexpr int64_t test_images = 12;

// One tiny model for all tests, in the run folder run/.
class Experiments : public testing::Test {
protected:
    static void SetUpTestSuite() {
        ASSERT_TRUE(fs::exists(program_path())) << "build it first: make";
        fs::remove_all(folder());
        fs::create_directories(folder());
        std::vector<uint8_t> pixels(test_images * 32 * 32 * 3);
        for (int64_t i = 0; i < test_images; ++i) draw_shape(3, i, 32, pixels.data() + i * 32 * 32 * 3);
        write_npy(in("images.npy"), {test_images, 32, 32, 3}, pixels.data());
        const std::vector<uint8_t> wrong(2 * 20 * 20 * 3);
        write_npy(in("small.npy"), {2, 20, 20, 3}, wrong.data());
        ASSERT_EQ(run("train --preset demo --width-generator 2 --width-ebm 2 --width-encoder 1 --latent 3 --batch 2 "
                      "--steps-x 1 --steps-z 3 --sampler-steps 4 --sampler-batch 4 --iterations 2 --data " +
                      in("images.npy") + " --out " + in("run")),
                  0)
            << read_bytes(in("error.txt"));
    }
    static void TearDownTestSuite() { fs::remove_all(folder()); }

    static std::string folder() { return temporary_path("experiments"); }
    static std::string in(const std::string& name) { return folder() + "/" + name; }
    static std::string model() { return in("run/checkpoints/iteration-000002.safetensors"); }
    static int run(const std::string& arguments) {
        const std::string command = "CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 " + program_path() + " " + arguments +
                                    " >" + in("out.txt") + " 2>" + in("error.txt");
        const int status = std::system(command.c_str());
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    // Runs an experiment on the model and returns its output.
    static std::string experiment(const std::string& arguments) {
        EXPECT_EQ(run(arguments + " --model " + model()), 0) << arguments << "\n" << read_bytes(in("error.txt"));
        return read_bytes(in("out.txt"));
    }
    static void expect_refused(const std::string& arguments, std::initializer_list<std::string> parts) {
        SCOPED_TRACE(arguments);
        const int exit_code = run(arguments);
        expect_refusal(exit_code, read_bytes(in("error.txt")), parts);
    }
    static void expect_contains(const std::string& text, std::initializer_list<std::string> parts) {
        for (const std::string& part : parts)
            EXPECT_NE(text.find(part), std::string::npos) << text << "\n lacks: " << part;
    }
};

TEST_F(Experiments, RefuseBadInput) {
    for (const char* name : {"reconstruct", "revise", "interpolate", "ood", "longrun", "ais"}) {
        const std::string command = name, with_model = command + " --model " + model();
        fs::remove_all(in("run/") + name);  // of another test
        EXPECT_EQ(run(command + " --help"), 0);
        expect_refused(command, {"--model"});
        expect_refused(command + " --model missing.safetensors", {"missing.safetensors"});
        expect_refused(command + " --model " + in("images.npy"), {"images.npy", "safetensors"});
        expect_refused(with_model + " --count 0", {"--count 0", "at least 1"});
        expect_refused(with_model + " --count many", {"--count", "many"});
        expect_refused(with_model + " --seed -1", {"--seed -1"});
        expect_refused(with_model + " --batch 0", {"--batch 0"});
        expect_refused(with_model + " --device abacus", {"abacus"});
        expect_refused(with_model + " --threads -2", {"--threads -2"});
        expect_refused(with_model + " --data " + in("missing"), {in("missing")});
        expect_refused(with_model + " --data " + in("small.npy"), {"small.npy", "20x20"});
        expect_refused(with_model + " --out " + in("images.npy") + "/below", {"--out", in("images.npy")});
        EXPECT_FALSE(fs::exists(in("run/") + name)) << "a rejected command leaves nothing behind";
    }
    const std::string with_model = " --model " + model();
    expect_refused("reconstruct --count 13" + with_model, {"--count 13", "12 test images", "at most 12"});
    expect_refused("interpolate --count 7" + with_model, {"--count 7", "12 test images", "at most 6"});
    expect_refused("interpolate --points 1" + with_model, {"--points 1"});
    expect_refused("reconstruct --steps-z -1" + with_model, {"--steps-z -1"});
    expect_refused("reconstruct --step-size-z 0" + with_model, {"--step-size-z 0"});
    expect_refused("reconstruct --noise-z nan" + with_model, {"--noise-z"});
    expect_refused("reconstruct --sigma 0" + with_model, {"--sigma 0"});
    expect_refused("reconstruct --steps-x 3" + with_model, {"--steps-x"});  // it has no x-chain
    expect_refused("revise --steps-x 70000" + with_model, {"--steps-x 70000", "65535"});
    expect_refused("revise --strips 0" + with_model, {"--strips 0"});
    expect_refused("ood --against " + in("nothing.npy") + with_model, {"nothing.npy"});
    expect_refused("longrun --steps 0" + with_model, {"--steps 0"});
    expect_refused("longrun --warmup -1" + with_model, {"--warmup -1"});
    expect_refused("ais --chains 1" + with_model, {"--chains 1", "from 2"});
    expect_refused("ais --temperatures 0" + with_model, {"--temperatures 0"});
    expect_refused("ais --leapfrog 0" + with_model, {"--leapfrog 0"});
    expect_refused("ais --acceptance 1" + with_model, {"--acceptance 1"});
    expect_refused("ais --settle -1" + with_model, {"--settle -1"});
    expect_refused("ais --temperature 0" + with_model, {"--temperature 0"});
    expect_refused("ais --reverse-from heaven" + with_model, {"--reverse-from heaven", "ends or images"});
}

TEST_F(Experiments, ReconstructMeasuresWhatTheNetworksReturn) {
    const std::string output = experiment("reconstruct --count 6 --seed 3");
    expect_contains(output, {"count 6", "12 in all", "batches of 4", "batch norm on each batch's statistics",
                             "3 steps of 0.1, noise 0.1", "= 1", "sigma", "11x11"});
    const Table rows = read_table(in("run/reconstruct/reconstruct.csv")),
                steps = read_table(in("run/reconstruct/steps.csv"));
    EXPECT_EQ(rows.at("start"),
              (std::vector<std::string>{"encoder mean", "encoder", "encoder", "noise", "noise", "noise"}));
    EXPECT_EQ(rows.at("steps"), (std::vector<std::string>{"0", "0", "3", "10", "20", "30"}));
    ASSERT_EQ(steps.at("step").size(), 31u);
    for (const char* quantity : {"mse", "psnr", "ssim"})
        for (size_t row = 1; row < 6; ++row)
            EXPECT_EQ(rows.at(quantity)[row],
                      steps.at(quantity + ("_" + rows.at("start")[row])).at(size_t(number(rows, "steps", row))))
                << quantity << row;
    EXPECT_TRUE(fs::exists(in("run/reconstruct/reconstruct.png")));
    EXPECT_NE(output.find(read_bytes(in("run/reconstruct/summary.txt"))), std::string::npos);

    // Recompute the row of the encoder's mean: test images in batches 0 … 3 and 4 … 7, of which the first 6 count.
    const LoadedCheckpoint checkpoint = read_checkpoint(model());
    Models models(checkpoint.config.model, 0);
    load_checkpoint(checkpoint.file, model(), models, false);
    const Dataset data = load_dataset(in("images.npy"), 32, 0);
    double mse = 0, decibels = 0;
    Running similarity;
    for (const std::vector<int64_t>& batch : {std::vector<int64_t>{0, 1, 2, 3}, std::vector<int64_t>{4, 5, 6, 7}}) {
        std::vector<real> x(4 * 3072);
        gather_batch(data.held_out, batch, {}, x.data());
        NoGrad no_grad;
        const std::vector<real> y =
            models.generator(models.encoder(Var(Tensor::from_host({4, 32, 32, 3}, x))).first).value().to_host();
        for (size_t i = 0; i < 4 && batch[i] < 6; ++i) {
            const std::vector<real> a(x.begin() + long(i) * 3072, x.begin() + long(i + 1) * 3072),
                b(y.begin() + long(i) * 3072, y.begin() + long(i + 1) * 3072);
            double error = 0;
            for (size_t p = 0; p < 3072; ++p) error += std::pow(double(a[p]) - double(b[p]), 2) / 3072;
            mse += error / 6;
            decibels += 20 * std::log10(2 / std::sqrt(error)) / 6;
            similarity = similarity + direct_ssim(a, b, 32) / 6;
        }
    }
    EXPECT_NEAR(number(rows, "mse", 0), mse, nine_digits(mse));
    EXPECT_NEAR(number(rows, "psnr", 0), decibels, nine_digits(decibels));
    EXPECT_NEAR(number(rows, "ssim", 0), similarity.value, nine_digits(similarity.value) + rounding_of(similarity));
}

TEST_F(Experiments, ReviseAgreesWithReconstruct) {
    experiment("reconstruct --count 4 --seed 5 --steps-z 6 --out " + in("reconstruct"));
    const std::string output = experiment("revise --count 4 --seed 5 --steps-z 6 --steps-x 7 --out " + in("revise"));
    expect_contains(
        output, {"x-chain: 7 steps of 4, noise 0.0005, temperature (noise/step)^2 = 1.5625e-08", "z-chain: 6 steps"});
    const Table x = read_table(in("revise/x_chain.csv")), z = read_table(in("revise/z_chain.csv")),
                steps = read_table(in("reconstruct/steps.csv"));
    ASSERT_EQ(x.at("step").size(), 8u);
    ASSERT_EQ(z.at("step").size(), 7u);
    EXPECT_GT(number(x, "energy_mean", 0), number(x, "energy_mean", 7)) << "the x-chain goes downhill";
    // With the same seed both have the same z-chain for the first batch; here the mean is over floats.
    for (size_t k = 0; k < 7; ++k) {
        const double mse = number(steps, "mse_encoder", k);
        EXPECT_NEAR(number(z, "mse_mean", k), mse, unit * mse + 2 * nine_digits(mse)) << k;
        EXPECT_LE(number(z, "mse_p10", k), number(z, "mse_mean", k)) << k;
    }
    for (const char* name : {"x_chain.png", "z_chain.png", "summary.txt"})
        EXPECT_TRUE(fs::exists(in("revise/") + name)) << name;
    // The same command gives the same bytes, another seed does not.
    const std::string before = read_bytes(in("revise/x_chain.csv"));
    experiment("revise --count 4 --seed 5 --steps-z 6 --steps-x 7 --out " + in("revise"));
    EXPECT_EQ(read_bytes(in("revise/x_chain.csv")), before);
    experiment("revise --count 4 --seed 6 --steps-z 6 --steps-x 7 --out " + in("revise"));
    EXPECT_NE(read_bytes(in("revise/x_chain.csv")), before);
    // Zero steps: only the start.
    experiment("revise --count 2 --strips 1 --steps-z 0 --steps-x 0 --out " + in("nothing"));
    EXPECT_EQ(read_table(in("nothing/z_chain.csv")).at("step").size(), 1u);
}

// Decodes x_chain.png, and recomputes the chain that it shows.
TEST_F(Experiments, ReviseShowsTheChangesBelowThePictures) {
    expect_contains(experiment("revise --count 3 --strips 2 --seed 5 --steps-x 7 --out " + in("changes")),
                    {"x_chain.png: steps 0, 1, 2, 3, 4, 5, 6, 7; below each sample its change since step 0, x 10 (grey "
                     "128: no change)"});
    const LoadedCheckpoint checkpoint = read_checkpoint(model());
    Models models(checkpoint.config.model, 0);
    load_checkpoint(checkpoint.file, model(), models, false);
    const StepNoise noise = philox_noise(5, 0, {4, 32, 32, 3}, 3);
    ChainSettings chain = checkpoint.config.sampler;
    chain.steps = 7;
    Tensor start;
    {
        const NoGrad no_grad;
        start = models.generator(Var(noise.prior)).value();
    }
    std::vector<std::vector<real>> states;
    watch_chain_x(models, start, chain, noise.langevin_x,
                  [&](int64_t, const Tensor& x, const Tensor&) { states.push_back(x.to_host()); });
    ASSERT_EQ(states.size(), 8u);
    const Picture picture = decode(in("changes/x_chain.png"));
    ASSERT_EQ(picture.width, 8 * 66 - 2);
    ASSERT_EQ(picture.height, 4 * 66 - 2);
    int64_t grey = 0;
    for (int k = 0; k < 8; ++k)
        for (int i = 0; i < 2 * 3072; ++i) {
            const int sample = i / 3072, y = i / 96 % 32, x = i / 3 % 32, c = i % 3, left = k * 66 + 2 * x;
            const double now = double(states[size_t(k)][size_t(i)]), before = double(states[0][size_t(i)]),
                         change = std::clamp(128 + 10 * 127.5 * (now - before), 0.0, 255.0);
            const int shown = picture.at((2 * sample + 1) * 66 + 2 * y, left)[c];
            ASSERT_NEAR(shown, change, 0.5) << "step " << k << ", sample " << sample << ", value " << i;
            // Levels are computed in float: a sum and a product.
            ASSERT_NEAR(picture.at(2 * sample * 66 + 2 * y, left)[c], std::clamp((now + 1) * 127.5, 0.0, 255.0),
                        0.5 + 2 * 255 * unit);
            ASSERT_TRUE(k > 0 || shown == 128) << "the start has changed";
            grey += shown == 128;
        }
    EXPECT_LT(grey, 2 * 2 * 3072) << "the chain moves";
    // Of a test image the strip shows the states alone, and the image.
    EXPECT_EQ(decode(in("changes/z_chain.png")).height, 2 * 66 - 2);
}

TEST(ChangePictures, ShowTenTimesTheChangeAroundGrey) {
    // The change in grey levels, and the level that is shown.
    const std::pair<double, int> cases[] = {{0, 128},    {1, 138},    {-1, 118}, {0.1, 129}, {-0.1, 127}, {0.04, 128},
                                            {12.6, 254}, {12.8, 255}, {90, 255}, {-12.7, 1}, {-12.8, 0},  {-90, 0}};
    std::vector<real> start, x;
    for (const auto& [levels, shown] : cases) {
        start.push_back(real(1 - 0.17 * double(start.size())));  // from 1 down; x may leave [-1, 1]
        x.push_back(real(double(start.back()) + levels / 127.5));
    }
    const Shape shape{1, 2, 2, 3};
    const ImageSet found = change_pictures(Tensor::from_host(shape, x), Tensor::from_host(shape, start));
    ASSERT_EQ(found.count, 1);
    ASSERT_EQ(found.size, 2);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(found.pixels[i], cases[i].second) << cases[i].first;
    const real infinity = std::numeric_limits<real>::infinity();
    x[0] = infinity, x[1] = -infinity, x[2] = std::numeric_limits<real>::quiet_NaN();
    const ImageSet lost = change_pictures(Tensor::from_host(shape, x), Tensor::from_host(shape, start));
    EXPECT_EQ(lost.pixels[0], 255);
    EXPECT_EQ(lost.pixels[1], 0);
    EXPECT_EQ(lost.pixels[2], 0);
}

TEST_F(Experiments, InterpolateMeetsAtTheEnds) {
    expect_contains(experiment("interpolate --count 3 --points 5 --out " + in("line")),
                    {"linear", "5 points", "temperature"});
    expect_contains(experiment("interpolate --count 3 --points 5 --spherical --out " + in("circle")), {"spherical"});
    const Table line = read_table(in("line/interpolate.csv")), circle = read_table(in("circle/interpolate.csv"));
    EXPECT_EQ(line.at("t"), (std::vector<std::string>{"0", "0.25", "0.5", "0.75", "1"}));
    for (const char* quantity : {"energy_samples", "energy_reconstructions"}) {
        for (const size_t end : {size_t{0}, size_t{4}})
            EXPECT_EQ(line.at(quantity)[end], circle.at(quantity)[end]) << quantity << end;
        EXPECT_NE(line.at(quantity)[2], circle.at(quantity)[2]) << quantity;
    }
    EXPECT_EQ(line.at("change_samples")[0], "nan");
    for (size_t p = 1; p < 5; ++p) EXPECT_GT(number(line, "change_samples", p), 0) << p;
    for (const char* name : {"samples.png", "reconstructions.png"}) EXPECT_TRUE(fs::exists(in("line/") + name)) << name;
    EXPECT_NE(read_bytes(in("line/samples.png")), read_bytes(in("circle/samples.png")));
}

TEST_F(Experiments, OodCountsAllPairs) {
    const std::string output =
        experiment("ood --count 12 --against " + in("images.npy") + " --against " + in("images.npy"));
    expect_contains(output, {"AUROC = P(E_other > E_test)", "uniform noise", "constant images",
                             "means of two test images", "shapes  ", "training images", "temperature"});
    const Table table = read_table(in("run/ood/ood.csv")), all = read_table(in("run/ood/energies.csv"));
    const std::vector<std::string>& sets = table.at("set");
    ASSERT_EQ(sets.size(), 8u);
    // The sets are in order; image numbers start from 0 in each.
    std::vector<std::vector<real>> scores;
    for (size_t i = 0; i < all.at("set").size(); ++i) {
        if (all.at("image")[i] == "0") scores.emplace_back();
        scores.back().push_back(std::stof(all.at("energy")[i]));
    }
    ASSERT_EQ(scores.size(), sets.size());
    for (size_t s = 0; s < sets.size(); ++s) {
        EXPECT_EQ(scores[s].size(), 12u) << sets[s];
        EXPECT_EQ(table.at("auroc")[s], digits(direct_auroc(scores[0], scores[s]))) << sets[s];
    }
    EXPECT_EQ(std::set<real>(scores[3].begin(), scores[3].end()).size(), 12u) << "means of the same two images";
    // In so small a set the training images are the test images, and so are the files.
    for (const size_t same : {size_t{5}, size_t{6}, size_t{7}}) EXPECT_EQ(table.at("auroc")[same], "0.5") << sets[same];
    EXPECT_NE(table.at("auroc")[1], "0.5");
    const Table histogram = read_table(in("run/ood/histogram.csv"));
    double share = 0;
    for (size_t b = 0; b < histogram.at("energy").size(); ++b) share += number(histogram, "share_uniform noise", b);
    EXPECT_NEAR(share, 1, nine_digits(1));  // twelfths, as written

    // Recompute the energies of the first images.
    const LoadedCheckpoint checkpoint = read_checkpoint(model());
    Models models(checkpoint.config.model, 0);
    load_checkpoint(checkpoint.file, model(), models, false);
    std::vector<real> x(4 * 3072);
    gather_batch(load_dataset(in("images.npy"), 32, 0).held_out, {0, 1, 2, 3}, {}, x.data());
    NoGrad no_grad;
    EXPECT_EQ(models.ebm.forward(Var(Tensor::from_host({4, 32, 32, 3}, x))).value().to_host(),
              std::vector<real>(scores[0].begin(), scores[0].begin() + 4));
}

TEST_F(Experiments, OodPrintsAllOfASetWithALongName) {
    const std::string path = in(std::string(180, 'a') + ".npy");
    fs::copy(in("images.npy"), path);
    const std::string output = experiment("ood --count 4 --against " + path + " --out " + in("long"));
    const std::string line = output.substr(output.find("aaa.npy", output.find("AUROC = ")));
    expect_contains(line.substr(0, line.find('\n')), {" 4 images: AUROC ", ", 90th ", ")"});
}

TEST_F(Experiments, LongrunMixingFollowsFromItsTrace) {
    const std::string output = experiment("longrun --steps 40 --count 5 --warmup 9");
    expect_contains(
        output, {"40 steps of 4", "temperature", "step 32:", "step 40:", "steps 10 to 40", "split R-hat", "of 155"});
    const Table energy = read_table(in("run/longrun/energy.csv")), mixing = read_table(in("run/longrun/mixing.csv"));
    ASSERT_EQ(energy.at("step").size(), 41u);
    EXPECT_EQ(read_table(in("run/longrun/drift.csv")).at("step"),
              (std::vector<std::string>{"0", "1", "2", "4", "8", "16", "32", "40"}));
    Chains chains;
    for (int c = 1; c <= 5; ++c) {
        chains.emplace_back();
        for (size_t k = 10; k <= 40; ++k) chains.back().push_back(std::stof(energy.at(text("energy_", c))[k]));
    }
    EXPECT_EQ(mixing.at("value")[0], digits(split_rhat(chains)));
    EXPECT_EQ(mixing.at("value")[1], digits(effective_sample_size(chains)));
    EXPECT_TRUE(fs::exists(in("run/longrun/longrun.png")));
    // A run too short for mixing statistics, and a chain that diverges.
    expect_contains(experiment("longrun --steps 5 --count 2 --out " + in("short")),
                    {"need 8 steps after the warm-up of 2, have 3"});
    expect_contains(experiment("longrun --steps 50 --count 2 --step-size-x 1e30 --out " + in("far")),
                    {"stopped: after", "not finite"});
    EXPECT_TRUE(fs::exists(in("far/longrun.png")));
}

// ---- samples and data as folders ----------------------------------------------------------------

std::vector<Picture> pictures_in(const std::string& folder) {
    std::vector<Picture> out;
    for (int i = 0;; ++i) {
        char name[16];
        std::snprintf(name, sizeof name, "/%06d.png", i);
        if (!fs::exists(folder + name)) break;
        out.push_back(decode(folder + name));
    }
    EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), long(out.size())) << folder;
    return out;
}

// The samples are g(z) of the moving average, recomputed here. A folder that was continued, even from the middle of a
// batch, equals one written at once.
TEST_F(Experiments, SamplesComeFromTheAveragedGeneratorInAnyNumberOfRuns) {
    expect_contains(experiment("sample --count 7 --seed 4 --out " + in("samples")),
                    {"moving average (ema 0.99)", "seed 4", "batches of 4", "batch norm on each batch's statistics",
                     "temperature", "7 images"});
    expect_contains(experiment("sample --count 11 --seed 4 --out " + in("samples")),
                    {"7 of 11 images are already done", "generator: 11 images"});
    const std::string output = experiment("sample --count 11 --seed 4 --out " + in("at_once"));
    for (const char* kind : {"generator", "revised"})
        for (const auto& entry : fs::directory_iterator(in("at_once/") + kind))
            EXPECT_EQ(read_bytes(entry.path().string()),
                      read_bytes(in("samples/") + kind + "/" + entry.path().filename().string()));
    const std::vector<Picture> found = pictures_in(in("at_once/generator")),
                               revised = pictures_in(in("at_once/revised"));
    ASSERT_EQ(found.size(), 11u);
    ASSERT_EQ(revised.size(), 11u);
    EXPECT_NE(found[0].pixels, revised[0].pixels);

    const LoadedCheckpoint checkpoint = read_checkpoint(model());
    for (const bool averaged : {true, false}) {
        Models models(checkpoint.config.model, 0);
        load_state(checkpoint.file, model(), "netG.", models.generator.state);
        for (NamedTensor& entry : models.generator.state.entries())
            if (averaged && entry.trainable)
                entry.value.value().copy_from_host(
                    stored_values(checkpoint.file, model(), "ema.netG." + entry.name, entry.layout));
        std::vector<std::vector<uint8_t>> expected;
        for (uint64_t batch = 0; batch < 3; ++batch) {
            NoGrad no_grad;
            const std::vector<real> x =
                models.generator(Var(Tensor::normal({4, 3}, random_key(4, RngPurpose::sample_prior, batch << 16))))
                    .value()
                    .to_host();
            const ImageSet images = from_floats(x.data(), 4, 32);
            for (int64_t i = 0; i < 4; ++i) expected.emplace_back(image_at(images, i), image_at(images, i) + 3072);
        }
        size_t equal = 0;
        for (size_t i = 0; i < found.size(); ++i) equal += found[i].pixels == expected[i];
        EXPECT_EQ(equal, averaged ? found.size() : 0u) << averaged;
    }

    // The printed distances are those of the pictures.
    const StatisticsDistance distance(load_train(in("images.npy"), 32, 0, distance_data_images));
    for (const auto& [name, pictures] : {std::pair("generator", &found), std::pair("EBM-revised", &revised)}) {
        ImageSet set{11, 32, {}, name};
        for (const Picture& picture : *pictures)
            set.pixels.insert(set.pixels.end(), picture.pixels.begin(), picture.pixels.end());
        char number[48];
        std::snprintf(number, sizeof number, "%s %.3g", name, distance(set));
        expect_contains(output, {"statistics distance of 11 images to images.npy: ", number});
    }
    // The same images as arrays.
    experiment("sample --count 11 --seed 4 --npy --kind generator --out " + in("arrays"));
    NpyImages array(in("arrays/generator.npy"));
    ASSERT_EQ(array.count, 11);
    std::vector<uint8_t> image(3072);
    for (const Picture& picture : found) {
        array.read_next(image.data());
        EXPECT_EQ(image, picture.pixels);
    }
}

TEST_F(Experiments, SamplesOfOneKindAndNoMixtures) {
    const std::string sample = "sample --out " + in("kinds"), with_model = " --model " + model();
    experiment(sample + " --count 5 --kind generator");
    EXPECT_FALSE(fs::exists(in("kinds/revised")));
    expect_refused(sample + " --count 4 --kind generator" + with_model, {"kinds/generator", "000004.png", "4 images"});
    expect_refused(sample + " --count 5 --kind generator --seed 2" + with_model,
                   {in("kinds"), "other settings", "samples.txt"});
    expect_refused(sample + " --count 5 --batch-norm running" + with_model, {"other settings"});
    EXPECT_EQ(pictures_in(in("kinds/generator")).size(), 5u);
    experiment(sample + " --count 5 --kind revised");
    EXPECT_EQ(pictures_in(in("kinds/revised")).size(), 5u);
    fs::remove(in("kinds/samples.txt"));
    expect_refused(sample + " --count 5" + with_model, {"kinds/generator", "no samples.txt"});
    // A model can be sampled even if its data has moved.
    const fs::path data = in("images.npy"), away = in("away.npy");
    fs::rename(data, away);
    expect_contains(experiment("sample --count 2 --out " + in("alone")),
                    {"no statistics distance: ", "images.npy", "2 images"});
    fs::rename(away, data);
}

TEST_F(Experiments, ExportsADataSet) {
    EXPECT_EQ(run("export --data " + in("images.npy") + " --out " + in("exported")), 0) << read_bytes(in("error.txt"));
    expect_contains(read_bytes(in("out.txt")), {"12 images of images.npy"});
    const std::vector<Picture> found = pictures_in(in("exported"));
    ASSERT_EQ(found.size(), size_t(test_images));
    std::vector<uint8_t> drawn(3072);
    for (int64_t i = 0; i < test_images; ++i) {
        draw_shape(3, i, 32, drawn.data());
        EXPECT_EQ(found[size_t(i)].pixels, drawn) << i;
    }
    expect_refused("export --data " + in("images.npy") + " --out " + in("exported"), {in("exported"), "not empty"});
    EXPECT_EQ(pictures_in(in("exported")).size(), size_t(test_images));
    expect_refused("export --data " + in("images.npy") + " --split middle --out " + in("exported"),
                   {"--split", "middle"});
}

TEST_F(Experiments, LogTheirBatchNorm) {
    expect_contains(experiment("reconstruct --count 2 --batch-norm running --out " + in("norm")),
                    {"batch norm on the running statistics of training"});
    const std::string running = read_bytes(in("norm/reconstruct.csv"));
    expect_contains(
        experiment("reconstruct --count 2 --batch-norm recalibrated --batch-norm-batches 3 --out " + in("norm")),
        {"batch norm on the statistics of 3 batches of 4 samples"});
    EXPECT_NE(read_bytes(in("norm/reconstruct.csv")), running);
    expect_contains(experiment("sample --count 2 --batch-norm recalibrated --out " + in("norm_samples")),
                    {"batch norm on the statistics of 50 batches of 4 samples"});
    expect_refused("revise --batch-norm layer --model " + model(), {"--batch-norm layer", "recalibrated"});
    expect_refused("revise --batch-norm-batches 0 --model " + model(), {"--batch-norm-batches 0"});
}

// All commands on 64x64 images.
TEST_F(Experiments, SixtyFourPixels) {
    std::vector<uint8_t> pixels(8 * 64 * 64 * 3);
    for (int64_t i = 0; i < 8; ++i) draw_shape(3, i, 64, pixels.data() + i * 64 * 64 * 3);
    write_npy(in("images64.npy"), {8, 64, 64, 3}, pixels.data());
    ASSERT_EQ(run("train --preset celeba64 --width-generator 16 --width-ebm 16 --width-encoder 1 --latent 3 --batch 2 "
                  "--steps-x 2 --steps-z 2 --sampler-steps 3 --sampler-batch 4 --iterations 2 --data " +
                  in("images64.npy") + " --out " + in("run64")),
              0)
        << read_bytes(in("error.txt"));
    expect_contains(read_bytes(in("out.txt")), {"celeba64 from", "statistics distance of ", "(T 1.11e-05)"});
    const std::string model = " --model " + in("run64/checkpoints/iteration-000002.safetensors");
    for (const char* command :
         {"reconstruct --count 3", "revise --count 3 --strips 2", "interpolate --count 2 --points 3", "ood --count 4",
          "longrun --steps 12 --count 2", "sample --count 3 --out samples64"}) {
        const std::string arguments = command;
        const size_t out = arguments.find("samples64");
        EXPECT_EQ(run((out == std::string::npos ? arguments : arguments.substr(0, out) + in("samples64")) + model), 0)
            << command << read_bytes(in("error.txt"));
        expect_contains(read_bytes(in("out.txt")), {"emperature"});
    }
    const struct {
        const char* path;
        int width, height;
    } expected[] = {
        {"run64/samples/iteration-000002-samples.png", 3 * (8 * 66 + 8) - 10, 64},  // 2 images in 8 columns, 3 panels
        {"run64/interpolate/samples.png", 3 * 66 - 2, 2 * 66 - 2},
        {"run64/revise/x_chain.png", 4 * 66 - 2, 4 * 66 - 2},
        {"samples64/generator/000002.png", 64, 64}};
    for (const auto& e : expected) {
        const Picture picture = decode(in(e.path));
        EXPECT_EQ(picture.width, e.width) << e.path;
        EXPECT_EQ(picture.height, e.height) << e.path;
    }
    const std::string report = read_bytes(in("run64/report.html"));
    expect_contains(report, {"preset celeba64", "<h2>reconstruct</h2>", "<h2>revise</h2>", "<h2>interpolate</h2>",
                             "<h2>ood</h2>", "<h2>longrun</h2>"});
    EXPECT_EQ(run("export --architecture celeba64 --data " + in("images64.npy") + " --out " + in("exported64")), 0)
        << read_bytes(in("error.txt"));
    EXPECT_EQ(pictures_in(in("exported64")).size(), 8u);
    expect_refused("reconstruct --data shapes.npy" + model, {"shapes.npy"});
}

// At a temperature where the EBM is almost flat, log Z is that of the cube less the mean of E / T over it, as is each
// bound up to the sampling of its 4 chains, whose moves lead anywhere in the cube. The tolerance is 4.5 standard
// errors, exceeded by chance once in 150,000 comparisons; the test's own mean is over 64 points.
TEST_F(Experiments, AisOfAFlatDensity) {
    const std::string output =
        experiment("ais --count 5 --chains 4 --temperatures 6 --leapfrog 2 --settle 2 --temperature 1e3 --batch 5");
    expect_contains(output, {"4 chains, 6 temperatures", "T = 1000", "forward, a lower bound",
                             "reverse, an upper bound if", "at least 8", "at most 8"});
    const Table bits = read_table(in("run/ais/bits.csv")), z = read_table(in("run/ais/ais.csv"));
    const LoadedCheckpoint checkpoint = read_checkpoint(model());
    Models models(checkpoint.config.model, 0);
    load_checkpoint(checkpoint.file, model(), models, false);
    const Values points = random_values(64 * 3072, 1, real(-image_cube), real(image_cube));
    const std::vector<double> potentials =
        tempered_energy(models, {32, 32, 3}, 1e3)({points.begin(), points.end()}).value;
    const double log_z = 3072 * std::log(2 * 256 / 255.0) - mean_of(potentials),
                 tolerance = nine_digits(log_z) + 4.5 * std::sqrt(variance_of(potentials) * (1 / 4.0 + 1 / 64.0));
    for (size_t row : {0, 1}) EXPECT_NEAR(number(z, "mean", row), log_z, tolerance);
    ASSERT_EQ(bits.at("image").size(), 5u);
    // E / T varies in a pixel cell by less than it does between images.
    double least = INFINITY, most = -INFINITY;
    for (size_t i = 0; i < 5; ++i) {
        least = std::min(least, number(bits, "potential", i));
        most = std::max(most, number(bits, "potential", i));
    }
    const std::string cell = "log Z is at least ";
    EXPECT_NEAR(std::stod(output.substr(output.find(cell) + cell.size())), log_cell_volume(3072) - least,
                most - least + nine_digits(log_cell_volume(3072)));
    for (size_t i = 0; i < 5; ++i)
        for (const auto& [column, row] : {std::pair("bits_lower", 0), std::pair("bits_upper", 1)}) {
            const double potential = number(bits, "potential", i), mean = number(z, "mean", size_t(row)),
                         dimension = 3072 * std::log(2), expected = (potential + mean) / dimension + std::log2(127.5);
            EXPECT_NEAR(number(bits, column, i), expected,
                        nine_digits(expected) + (nine_digits(potential) + nine_digits(mean)) / dimension);
        }
    EXPECT_EQ(read_table(in("run/ais/path.csv")).at("k").size(), 6u);
    EXPECT_TRUE(fs::exists(in("run/ais/settled.png")));
    // Reverse chains from images; the same seed gives the same forward run.
    experiment(
        "ais --count 5 --chains 4 --temperatures 6 --leapfrog 2 --settle 2 --temperature 1e3 --batch 5 "
        "--reverse-from images --out " +
        in("ais2"));
    EXPECT_EQ(read_table(in("ais2/ais.csv")).at("mean")[0], z.at("mean")[0]);
    EXPECT_NEAR(number(read_table(in("ais2/ais.csv")), "mean", 1), log_z, tolerance);
}

// ---- the report ---------------------------------------------------------------------------------

size_t occurrences(const std::string& text, const std::string& part) {
    size_t count = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
    return count;
}

TEST(Report, TextIsEscapedAndBytesAreEncoded) {
    EXPECT_EQ(escape_html("<b a=\"1\" c='2'> & &amp;"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt; &amp; &amp;amp;");
    // RFC 4648, section 10.
    const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                           {"f", "Zg=="},
                                                           {"fo", "Zm8="},
                                                           {"foo", "Zm9v"},
                                                           {"foob", "Zm9vYg=="},
                                                           {"fooba", "Zm9vYmE="},
                                                           {"foobar", "Zm9vYmFy"}};
    for (const auto& [plain, encoded] : vectors) EXPECT_EQ(base64(plain), encoded);
    EXPECT_EQ(base64(std::string("\xff\xfe\x00\x80", 4)), "//4AgA==");
}

TEST(Report, TablesAreReadBack) {
    Csv csv({"set", "a,b", "c"});
    csv.row("with, comma and \"quotes\"", {1.5, -2e-9});
    csv.row("plain", {double(0.1f), INFINITY});
    csv.write(temporary_path("table.csv"));
    const CsvTable table = parse_csv(read_bytes(temporary_path("table.csv")) + "cut off,1");
    EXPECT_EQ(table.header, (std::vector<std::string>{"set", "a,b", "c"}));
    ASSERT_EQ(table.rows.size(), 2u);
    EXPECT_EQ(table.rows[0], (std::vector<std::string>{"with, comma and \"quotes\"", "1.5", "-2e-09"}));
    EXPECT_EQ(std::stof(table.rows[1][1]), 0.1f);
    EXPECT_EQ(parse_csv("a,b\r\n1,\n1,2,3\n").rows, (std::vector<std::vector<std::string>>{{"1", ""}}));
    EXPECT_TRUE(parse_csv("").header.empty());
    fs::remove(temporary_path("table.csv"));
}

// The points of the first polyline of a plot.
std::vector<std::pair<double, double>> polyline(const std::string& svg) {
    const size_t begin = svg.find("points=\"") + 8;
    std::istringstream in(svg.substr(begin, svg.find('"', begin) - begin));
    std::vector<std::pair<double, double>> out;
    double x = 0, y = 0;
    for (char comma; in >> x >> comma >> y;) out.emplace_back(x, y);
    return out;
}

TEST(Report, CurvesLieWhereTheirValuesAre) {
    // The plot area is x 52 … 390, y 8 … 196.
    auto points = polyline(plot("title", "x", {0, 1, 2, 4}, {{"y", {3, NAN, 1, 2}}}));
    ASSERT_EQ(points.size(), 3u);
    EXPECT_EQ(points[0], (std::pair{52.0, 8.0}));
    EXPECT_EQ(points[1], (std::pair{221.0, 196.0}));
    EXPECT_EQ(points[2], (std::pair{390.0, 102.0}));
    // Over two decades the axis is logarithmic, with 10 halfway between 1 and 100; with a negative value it is not.
    points = polyline(plot("title", "x", {0, 1, 2}, {{"y", {1, 10, 100}}}));
    EXPECT_EQ(points[1], (std::pair{221.0, 102.0}));
    points = polyline(plot("title", "x", {0, 1, 2}, {{"y", {-100, 0, 100}}}));
    EXPECT_EQ(points[1], (std::pair{221.0, 102.0}));
    // 900 points become means of three.
    std::vector<double> many(900), values(900);
    for (size_t i = 0; i < 900; ++i) many[i] = double(i), values[i] = double(i % 3);
    const std::string thin = plot("title", "x", many, {{"y", values}});
    EXPECT_EQ(polyline(thin).size(), 300u);
    EXPECT_NE(thin.find("means of 3"), std::string::npos);
    for (const auto& [x, y] : polyline(thin)) EXPECT_EQ(y, 102.0) << x;
    // A value every 300 points stays where it is.
    for (size_t i = 0; i < 900; ++i) values[i] = i % 300 == 0 ? double(i) : NAN;
    const std::string sparse = plot("title", "x", many, {{"y", values}});
    EXPECT_EQ(sparse.find("means of"), std::string::npos);
    EXPECT_EQ(polyline(sparse), (std::vector<std::pair<double, double>>{{52, 196}, {221, 102}, {390, 8}}));
    EXPECT_EQ(plot("title", "x", {0, 1}, {{"y", {NAN, NAN}}}), "");
    EXPECT_EQ(plot("title", "x", {}, {}), "");
    // One point is no curve.
    EXPECT_EQ(plot("<t>", "x", {0, 1}, {{"a", {NAN, 1.5}}, {"b", {2, NAN}}}), "<p>&lt;t&gt;: a 1.5, b 2</p>\n");
    EXPECT_NE(plot("t", "x", {0, 1}, {{"a", {1, 1.5}}, {"b", {2, NAN}}}).find("<svg"), std::string::npos);
    EXPECT_EQ(plot("<t>", "<x>", {0, 1}, {{"<y>", {1, 2}}}).find("<t>"), std::string::npos);
}

// Ticks end, lie on the plot and are not too many, whatever the range.
TEST(Report, EveryRangeHasAnAxis) {
    const double tiny = std::numeric_limits<double>::denorm_min(), least = std::numeric_limits<double>::min(),
                 most = std::numeric_limits<double>::max(), next = std::nextafter(1.0, 2.0);
    const std::vector<double> values{
        0,    tiny, 2 * tiny, 7 * tiny, 1e-310, 5e-310,   least, 1e-300, 1e-8, 1, next, std::nextafter(next, 2.0),
        1e15, 1e16, 1e300,    most / 3, most,   INFINITY, NAN};
    for (const double a : values)
        for (const double b : values)
            for (const double sign : {1.0, -1.0}) {
                const std::string svg = plot("t", "x", {0, 1, 2}, {{"y", {sign * a, b, sign * a}}}),
                                  transposed = plot("t", "x", {sign * a, b}, {{"y", {0, 1}}});
                for (const std::string& figure : {svg, transposed}) {
                    EXPECT_LT(figure.size(), 20000u) << a << " " << b;
                    EXPECT_EQ(figure.find("=\"nan"), std::string::npos) << sign * a << " " << b << figure;
                    EXPECT_EQ(figure.find("=\"-nan"), std::string::npos) << sign * a << " " << b << figure;
                    EXPECT_EQ(figure.find("=\"inf"), std::string::npos) << sign * a << " " << b << figure;
                    EXPECT_EQ(figure.find("=\"-inf"), std::string::npos) << sign * a << " " << b << figure;
                }
                if (svg.empty()) continue;  // no finite value
                for (const auto& [x, y] : polyline(svg)) {
                    EXPECT_TRUE(x >= 52 && x <= 390) << sign * a << " " << b << ": " << x;
                    EXPECT_TRUE(y >= 8 && y <= 196) << sign * a << " " << b << ": " << y;
                }
            }
}

TEST_F(Experiments, ReportHoldsEverythingInTheRun) {
    // Training has written a report.
    const std::string first = read_bytes(in("run/report.html"));
    expect_contains(
        first, {"<!DOCTYPE html>", "name=\"viewport\"", "@media print", "2 iterations", "reconstruction MSE per pixel",
                "energy gap", "temperature 1.5625e-08", "time", "iteration-000002-samples.png",
                "iteration-000002-reconstructions.png", "<span>width-generator</span><b>2</b>"});
    const std::string picture = "src=\"data:image/png;base64,";
    EXPECT_NE(first.find(picture + base64(read_bytes(in("run/samples/iteration-000002-samples.png"))) + "\""),
              std::string::npos);
    // An experiment in the run's folder adds its section; one elsewhere does not.
    expect_contains(experiment("revise --count 4 --out " + in("run/revise")), {"report: ", "run/report.html"});
    const std::string second = read_bytes(in("run/report.html"));
    expect_contains(second, {"<h2>revise</h2>", "x-chain: 4 steps of 4", "x_chain.png", "z_chain.csv", "p90"});
    EXPECT_EQ(occurrences(second, "<h2>revise</h2>"), 1u);
    EXPECT_EQ(experiment("revise --count 4 --out " + in("elsewhere")).find("report: "), std::string::npos);
    EXPECT_FALSE(fs::exists(in("report.html")));

    // The contents of files are text, not HTML; folders of other programs are included.
    fs::create_directories(in("run/<mine>"));
    write_bytes(in("run/<mine>/table.csv"), "name,value\n<script>alert(1)</script>,2\n");
    write_bytes(in("run/<mine>/summary.txt"), "a < b & c");
    // A folder of many samples is not shown in full.
    fs::create_directories(in("run/many"));
    const uint8_t pixel[3] = {1, 2, 3};
    for (int i = 0; i < 41; ++i) write_png(in("run/many/") + std::to_string(i) + ".png", pixel, 1, 1, false);
    EXPECT_EQ(run("report " + in("run")), 0);
    const std::string third = read_bytes(in("run/report.html"));
    expect_contains(third, {"<h2>&lt;mine&gt;</h2>", "&lt;script&gt;alert(1)&lt;/script&gt;", "a &lt; b &amp; c"});
    EXPECT_EQ(third.find("<script"), std::string::npos);
    expect_contains(third, {"<h2>many</h2>\n<p>41 pictures</p>"});
    EXPECT_EQ(third.find(base64(read_bytes(in("run/many/7.png")))), std::string::npos);
    // Wide pictures scroll on a phone: three panels of eight images do, a strip of five does not.
    EXPECT_GT(decode(in("run/samples/iteration-000002-samples.png")).width, 800);
    EXPECT_LT(decode(in("run/revise/x_chain.png")).width, 800);
    expect_contains(third,
                    {"<div class=\"wide\"><img alt=\"iteration-000002-samples.png", "<div><img alt=\"x_chain.png"});
    // Nothing is fetched: the only addresses are those of embedded pictures.
    EXPECT_EQ(occurrences(third, "src="), occurrences(third, picture));
    for (const char* part : {"href=", "http:", "https:", "url(", "@import"})
        EXPECT_EQ(third.find(part), std::string::npos) << part;
    for (const char* tag : {"svg", "figure", "div", "table", "tr", "td", "pre", "h2", "p", "span"})
        EXPECT_EQ(occurrences(third, std::string("<") + tag + ">") + occurrences(third, std::string("<") + tag + " "),
                  occurrences(third, std::string("</") + tag + ">"))
            << tag;
    fs::remove_all(in("run/<mine>"));
    fs::remove_all(in("run/many"));
}

TEST_F(Experiments, AnUnwritableReportDoesNotStopTraining) {
    fs::create_directories(in("blocked/report.html/folder"));
    EXPECT_EQ(run("train --preset demo --width-generator 2 --width-ebm 2 --width-encoder 1 --latent 3 --batch 2 "
                  "--steps-x 1 --steps-z 1 --sampler-batch 4 --iterations 1 --data " +
                  in("images.npy") + " --out " + in("blocked")),
              0);
    expect_contains(read_bytes(in("error.txt")), {"report.html was not written", in("blocked")});
    EXPECT_TRUE(fs::exists(in("blocked/checkpoints/iteration-000001.safetensors")));
}

TEST_F(Experiments, ReportOfEmptyOrBrokenRuns) {
    expect_refused("report", {"folder"});
    expect_refused("report " + in("missing"), {in("missing"), "config.txt"});
    fs::create_directories(in("bare"));
    expect_refused("report " + in("bare"), {in("bare"), "config.txt"});
    write_bytes(in("bare/config.txt"), "preset = demo\n");
    EXPECT_EQ(run("report " + in("bare")), 0);
    expect_contains(read_bytes(in("bare/report.html")), {"No iterations yet", "preset demo"});
    // A row that is still being written, and missing columns, as from an older version.
    write_bytes(in("bare/metrics.csv"), "iteration,mse,energy_gap\n1,0.5,0.1\n2,0.25,0.3\n3,0.1");
    EXPECT_EQ(run("report " + in("bare")), 0);
    expect_contains(read_bytes(in("bare/report.html")), {"2 iterations", "MSE 0.375", "gap 0.2"});
    write_bytes(in("bare/config.txt"), "colour = red\n");
    expect_refused("report " + in("bare"), {"config.txt:1", "colour"});
}

}  // namespace
}  // namespace dualmcmc::test
