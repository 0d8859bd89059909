// Random numbers: Philox4x32-10 and its mapping to uniforms and normals against reference/philox.safetensors, on each
// backend. Then the properties of a stateless generator: moments; independence of seed, purpose and step; prefixes.
#include <algorithm>
#include <set>

#include "compare.h"
#include "formats/safetensors.h"

namespace dualmcmc::test {
namespace {

using rounding::Running;

class Random : public EachBackend {};
INSTANTIATE_TEST_SUITE_P(Cpu, Random, testing::ValuesIn(cpu_backends()), backend_name);
INSTANTIATE_TEST_SUITE_P(Gpu, Random, testing::ValuesIn(gpu_backends()), backend_name);

Values normals(RandomKey key, int64_t n) { return Tensor::normal({n}, key).to_host(); }
Values uniforms(RandomKey key, int64_t n, real low = 0, real high = 1) {
    return Tensor::uniform({n}, key, low, high).to_host();
}

// Calls body(name, key, uniforms, normals) for each case of the reference.
template <class Body>
void for_each_case(Body body) {
    const SafetensorsFile file = read_safetensors("reference/philox.safetensors");
    const int cases = std::stoi(file.metadata.at("cases"));
    EXPECT_GE(cases, 6);
    for (int i = 0; i < cases; ++i) {
        const std::string name = "case" + std::to_string(i);
        const auto number = [&](const char* what) { return std::stoull(file.metadata.at(name + what)); };
        const auto floats = [&](const char* what) {
            return values_of<real>(file.tensors.at(name + what), name + what);
        };
        body(name, RandomKey{number(".seed"), uint32_t(number(".stream")), number(".step")},
             floats(in_double ? ".uniforms.f64" : ".uniforms"), floats(in_double ? ".normals.f64" : ".normals"));
    }
}

// Ours rounds the word to 24 bits, and again after adding 2^-33. The reference is rounded once.
TEST_P(Random, uniforms_match_the_reference) {
    for_each_case([](const std::string& name, RandomKey key, const Values& expected, const Values&) {
        expect_close(uniforms(key, int64_t(expected.size())), expected, 3 * unit, 0, name);
    });
}

// The normals `expected`, rounded, within what rounding makes of a pair of them that is computed `times` from uniforms
// that are three roundings off from these.
std::vector<Running> within_rounding(const Values& expected, const Values& uniforms, double times) {
    std::vector<Running> bounds;
    for (size_t i = 0; i < expected.size(); ++i) {
        const size_t even = i - i % 2, odd = std::min(even + 1, uniforms.size() - 1);
        const Running u(uniforms[even], 3 * uniforms[even]), v(uniforms[odd], 3 * uniforms[odd]);
        bounds.push_back({expected[i], times * box_muller(u, v)[i % 2].error + std::abs(expected[i])});
    }
    return bounds;
}

TEST_P(Random, normals_match_the_reference) {
    for_each_case([](const std::string& name, RandomKey key, const Values& of, const Values& expected) {
        expect_close(normals(key, int64_t(expected.size())), within_rounding(expected, of, 1), name);
    });
}

// Moments of n draws must lie within five standard deviations of their expectation, exceeded by chance once in 1.7
// million comparisons.
constexpr int64_t many = 1 << 20;

double moment(const Values& values, int power, double about = 0) {
    double total = 0;
    for (const real value : values) total += std::pow(double(value) - about, power);
    return total / double(values.size());
}

TEST_P(Random, normals_have_the_right_moments) {
    const Values values = normals({5, 3, 7}, many);
    const double n = double(many);
    EXPECT_NEAR(moment(values, 1), 0, 5 * std::sqrt(1 / n));
    EXPECT_NEAR(moment(values, 2), 1, 5 * std::sqrt(2 / n));   // var x² = 3 - 1
    EXPECT_NEAR(moment(values, 3), 0, 5 * std::sqrt(15 / n));  // E x⁶
    EXPECT_NEAR(moment(values, 4), 3, 5 * std::sqrt(96 / n));  // E x⁸ - 9 = 105 - 9
    for (const int64_t lag : {1, 2, 3, 4}) {                   // neighbours are uncorrelated, within and between blocks
        double product = 0;
        for (size_t i = size_t(lag); i < values.size(); ++i) product += double(values[i]) * values[i - size_t(lag)];
        EXPECT_NEAR(product / n, 0, 5 * std::sqrt(1 / n)) << "lag " << lag;
    }
    // Tails: of a million normals about 66 lie beyond ±4 and none beyond ±7.
    const auto beyond = [&](real bound) {
        return std::count_if(values.begin(), values.end(), [=](real v) { return std::abs(v) > bound; });
    };
    EXPECT_NEAR(double(beyond(4)), 66.4, 5 * std::sqrt(66.4));
    EXPECT_EQ(beyond(7), 0);
}

TEST_P(Random, uniforms_are_uniform) {
    const Values values = uniforms({5, 3, 7}, many, -2, 3);
    const double n = double(many);
    EXPECT_NEAR(moment(values, 1), 0.5, 5 * 5 * std::sqrt(1 / 12.0 / n));
    EXPECT_NEAR(moment(values, 2, 0.5), 25 / 12.0, 5 * 25 * std::sqrt((1 / 80.0 - 1 / 144.0) / n));
    EXPECT_GE(*std::min_element(values.begin(), values.end()),
              -2);  // (low, high] but for the rounding of low + (high - low) u
    EXPECT_LE(*std::max_element(values.begin(), values.end()), 3);
    std::vector<int64_t> bins(50, 0);
    for (const real value : values) ++bins[std::min<size_t>(49, size_t((value + 2) * 10))];
    double chi_square = 0;
    for (const int64_t bin : bins) chi_square += std::pow(double(bin) - n / 50, 2) / (n / 50);
    EXPECT_NEAR(chi_square, 49, 5 * std::sqrt(2 * 49.0));  // mean and variance of χ² with 49 degrees of freedom
}

// A uniform is (word + 1/2) / 2^32 and never 0, since a normal needs its logarithm. Below 2^-9, where float32 holds it
// exactly, it is an odd multiple of 2^-33. (The reference has too few values to show a missing half.)
TEST_P(Random, uniforms_are_never_zero) {
    int small = 0;
    for (const real value : uniforms({5, 3, 8}, many)) {
        if (value >= 0x1p-9f) continue;
        ++small;
        EXPECT_EQ(std::fmod(double(value) * 0x1p33, 2.0), 1.0) << value;
    }
    EXPECT_NEAR(small, 2048, 5 * std::sqrt(2048.0));
}

// All blocks of a long draw differ, since the counter contains the block's number.
TEST_P(Random, blocks_differ) {
    const Values values = uniforms({1, 2, 3}, 40000);
    std::set<std::vector<real>> blocks;
    for (size_t i = 0; i < values.size(); i += 4)
        blocks.insert(Values(values.begin() + int64_t(i), values.begin() + int64_t(i) + 4));
    EXPECT_EQ(blocks.size(), values.size() / 4);
}

// Keys that differ in any bit give different values, not the same ones shifted.
TEST_P(Random, seeds_purposes_and_steps_differ) {
    const RandomKey keys[] = {{1, 2, 3},
                              {2, 2, 3},
                              {1 + (1ull << 32), 2, 3},
                              {1 + (1ull << 63), 2, 3},
                              {1, 3, 3},
                              {1, 255, 3},
                              {1, 2, 4},
                              {1, 2, 3 + (1ull << 31)},
                              {1, 2, 3 + (1ull << 32)},
                              {1, 2, 3 + (1ull << 55)},
                              {3, 2, 1},
                              {2, 1, 3},
                              {1, 3, 2}};
    std::set<real> seen;
    size_t drawn = 0;
    for (const RandomKey& key : keys)
        for (const real value : normals(key, 256)) seen.insert(value), ++drawn;
    // Of 3328 values out of about 2^23, a few pairs may coincide (expected 3328² / 2 / 2^23 = 0.7), a whole stream
    // never.
    EXPECT_GE(seen.size() + 10, drawn);
}

TEST_P(Random, a_short_draw_is_a_prefix_of_a_long_one) {
    const RandomKey key{9, 8, 7};
    const Values longest_normals = normals(key, 1001), longest_uniforms = uniforms(key, 1001, -1, 1);
    for (const int64_t n : {1, 2, 3, 4, 5, 6, 7, 8, 255, 256, 257, 1000}) {
        EXPECT_EQ(normals(key, n), Values(longest_normals.begin(), longest_normals.begin() + n)) << n;
        EXPECT_EQ(uniforms(key, n, -1, 1), Values(longest_uniforms.begin(), longest_uniforms.begin() + n)) << n;
    }
    EXPECT_EQ(normals(key, 1001), longest_normals) << "the same key gives the same values";
}

// A draw from the middle of a stream, at any place in a block, as a process with some of a batch's images makes it.
TEST_P(Random, a_draw_may_start_anywhere) {
    const RandomKey key{9, 8, 7};
    const Values whole_normals = normals(key, 1500), whole_uniforms = uniforms(key, 1500, -1, 1);
    for (const uint64_t first : {1, 2, 3, 4, 7, 255, 256, 257, 1001})
        for (const int64_t n : {1, 2, 3, 4, 5, 255, 256, 257}) {
            RandomKey from = key;
            from.first = first;
            const auto part = [&](const Values& whole) {
                return Values(whole.begin() + int64_t(first), whole.begin() + int64_t(first) + n);
            };
            EXPECT_EQ(normals(from, n), part(whole_normals)) << first << ", " << n;
            EXPECT_EQ(uniforms(from, n, -1, 1), part(whole_uniforms)) << first << ", " << n;
        }
}

TEST_P(Random, uniforms_are_scaled_to_their_interval) {
    const Values from_zero = uniforms({4, 5, 6}, 999), scaled = uniforms({4, 5, 6}, 999, -3, 5);
    std::vector<double> expected(from_zero.begin(), from_zero.end());
    for (double& value : expected) value = -3 + 8 * value;
    expect_close(scaled, expected, unit, 0, "(-3, 5]");  // 8 U is exact
    EXPECT_EQ(uniforms({4, 5, 6}, 5, 2, 2), Values(5, 2.0f)) << "an empty interval";
}

// All backends draw the same values up to rounding. Their number is even, so that each has its partner.
TEST(RandomBackends, agree) {
    const RandomKey key{11, 1, 2};
    Values first;
    std::vector<const Backend*> tables = supported_cpu_backends();
    for (const Backend* table : gpu_backends())
        if (why_not(*table).empty()) tables.push_back(table);
    for (const Backend* table : tables) {
        const WithBackend with(*table);
        const Values values = normals(key, 4002);
        if (first.empty()) first = values;
        expect_close(values, within_rounding(first, uniforms(key, 4002), 2), table->name);
    }
}

}  // namespace
}  // namespace dualmcmc::test
