// The pass in fp32, for any processor: written with the compiler's vector extension, so that -march=native turns it
// into AVX2, AVX-512 or NEON.

#include "pass.hpp"

struct Fp32 {
    typedef float elem;
    static constexpr bool QUANTIZED = false, WIDE = false;
    static constexpr int ROWS = MOST;

    static void begin() {}
    static void end() {}
    INLINE void get(const float* at, vec (&v)[VECTORS]) {
        for (int i = 0; i < VECTORS; i++) v[i] = load(at + i * LANES);
    }
    INLINE void put(float* at, const vec (&v)[VECTORS]) {
        for (int i = 0; i < VECTORS; i++) store(at + i * LANES, v[i]);
    }
    static void put_bytes(uint8_t*, const vec (&)[VECTORS]) {}

    // acc[o][v] += sum over k of w[k * wk + o * wo] * x_k[v]; `line(k)` is where x_k lies.
    template <int O, int V, typename Line>
    INLINE void multiply(const float* w, long wk, long wo, long count, const Line& line, vec (&acc)[O][V]) {
        for (long k = 0; k < count; k++, w += wk) {
            const float* x = line(k);
            vec v[V];
#pragma GCC unroll 4
            for (int i = 0; i < V; i++) v[i] = load(x + i * LANES);
#pragma GCC unroll 16
            for (int o = 0; o < O; o++) {
                const vec weight = splat(w[o * wo]);
#pragma GCC unroll 4
                for (int i = 0; i < V; i++) acc[o][i] += weight * v[i];
            }
        }
    }

    static void linear(const Linear& layer, const Source<float>& source, long tiles, const Lines<float>& y, const Team& team) {
        if (layer.outputs) return scattered(layer, source, tiles, y, team);
        near_tiles(layer, source.lines, tiles, [&](long first, long last) {
            share(layer, team, ROWS, 1, [&](const Strip& strip, long from, long to) {
                const long width = part_width(strip.rows, ROWS, 1);
                for (long t = first; t < last; t++)
                    for (long row = from; row < to; row += width)
                        with(std::min(width, to - row), [&](auto n) { block<decltype(n)::value>(layer, source, strip, row, t, y); });
            });
        });
    }

    template <int O>
    INLINE void block(const Linear& layer, const Source<float>& source, const Strip& strip, long row, long t, const Lines<float>& y) {
        const int32_t* columns = layer.columns + strip.columns;
        const float* w = static_cast<const float*>(layer.weights) + strip.weights + row * strip.kept;
        const float *bias = layer.bias + strip.out + row, *x = source.lines.tile(t);
        vec acc[O][VECTORS];
#pragma GCC unroll 16
        for (int o = 0; o < O; o++)
            for (int i = 0; i < VECTORS; i++) acc[o][i] = splat(bias[o]);
        multiply<O, VECTORS>(w, O, 1, strip.kept, [&](long k) { return x + columns[k]; }, acc);
        float* to = y.line(t, strip.out + row);
#pragma GCC unroll 16
        for (int o = 0; o < O; o++, to += TILE) {
            if (layer.act)
                for (int i = 0; i < VECTORS; i++) acc[o][i] = activated<false>(layer.act, acc[o][i]);
            put(to, acc[o]);
        }
    }

    // Strips that add to the outputs they list: a thread owns a tile.
    static void scattered(const Linear& layer, const Source<float>& source, long tiles, const Lines<float>& y, const Team& team) {
        for (long t = team.from(tiles); t < team.to(tiles); t++) {
            const float* x = source.lines.tile(t);
            float* out = y.tile(t);
            for (long r = 0; r < layer.width; r++)
                for (int i = 0; i < VECTORS; i++) store(out + r * TILE + i * LANES, splat(layer.bias[r]));
            for (long s = 0; s < layer.count; s++) {
                const Strip& strip = layer.strips[s];
                const long width = part_width(strip.rows, ROWS, 1);
                const int32_t *columns = layer.columns + strip.columns, *outputs = layer.outputs + strip.out;
                for (long row = 0; row < strip.rows; row += width)
                    with(std::min(width, strip.rows - row), [&](auto n) {
                        constexpr int O = decltype(n)::value;
                        const float* w = static_cast<const float*>(layer.weights) + strip.weights + row * strip.kept;
                        vec acc[O][VECTORS];
#pragma GCC unroll 16
                        for (int o = 0; o < O; o++) get(out + (long)outputs[row + o] * TILE, acc[o]);
                        multiply<O, VECTORS>(w, O, 1, strip.kept, [&](long k) { return x + columns[k]; }, acc);
#pragma GCC unroll 16
                        for (int o = 0; o < O; o++) put(out + (long)outputs[row + o] * TILE, acc[o]);
                    });
            }
            if (layer.act)
                for (long r = 0; r < layer.width; r++)
                    for (int i = 0; i < VECTORS; i++)
                        store(out + r * TILE + i * LANES, activated<false>(layer.act, load(out + r * TILE + i * LANES)));
        }
    }

    // One head of one sentence: S^T = K Q^T, softmax down the keys, O^T = V^T P^T; queries are the lanes.
    static void attend(const Encoder& e, const EncoderLayer& l, long head, const Lines<float>& q, long query, long queries,
                       const Lines<float>& k, const Lines<float>& v, long at, long n, const Lines<float>& out) {
        const long depth = e.depth, ld = n + TILE, column = head * depth;
        float* keys = static_cast<float*>(scratch<3>((2 * depth * ld + (2 * depth + n + 2) * TILE) * sizeof(float)));
        float *values = keys + depth * ld, *asks = values + depth * ld, *scores = asks + depth * TILE, *sums = scores + n * TILE;
        for (long c = 0; c < depth; c++) {
            take(k, column + c, at, n, keys + c * ld);
            take(v, column + c, at, n, values + c * ld);
        }
        for (long from = 0; from < queries; from += TILE) {
            const long count = std::min<long>(TILE, queries - from);
            for (long c = 0; c < depth; c++) take(q, column + c, query + from, count, asks + c * TILE);
            const float* bias = e.bias ? e.bias + head * (2 * e.bias_reach - 1) + e.bias_reach - 1 + from : nullptr;
            if (count > LANES) some<VECTORS>(l, depth, n, ld, keys, values, asks, scores, sums, bias);
            else some<1>(l, depth, n, ld, keys, values, asks, scores, sums, bias);
            for (long c = 0; c < depth; c++) give(sums + c * TILE, count, out, column + c, query + from);
        }
    }

    template <int V>
    static void some(const EncoderLayer& l, long depth, long n, long ld, const float* keys, const float* values,
                     const float* asks, float* scores, float* out, const float* bias) {
        const float scale = l.scale * 1.44269504088896341f;
        vec most[V], sum[V];
        for (int i = 0; i < V; i++) most[i] = splat(-INFINITY), sum[i] = splat(0.f);
        const long keys_each = part_width(n, MOST, 1);
        for (long j = 0; j < n; j += keys_each)
            with(std::min(keys_each, n - j), [&](auto number) {
                constexpr int O = decltype(number)::value;
                vec acc[O][V];
#pragma GCC unroll 16
                for (int o = 0; o < O; o++)
                    for (int i = 0; i < V; i++) acc[o][i] = splat(0.f);
                multiply<O, V>(keys + j, ld, 1, depth, [&](long c) { return asks + c * TILE; }, acc);
#pragma GCC unroll 16
                for (int o = 0; o < O; o++)
                    for (int i = 0; i < V; i++) {
                        vec s = acc[o][i] * scale;
                        if (bias) s += load(bias - (j + o) + i * LANES) * 1.44269504088896341f;
                        most[i] = larger(most[i], s);
                        store(scores + (j + o) * TILE + i * LANES, s);
                    }
            });
        for (long j = 0; j < n; j++)
            for (int i = 0; i < V; i++) {
                float* s = scores + j * TILE + i * LANES;
                const vec p = exp2_of_negative<false>(load(s) - most[i]);
                store(s, p);
                sum[i] += p;
            }
        for (int i = 0; i < V; i++) sum[i] = 1.f / sum[i];
        const long each = part_width(depth, MOST, 1);
        for (long c = 0; c < depth; c += each)
            with(std::min(each, depth - c), [&](auto number) {
                constexpr int O = decltype(number)::value;
                vec acc[O][V];
#pragma GCC unroll 16
                for (int o = 0; o < O; o++)
                    for (int i = 0; i < V; i++) acc[o][i] = splat(0.f);
                multiply<O, V>(values + c * ld, 1, ld, n, [&](long j) { return scores + j * TILE; }, acc);
#pragma GCC unroll 16
                for (int o = 0; o < O; o++)
                    for (int i = 0; i < V; i++) store(out + (c + o) * TILE + i * LANES, acc[o][i] * sum[i]);
            });
    }
};

PRUNESCOPE_PASS(Fp32)
