// What is done to one block of a cache's tokens (decoding.cpp): its scores, their softmax, its share of the weighted
// sum.

#pragma once

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace {

// 2^x for x <= 0, to 2e-7 of itself; NaN stays NaN, and below the smallest normal number it is zero.
template <int N>
inline Floats<N> exp2(Floats<N> x) {
  typedef typename Vector<N>::whole Whole;
  const float rounder = 12582912.0f;  // 1.5 · 2^23: adding it rounds to a whole number, kept in the low bits
  Floats<N> bounded = x < -126.0f ? Floats<N>{} - 126.0f : x;
  Floats<N> shifted = bounded + rounder, f = bounded - (shifted - rounder);
  Floats<N> p = f * 0.00132647f + 0.00967151f;  // minimax on [-1/2, 1/2], relative
  p = p * f + 0.05550734f;
  p = p * f + 0.24022242f;
  p = p * f + 0.69314698f;
  p = p * f + 1.0f;
  Whole bits, exponent;
  std::memcpy(&bits, &p, sizeof p);
  std::memcpy(&exponent, &shifted, sizeof p);
  bits += exponent << 23;
  std::memcpy(&p, &bits, sizeof p);
  return x < -126.0f ? Floats<N>{} : x == x ? p : x;
}

inline int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline void widen(const std::uint16_t* from, int64_t dim, float* to) {
  for (int64_t d = 0; d < dim; d++) to[d] = number(from[d]);
}

// Rows of numbers [tokens][stride]; `ahead` numbers on stand those of the next block, to be brought from memory.
struct Rows {
  const float* data;
  int64_t stride, ahead;
  const float* row(int64_t t) const { return data + t * stride; }
  Rows from(int64_t t, int64_t d = 0) const { return {data + t * stride + d, stride, ahead}; }
};

// out[t][lane] (+)= q[d][lane] · k[t][d], for T tokens and V vectors of lanes.
template <int N, int V, int T>
inline void score_tile(const float* q, int64_t lanes, const Rows& k, int64_t dim, float* out, bool add) {
  Floats<N> acc[T][V] = {};
  for (int64_t line = 0; line < dim; line += LINE) {
    for (int t = 0; t < T; t++) fetch(k.row(t) + k.ahead + line);
    for (int64_t d = line; d < std::min(line + LINE, dim); d++) {
      Floats<N> row[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) row[v] = load<N>(q + d * lanes + v * N);
#pragma GCC unroll 16
      for (int t = 0; t < T; t++) {
        const float x = k.row(t)[d];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[t][v] += x * row[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; t++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      float* to = out + t * lanes + v * N;
      store<N>(to, add ? load<N>(to) + acc[t][v] : acc[t][v]);
    }
}

template <int N, int V>
inline void score_lanes(const float* q, int64_t lanes, const Rows& k, int64_t dim, int64_t tokens, float* out,
                        bool add) {
  constexpr int T = ACCUMULATORS / V;
  int64_t t = 0;
  for (; t + T <= tokens; t += T) score_tile<N, V, T>(q, lanes, k.from(t), dim, out + t * lanes, add);
  for (; t < tokens; t++) score_tile<N, V, 1>(q, lanes, k.from(t), dim, out + t * lanes, add);
}

// Scores [tokens][lanes] of all rows.
void score(const float* q, int64_t lanes, const Rows& k, int64_t dim, int64_t tokens, float* out, bool add) {
  int64_t at = 0;
  for (; lanes - at >= 4 * LANES; at += 4 * LANES) score_lanes<LANES, 4>(q + at, lanes, k, dim, tokens, out + at, add);
  for (; lanes - at >= 2 * LANES; at += 2 * LANES) score_lanes<LANES, 2>(q + at, lanes, k, dim, tokens, out + at, add);
  for (; lanes - at >= LANES; at += LANES) score_lanes<LANES, 1>(q + at, lanes, k, dim, tokens, out + at, add);
  for (; lanes - at >= HALF; at += HALF) score_lanes<HALF, 1>(q + at, lanes, k, dim, tokens, out + at, add);
}

// Scores [tokens] of one row q [dim].
void score_row(const float* q, const Rows& k, int64_t dim, int64_t tokens, float* out, bool add) {
  for (int64_t t = 0; t < tokens; t++) {
    const float* row = k.row(t);
    Floats<LANES> acc = {};
    int64_t d = 0;
    for (; d + LANES <= dim; d += LANES) acc += load<LANES>(q + d) * load<LANES>(row + d);
    float x = sum<LANES>(acc);
    for (; d < dim; d++) x += q[d] * row[d];
    out[t] = add ? out[t] + x : x;
  }
}

// o[row][d] += p[t][row] · v[t][d], for R rows and V vectors of dimensions; p's strides are per token and row.
template <int N, int V, int R>
inline void weigh_tile(const float* p, int64_t p_token, int64_t p_row, const Rows& v, int64_t tokens, float* o,
                       int64_t dim) {
  Floats<N> acc[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int n = 0; n < V; n++) acc[r][n] = load<N>(o + r * dim + n * N);
  for (int64_t t = 0; t < tokens; t++) {
    Floats<N> row[V];
#pragma GCC unroll 4
    for (int64_t n = 0; n < V * N; n += LINE) fetch(v.row(t) + v.ahead + n);
#pragma GCC unroll 4
    for (int n = 0; n < V; n++) row[n] = load<N>(v.row(t) + n * N);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      const float x = p[t * p_token + r * p_row];
#pragma GCC unroll 4
      for (int n = 0; n < V; n++) acc[r][n] += x * row[n];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int n = 0; n < V; n++) store<N>(o + r * dim + n * N, acc[r][n]);
}

template <int N, int V>
inline void weigh_dims(const float* p, int64_t p_token, int64_t p_row, int64_t rows, Rows v, int64_t tokens, float* o,
                       int64_t dim) {
  constexpr int R = ACCUMULATORS / 4;
  int64_t r = 0;
  for (; r + R <= rows; r += R, v.ahead = 0)
    weigh_tile<N, V, R>(p + r * p_row, p_token, p_row, v, tokens, o + r * dim, dim);
  for (; r < rows; r++, v.ahead = 0) weigh_tile<N, V, 1>(p + r * p_row, p_token, p_row, v, tokens, o + r * dim, dim);
}

void weigh(const float* p, int64_t p_token, int64_t p_row, int64_t rows, const Rows& v, int64_t tokens, float* o,
           int64_t dim) {
  int64_t d = 0;
  for (; dim - d >= 4 * LANES; d += 4 * LANES)
    weigh_dims<LANES, 4>(p, p_token, p_row, rows, v.from(0, d), tokens, o + d, dim);
  for (; dim - d >= LANES; d += LANES) weigh_dims<LANES, 1>(p, p_token, p_row, rows, v.from(0, d), tokens, o + d, dim);
  for (; dim - d >= 4; d += 4) weigh_dims<4, 1>(p, p_token, p_row, rows, v.from(0, d), tokens, o + d, dim);
  for (; d < dim; d++) weigh_dims<1, 1>(p, p_token, p_row, rows, v.from(0, d), tokens, o + d, dim);
}

// out[t][lane] (+)= a[t][lane] · b[t][lane], whose rows are `stride` apart.
inline void multiply(const float* a, const float* b, int64_t stride, int64_t tokens, int64_t lanes, float* out,
                     bool add) {
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t n = 0; n < lanes; n += HALF) {
      const Floats<HALF> product = load<HALF>(a + t * lanes + n) * load<HALF>(b + t * stride + n);
      float* to = out + t * lanes + n;
      store<HALF>(to, add ? load<HALF>(to) + product : product);
    }
}

inline Floats<4> four(const float* from) { return load<4>(from); }
inline Floats<4> four(const std::uint16_t* from) {
  return Floats<4>{number(from[0]), number(from[1]), number(from[2]), number(from[3])};
}

// to[n][0..3] = from[0..3][n], rows `stride` apart.
template <class Number>
inline void transpose(const Number* const* from, int64_t size, float* to, int64_t stride) {
  int64_t n = 0;
  for (; n + 4 <= size; n += 4, to += 4 * stride) {
    const Floats<4> a = four(from[0] + n), b = four(from[1] + n), c = four(from[2] + n), d = four(from[3] + n);
    const Floats<4> ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    store<4>(to, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
    store<4>(to + stride, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
    const Floats<4> ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    store<4>(to + 2 * stride, __builtin_shufflevector(ef, gh, 0, 1, 4, 5));
    store<4>(to + 3 * stride, __builtin_shufflevector(ef, gh, 2, 3, 6, 7));
  }
  for (; n < size; n++, to += stride)
    for (int i = 0; i < 4; i++) to[i] = number(from[i][n]);
}

inline void rescale(float* o, int64_t dim, float by) {
  for (int64_t d = 0; d < dim; d++) o[d] *= by;
}

// Scores [tokens][lanes] become weights 2^(score − maximum); maximum, total and the sums o follow the block.
template <int N>
void soften(float* scores, int64_t lanes, int64_t tokens, float* maximum, float* total, float* change) {
  Floats<N> before = load<N>(maximum), most = before;
  for (int64_t t = 0; t < tokens; t++) {
    Floats<N> x = load<N>(scores + t * lanes);
    most = most < x ? x : most;
  }
  Floats<N> from = most == -INFINITY ? Floats<N>{} : most, added = {};
  for (int64_t t = 0; t < tokens; t++) {
    Floats<N> weight = exp2<N>(load<N>(scores + t * lanes) - from);
    store<N>(scores + t * lanes, weight);
    added += weight;
  }
  Floats<N> by = exp2<N>(before - from);
  store<N>(maximum, most);
  store<N>(total, load<N>(total) * by + added);
  store<N>(change, by);
}

// The same of one row's scores [tokens], which are followed by room for a vector.
float soften_row(float* scores, int64_t tokens, float* maximum, float* total) {
  for (int64_t t = tokens; t < up(tokens, LANES); t++) scores[t] = -INFINITY;
  float most = *maximum;
  Floats<LANES> best = Floats<LANES>{} + most;
  for (int64_t t = 0; t < tokens; t += LANES) {
    Floats<LANES> x = load<LANES>(scores + t);
    best = best < x ? x : best;
  }
  for (int n = 0; n < LANES; n++) most = most < best[n] ? best[n] : most;
  float from = most == -INFINITY ? 0.0f : most;
  Floats<LANES> added = {};
  for (int64_t t = 0; t < tokens; t += LANES) {
    Floats<LANES> weight = exp2<LANES>(load<LANES>(scores + t) - from);
    store<LANES>(scores + t, weight);
    added += weight;
  }
  float by = exp2<1>(*maximum - from);
  *maximum = most;
  *total = *total * by + sum<LANES>(added);
  return by;
}

}  // namespace
