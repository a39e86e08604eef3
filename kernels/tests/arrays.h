// Arrays for the tests: numbers as doubles, and the same numbers in a memory layout and dtype, between guards.
#pragma once

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "../src/scan.h"

// Numbers by sample, route, group, step and channel (or state); axes that an array lacks have size 1, absent arrays 0.
struct Dense {
    int64_t size[5] = {0, 0, 0, 0, 0};
    std::vector<double> values;

    Dense() {}
    Dense(int64_t b, int64_t k, int64_t g, int64_t m, int64_t c)
        : size{b, k, g, m, c}, values((size_t)(b * k * g * m * c)) {}
    double &at(int64_t b, int64_t k, int64_t g, int64_t m, int64_t c) {
        return values[(size_t)((((b * size[1] + k) * size[2] + g) * size[3] + m) * size[4] + c)];
    }
};

template <class Visit>
void every(const int64_t *size, Visit visit) {
    for (int64_t b = 0; b < size[0]; b++)
        for (int64_t k = 0; k < size[1]; k++)
            for (int64_t g = 0; g < size[2]; g++)
                for (int64_t m = 0; m < size[3]; m++)
                    for (int64_t c = 0; c < size[4]; c++) visit(b, k, g, m, c);
}

inline uint16_t half_bits(double x) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x)) return sign | 0x7e00;
    int exponent = 0;
    frexp(x, &exponent);
    exponent = exponent - 1 < -14 ? -14 : exponent - 1;
    int64_t steps = (int64_t)nearbyint(ldexp(fabs(x), 10 - exponent));  // of one unit in the last place
    if (steps == 2048) steps = 1024, exponent++;
    if (exponent > 15) return sign | 0x7c00;
    return sign | (uint16_t)(steps < 1024 ? steps : ((exponent + 15) << 10 | (steps - 1024)));
}

inline double half_value(uint16_t bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                  : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                 : ldexp(mantissa, -24);
    return bits & 0x8000 ? -size : size;
}

inline uint16_t bfloat_bits(double x) {
    float narrow = (float)x;  // tests hold floats: nothing is rounded twice
    uint32_t bits;
    memcpy(&bits, &narrow, 4);
    if (isnan(x)) return 0x7fc0;
    uint32_t rest = bits & 0xffff, up = rest > 0x8000 || (rest == 0x8000 && (bits >> 16 & 1));
    return (uint16_t)((bits >> 16) + up);
}

inline double bfloat_value(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
}

enum Layout { CHANNELS_LAST, STEPS_LAST, WIDE_ROWS, SPREAD, EXPANDED, LAYOUTS };

// Memory as the kernels see it. Everything that is no element of the array is 0xff bytes (NaN in every dtype): guards
// before and after it, and gaps between rows or channels. Under AddressSanitizer there are no guards: it has its own.
class Array {
  public:
    Array() {}
    // EXPANDED: one sample's numbers for all samples. An array without numbers is filled with NaN.
    Array(const int64_t *size, int64_t dtype, int layout) : dtype_(dtype) {
        memcpy(size_, size, sizeof size_);
        int64_t gap = layout == WIDE_ROWS ? 5 : layout == SPREAD ? 3 : 0, apart = layout == SPREAD ? 2 : 1;
        int64_t inner = layout == STEPS_LAST ? 3 : 4, outer = 7 - inner;
        stride_[inner] = apart;
        stride_[outer] = apart * size_[inner] + gap;
        int64_t total = stride_[outer] * size_[outer];
        for (int axis = 2; axis >= 0; axis--) {
            bool repeated = axis == 0 && layout == EXPANDED;
            stride_[axis] = repeated ? 0 : total;
            if (!repeated) total *= size_[axis];
        }
        memory_.assign((size_t)(total * width()) + 2 * GUARD, 0xff);
        before_ = memory_;
    }
    Array(const Dense &numbers, int64_t dtype, int layout) : Array(numbers.size, dtype, layout) {
        Dense copy = numbers;
        every(size_, [&](auto... i) { set(offset(i...), copy.at(i...)); });
        before_ = memory_;
    }

    Dense read() const {
        Dense found(size_[0], size_[1], size_[2], size_[3], size_[4]);
        every(size_, [&](auto... i) { found.at(i...) = get(offset(i...)); });
        return found;
    }
    void *data() { return memory_.data() + GUARD; }
    cm_array view() {
        cm_array a = {data(), dtype_, stride_[0], stride_[1], stride_[2], stride_[3], stride_[4]};
        return a;
    }
    bool unchanged() const { return memory_ == before_; }
    // Whether nothing but elements was written since construction without numbers.
    bool only_elements_written() const {
        Array rest = *this;
        every(size_, [&](auto... i) {
            memset(rest.memory_.data() + GUARD + rest.offset(i...) * width(), 0xff, (size_t)width());
        });
        for (unsigned char byte : rest.memory_)
            if (byte != 0xff) return false;
        return true;
    }

  private:
#if defined(__SANITIZE_ADDRESS__)
    static constexpr int64_t GUARD = 0;
#else
    static constexpr int64_t GUARD =
        1036;  // odd in units of a vector: the array itself is aligned to its elements only
#endif
    int64_t size_[5], stride_[5], dtype_ = CM_FLOAT32;
    std::vector<unsigned char> memory_, before_;

    int64_t width() const { return dtype_ == CM_FLOAT32 ? 4 : 2; }
    int64_t offset(int64_t b, int64_t k, int64_t g, int64_t m, int64_t c) const {
        return b * stride_[0] + k * stride_[1] + g * stride_[2] + m * stride_[3] + c * stride_[4];
    }
    void set(int64_t offset, double x) {
        unsigned char *to = memory_.data() + GUARD + offset * width();
        float wide = (float)x;
        uint16_t narrow = dtype_ == CM_BFLOAT16 ? bfloat_bits(x) : half_bits(x);
        memcpy(to, dtype_ == CM_FLOAT32 ? (void *)&wide : (void *)&narrow, (size_t)width());
    }
    double get(int64_t offset) const {
        const unsigned char *from = memory_.data() + GUARD + offset * width();
        float wide;
        uint16_t narrow;
        memcpy(&narrow, from, 2);
        if (dtype_ != CM_FLOAT32) return dtype_ == CM_BFLOAT16 ? bfloat_value(narrow) : half_value(narrow);
        memcpy(&wide, from, 4);
        return wide;
    }
};
