// Lines in bf16, for processors with AVX512_BF16: how they are read, written and quantized, and attention on them.

#pragma once
#include "pass.hpp"

INLINE __m512i words(const uint16_t* at) { return _mm512_loadu_si512(at); }

// Products take two columns at a time: of both, tokens 0-3, 8-11, 16-19, 24-27 come into one register (low), the rest
// into the other, a token's two values side by side. `line` brings results that lie so back into a line.
INLINE __m512i low_pairs(__m512i a, __m512i b) { return _mm512_unpacklo_epi16(a, b); }
INLINE __m512i high_pairs(__m512i a, __m512i b) { return _mm512_unpackhi_epi16(a, b); }
INLINE __m512i line(__m512 low, __m512 high) {
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm512_permutexvar_epi64(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// The pairs in the order of tokens: 0-15 and 16-31. One instruction that takes longer.
INLINE void pairs_in_order(__m512i a, __m512i b, __m512i& first, __m512i& second) {
    alignas(64) static const uint16_t FIRST[32] = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39,
                                                   8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i order = _mm512_load_si512(FIRST);
    first = _mm512_permutex2var_epi16(a, order, b);
    second = _mm512_permutex2var_epi16(a, _mm512_add_epi16(order, _mm512_set1_epi16(16)), b);
}

// One head of one sentence at a time, as whichever arithmetic multiplies takes it.
struct HeadMemory {
    int32_t *keys, *values, *asks, *shares;  // pairs: keys [depth / 2][ld], values [depth][ld / 2], asks [depth / 2][TILE], shares [n / 2][TILE]
    float* scores;                           // [n][TILE]
    uint16_t* out;                           // [depth][TILE]
    long ld;
};

struct Bf16Lines {
    typedef uint16_t elem;
    static constexpr bool WIDE = true;

    INLINE void get(const uint16_t* at, vec (&v)[2]) {
        for (int i = 0; i < 2; i++)
            v[i] = (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(at + 16 * i))), 16);
    }
    INLINE void put(uint16_t* at, const vec (&v)[2]) {
        _mm512_storeu_si512(at, (__m512i)_mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]));
    }
    INLINE void put_bytes(uint8_t* at, const vec (&v)[2]) {
        for (int i = 0; i < 2; i++)
            _mm_storeu_si128((__m128i*)(at + 16 * i), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32((__m512)v[i])));
    }

    // acc[o][v] += sum over pairs i of w[i * wk + o * wo] * line(i)[v].
    template <int O, int V, typename Line>
    INLINE void multiply(const int32_t* w, long wk, long wo, long pairs, const Line& line, __m512 (&acc)[O][V]) {
        for (long i = 0; i < pairs; i++, w += wk) {
            __m512i x[V];
            line(i, x);
#pragma GCC unroll 16
            for (int o = 0; o < O; o++) {
                const __m512bh weight = (__m512bh)_mm512_set1_epi32(w[o * wo]);
#pragma GCC unroll 2
                for (int v = 0; v < V; v++) acc[o][v] = _mm512_dpbf16_ps(acc[o][v], (__m512bh)x[v], weight);
            }
        }
    }

    static HeadMemory head_memory(long depth, long n) {
        HeadMemory m;
        m.ld = (n + 2 * TILE) / 2 * 2;
        const long pairs = (depth + 1) / 2;
        m.keys = static_cast<int32_t*>(scratch<3>((pairs * m.ld + depth * m.ld / 2 + pairs * TILE + (n + 2) / 2 * TILE
                                                   + (n + 2) * TILE + depth * TILE / 2) * 4 + 4096));
        m.values = m.keys + pairs * m.ld;
        m.asks = m.values + depth * m.ld / 2;
        m.asks += (16 - (uintptr_t)m.asks / 4 % 16) % 16;
        m.shares = m.asks + pairs * TILE;
        m.scores = reinterpret_cast<float*>(m.shares + (n + 2) / 2 * TILE);
        m.out = reinterpret_cast<uint16_t*>(m.scores + (n + 2) * TILE);
        return m;
    }

    // Columns in pairs, tokens in order: to[i * ld + token].
    static void take_pairs(const Lines<uint16_t>& from, long column, long depth, long token, long count, int32_t* to, long ld) {
        alignas(64) uint16_t a[2 * TILE], b[2 * TILE] = {};
        for (long c = 0; c < depth; c += 2)
            for (long t = 0; t < count; t += TILE) {
                const long n = std::min<long>(TILE, count - t);
                take(from, column + c, token + t, n, a);
                if (c + 1 < depth) take(from, column + c + 1, token + t, n, b);
                else std::memset(b, 0, sizeof b);
                __m512i first, second;
                pairs_in_order(_mm512_load_si512(a), _mm512_load_si512(b), first, second);
                _mm512_storeu_si512(to + c / 2 * ld + t, first);
                _mm512_storeu_si512(to + c / 2 * ld + t + 16, second);
            }
    }

    static void attend(const Encoder& e, const EncoderLayer& l, long head, const Lines<uint16_t>& q, long query, long queries,
                       const Lines<uint16_t>& k, const Lines<uint16_t>& v, long at, long n, const Lines<uint16_t>& out) {
        const long depth = e.depth, column = head * depth;
        const HeadMemory m = head_memory(depth, n);
        take_pairs(k, column, depth, at, n, m.keys, m.ld);
        uint16_t* values = reinterpret_cast<uint16_t*>(m.values);
        for (long c = 0; c < depth; c++) {
            take(v, column + c, at, n, values + c * m.ld);
            values[c * m.ld + n] = 0;  // an odd last key has no other half
        }
        for (long from = 0; from < queries; from += TILE) {
            const long count = std::min<long>(TILE, queries - from);
            take_pairs(q, column, depth, query + from, count, m.asks, TILE);
            const float* bias = e.bias ? e.bias + head * (2 * e.bias_reach - 1) + e.bias_reach - 1 + from : nullptr;
            if (count > LANES) some<2>(l, depth, n, m, bias);
            else some<1>(l, depth, n, m, bias);
            for (long c = 0; c < depth; c++) give(m.out + c * TILE, count, out, column + c, query + from);
        }
    }

    template <int V>
    static void some(const EncoderLayer& l, long depth, long n, const HeadMemory& m, const float* bias) {
        constexpr int ROWS = 13;
        const float scale = l.scale * 1.44269504088896341f;
        vec most[V], sum[V];
        for (int i = 0; i < V; i++) most[i] = splat(-INFINITY);
        const long keys_each = part_width(n, ROWS, 1);
        const auto ask = [&](long i, __m512i (&x)[V]) {
            for (int v = 0; v < V; v++) x[v] = _mm512_load_si512(m.asks + i * TILE + v * 16);
        };
        for (long j = 0; j < n; j += keys_each)
            with<ROWS>(std::min(keys_each, n - j), [&](auto number) {
                constexpr int O = decltype(number)::value;
                __m512 acc[O][V];
#pragma GCC unroll 16
                for (int o = 0; o < O; o++)
                    for (int i = 0; i < V; i++) acc[o][i] = _mm512_setzero_ps();
                multiply<O, V>(m.keys + j, m.ld, 1, (depth + 1) / 2, ask, acc);
#pragma GCC unroll 16
                for (int o = 0; o < O; o++)
                    for (int i = 0; i < V; i++) {
                        vec s = (vec)acc[o][i] * scale;
                        if (bias) s += load(bias - (j + o) + i * LANES) * 1.44269504088896341f;
                        most[i] = larger(most[i], s);
                        store(m.scores + (j + o) * TILE + i * LANES, s);
                    }
            });
        softmax<V>(n, m, most, sum);
        const auto share = [&](long i, __m512i (&x)[V]) {
            for (int v = 0; v < V; v++) x[v] = _mm512_load_si512(m.shares + i * TILE + v * 16);
        };
        const long each = part_width(depth, ROWS, 1);
        for (long c = 0; c < depth; c += each)
            with<ROWS>(std::min(each, depth - c), [&](auto number) {
                constexpr int O = decltype(number)::value;
                __m512 acc[O][V];
#pragma GCC unroll 16
                for (int o = 0; o < O; o++)
                    for (int i = 0; i < V; i++) acc[o][i] = _mm512_setzero_ps();
                multiply<O, V>(m.values + c * m.ld / 2, 1, m.ld / 2, (n + 1) / 2, share, acc);
#pragma GCC unroll 16
                for (int o = 0; o < O; o++) {
                    vec r[2] = {(vec)acc[o][0] * sum[0], V == 2 ? (vec)acc[o][V - 1] * sum[V - 1] : splat(0.f)};
                    put(m.out + (c + o) * TILE, r);
                }
            });
    }

    // scores -> shares of every query in bf16, in pairs of keys; `sum`: what they are still to be multiplied by.
    template <int V>
    static void softmax(long n, const HeadMemory& m, const vec (&most)[V], vec (&sum)[V]) {
        for (int i = 0; i < V; i++) sum[i] = splat(0.f);
        const __m512i half = _mm512_set1_epi32(0x8000);
        for (long j = 0; j < n; j += 2)
            for (int i = 0; i < V; i++) {
                const float* s = m.scores + j * TILE + i * LANES;
                const vec a = exp2_of_negative<true>(load(s) - most[i]);
                const vec b = j + 1 < n ? exp2_of_negative<true>(load(s + TILE) - most[i]) : splat(0.f);
                sum[i] += a + b;
                const __m512i x = _mm512_srli_epi32(_mm512_add_epi32((__m512i)a, half), 16), y = _mm512_add_epi32((__m512i)b, half);
                _mm512_store_si512(m.shares + j / 2 * TILE + i * 16, _mm512_mask_blend_epi16(0xaaaaaaaa, x, y));
            }
        for (int i = 0; i < V; i++) sum[i] = 1.f / sum[i];
    }
};
