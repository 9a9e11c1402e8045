// Attention of the newest tokens over a cache's entries (decoding.py says what; compiled.py builds and calls this).
//
// A decoded token's products are skinny: 1 to 64 rows of queries meet tokens × dim. The rows (heads that share a key
// head, of all queries) are the lanes of vectors for the scores, so that each number of a key is broadcast and nothing
// is transposed; dimensions are the lanes for the weighted sum. A block of 64 tokens stays in the first two caches
// while its scores, their softmax (online, arXiv 2205.14135, algorithm 1) and its share of the sum are made, all in
// float32, and the next block is fetched. Up to three rows are bound by memory: there a key's own dimensions are the
// lanes.
//
// Tokens are cut into spans of up to 2048, an item of work for any thread; each leaves its maximum, sum and weighted
// sum, which are merged in the end (Flash-Decoding).

#include <omp.h>

#include "decoding.h"

// One row of `dim` numbers for each token and head; strides in numbers, the last dimension's is 1.
struct Part {
  const void* data;
  int64_t batch, token, head, dim;
  int64_t half;        // bfloat16 instead of float32
  const float* query;  // of keys: (batch, queries, heads, dim)
};

// What each head multiplies the parts by, `ranks` of them: of a token side by side, tokens behind each other.
struct Factors {
  const void* data;  // or null
  int64_t batch, head, ranks;
  int64_t half;
};

struct Call {
  int64_t batch, queries, heads, kv_heads, tokens, key_parts, value_parts, threads;
  const Part *keys, *values;
  Factors of_keys, of_values;
  float scale;
  const int64_t* lengths;  // (batch,), or null
  const float* sinks;      // (heads,), or null
  const float *cos, *sin;  // of the first part of the keys, or null; (batch, tokens, dim / 2)
  int64_t cos_batch, cos_token, interleave;
  float *workspace, *out;  // out (batch, queries, heads, v_dim)
};

namespace {

constexpr int64_t BLOCK = 64, ROWS = 64, SPAN = 2048, SHORTEST_SPAN = 256, NARROW = 3;
constexpr float LOG2_E = 1.44269504088896340736f;

// What follows from a call alone: how the work is cut, and where its scratch lies in the workspace.
struct Layout {
  int64_t group, rows, chunk, chunks, span, spans, items;
  bool narrow;
  int64_t lanes, v_dim, query_size, keys_size, values_size, row_size, part_size, factor_size;
  int64_t sums, statistics, per_thread, total;  // in floats

  explicit Layout(const Call& c) {
    group = c.heads / c.kv_heads;
    rows = c.queries * group;
    chunk = std::min(rows, ROWS);
    chunks = (rows + chunk - 1) / chunk;
    narrow = chunk <= NARROW && !c.of_keys.data;
    lanes = narrow ? chunk : up(chunk, HALF);
    v_dim = c.values[0].dim;

    int64_t wanted = 8 * c.threads, others = c.batch * c.kv_heads * chunks;
    spans = std::max((wanted + others - 1) / others, chunks == 1 ? (c.tokens + SPAN - 1) / SPAN : 1);
    span = std::max(up((c.tokens + spans - 1) / spans, BLOCK), SHORTEST_SPAN);
    spans = (c.tokens + span - 1) / span;
    items = others * spans;

    query_size = keys_size = 0;
    for (int64_t i = 0; i < c.key_parts; i++) {
      query_size += up(lanes * c.keys[i].dim, LANES);
      keys_size += copied(c, i) ? BLOCK * padded(c.keys[i]) : 0;
    }
    values_size = c.values[0].half ? BLOCK * padded(c.values[0]) : 0;
    row_size = c.cos ? up(c.keys[0].dim, LANES) : 0;
    part_size = up(BLOCK * lanes, LANES);
    factor_size = part_size * std::max(c.of_keys.ranks, c.of_values.ranks);
    statistics = 2 * up(lanes, LANES);
    per_thread = query_size + keys_size + values_size + row_size + 2 * part_size + factor_size + up(lanes, LANES);
    sums = up(lanes * v_dim, LANES);
    total = c.threads * per_thread + items * (sums + statistics);
  }
  // Of a copied row: no two lines of a column fall into the same set of a cache.
  static int64_t padded(const Part& part) { return up(part.dim, LINE) + LINE; }
  static bool copied(const Call& c, int64_t key_part) { return c.keys[key_part].half || (key_part == 0 && c.cos); }
};

struct Span {
  const Call& c;
  const Layout& l;
  int64_t batch, head, first_row, rows, first, last;
  float *queries, *keys, *values, *row, *scores, *part, *factor, *change, *sums, *maximum, *total;

  int64_t query_head(int64_t row) const { return head * l.group + (first_row + row) % l.group; }
  int64_t end(int64_t row) const {
    int64_t length = c.lengths ? std::min(c.lengths[batch], c.tokens) : c.tokens;
    return length - (c.queries - 1 - (first_row + row) / l.group);
  }

  // Queries in base 2's exponents: [dim][lanes], or [row][dim] where narrow.
  void take_queries() const {
    float* to = queries;
    for (int64_t i = 0; i < c.key_parts; i++) {
      const Part& k = c.keys[i];
      std::fill(to, to + l.lanes * k.dim, 0.0f);
      for (int64_t r = 0; r < rows; r++) {
        const int64_t query = (first_row + r) / l.group;
        const float* from = k.query + ((batch * c.queries + query) * c.heads + query_head(r)) * k.dim;
        for (int64_t d = 0; d < k.dim; d++)
          (l.narrow ? to[r * k.dim + d] : to[d * l.lanes + r]) = from[d] * (c.scale * LOG2_E);
      }
      to += up(l.lanes * k.dim, LANES);
    }
  }

  // A block of a part as float32, turned where that is asked; copies go to `scratch`.
  Rows read(const Part& part, bool turn, int64_t at, int64_t tokens, float* scratch) const {
    const int64_t from = batch * part.batch + at * part.token + head * part.head;
    const auto* wide = static_cast<const float*>(part.data) + from;
    const auto* half = static_cast<const std::uint16_t*>(part.data) + from;
    if (!part.half && !turn) return {wide, part.token, BLOCK * part.token};
    const Rows copy{scratch, Layout::padded(part), 0};
    for (int64_t t = 0; t < tokens; t++) {
      float* to = scratch + t * copy.stride;
      for (int64_t d = 0; d < part.dim; d += LINE * (1 + part.half)) {
        const int64_t ahead = (t + BLOCK) * part.token + d;
        fetch(part.half ? static_cast<const void*>(half + ahead) : wide + ahead);
      }
      if (part.half) widen(half + t * part.token, part.dim, turn ? row : to);
      if (turn) rotate(part.half ? row : wide + t * part.token, part.dim / 2, at + t, to);
    }
    return copy;
  }

  void rotate(const float* x, int64_t pairs, int64_t token, float* to) const {
    const float* cos = c.cos + batch * c.cos_batch + token * c.cos_token;
    const float* sin = c.sin + batch * c.cos_batch + token * c.cos_token;
    const int64_t step = c.interleave ? 2 : 1, other = c.interleave ? 1 : pairs;
    for (int64_t d = 0; d < pairs; d++) {
      const float a = x[d * step], b = x[d * step + other];
      to[d] = a * cos[d] - b * sin[d];
      to[d + pairs] = b * cos[d] + a * sin[d];
    }
  }

  // factor[token and rank][lane]
  void take_factors(const Factors& f, int64_t at, int64_t tokens) const {
    if (f.half)
      spread(static_cast<const std::uint16_t*>(f.data), f, at, tokens);
    else
      spread(static_cast<const float*>(f.data), f, at, tokens);
  }

  template <class Number>
  void spread(const Number* data, const Factors& f, int64_t at, int64_t tokens) const {
    const Number* of_lanes[4];
    for (int64_t r = 0; r < l.lanes; r += 4) {
      for (int n = 0; n < 4; n++) {
        of_lanes[n] = data + batch * f.batch + at * f.ranks + query_head(std::min(r + n, rows - 1)) * f.head;
        for (int64_t t = 0; t < BLOCK * f.ranks; t += LINE) fetch(of_lanes[n] + BLOCK * f.ranks + t);
      }
      transpose(of_lanes, tokens * f.ranks, factor + r, l.lanes);
    }
  }

  void run() const {
    std::fill(sums, sums + l.lanes * l.v_dim, 0.0f);
    std::fill(maximum, maximum + l.lanes, -INFINITY);
    std::fill(total, total + l.lanes, 0.0f);
    const int64_t stop = std::min(last, end(rows - 1));
    if (first < stop) take_queries();
    for (int64_t at = first; at < stop; at += BLOCK) attend(at, std::min(BLOCK, stop - at));
  }

  void attend(int64_t at, int64_t tokens) const {
    const int64_t lanes = l.lanes;
    const float* q = queries;
    float* scratch = keys;
    for (int64_t i = 0; i < c.key_parts; i++) {
      const Part& k = c.keys[i];
      const Rows block = read(k, i == 0 && c.cos, at, tokens, scratch);
      if (l.narrow) {
        for (int64_t r = 0; r < rows; r++) score_row(q + r * k.dim, block, k.dim, tokens, scores + r * BLOCK, i);
      } else if (c.of_keys.data) {
        score(q, lanes, block, k.dim, tokens, part, false);
        if (i == 0) take_factors(c.of_keys, at, tokens);
        multiply(part, factor + i * lanes, c.of_keys.ranks * lanes, tokens, lanes, scores, i);
      } else {
        score(q, lanes, block, k.dim, tokens, scores, i);
      }
      if (Layout::copied(c, i)) scratch += BLOCK * Layout::padded(k);
      q += up(lanes * k.dim, LANES);
    }
    const int64_t by_token = l.narrow ? 1 : lanes, by_row = l.narrow ? BLOCK : 1;
    if (at + tokens > end(0))  // the first row ends first
      for (int64_t r = 0; r < rows; r++)
        for (int64_t t = std::max<int64_t>(0, end(r) - at); t < tokens; t++)
          scores[t * by_token + r * by_row] = -INFINITY;
    if (l.narrow) {
      for (int64_t r = 0; r < rows; r++) change[r] = soften_row(scores + r * BLOCK, tokens, maximum + r, total + r);
    } else {
      int64_t n = 0;
      for (; lanes - n >= LANES; n += LANES)
        soften<LANES>(scores + n, lanes, tokens, maximum + n, total + n, change + n);
      for (; n < lanes; n += HALF) soften<HALF>(scores + n, lanes, tokens, maximum + n, total + n, change + n);
    }
    for (int64_t r = 0; r < rows; r++)
      if (change[r] != 1.0f) rescale(sums + r * l.v_dim, l.v_dim, change[r]);
    for (int64_t i = 0; i < c.value_parts; i++) {
      const Part& v = c.values[i];
      const float* weights = scores;
      if (c.of_values.data) {
        if (i == 0) take_factors(c.of_values, at, tokens);
        multiply(scores, factor + i * lanes, c.of_values.ranks * lanes, tokens, lanes, part, false);
        weights = part;
      }
      const float* widened = shared(v);
      const Rows block = widened ? Rows{widened, Layout::padded(v), 0} : read(v, false, at, tokens, values);
      weigh(weights, by_token, by_row, rows, block, tokens, sums, l.v_dim);
    }
  }

  // Where values are a part of the keys that has been widened already.
  const float* shared(const Part& v) const {
    const float* scratch = keys;
    for (int64_t i = 0; v.half && i < c.key_parts; i++) {
      const Part& k = c.keys[i];
      const bool same =
          k.data == v.data && k.batch == v.batch && k.token == v.token && k.head == v.head && k.dim == v.dim;
      if (same && k.half && !(i == 0 && c.cos)) return scratch;
      if (Layout::copied(c, i)) scratch += BLOCK * Layout::padded(k);
    }
    return nullptr;
  }
};

// One row's output from what its spans have left.
void merge(const Call& c, const Layout& l, const float* left, int64_t lane, float sink, float* out) {
  const int64_t size = l.sums + l.statistics;
  float most = sink, total = 0.0f;
  for (int64_t s = 0; s < l.spans; s++) {
    const float x = left[s * size + l.sums + lane];
    most = most < x ? x : most;
  }
  const float from = most == -INFINITY ? 0.0f : most;
  std::fill(out, out + l.v_dim, 0.0f);
  for (int64_t s = 0; s < l.spans; s++) {
    const float* statistics = left + s * size + l.sums;
    const float by = std::exp2(statistics[lane] - from), *sums = left + s * size + lane * l.v_dim;
    total += by * statistics[l.statistics / 2 + lane];
    for (int64_t d = 0; d < l.v_dim; d++) out[d] += by * sums[d];
  }
  if (sink != -INFINITY) total += std::exp2(sink - from);
  for (int64_t d = 0; d < l.v_dim; d++) out[d] /= total;
}

}  // namespace

// How many floats of workspace the call needs.
extern "C" int64_t decoding_workspace(const Call* call) { return Layout(*call).total; }

extern "C" void decoding_attention(const Call* call) {
  const Call& c = *call;
  const Layout l(c);
  float* left = c.workspace + c.threads * l.per_thread;
  const int64_t left_size = l.sums + l.statistics;
  int64_t next = 0;
#pragma omp parallel num_threads(static_cast<int>(c.threads))
  {
    float* scratch = c.workspace + omp_get_thread_num() * l.per_thread;
    int64_t item;
    while (true) {
#pragma omp atomic capture
      item = next++;
      if (item >= l.items) break;
      // Heads of one span follow each other: a part that they share is still in the cache.
      int64_t chunk = item % l.chunks, head = item / l.chunks % c.kv_heads;
      int64_t span = item / l.chunks / c.kv_heads % l.spans, batch = item / l.chunks / c.kv_heads / l.spans;
      float* at = scratch;
      auto room = [&at](int64_t size) { return at += size, at - size; };
      float* sums = left + (((batch * c.kv_heads + head) * l.chunks + chunk) * l.spans + span) * left_size;
      float *queries = room(l.query_size), *keys = room(l.keys_size), *values = room(l.values_size);
      float *row = room(l.row_size), *scores = room(l.part_size), *part = room(l.part_size);
      float *factor = room(l.factor_size), *change = at;
      const int64_t first_row = chunk * l.chunk, rows = std::min(l.chunk, l.rows - first_row);
      const int64_t first = span * l.span, last = std::min(first + l.span, c.tokens);
      float *maximum = sums + l.sums, *total = maximum + l.statistics / 2;
      Span{c,      l,   batch,  head, first_row, rows,   first, last,    queries, keys,
           values, row, scores, part, factor,    change, sums,  maximum, total}
          .run();
    }
#pragma omp barrier
#pragma omp for
    for (int64_t n = 0; n < c.batch * c.queries * c.heads; n++) {
      const int64_t batch = n / c.heads / c.queries, query = n / c.heads % c.queries, head = n % c.heads;
      const int64_t row = query * l.group + head % l.group, chunk = row / l.chunk;
      merge(c, l, left + ((batch * c.kv_heads + head / l.group) * l.chunks + chunk) * l.spans * left_size,
            row % l.chunk, c.sinks ? c.sinks[head] * LOG2_E : -INFINITY, c.out + n * l.v_dim);
    }
  }
}
