// `dualmcmc ood`: does the energy tell test images from others: AUROC against noise, constant images, means of two test
// images, shapes, training images and given files. Data has the lower energy: the score is E, AUROC = P(E_other >
// E_test) + ½ P(E_other = E_test).
#pragma once
#include "experiments/common.h"

namespace dualmcmc {

class OodCommand : public Experiment {
public:
    explicit OodCommand(CLI::App& app);

protected:
    void measure() override;

private:
    std::vector<ImageSet> other_sets() const;
    std::vector<float> energies(const ImageSet& set);
    std::vector<std::string> against_;
};

}  // namespace dualmcmc
