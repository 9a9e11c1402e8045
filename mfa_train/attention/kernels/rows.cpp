// A few rows times a weight (model/rows.py calls this): out[m][n] = x[m] · w[n], summed in float32.
//
// At so few rows the time is that of reading the weight. Four of its rows are read at once, for as many sums that do not
// wait for each other, and the next four are fetched: from memory this is as fast as a reduction, or faster.

#include <algorithm>

#include "vectors.h"

namespace {

constexpr int WEIGHTS = 4, ITEM = 32;

// M rows of x times W rows of the weight; `ahead` numbers on stand those to be fetched.
template <int M, int W, class Number>
inline void tile(const float* x, const Number* w, int64_t dim, int64_t ahead, float* out, int64_t width) {
  Floats<LANES> acc[W][M] = {};
  int64_t d = 0;
  for (; d + LANES <= dim; d += LANES) {
    Floats<LANES> row[M];
#pragma GCC unroll 4
    for (int m = 0; m < M; m++) row[m] = load<LANES>(x + m * dim + d);
#pragma GCC unroll 4
    for (int n = 0; n < W; n++) {
      fetch(w + n * dim + d + ahead);
      const Floats<LANES> weight = numbers<LANES>(w + n * dim + d);
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) acc[n][m] += row[m] * weight;
    }
  }
  for (int n = 0; n < W; n++)
    for (int m = 0; m < M; m++) {
      float total = sum<LANES>(acc[n][m]);
      for (int64_t e = d; e < dim; e++) total += x[m * dim + e] * number(w[n * dim + e]);
      out[m * width + n] = total;
    }
}

template <int W, class Number>
inline void all_rows(const float* x, const Number* w, int64_t rows, int64_t width, int64_t dim, float* out) {
  int64_t m = 0;
  for (; m + 4 <= rows; m += 4) tile<4, W>(x + m * dim, w, dim, W * dim, out + m * width, width);
  for (; m + 2 <= rows; m += 2) tile<2, W>(x + m * dim, w, dim, W * dim, out + m * width, width);
  for (; m < rows; m++) tile<1, W>(x + m * dim, w, dim, W * dim, out + m * width, width);
}

template <class Number>
void multiply(const float* x, const Number* w, int64_t rows, int64_t width, int64_t dim, int64_t threads, float* out) {
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(dynamic)
  for (int64_t item = 0; item < width; item += ITEM) {
    const int64_t end = std::min(item + ITEM, width);
    int64_t n = item;
    for (; n + WEIGHTS <= end; n += WEIGHTS) all_rows<WEIGHTS>(x, w + n * dim, rows, width, dim, out + n);
    for (; n < end; n++) all_rows<1>(x, w + n * dim, rows, width, dim, out + n);
  }
}

}  // namespace

// x (rows, dim) and out (rows, width) float32, w (width, dim) bfloat16 where `half`, else float32.
extern "C" void rows_product(const float* x, const void* w, int64_t half, int64_t rows, int64_t width, int64_t dim,
                             int64_t threads, float* out) {
  if (half)
    multiply(x, static_cast<const std::uint16_t*>(w), rows, width, dim, threads, out);
  else
    multiply(x, static_cast<const float*>(w), rows, width, dim, threads, out);
}
