// ablate and compare: each row against `train` and the separate commands, grids that are continued, and rejected flags.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <numeric>

#include "data/dataset.h"
#include "data/shapes.h"
#include "experiments/csv.h"
#include "experiments/grid.h"
#include "experiments/report.h"
#include "experiments/statistics_distance.h"
#include "file_helpers.h"
#include "formats/npy.h"
#include "training/checkpoint.h"
#include "training/evaluation.h"
#include "training/train.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;

constexpr int64_t images = 12;

// The rows of a .csv file by column name.
std::vector<std::map<std::string, std::string>> rows_of(const std::string& path) {
    const CsvTable table = parse_csv(read_bytes(path));
    std::vector<std::map<std::string, std::string>> out;
    for (const auto& fields : table.rows) {
        out.emplace_back();
        for (size_t c = 0; c < fields.size(); ++c) out.back()[table.header[c]] = fields[c];
    }
    return out;
}

// Runs the program in a folder of the test's own that holds a few images.
class Grid : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_TRUE(fs::exists(program_path())) << "build it first: make";
        fs::remove_all(folder_);
        fs::create_directories(folder_);
        std::vector<uint8_t> pixels(images * 32 * 32 * 3);
        for (int64_t i = 0; i < images; ++i) draw_shape(3, i, 32, pixels.data() + i * 32 * 32 * 3);
        write_npy(in("images.npy"), {images, 32, 32, 3}, pixels.data());
    }
    void TearDown() override { fs::remove_all(folder_); }

    std::string in(const std::string& name) const { return folder_ + "/" + name; }
    std::string output() const { return read_bytes(in("out.txt")); }
    int run(const std::string& arguments, const std::string& before = "") const {
        const std::string command = before + " env CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 " + program_path() + " " +
                                    arguments + " >" + in("out.txt") + " 2>" + in("error.txt");
        const int status = std::system(command.c_str());
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    void expect_runs(const std::string& arguments) const {
        ASSERT_EQ(run(arguments), 0) << arguments << "\n" << read_bytes(in("error.txt"));
    }
    void expect_refused(const std::string& arguments, std::initializer_list<std::string> parts) const {
        SCOPED_TRACE(arguments);
        const int exit_code = run(arguments);
        expect_refusal(exit_code, read_bytes(in("error.txt")), parts);
    }
    // Flags for a grid of tiny networks, and for `train` with the same networks.
    std::string tiny(const std::string& out) const {
        std::string flags = " --preset demo --count 6 --data " + in("images.npy") + " --out " + in(out);
        for (const auto& [name, value] : settings_) flags += " --set " + name + "=" + value;
        return flags;
    }
    std::string tiny_train(const std::string& out) const {
        std::string flags = "train --preset demo --minutes 0 --data " + in("images.npy") + " --out " + in(out);
        for (const auto& [name, value] : settings_) flags += " --" + name + " " + value;
        return flags;
    }

    const std::vector<std::pair<std::string, std::string>> settings_{
        {"width-generator", "2"}, {"width-ebm", "2"},     {"width-encoder", "1"}, {"latent", "3"},
        {"batch", "2"},           {"sampler-batch", "4"}, {"sampler-steps", "5"}, {"checkpoint-every", "2"}};
    const std::string folder_ = temporary_path("grid");
};

TEST(GridPieces, BudgetAndInference) {
    EXPECT_EQ(iterations_in(2, 3, 0.5), 720);
    EXPECT_EQ(iterations_in(1e-9, 1, 5), 1);
    const std::map<std::string, std::pair<std::string, int64_t>> expected{{"dual", {"encoder", 10}},
                                                                          {"cooperative", {"noise", 30}},
                                                                          {"triangle", {"mean", 0}},
                                                                          {"abp", {"noise", 30}},
                                                                          {"vae", {"mean", 0}}};
    for (const std::string& method : method_names) {
        StepSettings s;
        apply_method(s, method);
        const auto found = inference_of(s);
        ASSERT_EQ(found.has_value(), method != "shortrun") << method;
        if (!found) continue;
        EXPECT_EQ(found->start, expected.at(method).first) << method;
        EXPECT_EQ(found->steps, expected.at(method).second) << method;
    }
    StepSettings s;
    s.start_z = "noise";
    EXPECT_EQ(inference_of(s)->start, "noise");
    EXPECT_EQ(inference_of(s)->steps, 10) << "with an encoder, the chain of training is kept";
    apply_method(s, "abp");
    s.chain_z.steps = 50;
    EXPECT_EQ(inference_of(s)->steps, 50);
}

// Recomputes each row with train, reconstruct and sample.
TEST_F(Grid, RowsAreWhatTheSeparateCommandsGive) {
    expect_runs("compare" + tiny("grid") + " --method dual,shortrun,abp,vae --iterations 3 --seeds 2");
    const auto rows = rows_of(in("grid/compare.csv"));
    ASSERT_EQ(rows.size(), 4u);
    const StatisticsDistance to_data(load_train(in("images.npy"), 32, 2, distance_data_images));
    // The encoder and its z-chain; 30 steps from noise; the encoder's mean.
    const std::map<std::string, size_t> row_of_reconstruct{{"dual", 2}, {"abp", 5}, {"vae", 0}};
    for (const auto& row : rows) {
        const std::string method = row.at("cell"), model = in(method) + "/checkpoints/iteration-000003.safetensors";
        SCOPED_TRACE(method);
        expect_runs(tiny_train(method) + " --method " + method + " --iterations 3 --seed 2");
        if (const auto known = row_of_reconstruct.find(method); known != row_of_reconstruct.end()) {
            expect_runs("reconstruct --count 6 --seed 2 --model " + model + " --out " + in("reconstruct"));
            EXPECT_EQ(row.at("mse"), rows_of(in("reconstruct/reconstruct.csv")).at(known->second).at("mse"));
        } else {
            EXPECT_EQ(row.at("mse"), "");
        }
        // A short-run EBM samples with the 100 steps of its training.
        expect_runs("sample --npy --count 6 --seed 2 --model " + model + " --out " + in("sample-" + method) +
                    (method == "shortrun" ? " --steps-x 100" : ""));
        for (const std::string kind : {"generator", "revised"}) {
            const std::string& value = row.at("distance_" + kind);
            const bool has = kind == "generator" ? method != "shortrun" : method == "dual" || method == "shortrun";
            ASSERT_EQ(!value.empty(), has) << kind;
            if (!has) continue;
            NpyImages file(in("sample-" + method + "/" + kind + ".npy"));
            ImageSet drawn{6, 32, std::vector<uint8_t>(6 * 3072), ""};
            for (int64_t i = 0; i < 6; ++i) file.read_next(drawn.pixels.data() + i * 3072);
            EXPECT_EQ(value, digits(to_data(drawn))) << kind;
        }
        EXPECT_EQ(row.at("iterations"), "3");
        EXPECT_EQ(row.at("returns"), "0");
        // The median of three iterations.
        std::vector<double> seconds;
        for (const auto& iteration : rows_of(in("grid/") + method + "-2/metrics.csv"))
            if (iteration.at("iteration") != "0") seconds.push_back(std::stod(iteration.at("seconds")));
        ASSERT_EQ(seconds.size(), 3u);
        std::sort(seconds.begin(), seconds.end());
        EXPECT_EQ(row.at("seconds"), digits(seconds[1]));
    }
    // The variants' folders are runs, with reports, on which other commands work. The grid has its own page.
    expect_runs("revise --count 2 --model " + in("grid/dual-2/checkpoints/iteration-000003.safetensors"));
    EXPECT_NE(read_bytes(in("grid/dual-2/report.html")).find("<h2>revise</h2>"), std::string::npos);
    const std::string page = read_bytes(in("grid/report.html"));
    for (const std::string& part :
         {std::string("<h2>grid</h2>"), std::string("compare.csv"), base64(read_bytes(in("grid/compare.png"))),
          std::string("measured on 6 held-out images")})
        EXPECT_NE(page.find(part), std::string::npos) << part.substr(0, 40);
    fs::remove(in("grid/report.html"));
    expect_runs("report " + in("grid"));
    EXPECT_EQ(read_bytes(in("grid/report.html")), page);
}

// The parameters of the network with this prefix, of a checkpoint or (with an empty path) as training starts.
std::vector<std::vector<real>> parameters_of(const std::string& path, const Config& c, const std::string& prefix) {
    Models models(c.model, uint64_t(c.seed));
    if (!path.empty()) load_checkpoint(read_checkpoint(path).file, path, models, false);
    std::vector<std::vector<real>> out;
    for (const auto& [name, state] : models.networks())
        if (name == prefix)
            for (const Var& parameter : state->parameters()) out.push_back(parameter.value().to_host());
    EXPECT_FALSE(out.empty()) << prefix;
    return out;
}

// dual without the EBM is what train's flags make of it; dual without the data term is `cooperative` with an encoder.
TEST_F(Grid, AblationsLeaveOutOneOfTheGeneratorsTeachers) {
    expect_runs("compare" + tiny("grid") +
                " --method cooperative,dual-no-ebm,dual-no-data --iterations 3 --seeds 2 --set ema=0");
    const auto rows = rows_of(in("grid/compare.csv"));
    ASSERT_EQ(rows.size(), 3u);
    const auto &cooperative = rows[0], &no_ebm = rows[1], &no_data = rows[2];
    const std::string table = read_bytes(in("grid/compare.md"));
    EXPECT_NE(table.find("| dual-no-ebm | – | – | "), std::string::npos) << table;
    EXPECT_NE(table.find("| dual-no-data | – | – | "), std::string::npos) << table;

    const auto path = [&](const std::string& name) { return newest_checkpoint(in("grid/" + name + "-2")); };
    const Config without_ebm = read_checkpoint(path("dual-no-ebm")).config,
                 without_data = read_checkpoint(path("dual-no-data")).config;
    const std::string ebm = "netE.", generator = "netG.", encoder = "netI.";
    const auto learned = [&](const std::string& name, const Config& c, const std::string& network) {
        return parameters_of(path(name), c, network) != parameters_of("", c, network);
    };
    EXPECT_FALSE(learned("dual-no-ebm", without_ebm, ebm));
    EXPECT_TRUE(learned("dual-no-ebm", without_ebm, generator));
    EXPECT_TRUE(learned("dual-no-ebm", without_ebm, encoder));
    EXPECT_EQ(without_ebm.step.lambda_data, 1);
    EXPECT_EQ(without_ebm.step.lambda_ebm, 0);
    EXPECT_EQ(without_ebm.step.lambda_generated, 0);
    EXPECT_EQ(no_ebm.at("distance_revised"), "");
    expect_runs(tiny_train("alone") +
                " --method dual --no-learn-ebm --lambda-ebm 0 --lambda-generated 0 --ema 0 "
                "--iterations 3 --seed 2");
    const std::string alone = newest_checkpoint(in("alone"));
    for (const std::string& network : {generator, encoder})
        EXPECT_EQ(parameters_of(path("dual-no-ebm"), without_ebm, network), parameters_of(alone, without_ebm, network));
    expect_runs("reconstruct --count 6 --seed 2 --model " + alone + " --out " + in("reconstruct"));
    EXPECT_EQ(no_ebm.at("mse"), rows_of(in("reconstruct/reconstruct.csv")).at(2).at("mse"));

    EXPECT_EQ(without_data.step.lambda_data, 0);
    EXPECT_EQ(without_data.step.chain_z.steps, preset_config("demo").step.chain_z.steps) << "the encoder's teacher";
    EXPECT_TRUE(learned("dual-no-data", without_data, encoder));
    for (const std::string& network : {ebm, generator})
        EXPECT_EQ(parameters_of(path("dual-no-data"), without_data, network),
                  parameters_of(path("cooperative"), without_data, network));
    for (const char* column : {"distance_generator", "distance_revised"})
        EXPECT_EQ(no_data.at(column), cooperative.at(column)) << column;
    EXPECT_NE(no_data.at("mse"), cooperative.at("mse"));
}

TEST_F(Grid, CompareHasAllMethodsThenTheAblations) {
    expect_runs("compare" + tiny("grid") + " --iterations 1 --seeds 1 --set dual-no-data:lambda-data=0.25");
    std::vector<std::string> names, expected = method_names;
    for (const auto& row : rows_of(in("grid/compare.csv"))) names.push_back(row.at("cell"));
    expected.insert(expected.end(), {"dual-no-ebm", "dual-no-data"});
    EXPECT_EQ(names, expected);
    EXPECT_EQ(read_checkpoint(newest_checkpoint(in("grid/dual-no-data-1"))).config.step.lambda_data, real(0.25))
        << "a setting for one variant has the last word";
}

TEST_F(Grid, TablesHoldMeansAndRanges) {
    expect_runs("compare" + tiny("grid") + " --method vae --iterations 2 --seeds 1,4");
    const auto rows = rows_of(in("grid/compare.csv"));
    ASSERT_EQ(rows.size(), 2u);
    const double a = std::stod(rows[0].at("mse")), b = std::stod(rows[1].at("mse"));
    ASSERT_NE(a, b);
    char cell[80];
    std::snprintf(cell, sizeof cell, "| %.4f (%.4f–%.4f) |", (a + b) / 2, std::min(a, b), std::max(a, b));
    const std::string table = read_bytes(in("grid/compare.md"));
    EXPECT_NE(table.find(cell), std::string::npos) << table << cell;
    EXPECT_NE(table.find("| vae | – | 0.0341 |"), std::string::npos) << table;
    EXPECT_NE(output().find(table), std::string::npos);
}

TEST_F(Grid, AblateHasTheVariantsOfBothTables) {
    expect_runs("ablate" + tiny("grid") + " --iterations 1");
    const auto rows = rows_of(in("grid/ablate.csv"));
    std::vector<std::string> names;
    for (const auto& row : rows) names.push_back(row.at("cell"));
    EXPECT_EQ(names, (std::vector<std::string>{"x30-noise10", "x30-noise30", "x30-encoder10", "x30-encoder30",
                                               "x10-encoder10", "x20-encoder10", "x50-encoder10"}));
    const Config c = read_checkpoint(newest_checkpoint(in("grid/x30-noise10-1"))).config;
    EXPECT_EQ(c.step.chain_x.steps, 30);
    EXPECT_EQ(c.step.chain_z.steps, 10);
    EXPECT_EQ(c.step.start_z, "noise");
    EXPECT_EQ(c.step.long_steps, 0) << "the x-chain's length would not be all that differs";
    EXPECT_EQ(read_checkpoint(newest_checkpoint(in("grid/x50-encoder10-1"))).config.step.chain_x.steps, 50);
    // The row that both tables share has the same values in both, after the paper's.
    const std::string table = read_bytes(in("grid/ablate.md"));
    const size_t fourth = table.find("| encoder, 10 | 9.26 |"), fifth = table.find("| 30 | 9.26 |");
    ASSERT_NE(fourth, std::string::npos) << table;
    ASSERT_NE(fifth, std::string::npos) << table;
    EXPECT_EQ(table.substr(fourth + 16, table.find('\n', fourth) - fourth - 16),
              table.substr(fifth + 7, table.find('\n', fifth) - fifth - 7));
    // Chains from noise are those of training: row "noise, 10" of reconstruct.
    expect_runs("reconstruct --count 6 --model " + in("grid/x30-noise10-1/checkpoints/iteration-000001.safetensors") +
                " --out " + in("reconstruct"));
    EXPECT_EQ(rows[0].at("mse"), rows_of(in("reconstruct/reconstruct.csv")).at(3).at("mse"));
}

TEST_F(Grid, ContinuesWhereItStopped) {
    const std::string command = "compare" + tiny("grid") + " --method dual,vae --iterations 4 --seeds 1";
    expect_runs(command);
    const std::string table = read_bytes(in("grid/compare.csv")), picture = read_bytes(in("grid/compare.png"));
    expect_runs(command);
    EXPECT_EQ(read_bytes(in("grid/compare.csv")), table) << "nothing is measured again";
    EXPECT_NE(output().find("dual-1: already done"), std::string::npos) << output();

    // As if it had been stopped in the second variant.
    fs::remove(in("grid/vae-1/result.csv"));
    fs::remove(in("grid/vae-1/checkpoints/iteration-000004.safetensors"));
    expect_runs(command);
    EXPECT_NE(output().find("dual-1: already done"), std::string::npos) << output();
    EXPECT_NE(output().find("vae-1: 4 iterations, resuming from 2"), std::string::npos) << output();
    EXPECT_EQ(read_bytes(in("grid/compare.png")), picture);
    const CsvTable before = parse_csv(table), after = parse_csv(read_bytes(in("grid/compare.csv")));
    ASSERT_EQ(after.rows.size(), 2u);
    for (size_t c = 0; c < before.header.size(); ++c) {
        if (before.header[c].starts_with("seconds")) continue;  // iterations 3 and 4 were timed again
        for (size_t row = 0; row < 2; ++row) EXPECT_EQ(after.rows[row][c], before.rows[row][c]) << before.header[c];
    }

    // More images: measured again, not trained again. Other settings: rejected.
    const auto trained = fs::last_write_time(in("grid/vae-1/checkpoints/iteration-000004.safetensors"));
    expect_runs(command + " --count 7");
    EXPECT_EQ(rows_of(in("grid/compare.csv"))[1].at("count"), "7");
    EXPECT_EQ(fs::last_write_time(in("grid/vae-1/checkpoints/iteration-000004.safetensors")), trained);
    expect_refused(command + " --iterations 5", {"--out", "dual-1", "iterations = 4", "now 5"});
    expect_refused(command + " --set sigma=0.5", {"--out", "dual-1", "sigma = 0.2121", "now 0.5"});
    // A setting that was new since: an older program wrote no line of it.
    std::string config = read_bytes(in("grid/dual-1/config.txt"));
    const size_t line = config.find("\nlong-steps = ");
    ASSERT_NE(line, std::string::npos) << config;
    write_bytes(in("grid/dual-1/config.txt"), config.erase(line, config.find('\n', line + 1) - line));
    expect_refused(command + " --set long-steps=60", {"--out", "dual-1", "long-steps = 0", "now 60"});
}

// A folder's files may be of another program, or torn: results are measured again, budgets are refused.
TEST_F(Grid, DamagedFilesAreNotTrusted) {
    const std::string command = "compare" + tiny("grid") + " --method vae --iterations 2 --seeds 1";
    expect_runs(command);
    const std::string csv = read_bytes(in("grid/vae-1/result.csv")), npy = read_bytes(in("grid/vae-1/result.npy")),
                      picture = read_bytes(in("grid/compare.png"));
    const auto expect_measured_again = [&](const std::string& file) {
        SCOPED_TRACE(file);
        expect_runs(command);
        EXPECT_NE(output().find(file), std::string::npos) << output();
        EXPECT_NE(output().find("measured again"), std::string::npos) << output();
        EXPECT_EQ(read_bytes(in("grid/vae-1/result.npy")), npy);
        EXPECT_EQ(read_bytes(in("grid/compare.png")), picture);
    };
    const std::vector<uint8_t> pixels(200 * 64 * 64 * 3, 7);
    for (const std::vector<int64_t>& shape : {std::vector<int64_t>{20, 64, 32, 3},
                                              {20, 32, 64, 3},
                                              {20, 64, 64, 3},
                                              {19, 32, 32, 3},
                                              {200, 32, 32, 3},
                                              {1, 1, 1, 3}}) {
        write_npy(in("grid/vae-1/result.npy"), shape, pixels.data());
        expect_measured_again("result.npy");
    }
    write_bytes(in("grid/vae-1/result.npy"), npy.substr(0, npy.size() / 2));
    expect_measured_again("result.npy");
    fs::remove(in("grid/vae-1/result.npy"));
    expect_measured_again("result.npy");
    const size_t row = csv.find('\n') + 1;
    for (const std::string& text :
         {"cell\nvae\n" + std::string(), csv.substr(0, row) + "vae" + std::string(15, ',') + "\n",
          csv.substr(0, row) + "vae,1,6,x" + std::string(12, ',') + "\n"}) {
        write_bytes(in("grid/vae-1/result.csv"), text);
        expect_runs(command);
        EXPECT_EQ(output().find("already done"), std::string::npos) << text << output();
        EXPECT_EQ(read_bytes(in("grid/compare.png")), picture);
    }
    // metrics.csv of another program: times are left out.
    for (const char* text : {"", "a,b\n1,2\n", "iteration,seconds\n1,x\n2,\n"}) {
        write_bytes(in("grid/vae-1/metrics.csv"), text);
        fs::remove(in("grid/vae-1/result.csv"));
        expect_runs(command);
        EXPECT_EQ(rows_of(in("grid/compare.csv"))[0].at("seconds"), "") << text;
    }
    for (const char* text :
         {"cell\nvae\n", "cell,minutes,seconds,iterations\nvae,0,x,2\n",
          "cell,minutes,seconds,iterations\nvae,0,1e999,2\n", "cell,minutes,seconds,iterations\nvae,0,1,-3\n",
          "cell,minutes,seconds,iterations\nvae,0,1,99999999999999999999\n",
          "cell,minutes,seconds,iterations\nvae,,1,3\n"}) {
        write_bytes(in("grid/budget.csv"), text);
        expect_refused(command, {"budget.csv", "damaged", "delete it"});
    }
}

TEST(GridPieces, FilesKeepNumbersExactly) {
    for (const double value : {10 / 3.0, 0.1, 1e-300, 1712345678.0}) EXPECT_EQ(std::stod(exact_digits(value)), value);
    EXPECT_EQ(exact_digits(0.1), "0.1");
    for (const char* whole : {"1712345678", "-9007199254740991", "0", "100000"})
        EXPECT_EQ(digits(std::stod(whole)), whole);
}

TEST_F(Grid, CtrlCStopsItWithACheckpoint) {
    const std::string command =
        "compare" + tiny("grid") + " --method vae --iterations 10000000 --seeds 1 --set log-every=1000000";
    EXPECT_EQ(run(command, signal_when("grep -q ^1, " + in("grid/vae-1/metrics.csv"), "INT")), 130)
        << read_bytes(in("error.txt"));
    EXPECT_NE(output().find("run the same command again"), std::string::npos) << output();
    EXPECT_GT(read_checkpoint(newest_checkpoint(in("grid/vae-1"))).iteration, 0);
}

TEST_F(Grid, MinutesAreConvertedToIterationsOnce) {
    const std::string command =
        "compare" + tiny("grid") + " --set eval-every=1000 --minutes 0.0005 --seeds 1,2 --threads 1 --method vae";
    expect_runs(command);
    const auto budget = rows_of(in("grid/budget.csv"));
    ASSERT_EQ(budget.size(), 1u);
    EXPECT_EQ(std::stoll(budget[0].at("iterations")), iterations_in(0.0005, 1, std::stod(budget[0].at("seconds"))));
    for (const auto& row : rows_of(in("grid/compare.csv"))) {
        EXPECT_EQ(row.at("iterations"), budget[0].at("iterations"));
        EXPECT_EQ(row.at("processor_seconds"), budget[0].at("seconds"));
    }
    // With another method added, the first is not timed again. With another budget it would be another training.
    expect_runs(command + ",abp");
    EXPECT_EQ(rows_of(in("grid/budget.csv")).size(), 2u);
    EXPECT_NE(output().find("vae-1: already done"), std::string::npos);
    // Other settings of a variant have a cost of their own.
    for (const char* run : {"grid/abp-1", "grid/abp-2"}) fs::remove_all(in(run));
    expect_runs(command + ",abp --set abp:steps-z=7");
    EXPECT_EQ(rows_of(in("grid/budget.csv")).size(), 3u);
    // A call with another budget is refused, and does the grid no harm.
    std::string longer = command;
    longer.replace(longer.find("0.0005"), 6, "0.01");
    EXPECT_EQ(run(longer), 1);
    const std::string error = read_bytes(in("error.txt"));
    EXPECT_NE(error.find("vae-1 was trained with iterations = " + budget[0].at("iterations")), std::string::npos)
        << error;
    expect_runs(command);
    EXPECT_NE(output().find("vae-1: already done"), std::string::npos);
    const std::string other = std::to_string(std::stoll(budget[0].at("iterations")) + 1);
    write_bytes(in("grid/budget.csv"), "cell,minutes,seconds,iterations\nvae,0.0005,1," + other + "\n");
    expect_refused(command, {"iterations = " + budget[0].at("iterations"), "now " + other});
}

TEST_F(Grid, ATrainingThatGivesUpIsARow) {
    expect_runs("compare" + tiny("grid") + " --method dual,vae --iterations 2 --seeds 1 --set dual:guard=1e-12");
    const auto rows = rows_of(in("grid/compare.csv"));
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_EQ(rows[0].at("gave_up"), "1");
    EXPECT_EQ(rows[0].at("iterations"), "0");
    EXPECT_EQ(rows[0].at("returns"), "5");
    EXPECT_EQ(rows[0].at("seconds"), "");
    EXPECT_NE(rows[0].at("mse"), "");
    EXPECT_EQ(rows[1].at("gave_up"), "0");
    EXPECT_EQ(rows[1].at("iterations"), "2");
}

TEST_F(Grid, RefusesBadFlags) {
    for (const std::string command : {"ablate", "compare"}) {
        EXPECT_EQ(run(command + " --help"), 0);
        const std::string grid = command + tiny("grid") + " --iterations 1";
        expect_refused(grid + " --preset nope", {"--preset nope", "cifar10-small"});
        expect_refused(grid + " --iterations 0", {"--iterations 0", "at least 1"});
        expect_refused(grid + " --minutes 3", {"--minutes", "--iterations"});
        expect_refused(command + tiny("grid") + " --minutes 0", {"--minutes 0", "above 0"});
        expect_refused(grid + " --count 1", {"--count 1", "at least 2"});  // a distance needs deviations
        expect_refused(grid + " --count 13", {"--count 13", "12 held-out images"});
        expect_refused(grid + " --seeds 1,-2", {"--seeds -2"});
        expect_refused(grid + " --seeds 3,3", {"--seeds 3", "twice"});
        expect_refused(grid + " --data " + in("missing"), {in("missing")});
        expect_refused(grid + " --device abacus", {"abacus"});
        expect_refused(grid + " --threads -2", {"--threads -2"});
        expect_refused(grid + " --out " + in("images.npy") + "/below", {"--out", "images.npy"});
        expect_refused(grid + " --set latent", {"--set latent", "NAME=VALUE"});
        expect_refused(grid + " --set latent=4", {"--set latent=4", "twice"});
        expect_refused(grid + " --set colour=red", {"colour", "train --help"});
        expect_refused(grid + " --set steps-z=many", {"--steps-z many"});
        expect_refused(grid + " --set sigma=0", {"--sigma 0"});
        expect_refused(grid + " --set seed=3", {"--set seed=3", "--help"});
        expect_refused(grid + " --set nobody:sigma=1",
                       {"--set nobody:sigma=1", "no variant nobody", "the variants are"});
        EXPECT_FALSE(fs::exists(in("grid"))) << "a rejected command leaves nothing behind";
    }
    expect_refused("compare" + tiny("grid") + " --method dual,gan",
                   {"--method gan", "cooperative", "dual-no-ebm and dual-no-data"});
    expect_refused("compare" + tiny("grid") + " --method vae,vae", {"--method vae", "twice"});
    expect_refused("compare" + tiny("grid") + " --method dual-no-ebm,dual-no-ebm", {"--method dual-no-ebm", "twice"});
    expect_refused("compare" + tiny("grid") + " --method dual-no-data --set lambda-data=2",
                   {"--set lambda-data=2", "VARIANT:lambda-data=VALUE", "dual-no-data"});
    expect_refused(tiny_train("run") + " --method dual-no-ebm", {"--method dual-no-ebm", "unknown"});
    expect_refused("compare" + tiny("grid") + " --set start-x=noise --method dual,vae",
                   {"--set start-x=noise", "VARIANT:start-x=VALUE", "dual, vae"});
    expect_refused("ablate" + tiny("grid") + " --set steps-x=40",
                   {"--set steps-x=40", "VARIANT:steps-x=VALUE", "x30-noise10"});
}

}  // namespace
}  // namespace dualmcmc::test
