// SPDX-License-Identifier: Apache-2.0
// The blocks of a JPEG's scans, one by one: whether their codes are such as an encoder writes. A caller looks behind each
// block whether the segment had its bits.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "jpeg_huffman.hpp"

// svd_vlm_ros/images/jpeg_scan.py has a sentence for each.
enum Finding {
  kWhole,
  kUnknown,     // a kind that is not read here: arithmetic coding, lossless, hierarchical, 12 bits
  kHeader,      // a segment that contradicts itself or another one
  kCode,        // bits that are no code of their table
  kRun,         // a run that leaves its block or its scan
  kRange,       // a coefficient larger than an image can have
  kShort,       // a scan that ends before its last block
  kLong,        // data behind the last block of a scan
  kRestart,     // a restart marker that is missing or out of turn
  kIncomplete,  // a coefficient that no scan has, or not to its last bit
};

constexpr int kLargest = 1100;  // 8-bit samples have coefficients within +-1024; encoders approximate their cosines

struct Component {
  int id, across, down, quantization;  // across, down: sampling factors, blocks of an MCU
  int64_t columns, rows;               // blocks that hold samples
  int64_t stride;                      // blocks of a row with those that fill up the last MCU
  int last_dc = 0;
  int8_t missing[64];                  // of each coefficient: bits that no scan has had; -1: not begun
  std::vector<uint64_t> nonzero;       // progressive: for each block, which coefficients are not 0
};

// What a scan has of a component.
struct Part {
  Component *component;
  const Huffman *dc, *ac;
  const int *quantization;
  int across, down;  // blocks of an MCU
  int largest_dc = 0;  // of sequential scans, as the next two
  const DcLook *dc_look = nullptr;
  const AcLook *ac_look = nullptr;
};

struct Scan {
  std::vector<Part> parts;
  int first, last, high, low;  // Ss, Se, Ah, Al
  int64_t run = 0;             // blocks that are to end at once
};

inline bool in_range(int64_t level, int quantization) {
  return std::llabs(level) * quantization <= kLargest + quantization;
}

// The most bits of a value that is in range wherever it is.
inline int safe_bits(const int *quantization) {
  int safe = kMostBits;
  for (int k = 1; k < 64; ++k)
    while (!in_range((1 << safe) - 1, quantization[k])) --safe;
  return safe;
}

inline Finding dc(const Part &part, int low, Cursor &bits) {
  const int size = part.dc->next(bits);
  if (size < 0 || size > kMostBits + 1) return kCode;
  int &last = part.component->last_dc;
  last += extended(bits.take(size), size);
  return in_range(last * (1 << low), part.quantization[0]) ? kWhole : kRange;
}

inline Finding sequential_dc(const Part &part, Cursor &bits) {
  bits.fill();
  const int entry = (*part.dc_look)[bits.look(kLook)];
  if (entry == 0) return dc(part, 0, bits);
  bits.skip(entry & 63);
  int &last = part.component->last_dc;
  last += entry >> 8;
  return static_cast<unsigned>(last + part.largest_dc) <= 2u * part.largest_dc ? kWhole : kRange;
}

inline Finding sequential_ac(const Part &part, Cursor &bits) {
  const AcLook &look = *part.ac_look;
  for (int k = 1; k < 64;) {
    bits.fill();  // enough for two looks
    unsigned entry = look[bits.look(kLook)];
    int passed = k + static_cast<int>(entry >> 8);
    if (passed < 64) {
      k = passed;
      bits.skip(entry & 63);
      entry = look[bits.look(kLook)];
      passed = k + static_cast<int>(entry >> 8);
    }
    if (passed < 64) {
      k = passed;
      bits.skip(entry & 63);
    } else if (passed >= AcLook::kEnd && passed < AcLook::kEnd + 64) {
      bits.skip(entry & 63);
      return kWhole;
    } else {  // one code alone
      const int symbol = part.ac->next(bits);
      if (symbol < 0) return kCode;
      const int size = symbol & 15;
      if (symbol == 0) return kWhole;
      if ((size == 0 && symbol != 0xf0) || size > kMostBits) return kCode;
      k += symbol >> 4;
      if (k > 63) return kRun;
      if (!in_range(extended(bits.take(size), size), part.quantization[k])) return kRange;
      ++k;
    }
  }
  return kWhole;
}

inline Finding first_ac(Scan &scan, const Part &part, uint64_t &nonzero, Cursor &bits) {
  if (scan.run > 0) {
    --scan.run;
    return kWhole;
  }
  for (int k = scan.first; k <= scan.last; ++k) {
    const int symbol = part.ac->next(bits);
    if (symbol < 0) return kCode;
    const int zeros = symbol >> 4, size = symbol & 15;
    if (size == 0 && zeros < 15) {
      scan.run = (1 << zeros) - 1 + static_cast<int64_t>(bits.take(zeros));
      return kWhole;
    }
    k += zeros;
    if (k > scan.last) return kRun;
    if (size > kMostBits) return kCode;
    if (size == 0) continue;
    const int64_t value = extended(bits.take(size), size);
    if (!in_range(value * (1 << scan.low), part.quantization[k])) return kRange;
    nonzero |= uint64_t{1} << k;
  }
  return kWhole;
}

// Each coefficient that is there gets a bit; new ones come in after a number of those that stay 0.
inline Finding refined_ac(Scan &scan, const Part &part, uint64_t &nonzero, Cursor &bits) {
  int k = scan.first;
  const auto refine = [&](int zeros) {  // up to the place of the next new one
    for (; k <= scan.last; ++k) {
      if (nonzero >> k & 1) {
        bits.fill();
        bits.skip(1);
      } else if (zeros-- == 0) {
        return;
      }
    }
  };
  while (scan.run == 0 && k <= scan.last) {
    const int symbol = part.ac->next(bits);
    if (symbol < 0) return kCode;
    const int zeros = symbol >> 4, size = symbol & 15;
    if (size > 1) return kCode;
    if (size == 0 && zeros < 15) {
      scan.run = (1 << zeros) + static_cast<int64_t>(bits.take(zeros));
      break;
    }
    bits.skip(size);  // the sign of the new one
    refine(zeros);
    if (k > scan.last) return kRun;
    if (size == 1) nonzero |= uint64_t{1} << k;
    ++k;
  }
  if (scan.run > 0) {
    refine(64);
    --scan.run;
  }
  return kWhole;
}

inline Finding progressive_block(Scan &scan, const Part &part, int64_t index, Cursor &bits) {
  if (scan.first == 0) {
    if (scan.high == 0) return dc(part, scan.low, bits);
    bits.fill();
    bits.skip(1);
    return kWhole;
  }
  uint64_t &nonzero = part.component->nonzero[index];
  return scan.high == 0 ? first_ac(scan, part, nonzero, bits) : refined_ac(scan, part, nonzero, bits);
}
