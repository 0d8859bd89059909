// Grids, and the densities: formulas, or sums of Gaussians along a blurred curve or map.
#include "experiments/density2d.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace dualmcmc {

namespace {
constexpr double pi = std::numbers::pi;
double square(double x) { return x * x; }
}  // namespace

// ---- grid ---------------------------------------------------------------------------------------

Tensor grid_points(const Grid& grid) {
    std::vector<real> values;
    for (int64_t cell = 0; cell < grid.size(); ++cell)
        for (const double coordinate : grid.centre(cell)) values.push_back(real(coordinate));
    return Tensor::from_host({grid.size(), 2}, values);
}

Field normalized_exp(const Grid& grid, const Field& log_density) {
    const double largest = *std::max_element(log_density.begin(), log_density.end());
    if (!std::isfinite(largest)) fail("toys: a density is not finite");
    Field out(log_density.size());
    double total = 0;
    for (size_t i = 0; i < out.size(); ++i) total += out[i] = std::exp(log_density[i] - largest);
    for (double& value : out) value /= total * grid.area();
    return out;
}

Tensor sample_field(const Grid& grid, const Field& density, int64_t count, RandomKey key) {
    std::vector<double> mass;  // cumulative
    for (const double value : density) mass.push_back((mass.empty() ? 0 : mass.back()) + value);
    const std::vector<real> u = Tensor::uniform({count, 3}, key, 0, 1).to_host();
    std::vector<real> points;
    for (size_t i = 0; i < u.size(); i += 3) {
        const auto chosen = std::lower_bound(mass.begin(), mass.end(), double(u[i]) * mass.back());
        const Point centre = grid.centre(std::min(grid.size() - 1, int64_t(chosen - mass.begin())));
        for (size_t axis = 0; axis < 2; ++axis)
            points.push_back(real(centre[axis] + (double(u[i + 1 + axis]) - 0.5) * grid.step()));
    }
    return Tensor::from_host({count, 2}, points);
}

namespace {

// N(x; 0, deviation²) at x = first, first + step, … with two exponentials in all: by the recurrence
// e^-(x+h)²/2 = e^-x²/2 · e^-(xh + h²/2), whose last factor is multiplied by e^-h² from one x to the next.
void gaussian_row(double* out, int64_t count, double first, double step, double deviation) {
    const double x = first / deviation, h = step / deviation, shrink = std::exp(-h * h);
    double value = std::exp(-0.5 * x * x) / (std::sqrt(2 * pi) * deviation), ratio = std::exp(-h * (x + 0.5 * h));
    for (int64_t i = 0; i < count; ++i) {
        out[i] = value;
        value *= ratio;
        ratio *= shrink;
    }
}

}  // namespace

void deposit(const Grid& grid, Field& field, const Point& centre, double deviation, double weight) {
    constexpr int64_t max_side = 512;
    CHECK_LE(grid.n, max_side);
    // The Gaussian is a product of one factor in x and one in y, on the cells that it reaches.
    int64_t first[2], count[2];
    double factor[2][max_side];
    for (size_t axis = 0; axis < 2; ++axis) {
        const double position = (centre[axis] + grid.half) / grid.step() - 0.5, reach = 6 * deviation / grid.step();
        if (!(position > -reach && position < double(grid.n) + reach)) return;  // outside the grid, or NaN
        first[axis] = std::max<int64_t>(0, int64_t(std::ceil(position - reach)));
        count[axis] = std::min(grid.n - 1, int64_t(std::floor(position + reach))) + 1 - first[axis];
        gaussian_row(factor[axis], count[axis], grid.at(first[axis]) - centre[axis], grid.step(), deviation);
    }
    for (int64_t y = 0; y < count[1]; ++y) {
        const double row = weight * factor[1][y];
        double* target = field.data() + (first[1] + y) * grid.n + first[0];
        for (int64_t x = 0; x < count[0]; ++x) target[x] += row * factor[0][x];
    }
}

double kl_divergence(const Grid& grid, const Field& p, const Field& q, double floor) {
    CHECK_EQ(p.size(), q.size());
    const double uniform = floor / square(2 * grid.half);
    double total = 0;
    for (size_t i = 0; i < p.size(); ++i) {
        const double a = (1 - floor) * p[i] + uniform, b = (1 - floor) * q[i] + uniform;
        total += a * std::log(a / b) * grid.area();
    }
    return total;
}

// ---- data sets ----------------------------------------------------------------------------------

namespace {

// Makes (count, 2) points from `per_point` uniforms u and as many normals e each.
Tensor make_points(int64_t count, uint64_t seed, uint64_t step, int64_t per_point,
                   const std::function<Point(const real* u, const real* e)>& make) {
    const auto u = Tensor::uniform({count, per_point}, random_key(seed, RngPurpose::shuffle, step), 0, 1).to_host();
    const auto e = Tensor::normal({count, per_point}, random_key(seed, RngPurpose::flip, step)).to_host();
    std::vector<real> values;
    for (int64_t i = 0; i < count; ++i)
        for (const double coordinate : make(u.data() + i * per_point, e.data() + i * per_point))
            values.push_back(real(coordinate));
    return Tensor::from_host({count, 2}, values);
}

// A choice from 0 … count - 1; u is in (0, 1].
int64_t choose(real u, int64_t count) { return std::min(count - 1, int64_t(double(u) * double(count))); }

// Evaluates a formula for the density at the centres of the cells.
std::function<Field(const Grid&)> by_formula(const std::function<double(const Point&)>& density) {
    return [density](const Grid& grid) {
        Field out;
        for (int64_t cell = 0; cell < grid.size(); ++cell) out.push_back(density(grid.centre(cell)));
        return out;
    };
}

Density2d gaussians25() {
    constexpr double deviation = 0.15;
    const auto density = [](const Point& p) {
        double along[2] = {0, 0};  // the mixture factorises
        for (int axis = 0; axis < 2; ++axis)
            for (int mean = -2; mean <= 2; ++mean)
                along[axis] +=
                    std::exp(-0.5 * square((p[size_t(axis)] - mean) / deviation)) / (5 * std::sqrt(2 * pi) * deviation);
        return along[0] * along[1];
    };
    const auto make = [](const real* u, const real* e) -> Point {
        return {double(choose(u[0], 5)) - 2 + deviation * double(e[0]),
                double(choose(u[1], 5)) - 2 + deviation * double(e[1])};
    };
    return {"gaussians25",
            [make](int64_t n, uint64_t seed, uint64_t step) { return make_points(n, seed, step, 2, make); },
            by_formula(density)};
}

Density2d rings() {
    constexpr double deviation = 0.1, spacing = 0.6;
    constexpr int64_t count = 3;
    // Polar coordinates: the radius is |r| with r ~ N(radius of the ring, deviation²).
    const auto density = [](const Point& p) {
        const double r = std::max(1e-9, std::hypot(p[0], p[1]));
        double total = 0;
        for (int64_t ring = 1; ring <= count; ++ring)
            for (const double signed_r : {r, -r})
                total += std::exp(-0.5 * square((signed_r - spacing * double(ring)) / deviation)) /
                         (std::sqrt(2 * pi) * deviation);
        return total / (double(count) * 2 * pi * r);
    };
    const auto make = [](const real* u, const real* e) -> Point {
        const double r = spacing * double(choose(u[0], count) + 1) + deviation * double(e[0]),
                     angle = 2 * pi * double(u[1]);
        return {r * std::cos(angle), r * std::sin(angle)};
    };
    return {"rings", [make](int64_t n, uint64_t seed, uint64_t step) { return make_points(n, seed, step, 2, make); },
            by_formula(density)};
}

Density2d checkerboard() {
    const auto density = [](const Point& p) {
        if (std::abs(p[0]) >= 2 || std::abs(p[1]) >= 2) return 0.0;
        return (int64_t(std::floor(p[0])) + int64_t(std::floor(p[1]))) % 2 == 0 ? 1.0 / 8 : 0.0;
    };
    const auto make = [](const real* u, const real*) -> Point {
        const int64_t row = choose(u[0], 4), column = 2 * choose(u[1], 2) + row % 2;
        return {double(column) - 2 + double(u[2]), double(row) - 2 + double(u[3])};
    };
    return {"checkerboard",
            [make](int64_t n, uint64_t seed, uint64_t step) { return make_points(n, seed, step, 4, make); },
            by_formula(density)};
}

// The point of the upper (which = 0) or lower half circle at t in [0, 1].
Point moon(int64_t which, double t) {
    const double angle = pi * t, x = std::cos(angle), y = std::sin(angle);
    const Point p = which == 0 ? Point{x - 0.5, y - 0.25} : Point{0.5 - x, 0.25 - y};
    return {1.5 * p[0], 1.5 * p[1]};
}

Density2d moons() {
    constexpr double deviation = 0.1;
    const auto density = [](const Grid& grid) {
        constexpr int64_t parts = 4000;
        Field out(size_t(grid.size()), 0);
        for (int64_t which = 0; which < 2; ++which)
            for (int64_t i = 0; i < parts; ++i)
                deposit(grid, out, moon(which, (double(i) + 0.5) / parts), deviation, 0.5 / parts);
        return out;
    };
    const auto make = [](const real* u, const real* e) -> Point {
        const Point p = moon(choose(u[0], 2), double(u[1]));
        return {p[0] + deviation * double(e[0]), p[1] + deviation * double(e[1])};
    };
    return {"moons", [make](int64_t n, uint64_t seed, uint64_t step) { return make_points(n, seed, step, 2, make); },
            density};
}

// A point of an arm: a along it and b across it, both N(0, 1); the rotation grows with the radius.
Point pinwheel_arm(int64_t arm, double a, double b) {
    const double along = 1 + 0.3 * a, across = 0.05 * b, angle = 2 * pi * double(arm) / 5 + 0.25 * std::exp(along);
    return {1.6 * (along * std::cos(angle) - across * std::sin(angle)),
            1.6 * (along * std::sin(angle) + across * std::cos(angle))};
}

Density2d pinwheel() {
    constexpr double deviation = 0.05;
    const auto density = [](const Grid& grid) {
        constexpr int64_t half_a = 200, half_b = 30;  // quadrature points on each side of 0, up to 5 deviations
        constexpr double step_a = 5.0 / half_a, step_b = 5.0 / half_b;
        Field out(size_t(grid.size()), 0);
        for (int64_t arm = 0; arm < 5; ++arm)
            for (int64_t i = -half_a; i <= half_a; ++i)
                for (int64_t j = -half_b; j <= half_b; ++j) {
                    const double a = step_a * double(i), b = step_b * double(j);
                    deposit(grid, out, pinwheel_arm(arm, a, b), deviation,
                            std::exp(-0.5 * (a * a + b * b)) / (2 * pi) * step_a * step_b / 5);
                }
        return out;
    };
    const auto make = [](const real* u, const real* e) -> Point {
        const Point p = pinwheel_arm(choose(u[0], 5), double(e[0]), double(e[1]));
        return {p[0] + deviation * double(e[2]), p[1] + deviation * double(e[3])};
    };
    return {"pinwheel", [make](int64_t n, uint64_t seed, uint64_t step) { return make_points(n, seed, step, 4, make); },
            density};
}

}  // namespace

const std::vector<std::string> density2d_names{"gaussians25", "rings", "checkerboard", "moons", "pinwheel"};

Density2d density2d(const std::string& name) {
    if (name == "gaussians25") return gaussians25();
    if (name == "rings") return rings();
    if (name == "checkerboard") return checkerboard();
    if (name == "moons") return moons();
    if (name == "pinwheel") return pinwheel();
    fail("--data ", name, ": unknown; give gaussians25, rings, checkerboard, moons or pinwheel");
}

}  // namespace dualmcmc
