// Vectors of float32, whatever the machine's width, and bfloat16 as float32.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

using std::int64_t;

#if defined(__AVX512F__)
constexpr int LANES = 16, ACCUMULATORS = 16;
#elif defined(__AVX__)
constexpr int LANES = 8, ACCUMULATORS = 8;
#elif defined(__aarch64__)
constexpr int LANES = 4, ACCUMULATORS = 16;
#else
constexpr int LANES = 4, ACCUMULATORS = 8;
#endif
constexpr int HALF = LANES > 4 ? LANES / 2 : 4;  // of a vector for the rows that are left
constexpr int64_t LINE = 16;                     // numbers in a line of the caches

template <int N>
struct Vector {
  typedef float type __attribute__((vector_size(N * sizeof(float))));
  typedef std::int32_t whole __attribute__((vector_size(N * sizeof(float))));
  typedef std::uint16_t halves __attribute__((vector_size(N * sizeof(std::uint16_t))));
};
template <>
struct Vector<1> {
  typedef float type;
  typedef std::int32_t whole;
};
template <int N>
using Floats = typename Vector<N>::type;

template <int N>
inline Floats<N> load(const float* from) {
  Floats<N> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <int N>
inline void store(float* to, Floats<N> v) {
  std::memcpy(to, &v, sizeof v);
}

template <int N>
inline float sum(Floats<N> v) {
  if constexpr (N == 1) {
    return v;
  } else {
    Floats<N / 2> half[2];
    std::memcpy(half, &v, sizeof v);
    return sum<N / 2>(half[0] + half[1]);
  }
}

inline float number(float x) { return x; }
inline float number(std::uint16_t half) {
  const std::uint32_t bits = std::uint32_t(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// N numbers as float32.
template <int N>
inline Floats<N> numbers(const float* from) {
  return load<N>(from);
}
template <int N>
inline Floats<N> numbers(const std::uint16_t* from) {
  typename Vector<N>::halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const typename Vector<N>::whole bits = __builtin_convertvector(halves, typename Vector<N>::whole) << 16;
  Floats<N> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

inline void fetch(const void* from) { __builtin_prefetch(from, 0, 2); }  // into the second cache

}  // namespace
