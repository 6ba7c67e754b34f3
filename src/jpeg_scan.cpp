// SPDX-License-Identifier: Apache-2.0
// Whether a JPEG's data are such as an encoder writes: what a decoder forgives, this does not.
//
// A JPEG has no checksum, and a decoder that meets changed bytes goes on. libjpeg cuts a run of zeros that leaves its
// block, adds up brightness out of any range, leaves bits over at the end of a scan, and all of that without a warning.
// Here the scans of sequential and progressive files (ITU-T T.81, Huffman coding) are read to see whether that happens.
// No pixel is computed.
//
// Plain C functions over pointers, so that no version of Python is built in.

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "jpeg_blocks.hpp"
#include "jpeg_standard.hpp"

namespace {

// Of two steps of quantization side by side: encoders' tables run smoothly (2 is usual, 4 a lot), changed bytes do not.
constexpr int kMostRatio = 16;

class Reader {
 public:
  Reader(const uint8_t *data, int64_t size) : at_(data), end_(data + size) {}

  Finding read() {
    huffman_[0][0].set(kDcLuma);
    huffman_[0][1].set(kDcChroma);
    huffman_[1][0].set(kAcLuma);
    huffman_[1][1].set(kAcChroma);
    if (end_ - at_ < 2 || at_[0] != 0xff || at_[1] != 0xd8) return kUnknown;
    at_ += 2;
    for (;;) {
      if (at_ == end_) return kShort;
      if (*at_ != 0xff) return kLong;
      while (at_ != end_ && *at_ == 0xff) ++at_;  // any number may fill up
      if (at_ == end_) return kShort;
      const int marker = *at_++;
      if (marker == 0xd9) return complete() ? kWhole : kIncomplete;
      if (marker >= 0xd0 && marker <= 0xd7) return kRestart;
      if (end_ - at_ < 2) return kShort;
      const int64_t length = at_[0] << 8 | at_[1];
      if (length < 2 || end_ - at_ < length) return kShort;
      const uint8_t *segment = at_ + 2;
      at_ += length;
      const Finding found = one_segment(marker, segment, length - 2);
      if (found != kWhole) return found;
    }
  }

 private:
  Finding one_segment(int marker, const uint8_t *from, int64_t size) {
    switch (marker) {
      case 0xc0: case 0xc1: case 0xc2: return frame(marker, from, size);
      case 0xc4: return huffman_tables(from, size);
      case 0xda: return scan(from, size);
      case 0xdb: return quantization_tables(from, size);
      case 0xdd:
        if (size != 2) return kHeader;
        interval_ = from[0] << 8 | from[1];
        return kWhole;
      case 0xfe: return kWhole;
      default: return marker >= 0xe0 && marker <= 0xef ? kWhole : kUnknown;  // APPn
    }
  }

  Finding quantization_tables(const uint8_t *from, int64_t size) {
    while (size > 0) {
      const int wide = from[0] >> 4, number = from[0] & 15, bytes = wide ? 128 : 64;
      if (wide > 1 || number > 3 || size < 1 + bytes) return kHeader;
      for (int k = 0; k < 64; ++k) {
        const uint8_t *value = from + 1 + k * (1 + wide);
        quantization_[number][k] = wide ? value[0] << 8 | value[1] : value[0];
        const int step = quantization_[number][k], last = quantization_[number][k > 0 ? k - 1 : 0];
        if (step == 0 || step > kMostRatio * last || last > kMostRatio * step) return kHeader;
      }
      from += 1 + bytes;
      size -= 1 + bytes;
    }
    return kWhole;
  }

  Finding huffman_tables(const uint8_t *from, int64_t size) {
    while (size > 0) {
      const int kind = from[0] >> 4, number = from[0] & 15;
      if (size < 17 || kind > 1 || number > 3) return kHeader;
      int symbols = 0;
      for (int length = 1; length <= 16; ++length) symbols += from[length];
      if (symbols > 256 || size < 17 + symbols) return kHeader;
      if (!huffman_[kind][number].set(from + 1)) return kHeader;
      from += 17 + symbols;
      size -= 17 + symbols;
    }
    return kWhole;
  }

  Finding frame(int marker, const uint8_t *from, int64_t size) {
    if (!components_.empty() || size < 6 || size != 6 + 3 * from[5]) return kHeader;
    if (from[0] != 8) return kUnknown;
    progressive_ = marker == 0xc2;
    const int64_t height = from[1] << 8 | from[2], width = from[3] << 8 | from[4];
    const int number = from[5];
    if (height == 0 || width == 0 || number < 1 || number > 4) return kHeader;
    int across = 1, down = 1;
    for (int i = 0; i < number; ++i) {
      const uint8_t *one = from + 6 + 3 * i;
      Component component{};
      component.id = one[0];
      component.across = one[1] >> 4;
      component.down = one[1] & 15;
      component.quantization = one[2];
      if (component.across < 1 || component.across > 4 || component.down < 1 || component.down > 4) return kHeader;
      if (component.quantization > 3) return kHeader;
      across = across > component.across ? across : component.across;
      down = down > component.down ? down : component.down;
      for (int8_t &bits : component.missing) bits = -1;
      components_.push_back(component);
    }
    columns_ = (width + 8 * across - 1) / (8 * across);
    rows_ = (height + 8 * down - 1) / (8 * down);
    for (Component &component : components_) {
      component.columns = (width * component.across + 8 * across - 1) / (8 * across);
      component.rows = (height * component.down + 8 * down - 1) / (8 * down);
      component.stride = columns_ * component.across;
    }
    return kWhole;
  }

  Finding scan(const uint8_t *from, int64_t size) {
    if (components_.empty() || size < 1) return kHeader;
    const int number = from[0];
    if (number < 1 || number > 4 || size != 4 + 2 * number) return kHeader;
    Scan scan;
    for (int i = 0; i < number; ++i) {
      Component *component = nullptr;
      for (Component &each : components_)
        if (each.id == from[1 + 2 * i]) component = &each;
      const int tables = from[2 + 2 * i];
      if (component == nullptr || tables >> 4 > 3 || (tables & 15) > 3) return kHeader;
      for (const Part &other : scan.parts)
        if (other.component == component) return kHeader;
      const int *quantization = quantization_[component->quantization];
      if (quantization[0] == 0) return kHeader;  // there is none
      component->last_dc = 0;
      const bool alone = number == 1;
      scan.parts.push_back({component, &huffman_[0][tables >> 4], &huffman_[1][tables & 15], quantization,
                            alone ? 1 : component->across, alone ? 1 : component->down});
    }
    const uint8_t *rest = from + 1 + 2 * number;
    scan.first = rest[0];
    scan.last = rest[1];
    scan.high = rest[2] >> 4;
    scan.low = rest[2] & 15;
    const Finding found = check(scan);
    if (found != kWhole) return found;
    return progressive_ ? progressive_blocks(scan) : sequential_blocks(scan);
  }

  // Which coefficients a scan brings, and that they follow what was there.
  Finding check(const Scan &scan) {
    if (!progressive_ && (scan.first != 0 || scan.last != 63 || scan.high != 0 || scan.low != 0)) return kHeader;
    if (scan.last > 63 || scan.first > scan.last || scan.low > 13) return kHeader;
    if (progressive_ && scan.first == 0 && scan.last != 0) return kHeader;
    if (scan.first > 0 && scan.parts.size() != 1) return kHeader;
    if (scan.high != 0 && scan.high != scan.low + 1) return kHeader;
    for (const Part &part : scan.parts) {
      if (scan.first == 0 && scan.high == 0 && !part.dc->present) return kHeader;
      if (scan.last > 0 && !part.ac->present) return kHeader;
      int8_t *missing = part.component->missing;
      for (int k = scan.first; k <= scan.last; ++k) {
        if (missing[k] != (scan.high == 0 ? -1 : scan.high)) return kHeader;
        missing[k] = static_cast<int8_t>(scan.low);
      }
    }
    return kWhole;
  }

  bool complete() const {
    if (components_.empty()) return false;
    for (const Component &component : components_)
      for (const int8_t bits : component.missing)
        if (bits != 0) return false;
    return true;
  }

  // All MCUs of a scan. mcu(number, cursor): reads one, whose blocks end within the segment.
  template <typename Mcu>
  Finding each_mcu(Scan &scan, Mcu &&mcu) {
    const Component &only = *scan.parts[0].component;
    const int64_t number = scan.parts.size() == 1 ? only.columns * only.rows : columns_ * rows_;
    Cursor bits = segment_.load(at_, end_);
    int restart = 0;
    for (int64_t i = 0; i < number; ++i) {
      if (interval_ > 0 && i > 0 && i % interval_ == 0) {
        if (scan.run != 0) return kRun;
        if (!segment_.is_read(bits)) return kLong;
        const uint8_t *marker = segment_.marker();
        while (end_ - marker > 1 && marker[0] == 0xff && marker[1] == 0xff) ++marker;
        if (end_ - marker < 2 || marker[0] != 0xff || marker[1] != 0xd0 + restart) return kRestart;
        restart = (restart + 1) & 7;
        bits = segment_.load(marker + 2, end_);
        for (const Part &part : scan.parts) part.component->last_dc = 0;
      }
      const Finding found = mcu(i, bits);
      if (found != kWhole) return found;
    }
    if (scan.run != 0) return kRun;
    if (!segment_.is_read(bits)) return kLong;
    at_ = segment_.marker();
    return kWhole;
  }

  Finding sequential_blocks(Scan &scan) {
    std::map<const Huffman *, DcLook> dc_looks;
    std::map<std::pair<const Huffman *, int>, AcLook> ac_looks;
    for (Part &part : scan.parts) {
      const auto dc = dc_looks.try_emplace(part.dc);
      if (dc.second) dc.first->second.set(*part.dc);
      part.dc_look = &dc.first->second;
      part.largest_dc = (kLargest + part.quantization[0]) / part.quantization[0];
      const int safe = safe_bits(part.quantization);
      const auto ac = ac_looks.try_emplace({part.ac, safe});
      if (ac.second) ac.first->second.set(*part.ac, safe);
      part.ac_look = &ac.first->second;
    }
    return each_mcu(scan, [&](int64_t, Cursor &cursor) {
      Cursor bits = cursor;  // a copy of its own stays in registers
      for (const Part &part : scan.parts) {
        for (int i = part.across * part.down; i > 0; --i) {
          Finding found = sequential_dc(part, bits);
          if (found == kWhole) found = sequential_ac(part, bits);
          if (segment_.bits_left(bits) < 0) return kShort;
          if (found != kWhole) return found;
        }
      }
      cursor = bits;
      return kWhole;
    });
  }

  Finding progressive_blocks(Scan &scan) {
    Component &only = *scan.parts[0].component;
    const int64_t columns = scan.parts.size() == 1 ? only.columns : columns_;
    // Only now: whoever calls has compared the size of a frame that comes before a scan with a limit, not of any other.
    if (scan.first > 0) only.nonzero.resize(only.stride * rows_ * only.down);
    return each_mcu(scan, [&](int64_t mcu, Cursor &bits) {
      const int64_t row = mcu / columns, column = mcu % columns;
      for (const Part &part : scan.parts) {
        for (int y = 0; y < part.down; ++y) {
          for (int x = 0; x < part.across; ++x) {
            const int64_t index = (row * part.down + y) * part.component->stride + column * part.across + x;
            const Finding found = progressive_block(scan, part, index, bits);
            if (segment_.bits_left(bits) < 0) return kShort;
            if (found != kWhole) return found;
          }
        }
      }
      return kWhole;
    });
  }

  const uint8_t *at_, *end_;
  Segment segment_;
  Huffman huffman_[2][4];
  int quantization_[4][64] = {};
  std::vector<Component> components_;
  int64_t columns_ = 0, rows_ = 0;  // MCUs
  int interval_ = 0;
  bool progressive_ = false;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) int svd_vlm_scan_jpeg(const uint8_t *data, int64_t size) {
  try {
    return Reader(data, size).read();
  } catch (...) {  // no memory
    return kUnknown;
  }
}
