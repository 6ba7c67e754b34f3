// SPDX-License-Identifier: Apache-2.0
// The kernels of src/low_bit_kernel.cpp against plain sums, without Python: for instruction sets that the machine at
// hand runs under an emulator only. `make kernels-arm` compiles both for ARM and runs them with qemu.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define JOIN(kind, isa) svd_vlm_##kind##_##isa
#define KERNEL(kind, isa) JOIN(kind, isa)

extern "C" void KERNEL(int8, INSTRUCTIONS)(const float *, int64_t, int64_t, const uint8_t *, const float *,
                                           const float *, int64_t, void *, float *, int);
extern "C" void KERNEL(nf4, INSTRUCTIONS)(const float *, int64_t, int64_t, const uint8_t *, const uint16_t *,
                                          const float *, int64_t, void *, float *, int);

namespace {

const float kNf4[16] = {-1.0f,        -0.69619280f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f,
                        -0.09105004f, 0.0f,         0.07958030f,  0.16093020f,  0.24611230f,  0.33791524f,
                        0.44070983f,  0.56261700f,  0.72295684f,  1.0f};
constexpr uint16_t kHalfOne = 0x3c00, kHalfTwo = 0x4000;

float uniform() { return 2.0f * static_cast<float>(std::rand()) / RAND_MAX - 1.0f; }

// The largest error as a share of the sum of the products' sizes.
double check(bool nf4, int64_t count, int64_t inputs, int64_t outputs) {
  const int64_t padded = (inputs + 63) / 64 * 64, panels = (outputs + 15) / 16, blocks = padded / 64;
  std::vector<float> x(count * inputs), bias(outputs), y(count * outputs), scales(panels * 16);
  std::vector<float> exact(panels * 16 * padded, 0.0f);
  std::vector<uint16_t> halves(panels * blocks * 16);
  const int64_t bytes = panels * padded * (nf4 ? 8 : 16);
  auto *levels = static_cast<uint8_t *>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  std::fill(levels, levels + bytes, nf4 ? 0x77 : 128);
  std::vector<uint8_t> scratch(count * padded * 9 / 8);
  for (auto &value : x) value = uniform();
  for (auto &value : bias) value = uniform();
  for (auto &value : scales) value = 0.01f + 0.001f * std::fabs(uniform());
  for (auto &value : halves) value = std::rand() % 2 ? kHalfOne : kHalfTwo;
  for (int64_t n = 0; n < outputs; ++n) {
    const int64_t panel = n / 16, lane = n % 16;
    for (int64_t k = 0; k < inputs; ++k) {
      const int64_t step = k / 4, within = k % 4;
      if (nf4) {
        const int code = std::rand() % 16;
        uint8_t &byte = levels[(panel * padded / 4 + step) * 32 + lane % 8 * 4 + within];
        byte = lane < 8 ? (byte & 0xf0) | code : (byte & 0x0f) | code << 4;
        const float scale = halves[(panel * blocks + k / 64) * 16 + lane] == kHalfOne ? 1.0f : 2.0f;
        exact[n * padded + k] = kNf4[code] * scale;
      } else {
        const int level = std::rand() % 255 - 127;
        levels[(panel * padded / 4 + step) * 64 + lane * 4 + within] = static_cast<uint8_t>(level + 128);
        exact[n * padded + k] = static_cast<float>(level) * scales[n];
      }
    }
  }
  if (nf4)
    KERNEL(nf4, INSTRUCTIONS)
    (x.data(), count, inputs, levels, halves.data(), bias.data(), outputs, scratch.data(), y.data(), 2);
  else
    KERNEL(int8, INSTRUCTIONS)
    (x.data(), count, inputs, levels, scales.data(), bias.data(), outputs, scratch.data(), y.data(), 2);
  std::free(levels);
  double worst = 0.0;
  for (int64_t row = 0; row < count; ++row)
    for (int64_t n = 0; n < outputs; ++n) {
      double sum = bias[n], size = 1e-6;
      for (int64_t k = 0; k < inputs; ++k) {
        const double product = static_cast<double>(x[row * inputs + k]) * exact[n * padded + k];
        sum += product;
        size += std::fabs(product);
      }
      const double error = std::fabs(y[row * outputs + n] - sum) / size;
      worst = error > worst || std::isnan(error) ? error : worst;
    }
  return worst;
}

}  // namespace

int main() {
  bool right = true;
  for (const bool nf4 : {false, true})
    for (const int64_t count : {1, 2, 3, 4, 67, 150})
      for (const int64_t inputs : {64, 256, 4096})
        for (const int64_t outputs : {1, 16, 50}) {
          const double error = check(nf4, count, nf4 ? inputs : inputs - 5, outputs);
          if (!(error < 0.02)) {
            std::printf("%s, %d rows, %d inputs, %d outputs: off by %.4f\n", nf4 ? "nf4" : "int8",
                        static_cast<int>(count), static_cast<int>(inputs), static_cast<int>(outputs), error);
            right = false;
          }
        }
  std::puts(right ? "The kernels are right." : "The kernels are WRONG.");
  return right ? 0 : 1;
}
