// Known 2-D densities, the data sets of `dualmcmc toys`, and functions on a grid.
#pragma once
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "engine/layers.h"

namespace dualmcmc {

using Point = std::array<double, 2>;

// n × n cells that cover [-half, half]². A field holds one value per cell, at its centre, row by row (y, then x).
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

// exp(log_density), normalised to integrate to 1. Fails if no value is finite.
Field normalized_exp(const Grid& grid, const Field& log_density);

// Draws (count, 2) points from a density: a cell in proportion to its mass, then uniformly within it.
Tensor sample_field(const Grid& grid, const Field& density, int64_t count, RandomKey key);

// Adds weight · N(centre, deviation² I) to a field, truncated at 6 deviations; nothing if the grid lies beyond these.
// The deviation should be at least one cell.
void deposit(const Grid& grid, Field& field, const Point& centre, double deviation, double weight);

// KL(p ‖ q) in nats, summed over the cells. Both densities are first mixed with `floor` of the uniform density, so
// that the result is finite even if q is 0 somewhere.
double kl_divergence(const Grid& grid, const Field& p, const Field& q, double floor = 1e-4);

// A data set: its points and their density.
struct Density2d {
    std::string name;
    std::function<Tensor(int64_t count, uint64_t seed, uint64_t step)> sample;  // (count, 2)
    std::function<Field(const Grid& grid)> density;
};

//   gaussians25    a 5 × 5 mixture of Gaussians, spacing 1, deviation 0.15
//   rings          circles of radius 0.6, 1.2, 1.8, equally likely, deviation 0.1
//   checkerboard   uniform on every second unit square of [-2, 2]²
//   moons          two interlocking half circles, deviation 0.1
//   pinwheel       five curved arms (Johnson et al. 2016), blurred by a Gaussian of deviation 0.05
// Fails for any other name, listing these.
Density2d density2d(const std::string& name);
extern const std::vector<std::string> density2d_names;

}  // namespace dualmcmc
