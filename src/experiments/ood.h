// `dualmcmc ood`: does the energy tell test images from other images? AUROC against noise, constant images, means of
// two test images, shapes, training images and files of the user's choice. Data should have the lower energy: the score
// is E, AUROC = P(E_other > E_test) + ½ P(E_other = E_test).
#pragma once
#include "experiments/common.h"

namespace dualmcmc {

class OodCommand : public Experiment {
public:
    explicit OodCommand(CLI::App& app);

protected:
    void measure() override;

private:
    // The energies of one set.
    struct Scores {
        std::string name;
        std::vector<real> energy;
    };
    std::vector<ImageSet> other_sets() const;
    std::vector<real> energies(const ImageSet& set);
    std::vector<Scores> score(const std::vector<ImageSet>& sets);
    void write_histogram(const std::vector<Scores>& scores) const;
    void write_picture(const std::vector<ImageSet>& sets) const;
    std::vector<std::string> against_;
};

}  // namespace dualmcmc
