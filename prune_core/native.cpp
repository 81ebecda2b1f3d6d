// What a pruned encoder executes: linear layers that walk only the kept columns of every strip, attention
// over sentences packed end to end, and residual + layer norm. Loaded with ctypes by native.py.
//
// Every product here has one form: a register block of T tokens x P vectors of outputs; for each kept
// column, broadcast x[token, column] from where it lies and multiply-add it onto the strip's packed
// weights. No gather, no padding; every strip has its own number of columns. Written with the
// compiler's vector extension: -march=native turns it into AVX2, AVX-512 or NEON.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
constexpr int MAX_P = REGISTERS == 32 ? 4 : 2;  // vectors of outputs in a block

// Tokens in a block: accumulators, one row of weights and a broadcast fill the registers.
constexpr int tokens_for(int p) { return std::min(24, (REGISTERS - 1 - p) / p); }

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t hvec __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

static inline vec splat(float v) { return v - vec{}; }
static inline vec load(const float* at) { return *reinterpret_cast<const vec*>(at); }
static inline vec load(const uint16_t* at) {  // bf16 is the upper half of a float
    return (vec)(__builtin_convertvector(*reinterpret_cast<const hvec*>(at), ivec) << 16);
}
static inline vec select(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

// erf by a rational minimax approximation on [-4, 4] (as in Eigen's generic_fast_erf_float), a few ulp.
static inline vec erf(vec x) {
    x = select(x > splat(4.f), splat(4.f), x);
    x = select(x < splat(-4.f), splat(-4.f), x);
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

static inline vec gelu(vec x) { return 0.5f * x * (1.f + erf(x * 0.70710678118654752f)); }

// exp for x <= 0: 2^n * 2^f, f in [-0.5, 0.5], by the Taylor series of e^(f ln 2) to 7th order; 2e-7 relative.
static inline vec exp_of_negative(vec x) {
    x = select(x < splat(-87.f), splat(-87.f), x);
    const vec scaled = x * 1.44269504088896341f;
    const ivec n = __builtin_convertvector(scaled - 0.5f, ivec);  // rounds to nearest, as scaled <= 0
    const vec r = x - __builtin_convertvector(n, vec) * 0.693147180559945f;
    vec p = splat(1.f / 5040);
    p = p * r + 1.f / 720;
    p = p * r + 1.f / 120;
    p = p * r + 1.f / 24;
    p = p * r + 1.f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.f;
    p = p * r + 1.f;
    return p * (vec)((n + 127) << 23);
}

// acc[t][p] += sum over k of x[t, column k] * w[k, p]. columns == nullptr: 0, 1, 2 ...
template <int T, int P, typename W>
static inline void multiply(const float* x, long ldx, const int32_t* columns, long kept, const W* w, long ldw, vec (&acc)[T][P]) {
    for (long k = 0; k < kept; k++, w += ldw) {
        const float* at = x + (columns ? columns[k] : k);
        vec row[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) row[p] = load(w + p * LANES);
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) {
            const vec v = splat(at[t * ldx]);
#pragma GCC unroll 8
            for (int p = 0; p < P; p++) acc[t][p] += v * row[p];
        }
    }
}

// One panel: the outputs of a strip (or of a part of it that fits the registers) and the columns it keeps.
struct Panel {
    int64_t columns;  // where its list of columns begins
    int64_t kept;
    int64_t weights;  // where its weights begin: kept x (vectors * LANES)
    int64_t vectors;
    int64_t out;      // first output, or where its list of outputs begins (scattered)
    int64_t width;    // outputs that are real; the rest of the last vector is padding
};

enum { PLAIN = 0, GELU = 1 };

struct Linear {
    const float* x;
    long ldx;
    const int32_t* columns;
    const void* weights;
    const Panel* panels;
    long count;
    const int32_t* outputs;  // nullptr: panels own their outputs and store; else they add to those listed
    const float* bias;       // per output, padded per panel as the weights are; nullptr when scattered
    int act;
    float* y;
    long ldy;
};

template <int T, int P, typename W>
static void run_block(const Linear& job, const Panel& panel, long token) {
    vec acc[T][P];
    if (job.outputs) {
        for (int t = 0; t < T; t++)
            for (int p = 0; p < P; p++) acc[t][p] = splat(0.f);
    } else {
        for (int p = 0; p < P; p++) {
            const vec bias = load(job.bias + panel.out + p * LANES);
            for (int t = 0; t < T; t++) acc[t][p] = bias;
        }
    }
    const W* w = static_cast<const W*>(job.weights) + panel.weights;
    multiply<T, P>(job.x + token * job.ldx, job.ldx, job.columns + panel.columns, panel.kept, w, P * LANES, acc);
    for (int t = 0; t < T; t++) {
        float* y = job.y + (token + t) * job.ldy;
        if (job.outputs) {
            float sums[P * LANES];
            std::memcpy(sums, acc[t], sizeof sums);
            for (int i = 0; i < panel.width; i++) y[job.outputs[panel.out + i]] += sums[i];
            continue;
        }
        if (job.act == GELU)
            for (int p = 0; p < P; p++) acc[t][p] = gelu(acc[t][p]);
        if (panel.width == P * LANES) {
            for (int p = 0; p < P; p++) *reinterpret_cast<vec*>(y + panel.out + p * LANES) = acc[t][p];
        } else {
            std::memcpy(y + panel.out, acc[t], panel.width * sizeof(float));
        }
    }
}

template <int P, typename W, int T = tokens_for(P)>
static void run_tokens(const Linear& job, const Panel& panel, long token, long count) {
    if (count == T) run_block<T, P, W>(job, panel, token);
    else if constexpr (T > 1) run_tokens<P, W, T - 1>(job, panel, token, count);
}

// Tokens [from, to) of one panel, in blocks of like size: no short rest at the end.
template <int P, typename W>
static void run_panel(const Linear& job, const Panel& panel, long from, long to) {
    const long blocks = (to - from + tokens_for(P) - 1) / tokens_for(P);
    for (long b = 0; b < blocks; b++) {
        const long begin = from + (to - from) * b / blocks, end = from + (to - from) * (b + 1) / blocks;
        run_tokens<P, W>(job, panel, begin, end - begin);
    }
}

template <typename W>
static void run_any(const Linear& job, const Panel& panel, long from, long to) {
    switch (panel.vectors) {
        case 1: return run_panel<1, W>(job, panel, from, to);
        case 2: return run_panel<2, W>(job, panel, from, to);
#if defined(__AVX512F__) || defined(__aarch64__)
        case 3: return run_panel<3, W>(job, panel, from, to);
        case 4: return run_panel<4, W>(job, panel, from, to);
#endif
    }
}

template <typename W>
static void linear(const Linear& job, long tokens, const float* full_bias, long outputs, int threads) {
    if (job.outputs) {  // panels add to the same outputs: a thread owns tokens, and sees to all their panels
        const long chunk = std::max(1L, std::min(96L, (tokens + threads - 1) / threads));
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (long from = 0; from < tokens; from += chunk) {
            const long to = std::min(tokens, from + chunk);
            for (long t = from; t < to; t++) std::memcpy(job.y + t * job.ldy, full_bias, outputs * sizeof(float));
            for (long i = 0; i < job.count; i++) run_any<W>(job, job.panels[i], from, to);
            if (job.act == GELU)
                for (long t = from; t < to; t++) {
                    float* y = job.y + t * job.ldy;
                    long i = 0;
                    for (; i + LANES <= outputs; i += LANES) *reinterpret_cast<vec*>(y + i) = gelu(load(y + i));
                    for (; i < outputs; i++) y[i] = gelu(splat(y[i]))[0];
                }
        }
        return;
    }
    // One task is one panel on a stretch of tokens. Neighbouring tasks share the panel, whose weights stay in the cache.
    const long wanted = std::max(1L, 8L * threads / std::max(1L, job.count));
    const long chunk = std::min(tokens, std::max(std::min(tokens, 192L), (tokens + wanted - 1) / wanted));
    const long stretches = (tokens + chunk - 1) / chunk, split = stretches * job.count < 2 * threads ? threads : 1;
    const long parts = stretches * split, size = (tokens + parts - 1) / parts;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long task = 0; task < parts * job.count; task++) {
        const long from = task % parts * size, to = std::min(tokens, from + size);
        if (from < to) run_any<W>(job, job.panels[task / parts], from, to);
    }
}

// ------------------------------------------------------------------------------------------ attention

// Scores of T queries against all keys, softmax, and the weighted sum of the values; one sentence, one head.
template <int T>
static void attend(const float* q, long ldq, const float* keys, const float* values, long length, long padded, int depth, int vectors,
                   float scale, float* scores, float* out, long ldo) {
    for (long j = 0; j < padded; j += LANES) {  // keys: depth x padded
        vec acc[T][1];
        for (int t = 0; t < T; t++) acc[t][0] = splat(0.f);
        multiply<T, 1>(q, ldq, nullptr, depth, keys + j, padded, acc);
        for (int t = 0; t < T; t++) *reinterpret_cast<vec*>(scores + t * padded + j) = acc[t][0] * scale;
    }
    float inverse[T];
    for (int t = 0; t < T; t++) {
        float* s = scores + t * padded;
        for (long j = length; j < padded; j++) s[j] = -INFINITY;
        vec top = load(s);
        for (long j = LANES; j < padded; j += LANES) top = select(load(s + j) > top, load(s + j), top);
        float most = top[0];
        for (int i = 1; i < LANES; i++) most = std::max(most, top[i]);
        vec sum = splat(0.f);
        for (long j = 0; j < padded; j += LANES) {
            const vec e = exp_of_negative(load(s + j) - most);
            *reinterpret_cast<vec*>(s + j) = e;
            sum += e;
        }
        float total = 0.f;
        for (int i = 0; i < LANES; i++) total += sum[i];
        for (long j = length; j < padded; j++) total -= s[j];
        inverse[t] = 1.f / total;
    }
    for (int p = 0; p < vectors; p++) {  // values: length x (vectors * LANES)
        vec acc[T][1];
        for (int t = 0; t < T; t++) acc[t][0] = splat(0.f);
        multiply<T, 1>(scores, padded, nullptr, length, values + p * LANES, vectors * LANES, acc);
        const int width = std::min(LANES, depth - p * LANES);
        for (int t = 0; t < T; t++) {
            acc[t][0] = acc[t][0] * inverse[t];
            std::memcpy(out + t * ldo + p * LANES, &acc[t][0], width * sizeof(float));
        }
    }
}

constexpr int QUERIES = std::min(12, tokens_for(1));

template <int T = QUERIES, typename... Rest>
static void attend_some(long count, Rest... rest) {
    if (count == T) attend<T>(rest...);
    else if constexpr (T > 1) attend_some<T - 1>(count, rest...);
}

static inline long round_up(long n) { return (n + LANES - 1) / LANES * LANES; }

extern "C" {

int prunescope_lanes() { return LANES; }
int prunescope_max_vectors() { return MAX_P; }

// y (tokens, outputs) = act(x (tokens, inputs) W^T + bias), W given as panels. bf16: weights are bf16, arithmetic is fp32.
void prunescope_linear(const float* x, int64_t ldx, int64_t tokens, const int32_t* columns, const void* weights, int bf16,
                       const Panel* panels, int64_t count, const int32_t* outputs, const float* bias, int64_t width, int act,
                       float* y, int64_t ldy, int threads) {
    const Linear job{x, ldx, columns, weights, panels, count, outputs, bias, act, y, ldy};
    if (tokens == 0) return;
    if (bf16) linear<uint16_t>(job, tokens, bias, width, threads);
    else linear<float>(job, tokens, bias, width, threads);
}

// Softmax attention inside every sentence. Sentence s has lengths[s] tokens from row starts[s] on; q, k, v: row stride
// ld*, head h at column h * depth. Rows that belong to no sentence are left as they are.
void prunescope_attention(const float* q, int64_t ldq, const float* k, int64_t ldk, const float* v, int64_t ldv, const int64_t* starts,
                          const int64_t* lengths, int64_t sentences, int64_t heads, int64_t depth, float scale, float* out,
                          int64_t ldo, int threads) {
    const long vectors = round_up(depth) / LANES;
    const long tasks = sentences * heads;
#pragma omp parallel num_threads((int)std::max<long>(1, std::min<long>(threads, tasks)))
    {
        std::vector<float> memory;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < tasks; task++) {
            const long start = starts[task / heads], length = lengths[task / heads], at = task % heads * depth;
            if (length == 0) continue;
            const long padded = round_up(length);
            memory.resize(depth * padded + length * vectors * LANES + QUERIES * padded);
            float *keys = memory.data(), *values = keys + depth * padded, *scores = values + length * vectors * LANES;
            std::fill(keys, values, 0.f);
            for (long j = 0; j < length; j++)
                for (long i = 0; i < depth; i++) keys[i * padded + j] = k[(start + j) * ldk + at + i];
            for (long j = 0; j < length; j++) {
                float* row = values + j * vectors * LANES;
                std::memcpy(row, v + (start + j) * ldv + at, depth * sizeof(float));
                std::fill(row + depth, row + vectors * LANES, 0.f);
            }
            const long blocks = (length + QUERIES - 1) / QUERIES;
            for (long b = 0; b < blocks; b++) {
                const long begin = length * b / blocks, end = length * (b + 1) / blocks;
                attend_some(end - begin, q + (start + begin) * ldq + at, (long)ldq, (const float*)keys, (const float*)values, length,
                            padded, (int)depth, (int)vectors, scale, scores, out + (start + begin) * ldo + at, (long)ldo);
            }
        }
    }
}

// y = layer_norm(x + residual) * weight + bias, rows of `width`; residual may be null.
void prunescope_add_norm(const float* x, const float* residual, const float* weight, const float* bias, float eps, int64_t rows,
                         int64_t width, float* y, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < rows; r++) {
        const float* a = x + r * width;
        const float* b = residual ? residual + r * width : nullptr;
        float* out = y + r * width;
        vec sums = splat(0.f);
        long i = 0;
        float sum = 0.f;
        for (; i + LANES <= width; i += LANES) {
            const vec s = b ? load(a + i) + load(b + i) : load(a + i);
            *reinterpret_cast<vec*>(out + i) = s;
            sums += s;
        }
        for (; i < width; i++) sum += out[i] = b ? a[i] + b[i] : a[i];
        for (int l = 0; l < LANES; l++) sum += sums[l];
        const float mean = sum / width;
        vec squares = splat(0.f);
        float square = 0.f;
        for (i = 0; i + LANES <= width; i += LANES) {
            const vec d = load(out + i) - mean;
            squares += d * d;
        }
        for (; i < width; i++) square += (out[i] - mean) * (out[i] - mean);
        for (int l = 0; l < LANES; l++) square += squares[l];
        const float inverse = 1.f / std::sqrt(square / width + eps);
        for (i = 0; i + LANES <= width; i += LANES)
            *reinterpret_cast<vec*>(out + i) = (load(out + i) - mean) * inverse * load(weight + i) + load(bias + i);
        for (; i < width; i++) out[i] = (out[i] - mean) * inverse * weight[i] + bias[i];
    }
}

}  // extern "C"
