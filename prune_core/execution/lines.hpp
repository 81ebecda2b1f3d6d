// What the pass over a whole encoder stands on: activations in lines, and the steps that are alike for every arithmetic.
//
// Activations lie as x[tile][column][TILE tokens]: a column's tokens side by side, a "line". That is at once what a kept
// column needs, what a product of outputs x tokens gives, and what makes softmax and layer norm go down the columns
// with a token in every lane of a register. So nothing is transposed between the embeddings and the head, narrow
// strips need no padding, and what happens to a token does not depend on which others are beside it.

#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <omp.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 2, MOST = 14;  // MOST: outputs in a block, as many as the registers hold
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2, MOST = 6;
#elif defined(__aarch64__)
constexpr int LANES = 4, VECTORS = 4, MOST = 6;
#else
constexpr int LANES = 4, VECTORS = 2, MOST = 6;
#endif
constexpr int TILE = LANES * VECTORS;
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

INLINE vec splat(float v) { return v - vec{}; }
INLINE vec load(const float* at) { return *reinterpret_cast<const vec*>(at); }
INLINE void store(float* at, vec v) { *reinterpret_cast<vec*>(at) = v; }
INLINE vec select(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE vec larger(vec a, vec b) { return a > b ? a : b; }
INLINE vec smaller(vec a, vec b) { return a < b ? a : b; }

// ------------------------------------------------------------------------------------------------- functions

// erf by a rational minimax approximation on [-4, 4] (as in Eigen's generic_fast_erf_float), a few ulp.
INLINE vec erf(vec x) {
    x = larger(smaller(x, splat(4.f)), splat(-4.f));
    const vec z = x * x;
    vec p = splat(-2.72614225801306e-10f);
    p = p * z + 2.77068142495902e-08f;
    p = p * z + -2.10102402082508e-06f;
    p = p * z + -5.69250639462346e-05f;
    p = p * z + -7.34990630326855e-04f;
    p = p * z + -2.95459980854025e-03f;
    p = p * z + -1.60960333262415e-02f;
    vec q = splat(-1.45660718464996e-05f);
    q = q * z + -2.13374055278905e-04f;
    q = q * z + -1.68282697438203e-03f;
    q = q * z + -7.37332916720468e-03f;
    q = q * z + -1.42647390514189e-02f;
    return x * p / q;
}
INLINE vec gelu(vec x) { return 0.5f * x * (1.f + erf(x * 0.70710678118654752f)); }

#if defined(__AVX512DQ__)
// max(x, 0) - |x| Phi(-|x|), what is taken off by a quadratic for each of 16 stretches of [0, 4.15]: within 8e-5 of gelu,
// a sixth of bf16's rounding at 0.1, and exact where nothing is left to take off.
INLINE vec rough_gelu(vec x) {
    alignas(64) static const float A[16] = {
        0.f, -0.000832807971f, -0.0135777676f, -0.0587223507f, -0.145592362f, -0.258605331f, -0.362702489f, -0.422874004f,
        -0.422524989f, -0.368991405f, -0.285446882f, -0.197477609f, -0.123041779f, -0.0694140494f, -0.0356392227f, -0.00105630467f};
    alignas(64) static const float B[16] = {
        -0.499891043f, -0.490344167f, -0.42899555f, -0.295053452f, -0.109452933f, 0.079100132f, 0.221672699f, 0.291833907f,
        0.292122245f, 0.245339885f, 0.179658219f, 0.116964996f, 0.0684817582f, 0.0363266878f, 0.0175669193f, 0.f};
    alignas(64) static const float C[16] = {
        0.397029221f, 0.369843423f, 0.295430839f, 0.195759863f, 0.0964583158f, 0.0177336f, -0.0311139915f, -0.0515725501f,
        -0.0518030785f, -0.0415799804f, -0.0286675487f, -0.0174955726f, -0.00959958602f, -0.00477896072f, -0.00217372994f, 6.13328302e-05f};
    const vec r = (vec)_mm512_range_ps((__m512)x, _mm512_set1_ps(4.15f), 0b1010);  // the lesser magnitude, no sign
    const __m512i stretch = (__m512i)(r * 3.7349f + 8388608.f);                       // the nearest whole number, 15 at most
    const auto of = [&](const float* table) { return (vec)_mm512_permutexvar_ps(stretch, _mm512_load_ps(table)); };
    return (vec)_mm512_max_ps(_mm512_setzero_ps(), (__m512)x) + ((of(C) * r + of(B)) * r + of(A));  // x where it is no number
}
#else
// x * Phi(x), Phi - 0.5 by an odd minimax polynomial on [-4.2, 4.2]: within 7e-5 of gelu, a sixth of bf16's rounding at 0.1.
INLINE vec rough_gelu(vec x) {
    const vec c = larger(smaller(x, splat(4.2f)), splat(-4.2f)), z = c * c;
    vec p = splat(-9.41710472e-10f);
    p = p * z + 8.20279395e-08f;
    p = p * z + -3.1067587e-06f;
    p = p * z + 6.78222497e-05f;
    p = p * z + -9.57520417e-04f;
    p = p * z + 9.32495363e-03f;
    p = p * z + -6.55768181e-02f;
    p = p * z + 3.98495227e-01f;
    return x * (c * p + 0.5f);
}
#endif

// 2^t for t <= 0: 2^n by the exponent, 2^f, f in [-0.5, 0.5], by a polynomial. 3rd degree, 7e-5 relative, is a
// fiftieth of what bf16 rounds; the 6th is the Taylor series of e^(f ln 2) to 2e-7.
template <bool ROUGH>
INLINE vec exp2_of_negative(vec t) {
    t = larger(t, splat(-126.f));
#if defined(__AVX512F__)
    const vec n = (vec)_mm512_roundscale_ps((__m512)t, 0), f = t - n;
#else
    const ivec whole = __builtin_convertvector(t - 0.5f, ivec);  // to nearest, as t <= 0
    const vec f = t - __builtin_convertvector(whole, vec);
#endif
    vec p;
    if (ROUGH) {
        p = splat(0.0551717746f);
        p = p * f + 0.242611372f;
        p = p * f + 0.69326097f;
        p = p * f + 0.999928027f;
    } else {
        const vec r = f * 0.69314718055994531f;
        p = splat(1.f / 5040);
        p = p * r + 1.f / 720;
        p = p * r + 1.f / 120;
        p = p * r + 1.f / 24;
        p = p * r + 1.f / 6;
        p = p * r + 0.5f;
        p = p * r + 1.f;
        p = p * r + 1.f;
    }
#if defined(__AVX512F__)
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return p * (vec)((whole + 127) << 23);
#endif
}

// gelu by tanh: x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
template <bool ROUGH>
INLINE vec tanh_gelu(vec x) {
    const vec u = 1.5957691216057308f * (x + 0.044715f * x * x * x), down = exp2_of_negative<ROUGH>(larger(u, -u) * -1.4426950408889634f);
    return x * select(u < splat(0.f), down, splat(1.f)) / (1.f + down);
}

template <bool ROUGH>
INLINE vec activated(long act, vec x) {
    switch (act) {
        case 1: return ROUGH ? rough_gelu(x) : gelu(x);
        case 2: return tanh_gelu<ROUGH>(x);
        case 3: return larger(splat(0.f), x);  // x where it is no number
        default: return x;
    }
}

// ------------------------------------------------------------------------------------------------- what is handed over

// Outputs that share their kept inputs.
struct Strip {
    int64_t columns;  // where its list of columns begins
    int64_t kept;
    int64_t weights;  // where its weights begin, in elements
    int64_t out;      // first output; scattered: where its list of outputs begins
    int64_t rows;
};

enum { PLAIN = 0, GELU = 1, TANH_GELU = 2, RELU = 3 };

// A linear layer as whole.py has packed it.
struct Linear {
    const int32_t* columns;  // kept columns, times TILE
    const void* weights;
    const Strip* strips;
    const int32_t* outputs;  // nullptr: strips own their outputs; else they add to those listed
    const float* bias;
    const float* scales;     // int8: of every output's weights
    const float* sums;       // int8: and of their sum
    int64_t count, inputs, width, act;
};

struct EncoderLayer {
    Linear query, key, value, out, inner, outer;
    const float *norm_weight, *norm_bias, *last_weight, *last_bias;
    double norm_eps, last_eps, scale;
    int64_t heads;
};

struct Encoder {
    const EncoderLayer* layers;
    int64_t count, hidden, depth;
    int64_t first_only;  // of the last layer's outputs only each sentence's first is wanted
    // embeddings: rows of three tables, summed, and their norm; without tables the rows come from outside
    const float *words, *places, *kinds, *norm_weight, *norm_bias;
    double norm_eps;
    const float* bias;   // MPNet: [heads][2 * bias_reach - 1] added to the scores of a key so far after its query; or nullptr
    int64_t bias_reach;
};

struct Input {
    const int64_t *starts, *lengths;  // of every sentence: its first token, and how many it has; end to end
    const int64_t *words, *places, *kinds;
    const float* rows;  // (tokens, hidden), where the embeddings are computed elsewhere
    int64_t sentences, tokens, block;  // block: tokens that a thread takes through all layers together
    int64_t threads;
    double* spent;  // nullptr, or seconds of every layer
};

// Threads that work on the same tokens; alone, there is nobody to wait for.
struct Team {
    int me, size;
    void wait() const {
        if (size > 1) {
#pragma omp barrier
        }
    }
    long from(long n) const { return n * me / size; }
    long to(long n) const { return n * (me + 1) / size; }
};

// Memory of one thread: grows, and stays. Aligned to cache lines, with room to read a tile beyond the end.
template <int WHICH>
static void* scratch(size_t bytes) {
    struct Memory {
        void* at = nullptr;
        size_t size = 0;
        ~Memory() { std::free(at); }
    };
    static thread_local Memory memory;
    if (memory.size < bytes) {
        std::free(memory.at);
        memory.size = (bytes + 4095) / 4096 * 4096 + 4096;
        memory.at = std::aligned_alloc(4096, memory.size);
        std::memset(memory.at, 0, memory.size);
    }
    return memory.at;
}

// Calls f with the number as a constant: f(std::integral_constant<int, N>).
template <int N> struct Number { static constexpr int value = N; };
template <int N = MOST, typename F>
INLINE void with(int n, const F& f) {
    if (n == N) f(Number<N>());
    else if constexpr (N > 1) with<N - 1>(n, f);
}

// A strip's rows in blocks of like size, as Blocking.parts has it.
INLINE long part_width(long rows, long most, long unit) {
    const long parts = (rows + most - 1) / most, width = (rows + parts - 1) / parts;
    return (width + unit - 1) / unit * unit;
}

// The parts of a layer's strips that fall to a member of a team: f(strip, first row, last row), by like work.
template <typename F>
static void share(const Linear& layer, const Team& team, long most, long unit, const F& f) {
    double all = 0, done = 0;
    if (team.size > 1)
        for (long i = 0; i < layer.count; i++) all += (double)(layer.strips[i].kept + 16) * layer.strips[i].rows;
    const double from = all * team.me / team.size, to = all * (team.me + 1) / team.size;
    for (long i = 0; i < layer.count; i++) {
        const Strip& strip = layer.strips[i];
        if (team.size == 1) {
            f(strip, 0L, (long)strip.rows);
            continue;
        }
        const long width = part_width(strip.rows, most, unit);
        long first = -1, last = -1;
        for (long row = 0; row < strip.rows; row += width) {
            const double middle = done + (double)(strip.kept + 16) * std::min(width, strip.rows - row) / 2;
            if (middle >= from && middle < to) {
                if (first < 0) first = row;
                last = std::min<long>(strip.rows, row + width);
            }
            done += (double)(strip.kept + 16) * std::min(width, strip.rows - row);
        }
        if (first >= 0) f(strip, first, last);
    }
}

// The columns of some tokens: `lines` of `width` columns a tile.
template <typename E>
struct Lines {
    E* at;
    long width;
    E* line(long tile, long column) const { return at + (tile * width + column) * TILE; }
    E* tile(long t) const { return at + t * width * TILE; }
};

// So many tiles at a time that what a layer reads of them stays in the second cache: f(first tile, last tile).
constexpr long NEAR = 384 * 1024;
template <typename E, typename F>
INLINE void near_tiles(const Linear& layer, const Lines<E>& x, long tiles, const F& f) {
    const long group = std::max<long>(1, NEAR / (layer.inputs * TILE * (long)sizeof(E) + 1));
    for (long t = 0; t < tiles; t += group) {
        const long last = std::min(tiles, t + group);
        for (const char* at = (const char*)x.tile(t); at < (const char*)x.tile(last); at += 64) __builtin_prefetch(at, 0, 2);
        f(t, last);
    }
}

// `count` tokens of a column from `token` on, side by side; up to a tile more is written.
template <typename E>
INLINE void take(const Lines<E>& from, long column, long token, long count, E* to) {
    while (count > 0) {
        const long inside = token % TILE, n = std::min<long>(TILE - inside, count);
        std::memcpy(to, from.line(token / TILE, column) + inside, TILE * sizeof(E));
        to += n, token += n, count -= n;
    }
}

// The other way; nothing beyond `count` is touched.
template <typename E>
INLINE void give(const E* from, long count, const Lines<E>& to, long column, long token) {
    while (count > 0) {
        const long inside = token % TILE, n = std::min<long>(TILE - inside, count);
        E* at = to.line(token / TILE, column) + inside;
        if (n == TILE) std::memcpy(at, from, TILE * sizeof(E));
#if defined(__AVX512BW__)
        else if (sizeof(E) == 2) _mm512_mask_storeu_epi16(at, (1u << n) - 1, _mm512_loadu_si512(from));
#endif
        else std::memcpy(at, from, n * sizeof(E));
        from += n, token += n, count -= n;
    }
}

// The LANES x LANES transpose, in registers: stage by stage, blocks of h x h change places.
#if defined(__clang__)
INLINE vec shuffle(vec a, vec b, ivec at) {
    vec out;
    for (int j = 0; j < LANES; j++) out[j] = at[j] < LANES ? a[at[j]] : b[at[j] - LANES];
    return out;
}
#else
INLINE vec shuffle(vec a, vec b, ivec at) { return __builtin_shuffle(a, b, at); }
#endif
template <int H>
INLINE void exchange(vec (&r)[LANES]) {
    ivec low, high;
    for (int j = 0; j < LANES; j++) {
        low[j] = j & H ? LANES + j - H : j;
        high[j] = j & H ? LANES + j : j + H;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        if (i & H) continue;
        const vec a = r[i], b = r[i + H];
        r[i] = shuffle(a, b, low);
        r[i + H] = shuffle(a, b, high);
    }
    if constexpr (2 * H < LANES) exchange<2 * H>(r);
}
