// The files of a grid (grid.h), which a later call of the same command reads back. None is trusted: it may be of an
// earlier version, torn by a full disk, or not of this program.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/images.h"

namespace dualmcmc {

// The results of one variant and seed. Values that its method does not have are absent. The .csv files keep older
// column names: cell, returns, processor_seconds, seconds (result_columns).
struct Result {
    std::string variant;
    std::optional<double> seed, count;            // count: images used for measuring
    std::optional<double> iterations, rollbacks;  // iterations done; rollbacks to a checkpoint after divergence
    std::optional<double> gave_up;       // 1 if it diverged too often; the rest is then measured on its last checkpoint
    std::optional<double> cpu_seconds;   // CPU time (a GPU: wall-clock) per iteration, measured before training
    std::optional<double> wall_seconds;  // wall-clock time per iteration (usual_seconds in grid.cpp); its parts follow
    std::optional<double> chain_x, chain_z, generator, encoder, ebm;
    std::optional<double> mse;  // of reconstructed test images, per pixel and channel
    std::optional<double> distance_generator, distance_revised;
};

// The columns of result.csv and NAME.csv after `cell`, the variant. These names are older than those in the code and
// stay, so that existing grids can be continued.
using ResultColumn = std::pair<const char*, std::optional<double> Result::*>;
const std::vector<ResultColumn>& result_columns();

void write_results(const std::string& path, const std::vector<Result>& results);

// The rows of a .csv file, each by column name; none if there is no such file.
using CsvRow = std::map<std::string, std::string>;
std::vector<CsvRow> read_rows(const std::string& path);

// The median, and the mean, of a column over the rows where it is a number.
std::optional<double> median(const std::vector<CsvRow>& rows, const std::string& column);
std::optional<double> mean(const std::vector<CsvRow>& rows, const std::string& column);

// Images of each kind in a variant's row of the picture.
inline constexpr int64_t picture_images = 10;

// What result.npy holds: the generator's images, then the EBM-revised ones, `picture_images` of each. Fails, naming the
// file, if it holds anything else than such images of `size` pixels.
struct ResultPictures {
    ImageSet generated, revised;
};
ResultPictures read_result_pictures(const std::string& path, int64_t size);

// The result in a run's folder, result.csv with its result.npy; nothing if it was not measured on `count` images, or if
// one of the files is damaged, which `damage` then says.
std::optional<Result> read_result(const std::string& folder, int64_t count, int64_t size, std::string& damage);

// A row of budget.csv: what an iteration of a variant costs, in seconds, and how many of them are a budget of
// `minutes`. `settings` is a checksum of the variant's; empty in files of earlier versions.
struct BudgetRow {
    std::string variant, settings;
    double minutes, seconds;
    int64_t iterations;
};
// Empty if there is no file; fails, saying what to do, if it is damaged.
std::vector<BudgetRow> read_budget(const std::string& path);
void write_budget(const std::string& path, const std::vector<BudgetRow>& rows);

}  // namespace dualmcmc
