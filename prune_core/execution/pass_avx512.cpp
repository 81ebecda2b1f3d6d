// The pass in bf16 by AVX512_BF16, and, with INT8, with linear layers in 8 bits by AVX512_VNNI.

#include "int8.hpp"

constexpr int BLOCK_ROWS = 13;  // outputs x 32 tokens fill 26 registers

struct Bf16 : Bf16Lines {
    static constexpr bool QUANTIZED = false;
    static constexpr int ROWS = BLOCK_ROWS;
    static void begin() {}
    static void end() {}

    static void linear(const Linear& layer, const Source<uint16_t>& source, long tiles, const Lines<uint16_t>& y, const Team& team) {
        if (layer.outputs) return scattered(layer, source, tiles, y, team);
        near_tiles(layer, source.lines, tiles, [&](long first, long last) {
            share(layer, team, ROWS, 1, [&](const Strip& strip, long from, long to) {
                const long width = part_width(strip.rows, ROWS, 1), pairs = (strip.kept + 1) / 2;
                for (long t = first; t < last; t++)
                    for (long row = from; row < to; row += width)
                        with<ROWS>(std::min(width, to - row), [&](auto n) {
                            constexpr int O = decltype(n)::value;
                            const float* bias = layer.bias + strip.out + row;
                            __m512 acc[O][2];
#pragma GCC unroll 16
                            for (int o = 0; o < O; o++) acc[o][0] = acc[o][1] = _mm512_set1_ps(bias[o]);
                            block<O>(layer, strip, row, pairs, source.lines.tile(t), acc);
                            finish<O>(layer.act, acc, y.line(t, strip.out + row), [](int o) { return o; });
                        });
            });
        });
    }

    template <int O>
    INLINE void block(const Linear& layer, const Strip& strip, long row, long pairs, const uint16_t* x, __m512 (&acc)[O][2]) {
        const int32_t* columns = layer.columns + strip.columns;
        const int32_t* w = reinterpret_cast<const int32_t*>(static_cast<const uint16_t*>(layer.weights) + strip.weights) + row * pairs;
        multiply<O, 2>(w, O, 1, pairs, [&](long i, __m512i (&v)[2]) {
            const __m512i a = words(x + columns[2 * i]), b = words(x + columns[2 * i + 1]);
            v[0] = low_pairs(a, b), v[1] = high_pairs(a, b);
        }, acc);
    }

    template <int O, typename Place>
    INLINE void finish(long act, __m512 (&acc)[O][2], uint16_t* y, const Place& place) {
#pragma GCC unroll 16
        for (int o = 0; o < O; o++) {
            if (act)
                for (int i = 0; i < 2; i++) acc[o][i] = (__m512)activated<true>(act, (vec)acc[o][i]);
            _mm512_storeu_si512(y + (long)place(o) * TILE, line(acc[o][0], acc[o][1]));
        }
    }

    // Strips that add to the outputs they list: sums in fp32, a thread owns a tile.
    static void scattered(const Linear& layer, const Source<uint16_t>& source, long tiles, const Lines<uint16_t>& y, const Team& team) {
        float* sums = static_cast<float*>(scratch<4>(layer.width * TILE * sizeof(float)));
        for (long t = team.from(tiles); t < team.to(tiles); t++) {
            for (long r = 0; r < layer.width; r++)
                for (int i = 0; i < 2; i++) store(sums + r * TILE + i * LANES, splat(layer.bias[r]));
            for (long s = 0; s < layer.count; s++) {
                const Strip& strip = layer.strips[s];
                const long width = part_width(strip.rows, ROWS, 1), pairs = (strip.kept + 1) / 2;
                const int32_t* outputs = layer.outputs + strip.out;
                for (long row = 0; row < strip.rows; row += width)
                    with<ROWS>(std::min(width, strip.rows - row), [&](auto n) {
                        constexpr int O = decltype(n)::value;
                        __m512 acc[O][2];
#pragma GCC unroll 16
                        for (int o = 0; o < O; o++)
                            for (int i = 0; i < 2; i++) acc[o][i] = (__m512)load(sums + (long)outputs[row + o] * TILE + i * LANES);
                        block<O>(layer, strip, row, pairs, source.lines.tile(t), acc);
#pragma GCC unroll 16
                        for (int o = 0; o < O; o++)
                            for (int i = 0; i < 2; i++) store(sums + (long)outputs[row + o] * TILE + i * LANES, (vec)acc[o][i]);
                    });
            }
            for (long r = 0; r < layer.width; r++) {
                __m512 acc[1][2] = {{(__m512)load(sums + r * TILE), (__m512)load(sums + r * TILE + LANES)}};
                finish<1>(layer.act, acc, y.line(t, r), [](int o) { return o; });
            }
        }
    }
};

#if defined(INT8)
struct Int8 : ByteLines {
    static constexpr bool QUANTIZED = true;
    static constexpr int ROWS = BLOCK_ROWS;
    static void begin() {}
    static void end() {}

    // A strip's columns in groups of four, a token's four values side by side; 128 bytes a group. Tokens come
    // as ByteLines has them.
    static void gather(const uint8_t* x, const int32_t* columns, long groups, uint8_t* to) {
        for (long i = 0; i < groups; i++, columns += 4, to += 128) {
            const auto bytes = [&](int c) { return _mm256_loadu_si256((const __m256i*)(x + columns[c])); };
            const __m256i a = bytes(0), b = bytes(1), c = bytes(2), d = bytes(3);
            const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            const __m256i low2 = _mm256_unpacklo_epi8(c, d), high2 = _mm256_unpackhi_epi8(c, d);
            _mm256_store_si256((__m256i*)to, _mm256_unpacklo_epi16(low, low2));
            _mm256_store_si256((__m256i*)(to + 32), _mm256_unpackhi_epi16(low, low2));
            _mm256_store_si256((__m256i*)(to + 64), _mm256_unpacklo_epi16(high, high2));
            _mm256_store_si256((__m256i*)(to + 96), _mm256_unpackhi_epi16(high, high2));
        }
    }

    template <int O>
    INLINE void block(const int32_t* w, long groups, const uint8_t* x, __m512i (&acc)[O][2]) {
        for (long i = 0; i < groups; i++, w += O, x += 128) {
            const __m512i a = _mm512_load_si512(x), b = _mm512_load_si512(x + 64);
#pragma GCC unroll 16
            for (int o = 0; o < O; o++) {
                const __m512i weight = _mm512_set1_epi32(w[o]);
                acc[o][0] = _mm512_dpbusd_epi32(acc[o][0], a, weight);
                acc[o][1] = _mm512_dpbusd_epi32(acc[o][1], b, weight);
            }
        }
    }

    INLINE const int32_t* weights(const Linear& layer, const Strip& strip, long row, long groups) {
        return reinterpret_cast<const int32_t*>(static_cast<const int8_t*>(layer.weights) + strip.weights) + row * groups;
    }

    static void linear(const Linear& layer, const Source<uint16_t>& source, long tiles, const Lines<uint16_t>& y, const Team& team) {
        if (layer.outputs) return scattered(layer, source, tiles, y, team);
        share(layer, team, ROWS, 1, [&](const Strip& strip, long from, long to) {
            const long width = part_width(strip.rows, ROWS, 1), groups = (strip.kept + 3) / 4;
            uint8_t* x = static_cast<uint8_t*>(scratch<4>(groups * 128));
            for (long t = 0; t < tiles; t++) {
                gather(source.bytes + t * layer.inputs * TILE, layer.columns + strip.columns, groups, x);
                const Tokens tokens(source.scales + 2 * t * TILE);
                for (long row = from; row < to; row += width)
                    with<ROWS>(std::min(width, to - row), [&](auto n) {
                        constexpr int O = decltype(n)::value;
                        const long out = strip.out + row;
                        __m512i acc[O][2];
#pragma GCC unroll 16
                        for (int o = 0; o < O; o++)
                            for (int i = 0; i < 2; i++) acc[o][i] = _mm512_setzero_si512();
                        block<O>(weights(layer, strip, row, groups), groups, x, acc);
                        // by way of memory: what comes after the products would make GCC 12 copy every sum in every step
                        alignas(64) int32_t sums[O][2][16];
#pragma GCC unroll 16
                        for (int o = 0; o < O; o++)
                            for (int i = 0; i < 2; i++) _mm512_store_si512(sums[o][i], acc[o][i]);
                        asm volatile("" : : : "memory");
                        for (int o = 0; o < O; o++) {
                            const __m512i sum[2] = {_mm512_load_si512(sums[o][0]), _mm512_load_si512(sums[o][1])};
                            finish(layer, out + o, sum, tokens, y.line(t, out + o));
                        }
                    });
            }
        });
    }

    static void scattered(const Linear& layer, const Source<uint16_t>& source, long tiles, const Lines<uint16_t>& y, const Team& team) {
        long most = 0;
        for (long s = 0; s < layer.count; s++) most = std::max<long>(most, layer.strips[s].kept);
        int32_t* sums = static_cast<int32_t*>(scratch<4>(layer.width * TILE * 4 + (most + 3) / 4 * 128));
        uint8_t* x = reinterpret_cast<uint8_t*>(sums + layer.width * TILE);
        for (long t = team.from(tiles); t < team.to(tiles); t++) {
            for (long r = 0; r < layer.width; r++)
                for (int i = 0; i < 2; i++) _mm512_store_si512(sums + r * TILE + i * 16, _mm512_setzero_si512());
            for (long s = 0; s < layer.count; s++) {
                const Strip& strip = layer.strips[s];
                const long width = part_width(strip.rows, ROWS, 1), groups = (strip.kept + 3) / 4;
                const int32_t* outputs = layer.outputs + strip.out;
                gather(source.bytes + t * layer.inputs * TILE, layer.columns + strip.columns, groups, x);
                for (long row = 0; row < strip.rows; row += width)
                    with<ROWS>(std::min(width, strip.rows - row), [&](auto n) {
                        constexpr int O = decltype(n)::value;
                        __m512i acc[O][2];
#pragma GCC unroll 16
                        for (int o = 0; o < O; o++)
                            for (int i = 0; i < 2; i++) acc[o][i] = _mm512_load_si512(sums + (long)outputs[row + o] * TILE + i * 16);
                        block<O>(weights(layer, strip, row, groups), groups, x, acc);
#pragma GCC unroll 16
                        for (int o = 0; o < O; o++)
                            for (int i = 0; i < 2; i++) _mm512_store_si512(sums + (long)outputs[row + o] * TILE + i * 16, acc[o][i]);
                    });
            }
            const Tokens tokens(source.scales + 2 * t * TILE);
            for (long r = 0; r < layer.width; r++) {
                const __m512i acc[2] = {_mm512_load_si512(sums + r * TILE), _mm512_load_si512(sums + r * TILE + 16)};
                finish(layer, r, acc, tokens, y.line(t, r));
            }
        }
    }
};
PRUNESCOPE_PASS(Int8)
#else
PRUNESCOPE_PASS(Bf16)
#endif
