// SPDX-License-Identifier: Apache-2.0
// Products of float rows and weights of 8 or 4 bits, for CPUs that torch and bitsandbytes have no fast ones for.
//
//     y[r, n] = sum_k x[r, k] w[n, k] + bias[n]
//
// with the weights as bitsandbytes has them: int8 levels with a scale for each output, or NF4 codes with a scale for
// each output and block of 64 inputs. Each row of x is rounded to int8 in blocks of 64 inputs with a scale of their
// own, so that an outlier costs its block precision and not its row. Within a block the products of bytes are summed
// exactly, from block to block in float32.
//
// Layout of the weights. A panel is 16 outputs, a step 4 inputs.
//     int8  64 bytes a step: [16 outputs][4 inputs], level + 128. Scales: float32 [outputs].
//     NF4   32 bytes a step: [8 outputs][4 inputs], low nibbles for outputs 0 to 7, high ones for 8 to 15.
//           Scales: float16 [panel][block][16 outputs].
//
// This file is compiled once for each instruction set (CMakeLists.txt); `kernels.py` chooses what the CPU has.
// Plain C functions over pointers, so that no version of torch or Python is built in. OpenMP, since torch has brought
// its runtime into the process already: one pool of threads serves both.

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>  // AVX-512, too
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace {

constexpr int kPanel = 16;
constexpr int kBlock = 64;
constexpr int kStep = 4;
constexpr int kSteps = kBlock / kStep;
constexpr int64_t kCached = 384 * 1024;    // bytes of rounded rows that pass by a panel at a time: they stay in L2
constexpr int64_t kChunk = 128;            // and no more rows than this
constexpr int64_t kTogether = 64 * 1024;   // products below which waking a second thread costs more than it saves

#if defined(__AVX512VNNI__)

constexpr int kLanes = 16;  // outputs of one register of sums
constexpr int kTile = 8;    // rows whose sums stay in registers together
using Bytes = __m512i;
using Sums = __m512i;
using Floats = __m512;

inline Bytes four(const int8_t *row) {  // the same 4 inputs for each output
  int32_t word;
  std::memcpy(&word, row, sizeof word);
  return _mm512_set1_epi32(word);
}
inline Sums start(int32_t value) { return _mm512_set1_epi32(value); }
inline Bytes load(const uint8_t *from) { return _mm512_loadu_si512(from); }
inline void store(uint8_t *to, Bytes bytes) { _mm512_storeu_si512(to, bytes); }
inline Floats load(const float *from) { return _mm512_loadu_ps(from); }
inline void store(float *to, Floats numbers) { _mm512_storeu_ps(to, numbers); }
inline Floats half(const uint16_t *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline Floats times(Floats numbers, float factor) { return _mm512_mul_ps(numbers, _mm512_set1_ps(factor)); }
inline Floats plus(Floats total, Sums sums, Floats factors) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), factors, total);
}
inline Floats product(Floats one, Floats other) { return _mm512_mul_ps(one, other); }
inline Floats all(float value) { return _mm512_set1_ps(value); }

// Weights are unsigned here: their zero lies at kZero, which `starts` takes back.
constexpr int kInt8Limit = 127, kInt8Zero = 128, kNf4Zero = 127, kNf4One = 127;
using Level = uint8_t;
inline Sums dot(Sums sums, Bytes weights, Bytes inputs) { return _mm512_dpbusd_epi32(sums, weights, inputs); }
inline Bytes table(const Level *levels) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i *>(levels)));
}
// A step of NF4: 32 bytes of codes to 64 levels.
inline void open_step(Bytes table, const uint8_t *stored, uint8_t *room) {
  const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(stored));
  const Bytes both = _mm512_inserti64x4(_mm512_castsi256_si512(codes), _mm256_srli_epi16(codes, 4), 1);
  store(room, _mm512_shuffle_epi8(table, _mm512_and_si512(both, _mm512_set1_epi8(15))));
}
inline Bytes as_stored(Bytes levels) { return levels; }

#elif defined(__AVX2__)

constexpr int kLanes = 8;
constexpr int kTile = 4;
using Bytes = __m256i;
using Sums = __m256i;
using Floats = __m256;

inline Bytes four(const int8_t *row) {  // the same 4 inputs for each output
  int32_t word;
  std::memcpy(&word, row, sizeof word);
  return _mm256_set1_epi32(word);
}
inline Sums start(int32_t value) { return _mm256_set1_epi32(value); }
inline Bytes load(const uint8_t *from) { return _mm256_load_si256(reinterpret_cast<const __m256i *>(from)); }
inline void store(uint8_t *to, Bytes bytes) { _mm256_store_si256(reinterpret_cast<__m256i *>(to), bytes); }
inline Floats load(const float *from) { return _mm256_loadu_ps(from); }
inline void store(float *to, Floats numbers) { _mm256_storeu_ps(to, numbers); }
inline Floats half(const uint16_t *from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}
inline Floats times(Floats numbers, float factor) { return _mm256_mul_ps(numbers, _mm256_set1_ps(factor)); }
inline Floats plus(Floats total, Sums sums, Floats factors) {
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), factors, total);
}
inline Floats product(Floats one, Floats other) { return _mm256_mul_ps(one, other); }
inline Floats all(float value) { return _mm256_set1_ps(value); }

#if defined(__AVXVNNI__)
constexpr int kInt8Limit = 127;
inline Sums dot(Sums sums, Bytes weights, Bytes inputs) { return _mm256_dpbusd_avx_epi32(sums, weights, inputs); }
#else
// vpmaddubsw adds two products in 16 bits and saturates: 2 * 255 * 63 and 2 * 126 * 127 are below 2^15.
constexpr int kInt8Limit = 63;
inline Sums dot(Sums sums, Bytes weights, Bytes inputs) {
  const __m256i pairs = _mm256_maddubs_epi16(weights, inputs);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
constexpr int kInt8Zero = 128, kNf4Zero = 63, kNf4One = 63;
using Level = uint8_t;

inline Bytes table(const Level *levels) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(levels)));
}
inline Bytes look_up(Bytes table, Bytes codes) { return _mm256_shuffle_epi8(table, codes); }
inline Bytes low(Bytes codes) { return _mm256_and_si256(codes, _mm256_set1_epi8(15)); }
inline Bytes high(Bytes codes) { return low(_mm256_srli_epi16(codes, 4)); }
inline Bytes as_stored(Bytes levels) { return levels; }

#elif defined(__ARM_FEATURE_DOTPROD)

constexpr int kLanes = 4;
constexpr int kTile = 4;
using Bytes = int8x16_t;
using Sums = int32x4_t;
using Floats = float32x4_t;

inline Bytes four(const int8_t *row) {
  int32_t word;
  std::memcpy(&word, row, sizeof word);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}
inline Sums start(int32_t value) { return vdupq_n_s32(value); }
inline Bytes load(const uint8_t *from) { return vreinterpretq_s8_u8(vld1q_u8(from)); }
inline void store(uint8_t *to, Bytes bytes) { vst1q_u8(to, vreinterpretq_u8_s8(bytes)); }
inline Floats load(const float *from) { return vld1q_f32(from); }
inline void store(float *to, Floats numbers) { vst1q_f32(to, numbers); }
inline Floats half(const uint16_t *from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
inline Floats times(Floats numbers, float factor) { return vmulq_n_f32(numbers, factor); }
inline Floats plus(Floats total, Sums sums, Floats factors) { return vfmaq_f32(total, vcvtq_f32_s32(sums), factors); }
inline Floats product(Floats one, Floats other) { return vmulq_f32(one, other); }
inline Floats all(float value) { return vdupq_n_f32(value); }

// Bytes are signed here, and zero is 0.
constexpr int kInt8Limit = 127, kInt8Zero = 0, kNf4Zero = 0, kNf4One = 127;
using Level = int8_t;
inline Sums dot(Sums sums, Bytes weights, Bytes inputs) { return vdotq_s32(sums, weights, inputs); }
inline Bytes table(const Level *levels) { return vld1q_s8(levels); }
inline Bytes look_up(Bytes table, Bytes codes) { return vqtbl1q_s8(table, vreinterpretq_u8_s8(codes)); }
inline Bytes low(Bytes codes) { return vandq_s8(codes, vdupq_n_s8(15)); }
inline Bytes high(Bytes codes) { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(codes), 4)); }
inline Bytes as_stored(Bytes levels) { return veorq_s8(levels, vdupq_n_s8(-128)); }

#endif

constexpr int kVectors = kPanel / kLanes;  // registers of one panel

#if !defined(__AVX512VNNI__)
inline void open_step(Bytes table, const uint8_t *stored, uint8_t *room) {
  constexpr int half = kVectors / 2;
  for (int v = 0; v < half; ++v) {
    const Bytes codes = load(stored + v * sizeof(Bytes));
    store(room + v * sizeof(Bytes), look_up(table, low(codes)));
    store(room + (half + v) * sizeof(Bytes), look_up(table, high(codes)));
  }
}
#endif

constexpr int kNf4Limit = 127;

// QLoRA (arXiv 2305.14314), appendix E.
constexpr float kNf4[16] = {-1.0f,        -0.69619280f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f,
                            -0.09105004f, 0.0f,         0.07958030f,  0.16093020f,  0.24611230f,  0.33791524f,
                            0.44070983f,  0.56261700f,  0.72295684f,  1.0f};

// x, rounded. Block by block, not row by row: a panel reads one block of many rows at a time, and at a distance of
// 4096 bytes they would all fall into the same few lines of the cache.
struct Rows {
  int8_t *levels;   // [blocks, count, 64]
  float *scales;    // [blocks, count]
  int32_t *starts;  // [blocks, count]: takes back what the weights' zero adds to a sum
  int64_t count, blocks;
};

void round_row(const float *x, int64_t inputs, int limit, int zero, const Rows &rows, int64_t row) {
  for (int64_t block = 0; block < rows.blocks; ++block) {
    const int64_t at = block * rows.count + row, left = inputs - block * kBlock;
    alignas(32) float part[kBlock] = {};
    std::memcpy(part, x + block * kBlock, sizeof(float) * (left < kBlock ? left : kBlock));
    // Compared by their bits: larger numbers have larger ones, and those of NaN are the largest of all.
    int32_t most = 0;
    for (float value : part) {
      int32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      bits &= 0x7fffffff;
      most = bits > most ? bits : most;
    }
    float largest;
    std::memcpy(&largest, &most, sizeof largest);
    const bool finite = largest <= 3.4028235e38f;
    const float step = finite ? largest / static_cast<float>(limit) : NAN;  // one that is not spoils the row
    const float per_step = finite && largest > 1e-30f ? 1.0f / step : 0.0f;
    int32_t total = 0;
    for (int i = 0; i < kBlock; ++i) {
      const int level = finite ? static_cast<int>(std::nearbyintf(part[i] * per_step)) : 0;
      rows.levels[at * kBlock + i] = static_cast<int8_t>(level);
      total += level;
    }
    rows.scales[at] = step;
    rows.starts[at] = -zero * total;
  }
}

// Adds the products of a block of one panel to the totals of `count` rows.
template <int count>
inline void add_block(const uint8_t *panel, const Rows &rows, int64_t row, int64_t block, const Floats *factors,
                      float *totals) {
  Sums sums[count][kVectors];
  const int64_t at = block * rows.count + row;
  const int8_t *inputs = rows.levels + at * kBlock;
  for (int r = 0; r < count; ++r)
    for (int v = 0; v < kVectors; ++v) sums[r][v] = start(rows.starts[at + r]);
  for (int step = 0; step < kSteps; ++step) {
    Bytes weights[kVectors];
    for (int v = 0; v < kVectors; ++v) weights[v] = load(panel + (step * kVectors + v) * kLanes * kStep);
    for (int r = 0; r < count; ++r) {
      const Bytes some = four(inputs + r * kBlock + step * kStep);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = dot(sums[r][v], weights[v], some);
    }
  }
  for (int r = 0; r < count; ++r) {
    const float scale = rows.scales[at + r];
    for (int v = 0; v < kVectors; ++v) {
      float *total = totals + r * kPanel + v * kLanes;
      store(total, plus(load(total), sums[r][v], times(factors[v], scale)));
    }
  }
}

struct Int8 {
  static constexpr int kBytes = kPanel * kStep;  // of a step
  static constexpr int kLimit = kInt8Limit, kZero = kInt8Zero;
  const float *scales;

  const uint8_t *open(const uint8_t *stored, uint8_t *room) const {
    if (kInt8Zero) return stored;
    for (int i = 0; i < kBlock * kPanel; i += sizeof(Bytes)) store(room + i, as_stored(load(stored + i)));
    return room;
  }
  void factors(int64_t, int64_t, int64_t, Floats *into) const {
    for (int v = 0; v < kVectors; ++v) into[v] = all(1.0f);
  }
  void last(int64_t panel, float *total) const {
    for (int v = 0; v < kVectors; ++v)
      store(total + v * kLanes, product(load(total + v * kLanes), load(scales + panel * kPanel + v * kLanes)));
  }
};

struct Nf4 {
  static constexpr int kBytes = kPanel * kStep / 2;
  static constexpr int kLimit = kNf4Limit, kZero = kNf4Zero;
  const uint16_t *scales;
  alignas(16) Level levels[16];

  explicit Nf4(const uint16_t *scales) : scales(scales) {
    for (int code = 0; code < 16; ++code)
      levels[code] = static_cast<Level>(std::nearbyintf(kNf4[code] * kNf4One) + kNf4Zero);
  }
  const uint8_t *open(const uint8_t *stored, uint8_t *room) const {
    const Bytes known = table(levels);
    for (int step = 0; step < kSteps; ++step) open_step(known, stored + step * kBytes, room + step * 2 * kBytes);
    return room;
  }
  void factors(int64_t panel, int64_t block, int64_t blocks, Floats *into) const {
    const uint16_t *from = scales + (panel * blocks + block) * kPanel;
    for (int v = 0; v < kVectors; ++v) into[v] = times(half(from + v * kLanes), 1.0f / kNf4One);
  }
  void last(int64_t, float *) const {}
};

template <class Kind>
void multiply_panel(const Kind &kind, const uint8_t *weights, const float *bias, int64_t panel, int64_t outputs,
                    const Rows &rows, int64_t first, int64_t end, float *totals, float *y) {
  std::memset(totals, 0, sizeof(float) * (end - first) * kPanel);
  alignas(64) uint8_t room[kBlock * kPanel];
  for (int64_t block = 0; block < rows.blocks; ++block) {
    const uint8_t *bytes = kind.open(weights + (panel * rows.blocks + block) * kSteps * Kind::kBytes, room);
    Floats factors[kVectors];
    kind.factors(panel, block, rows.blocks, factors);
    int64_t row = first;
    for (; row + kTile <= end; row += kTile)
      add_block<kTile>(bytes, rows, row, block, factors, totals + (row - first) * kPanel);
    if (kTile > 4 && row + 4 <= end) {
      add_block<4>(bytes, rows, row, block, factors, totals + (row - first) * kPanel);
      row += 4;
    }
    if (row + 2 <= end) {
      add_block<2>(bytes, rows, row, block, factors, totals + (row - first) * kPanel);
      row += 2;
    }
    if (row < end) add_block<1>(bytes, rows, row, block, factors, totals + (row - first) * kPanel);
  }
  const int64_t column = panel * kPanel;
  const int64_t count = outputs - column < kPanel ? outputs - column : kPanel;
  for (int64_t row = first; row < end; ++row) {
    float *total = totals + (row - first) * kPanel;
    kind.last(panel, total);
    for (int64_t i = 0; i < count; ++i) y[row * outputs + column + i] = total[i] + (bias ? bias[column + i] : 0.0f);
  }
}

template <class Kind>
void multiply(const Kind &kind, const float *x, int64_t count, int64_t inputs, const uint8_t *weights,
              const float *bias, int64_t outputs, void *scratch, float *y, int threads) {
  const int64_t blocks = (inputs + kBlock - 1) / kBlock, panels = (outputs + kPanel - 1) / kPanel;
  auto *levels = static_cast<int8_t *>(scratch);
  auto *scales = reinterpret_cast<float *>(levels + count * blocks * kBlock);
  auto *starts = reinterpret_cast<int32_t *>(scales + count * blocks);
  const Rows rows{levels, scales, starts, count, blocks};
  int64_t chunk = kCached / (blocks * kBlock);
  chunk = chunk < kTile ? kTile : chunk > kChunk ? kChunk : chunk;
  const int64_t chunks = (count + chunk - 1) / chunk;
  chunk = ((count + chunks - 1) / chunks + kTile - 1) / kTile * kTile;  // all about as long
#pragma omp parallel num_threads(threads) if (threads > 1 && count * inputs * outputs > kTogether)
  {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < count; ++row)
      round_row(x + row * inputs, inputs, Kind::kLimit, Kind::kZero, rows, row);
    alignas(64) float totals[kChunk * kPanel];
    for (int64_t first = 0; first < count; first += chunk) {
      const int64_t end = first + chunk < count ? first + chunk : count;
#pragma omp for schedule(static) nowait
      for (int64_t panel = 0; panel < panels; ++panel)
        multiply_panel(kind, weights, bias, panel, outputs, rows, first, end, totals, y);
    }
  }
}

}  // namespace

#define NAME(kind, isa) svd_vlm_##kind##_##isa
#define NAMED(kind, isa) NAME(kind, isa)
#define EXPORT(kind, isa) extern "C" __attribute__((visibility("default"))) void NAMED(kind, isa)

// x: float32 [count, inputs]; y: float32 [count, outputs]; weights aligned to 32 bytes; scratch: count * padded inputs
// * 1.125 bytes, padded to whole blocks of 64.
#define KERNELS(isa)                                                                                                 \
  EXPORT(int8, isa)(const float *x, int64_t count, int64_t inputs, const uint8_t *weights, const float *scales,       \
                    const float *bias, int64_t outputs, void *scratch, float *y, int threads) {                      \
    multiply(Int8{scales}, x, count, inputs, weights, bias, outputs, scratch, y, threads);                           \
  }                                                                                                                  \
  EXPORT(nf4, isa)(const float *x, int64_t count, int64_t inputs, const uint8_t *weights, const uint16_t *scales,     \
                   const float *bias, int64_t outputs, void *scratch, float *y, int threads) {                       \
    multiply(Nf4{scales}, x, count, inputs, weights, bias, outputs, scratch, y, threads);                            \
  }

KERNELS(INSTRUCTIONS)
