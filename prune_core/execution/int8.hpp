// Layers in 8 bits between lines in bf16: what is alike for VNNI and for tiles.

#pragma once
#include "bf16.hpp"

// Interleaving the bytes of four columns brings tokens into the order 0-3, 16-19, 4-7, 20-23 and 8-11, 24-27, 12-15,
// 28-31; sums come in it too.
struct ByteLines : Bf16Lines {
    INLINE __m512i line8(__m512 first, __m512 second) {
        const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        return _mm512_permutexvar_epi64(order, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
    // Scales of a tile's tokens in the order of the sums.
    INLINE void in_order(const float* scales, __m512 (&to)[2]) {
        const __m512 a = _mm512_loadu_ps(scales), b = _mm512_loadu_ps(scales + 16);
        to[0] = (__m512)_mm512_permutex2var_epi64((__m512i)a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), (__m512i)b);
        to[1] = (__m512)_mm512_permutex2var_epi64((__m512i)a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), (__m512i)b);
    }
    // A line of outputs from sums that began with layer.starts. ACT: the activation, if it is known.
    template <long ACT = -1>
    INLINE void finish(const Linear& layer, long out, const __m512i (&acc)[2], const __m512 (&scales)[2], uint16_t* y) {
        const long act = ACT < 0 ? layer.act : ACT;
        __m512 v[2];
        for (int i = 0; i < 2; i++) {
            v[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i]), _mm512_mul_ps(_mm512_set1_ps(layer.scales[out]), scales[i]), _mm512_set1_ps(layer.bias[out]));
            if (act) v[i] = (__m512)activated<true>(act, (vec)v[i]);
        }
        _mm512_storeu_si512(y, line8(v[0], v[1]));
    }
};
