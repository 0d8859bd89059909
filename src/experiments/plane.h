// Densities on the plane, where they are known: functions on a grid, and the data sets of `dualmcmc toys`.
#pragma once
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "engine/layers.h"

namespace dualmcmc {

using Point = std::array<double, 2>;

// n × n cells that cover [-half, half]². A field holds one value a cell, at its centre, row by row (y, then x).
struct Grid {
    double half;
    int64_t n;
    double step() const { return 2 * half / double(n); }
    double at(int64_t i) const { return -half + (double(i) + 0.5) * step(); }
    double area() const { return step() * step(); }
    int64_t size() const { return n * n; }
    Point centre(int64_t cell) const { return {at(cell % n), at(cell / n)}; }
};
using Field = std::vector<double>;

// The centres of all cells, (n², 2).
Tensor grid_points(const Grid& grid);

// exp(log_density), scaled so that it integrates to 1. Fails where nothing is finite.
Field normalised_exp(const Grid& grid, const Field& log_density);

// (count, 2) points drawn from a density: a cell by its mass, uniform within it.
Tensor sample_field(const Grid& grid, const Field& density, int64_t count, RandomKey key);

// Adds weight · N(centre, deviation² I) to a field, cut off at 6 deviations. The deviation should not be below a cell.
void deposit(const Grid& grid, Field& field, const Point& centre, double deviation, double weight);

// KL(p ‖ q) in nats, by the sum over cells. So that it is finite where q has nothing, both densities are first mixed
// with `floor` of the uniform one.
double kl_divergence(const Grid& grid, const Field& p, const Field& q, double floor = 1e-4);

// A data set: points and their density.
struct PlaneData {
    std::string name;
    std::function<Tensor(int64_t count, uint64_t seed, uint64_t step)> sample;  // (count, 2)
    std::function<Field(const Grid& grid)> density;
};

//   gaussians25    a 5 × 5 mixture of Gaussians, spacing 1, deviation 0.15
//   rings          circles of radius 0.6, 1.2, 1.8, equally likely, of deviation 0.1
//   checkerboard   uniform on every second unit square of [-2, 2]²
//   moons          two half circles that embrace each other, of deviation 0.1
//   pinwheel       five bent arms (Johnson et al. 2016), blurred by a Gaussian of deviation 0.05
// Fails, listing them, for any other name.
PlaneData plane_data(const std::string& name);
extern const std::vector<std::string> plane_names;

}  // namespace dualmcmc
