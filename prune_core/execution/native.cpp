// What a pruned encoder executes: linear layers that walk only the kept columns of every strip, attention
// over sentences packed end to end, and residual + layer norm. Loaded with ctypes by native.py.
//
// Every product here has one form: a register block of T tokens x P vectors of outputs; for each kept
// column, broadcast x[token, column] and multiply-add it onto the strip's packed weights. Tokens are
// taken in tiles that lie transposed (a column's tokens side by side), so that a kept column touches
// one or two cache lines instead of one per token; nothing else is gathered or padded, and every strip
// has its own number of columns. Written with the compiler's vector extension: -march=native turns it
// into AVX2, AVX-512 or NEON.

#include <vector>

#include "lines.hpp"

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif
constexpr int MAX_P = REGISTERS == 32 ? 4 : 2;  // vectors of outputs in a block

// Tokens in a block: accumulators, one row of weights and a broadcast fill the registers.
constexpr int tokens_for(int p) { return std::min(24, (REGISTERS - 1 - p) / p); }

// acc[t][p] += sum over k of x[t, column k] * w[k, p]; x[t, c] lies at x[t * row + c * column].
template <int T, int P>
static inline void multiply(const float* x, long row, long column, const int32_t* columns, long kept,
                            const float* w, long ldw, vec (&acc)[T][P]) {
    for (long k = 0; k < kept; k++, w += ldw) {
        const float* at = x + (columns ? columns[k] : k) * column;
        vec weights[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) weights[p] = load(w + p * LANES);
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) {
            const vec v = splat(at[t * row]);
#pragma GCC unroll 8
            for (int p = 0; p < P; p++) acc[t][p] += v * weights[p];
        }
    }
}

// ------------------------------------------------------------------------------------------ linear layers

// One panel: the outputs of a strip (or of a part of it that fits the registers) and the columns it keeps.
struct Panel {
    int64_t columns;  // where its list of columns begins
    int64_t kept;
    int64_t weights;  // where its weights begin: kept x (vectors * LANES)
    int64_t vectors;
    int64_t out;      // first output, or where its list of outputs begins (scattered)
    int64_t width;    // outputs that are real; the rest of the last vector is padding
};

// A layer as CompactLinear has packed it; all but the activations.
struct Layer {
    const int32_t* columns;
    const float* weights;
    const Panel* panels;
    const int32_t* outputs;  // nullptr: panels own their outputs and store; else they add to those listed
    const float* bias;       // per output; readable beyond the end as far as a panel is wide
    int64_t count, inputs, width, act;
};

// tile[c * TILE + t] = x[t, c] for columns [from, to); tokens beyond `count` are 0.
static void transpose(const float* x, long ldx, long count, long from, long to, float* tile) {
    for (int t = 0; t < TILE; t += LANES) {
        long c = from;
        for (; c + LANES <= to; c += LANES) {
            vec r[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) r[i] = t + i < count ? load(x + (t + i) * ldx + c) : splat(0.f);
            exchange<1>(r);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) *reinterpret_cast<vec*>(tile + (c + i) * TILE + t) = r[i];
        }
        for (; c < to; c++)
            for (int i = 0; i < LANES; i++) tile[c * TILE + t + i] = t + i < count ? x[(t + i) * ldx + c] : 0.f;
    }
}

template <int T, int P>
static void run_block(const Layer& layer, const Panel& panel, const float* tile, float* y, long ldy) {
    vec acc[T][P];
    for (int p = 0; p < P; p++) {
        const vec bias = layer.outputs ? splat(0.f) : load(layer.bias + panel.out + p * LANES);
        for (int t = 0; t < T; t++) acc[t][p] = bias;
    }
    multiply<T, P>(tile, 1, TILE, layer.columns + panel.columns, panel.kept,
                   layer.weights + panel.weights, P * LANES, acc);
    for (int t = 0; t < T; t++, y += ldy) {
        if (layer.outputs) {
            float sums[P * LANES];
            std::memcpy(sums, acc[t], sizeof sums);
            for (int i = 0; i < panel.width; i++) y[layer.outputs[panel.out + i]] += sums[i];
            continue;
        }
        if (layer.act == GELU)
            for (int p = 0; p < P; p++) acc[t][p] = gelu(acc[t][p]);
        if (panel.width == P * LANES)
            for (int p = 0; p < P; p++) *reinterpret_cast<vec*>(y + panel.out + p * LANES) = acc[t][p];
        else
            std::memcpy(y + panel.out, acc[t], panel.width * sizeof(float));
    }
}

template <int P, int T = tokens_for(P)>
static void run_tokens(long count, const Layer& layer, const Panel& panel, const float* tile, float* y, long ldy) {
    if (count == T) run_block<T, P>(layer, panel, tile, y, ldy);
    else if constexpr (T > 1) run_tokens<P, T - 1>(count, layer, panel, tile, y, ldy);
}

// One panel on the `count` tokens of a tile, in blocks of like size: no short rest at the end.
template <int P>
static void run_panel(const Layer& layer, const Panel& panel, const float* tile, long count, float* y, long ldy) {
    const long blocks = (count + tokens_for(P) - 1) / tokens_for(P);
    for (long b = 0; b < blocks; b++) {
        const long begin = count * b / blocks, end = count * (b + 1) / blocks;
        run_tokens<P>(end - begin, layer, panel, tile + begin, y + begin * ldy, ldy);
    }
}

static void run_panels(const Layer& layer, long first, long last, const float* tile, long count, float* y, long ldy) {
    for (long i = first; i < last; i++) {
        const Panel& panel = layer.panels[i];
        switch (panel.vectors) {
            case 1: run_panel<1>(layer, panel, tile, count, y, ldy); break;
            case 2: run_panel<2>(layer, panel, tile, count, y, ldy); break;
#if defined(__AVX512F__) || defined(__aarch64__)
            case 3: run_panel<3>(layer, panel, tile, count, y, ldy); break;
            case 4: run_panel<4>(layer, panel, tile, count, y, ldy); break;
#endif
        }
    }
}

// Scattered panels add to what is there: the bias first, the activation last.
static void before(const Layer& layer, long count, float* y, long ldy) {
    for (long t = 0; t < count; t++) std::memcpy(y + t * ldy, layer.bias, layer.width * sizeof(float));
}
static void after(const Layer& layer, long count, float* y, long ldy) {
    if (layer.act == GELU)
        for (long t = 0; t < count; t++) {
            float* row = y + t * ldy;
            long i = 0;
            for (; i + LANES <= layer.width; i += LANES) *reinterpret_cast<vec*>(row + i) = gelu(load(row + i));
            for (; i < layer.width; i++) row[i] = gelu(splat(row[i]))[0];
        }
}

static float* scratch(size_t floats) {  // of this thread; grows, and stays
    static thread_local std::vector<float> memory;
    if (memory.size() < floats + 16) memory.resize(floats + 16);
    return memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) / 4 % 16) % 16;  // on a cache line
}

static void linear(const Layer& layer, const float* x, long ldx, long tokens, float* y, long ldy, int threads) {
    const bool scattered = layer.outputs;
    const long tiles = std::max((tokens + TILE - 1) / TILE, scattered ? std::min<long>(threads, tokens) : 1);
    const auto begin = [&](long tile) { return tokens * tile / tiles; };
    if (tiles >= 2 * threads || scattered || threads == 1) {  // a thread owns a tile, and sees to all panels
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (long i = 0; i < tiles; i++) {
            const long from = begin(i), count = begin(i + 1) - from;
            float *tile = scratch(layer.inputs * TILE), *out = y + from * ldy;
            transpose(x + from * ldx, ldx, count, 0, layer.inputs, tile);
            if (scattered) before(layer, count, out, ldy);
            run_panels(layer, 0, layer.count, tile, count, out, ldy);
            if (scattered) after(layer, count, out, ldy);
        }
        return;
    }
    const long chunk = std::max(1L, layer.count / (8L * threads));  // small panels by the handful: taking one costs too
    float* memory = scratch(tiles * layer.inputs * TILE);  // few tokens: all transpose, then panels are shared out
#pragma omp parallel num_threads(threads)
    {
        const long stripes = (layer.inputs + 127) / 128;
#pragma omp for schedule(static)
        for (long i = 0; i < tiles * stripes; i++) {
            const long tile = i / stripes, from = begin(tile), c = i % stripes * 128;
            transpose(x + from * ldx, ldx, begin(tile + 1) - from, c, std::min<long>(layer.inputs, c + 128),
                      memory + tile * layer.inputs * TILE);
        }
#pragma omp for schedule(dynamic, chunk)
        for (long panel = 0; panel < layer.count; panel++)
            for (long tile = 0; tile < tiles; tile++)
                run_panels(layer, panel, panel + 1, memory + tile * layer.inputs * TILE,
                              begin(tile + 1) - begin(tile), y + begin(tile) * ldy, ldy);
    }
}

// ------------------------------------------------------------------------------------------ attention

// Scores of T queries against all keys, softmax, and the weighted sum of the values; one sentence, one head.
template <int T>
static void attend(const float* q, long ldq, const float* keys, const float* values, long length, long padded,
                   int depth, int vectors, float scale, float* scores, float* out, long ldo) {
    for (long j = 0; j < padded; j += LANES) {  // keys: depth x padded
        vec acc[T][1];
        for (int t = 0; t < T; t++) acc[t][0] = splat(0.f);
        multiply<T, 1>(q, ldq, 1, nullptr, depth, keys + j, padded, acc);
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
            const vec e = exp2_of_negative<false>((load(s + j) - most) * 1.44269504088896341f);
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
        multiply<T, 1>(scores, padded, 1, nullptr, length, values + p * LANES, vectors * LANES, acc);
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

// y (tokens, outputs) = act(x (tokens, inputs) W^T + bias), W as `layer` holds it.
void prunescope_linear(const Layer* layer, const float* x, int64_t ldx, int64_t tokens, float* y, int64_t ldy,
                       int threads) {
    if (tokens == 0) return;
    linear(*layer, x, ldx, tokens, y, ldy, threads);
}

// Softmax attention inside every sentence. Sentence s has lengths[s] tokens from row starts[s] on; q, k, v: row stride
// ld*, head h at column h * depth. Rows that belong to no sentence are left as they are.
void prunescope_attention(const float* q, int64_t ldq, const float* k, int64_t ldk, const float* v, int64_t ldv,
                          const int64_t* starts, const int64_t* lengths, int64_t sentences, int64_t heads,
                          int64_t depth, float scale, float* out, int64_t ldo, int threads) {
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
                attend_some(end - begin, q + (start + begin) * ldq + at, (long)ldq, (const float*)keys,
                            (const float*)values, length, padded, (int)depth, (int)vectors, scale, scores,
                            out + (start + begin) * ldo + at, (long)ldo);
            }
        }
    }
}

// y = layer_norm(x + residual) * weight + bias, rows of `width`; residual may be null.
void prunescope_add_norm(const float* x, const float* residual, const float* weight, const float* bias, float eps,
                         int64_t rows, int64_t width, float* y, int threads) {
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
