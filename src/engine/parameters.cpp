// Layouts and initial values.
#include "engine/parameters.h"

namespace dualmcmc {

// ---- layout -------------------------------------------------------------------------------------

Layout Layout::plain(const Shape& shape) {
    Layout out{shape, shape, {}};
    for (size_t i = 0; i < shape.size(); ++i) out.axes.push_back(int(i));
    return out;
}
Layout Layout::image(const Shape& s) {
    const Shape nchw{s.at(0), s.at(3), s.at(1), s.at(2)};
    return {nchw, nchw, {0, 2, 3, 1}};
}
Layout Layout::conv(int64_t kernel, int64_t in, int64_t out) {
    return {{out, in, kernel, kernel}, {out, in, kernel, kernel}, {2, 3, 1, 0}};
}
Layout Layout::conv_inputs(int64_t kernel, int64_t in) {
    return {{in * kernel * kernel}, {in, kernel, kernel}, {1, 2, 0}};
}
Layout Layout::linear(int64_t in, int64_t out) { return {{out, in}, {out, in}, {1, 0}}; }
Layout Layout::linear_to_image(int64_t in, int64_t channels, int64_t side) {
    return {{channels * side * side, in}, {channels, side, side, in}, {3, 1, 2, 0}};
}
Layout Layout::bias_to_image(int64_t channels, int64_t side) {
    return {{channels * side * side}, {channels, side, side}, {1, 2, 0}};
}

Shape Layout::memory_shape() const {
    Shape out;
    for (const int axis : axes) out.push_back(view[size_t(axis)]);
    return out;
}

namespace {

// Calls visit(index in memory, index in the file) for every element.
template <class Visit>
void walk(const Layout& layout, Visit visit) {
    const Shape memory = layout.memory_shape();
    Shape stride(memory.size());  // of each memory axis, in the file
    for (size_t i = 0; i < memory.size(); ++i) {
        stride[i] = 1;
        for (size_t j = size_t(layout.axes[i]) + 1; j < layout.view.size(); ++j) stride[i] *= layout.view[j];
    }
    Shape index(memory.size(), 0);
    for (int64_t at = 0, count = element_count(memory), file = 0; at < count; ++at) {
        visit(size_t(at), size_t(file));
        for (size_t axis = memory.size(); axis-- > 0;) {
            file += stride[axis];
            if (++index[axis] < memory[axis]) break;
            file -= stride[axis] * memory[axis];
            index[axis] = 0;
        }
    }
}

}  // namespace

std::vector<real> Layout::to_memory(const std::vector<real>& file) const {
    CHECK_EQ(int64_t(file.size()), element_count(view));
    std::vector<real> out(file.size());
    walk(*this, [&](size_t memory, size_t source) { out[memory] = file[source]; });
    return out;
}

std::vector<real> Layout::to_file(const std::vector<real>& memory) const {
    CHECK_EQ(int64_t(memory.size()), element_count(view));
    std::vector<real> out(memory.size());
    walk(*this, [&](size_t source, size_t file) { out[file] = memory[source]; });
    return out;
}

// ---- state --------------------------------------------------------------------------------------

template <class Value>
NamedTensor& ParameterStore::add(const std::string& name, const Layout& layout, bool trainable, const Value& value) {
    NamedTensor entry{name, layout, {}, trainable, {}, {}, {}};
    if (seed_) {
        const Shape shape = layout.memory_shape();
        entry.value = Var(value(shape, random_key(*seed_, RngPurpose::init, network_ << 16 | entries_.size())));
        if (trainable) {
            entry.moment1 = Tensor::full(shape, 0);
            entry.moment2 = Tensor::full(shape, 0);
        }
    }
    entries_.push_back(entry);
    return entries_.back();
}

Var ParameterStore::normal(const std::string& name, const Layout& layout, real deviation) {
    const auto value = [deviation](const Shape& shape, RandomKey key) {
        const Tensor out = Tensor::normal(shape, key);
        backend().scale(out.data(), out.data(), deviation, out.size());
        return out;
    };
    return add(name, layout, true, value).value;
}
Var ParameterStore::uniform(const std::string& name, const Layout& layout, real bound) {
    const auto value = [bound](const Shape& shape, RandomKey key) {
        return Tensor::uniform(shape, key, -bound, bound);
    };
    return add(name, layout, true, value).value;
}
Var ParameterStore::constant(const std::string& name, const Layout& layout, real value) {
    return add(name, layout, true, [value](const Shape& shape, RandomKey) { return Tensor::full(shape, value); }).value;
}
Tensor ParameterStore::buffer(const std::string& name, const Layout& layout, real value) {
    const Var var =
        add(name, layout, false, [value](const Shape& shape, RandomKey) { return Tensor::full(shape, value); }).value;
    return var.defined() ? var.value() : Tensor();
}
Tensor ParameterStore::unit_vector(const std::string& name, const Layout& layout) {
    const auto value = [](const Shape& shape, RandomKey key) {
        const Tensor out = Tensor::normal(shape, key);
        backend().normalize_l2(out.data(), 1e-12, out.size());
        return out;
    };
    const Var var = add(name, layout, false, value).value;
    return var.defined() ? var.value() : Tensor();
}

std::vector<Var> ParameterStore::parameters() const {
    std::vector<Var> out;
    for (const NamedTensor& entry : entries_)
        if (entry.trainable) out.push_back(entry.value);
    return out;
}

}  // namespace dualmcmc
