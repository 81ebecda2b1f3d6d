// Layers in 8 bits between lines in bf16: what is alike for VNNI and for tiles.

#pragma once
#include "bf16.hpp"

// Products of unsigned activations and signed weights. With x = least + byte * step of a token, and w = scale * whole of an
// output, the sum of w x is scale * step * (sum of whole * byte) + least * (scale * sum of whole); `sums` holds the last.
//
// Interleaving the bytes of four columns brings tokens into the order 0-3, 16-19, 4-7, 20-23 and 8-11, 24-27, 12-15,
// 28-31; sums come in it too.
struct ByteLines : Bf16Lines {
    INLINE __m512i line8(__m512 first, __m512 second) {
        const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        return _mm512_permutexvar_epi64(order, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
    // What a tile's tokens have each, in the order of the sums.
    INLINE void in_order(const float* values, __m512 (&to)[2]) {
        const __m512 a = _mm512_loadu_ps(values), b = _mm512_loadu_ps(values + 16);
        to[0] = (__m512)_mm512_permutex2var_epi64((__m512i)a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), (__m512i)b);
        to[1] = (__m512)_mm512_permutex2var_epi64((__m512i)a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), (__m512i)b);
    }
    struct Tokens {  // of a tile
        __m512 step[2], least[2];
        Tokens() = default;
        explicit Tokens(const float* scales) { in_order(scales, step), in_order(scales + TILE, least); }
    };

    // A line of outputs. ACT: the activation, if it is known.
    template <long ACT = -1>
    INLINE void finish(const Linear& layer, long out, const __m512i (&acc)[2], const Tokens& tokens, uint16_t* y) {
        const long act = ACT < 0 ? layer.act : ACT;
        __m512 v[2];
        for (int i = 0; i < 2; i++) {
            const __m512 begin = _mm512_fmadd_ps(_mm512_set1_ps(layer.sums[out]), tokens.least[i], _mm512_set1_ps(layer.bias[out]));
            v[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i]), _mm512_mul_ps(_mm512_set1_ps(layer.scales[out]), tokens.step[i]), begin);
            if (act) v[i] = (__m512)activated<true>(act, (vec)v[i]);
        }
        _mm512_storeu_si512(y, line8(v[0], v[1]));
    }
};
