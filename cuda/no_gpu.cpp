// Stands in for cuda/gpu in builds without nvcc: an empty list of GPU tables.
#include "backend.h"

namespace dualmcmc {

std::vector<const Backend*> cuda_backends() { return {}; }

}  // namespace dualmcmc
