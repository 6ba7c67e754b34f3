// SPDX-License-Identifier: Apache-2.0
// The bits of a JPEG's scan, and its Huffman codes by look-up.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

constexpr int kLook = 12;          // bits that one look into a table decides
constexpr int kMostBits = 10;      // of an AC coefficient of 8-bit samples; one more of a DC difference
constexpr int kBlockBytes = 512;   // more than one block can take

// A position in a segment, in registers: `count` bits are valid at the top of `buffer`.
struct Cursor {
  const uint8_t *at = nullptr;
  uint64_t buffer = 0;
  int count = 0;

  void fill() {  // to 56 bits at least
    uint64_t bytes;
    std::memcpy(&bytes, at, sizeof bytes);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    buffer |= bytes >> count;
    at += (63 - count) >> 3;
    count |= 56;
  }
  unsigned look(int n) const { return static_cast<unsigned>(buffer >> (64 - n)); }
  void skip(int n) {
    buffer <<= n;
    count -= n;
  }
  unsigned take(int n) {  // after fill()
    if (n == 0) return 0;
    const unsigned bits = look(n);
    skip(n);
    return bits;
  }
};

// The bytes of a scan up to its next marker, copied without the zeros that are stuffed in behind 0xff. Zeros behind
// them, so that a block can be read without a look at the end.
class Segment {
 public:
  Cursor load(const uint8_t *at, const uint8_t *end) {
    if (bytes_.size() < static_cast<size_t>(end - at) + kBlockBytes) bytes_.resize(end - at + kBlockBytes);
    uint8_t *to = bytes_.data();
    while (at != end) {
      const auto *stop = static_cast<const uint8_t *>(std::memchr(at, 0xff, end - at));
      const size_t plain = (stop == nullptr ? end : stop) - at;
      std::memcpy(to, at, plain);
      to += plain;
      at += plain;
      if (end - at < 2 || at[1] != 0) break;
      *to++ = 0xff;
      at += 2;
    }
    std::memset(to, 0, kBlockBytes);
    end_ = to;
    marker_ = at;
    Cursor cursor;
    cursor.at = bytes_.data();
    return cursor;
  }
  const uint8_t *marker() const { return marker_; }
  int64_t bits_left(const Cursor &cursor) const { return 8 * (end_ - cursor.at) + cursor.count; }
  // Nothing is left but the padding of the last byte: ones by the standard, some encoders take zeros.
  bool is_read(Cursor cursor) const {
    const int64_t left = bits_left(cursor);
    if (left < 0 || left > 7) return false;
    cursor.fill();
    const unsigned bits = cursor.take(static_cast<int>(left));
    return bits == 0 || bits == (1u << left) - 1;
  }

 private:
  std::vector<uint8_t> bytes_;
  const uint8_t *end_ = nullptr, *marker_ = nullptr;
};

inline int extended(unsigned bits, int n) {
  return n > 0 && bits < 1u << (n - 1) ? static_cast<int>(bits) - (1 << n) + 1 : static_cast<int>(bits);
}

class Huffman {
 public:
  // counts: of codes of 1 to 16 bits; then their symbols. False: they are no prefix code, or a symbol has two.
  bool set(const uint8_t *counts) {
    const uint8_t *symbols = counts + 16;
    bool seen[256] = {};
    int code = 0, number = 0;
    std::memset(fast_, 0, sizeof fast_);
    for (int length = 1; length <= 16; ++length) {
      first_[length] = code;
      offset_[length] = number;
      for (int i = 0; i < counts[length - 1]; ++i, ++code, ++number) {
        const uint8_t symbol = symbols[number];
        if (code >= 1 << length || seen[symbol]) return false;
        seen[symbol] = true;
        symbols_[number] = symbol;
        if (length > kLook) continue;
        const int shift = kLook - length;
        for (int k = 0; k < 1 << shift; ++k) fast_[code << shift | k] = static_cast<uint16_t>(length << 8 | symbol);
      }
      beyond_[length] = code;
      code <<= 1;
    }
    present = true;
    return true;
  }
  // The next symbol; -1: none has these bits.
  int next(Cursor &bits) const {
    bits.fill();
    const unsigned entry = fast_[bits.look(kLook)];
    if (entry != 0) {
      bits.skip(static_cast<int>(entry >> 8));
      return static_cast<int>(entry & 0xff);
    }
    for (int length = kLook + 1; length <= 16; ++length) {
      const int code = static_cast<int>(bits.look(length));
      if (code >= beyond_[length] || code < first_[length]) continue;
      bits.skip(length);
      return symbols_[offset_[length] + code - first_[length]];
    }
    return -1;
  }
  // Length and symbol of the code at the top of kLook bits, of which `known` are there; 0: it is longer.
  unsigned symbol_at(unsigned bits, int known) const {
    const unsigned entry = fast_[bits];
    return static_cast<int>(entry >> 8) <= known ? entry : 0;
  }
  bool present = false;

 private:
  uint16_t fast_[1 << kLook];  // length of the code, symbol
  int first_[17], beyond_[17], offset_[17];
  uint8_t symbols_[256];
};

// What a look at the bits of a sequential block's AC coefficients decides: all codes that lie in them with the values
// behind them, as long as no value can be out of range whatever its bits are.
class AcLook {
 public:
  static constexpr int kSlow = 64, kEnd = 128;  // added to the coefficients that are passed

  // safe: the most bits of a value that is in range at each place.
  void set(const Huffman &table, int safe) {
    constexpr unsigned kMask = (1u << kLook) - 1;
    for (unsigned look = 0; look <= kMask; ++look) {
      int bits = 0, passed = 0;
      while (bits < kLook) {
        const unsigned entry = table.symbol_at(look << bits & kMask, kLook - bits);
        const int length = static_cast<int>(entry >> 8), zeros = entry >> 4 & 15, size = entry & 15;
        if (length == 0 || size > safe || passed + zeros > 62 || (size == 0 && zeros > 0 && zeros < 15)) break;
        bits += length + size;
        if (size == 0 && zeros == 0) {
          passed += kEnd;
          break;
        }
        passed += zeros + 1;
      }
      entries_[look] = static_cast<uint16_t>((bits == 0 ? kSlow : passed) << 8 | bits);
    }
  }
  unsigned operator[](unsigned look) const { return entries_[look]; }

 private:
  uint16_t entries_[1 << kLook];  // coefficients passed, bits
};

// The same for DC differences: value and bits where both lie in a look; 0 elsewhere.
class DcLook {
 public:
  void set(const Huffman &table) {
    constexpr unsigned kMask = (1u << kLook) - 1;
    for (unsigned look = 0; look <= kMask; ++look) {
      const unsigned entry = table.symbol_at(look, kLook);
      const int length = static_cast<int>(entry >> 8), size = entry & 0xff;
      entries_[look] = 0;
      if (length == 0 || length + size > kLook) continue;
      const unsigned value = (look << length & kMask) >> (kLook - size);
      entries_[look] = extended(size == 0 ? 0 : value, size) * 256 + length + size;
    }
  }
  int operator[](unsigned look) const { return entries_[look]; }

 private:
  int entries_[1 << kLook];
};
