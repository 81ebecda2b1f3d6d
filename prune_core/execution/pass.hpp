// One pass over a whole encoder. A thread takes a block of sentences through all layers; where there are fewer sentences
// than threads, a team of threads shares the outputs of every layer instead. `K` is the arithmetic:
//
//   elem               of a line: float or bf16        QUANTIZED   whether products take 8-bit activations
//   WIDE               whether what layers add to (the residual) is kept in fp32 beside lines that are narrower
//   get, put           a line to and from registers    begin, end  around all that a thread does
//   linear(layer, source, tiles, y, team)              attend(...) one head of one sentence
//
// What happens to a token depends on its own sentence alone: any threads and any company give the same bits.

#pragma once
#include <vector>

#include "lines.hpp"

// What a linear layer reads: lines, and where products are in 8 bits the same lines quantized (quantize below).
template <typename E>
struct Source {
    Lines<E> lines;
    uint8_t* bytes;  // [tile][column][TILE]
    float* scales;   // [tile][2][TILE]: what a step of a byte is, and what byte 0 is
    Source from(long tile) const {
        return {{lines.tile(tile), lines.width}, bytes ? bytes + tile * lines.width * TILE : nullptr, scales + 2 * tile * TILE};
    }
};

// From lines to bytes, from the least to the largest value of every token: x = least + byte * step.
template <class K>
static void quantize(const Source<typename K::elem>& source, long from, long to) {
    for (long t = from; t < to; t++) {
        const auto* x = source.lines.tile(t);
        vec most[VECTORS], least[VECTORS], factor[VECTORS], v[VECTORS];
        for (int i = 0; i < VECTORS; i++) most[i] = splat(-1e30f), least[i] = splat(1e30f);
        for (long c = 0; c < source.lines.width; c++) {
            K::get(x + c * TILE, v);
            for (int i = 0; i < VECTORS; i++) most[i] = larger(most[i], v[i]), least[i] = smaller(least[i], v[i]);
        }
        for (int i = 0; i < VECTORS; i++) {
            const vec range = larger(most[i] - least[i], splat(1e-20f));
            store(source.scales + 2 * t * TILE + i * LANES, range * (1.f / 255.f));
            store(source.scales + (2 * t + 1) * TILE + i * LANES, least[i]);
            factor[i] = 255.f / range;
        }
        uint8_t* bytes = source.bytes + t * source.lines.width * TILE;
        for (long c = 0; c < source.lines.width; c++) {
            K::get(x + c * TILE, v);
            for (int i = 0; i < VECTORS; i++) v[i] = (v[i] - least[i]) * factor[i];
            K::put_bytes(bytes + c * TILE, v);
        }
    }
}

INLINE void whole(const float* at, vec (&v)[VECTORS]) {
    for (int i = 0; i < VECTORS; i++) v[i] = load(at + i * LANES);
}

// r = layer_norm(a + r) * weight + bias, tile by tile, down the columns; x is the same in the lines' own kind.
template <class K, typename E = typename K::elem>
static void add_norm(const Lines<E>& a, const Lines<E>& x, const Lines<float>& r, long from, long to, const float* weight,
                     const float* bias, float eps) {
    constexpr int UNROLL = 2;
    const long width = x.width;
    for (long t = from; t < to; t++) {
        const E* u = a.tile(t);
        float* w = r.tile(t);
        E* out = x.tile(t);
        vec sums[UNROLL][VECTORS], mean[VECTORS], factor[VECTORS];
        const auto each = [&](const auto& take) {
            for (int j = 0; j < UNROLL; j++)
                for (int i = 0; i < VECTORS; i++) sums[j][i] = splat(0.f);
            for (long c = 0; c < width; c += UNROLL)
#pragma GCC unroll 4
                for (int j = 0; j < UNROLL; j++) {
                    if (c + j >= width) break;
                    vec p[VECTORS], q[VECTORS];
                    K::get(u + (c + j) * TILE, p);
                    whole(w + (c + j) * TILE, q);
                    for (int i = 0; i < VECTORS; i++) take(sums[j][i], p[i] + q[i], i);
                }
            for (int i = 0; i < VECTORS; i++)
                for (int j = 1; j < UNROLL; j++) sums[0][i] += sums[j][i];
        };
        each([](vec& sum, vec s, int) { sum += s; });
        for (int i = 0; i < VECTORS; i++) mean[i] = sums[0][i] / (float)width;
        each([&](vec& sum, vec s, int i) { const vec d = s - mean[i]; sum += d * d; });
        for (int i = 0; i < VECTORS; i++) {
            const vec variance = sums[0][i] / (float)width + eps;
            for (int l = 0; l < LANES; l++) factor[i][l] = 1.f / std::sqrt(variance[l]);
        }
        for (long c = 0; c < width; c++) {
            vec p[VECTORS], q[VECTORS];
            K::get(u + c * TILE, p);
            whole(w + c * TILE, q);
            for (int i = 0; i < VECTORS; i++) {
                q[i] = (p[i] + q[i] - mean[i]) * factor[i] * weight[c] + bias[c];
                store(w + c * TILE + i * LANES, q[i]);
            }
            if (K::WIDE) K::put(out + c * TILE, q);
        }
    }
}

// Rows of floats to lines, and where it is wanted to lines of floats too; tokens beyond `count` are 0.
template <class K, typename E = typename K::elem>
static void to_lines(const float* rows, long ld, long count, long width, E* tile, float* wide = nullptr) {
    for (long c = 0; c < width; c += LANES) {
        const long columns = std::min<long>(LANES, width - c);
        vec r[VECTORS][LANES];
        for (int v = 0; v < VECTORS; v++) {
            for (int i = 0; i < LANES; i++) {
                const long t = v * LANES + i;
                r[v][i] = splat(0.f);
                if (t < count && columns == LANES) r[v][i] = load(rows + t * ld + c);
                else if (t < count) std::memcpy(&r[v][i], rows + t * ld + c, columns * sizeof(float));
            }
            exchange<1>(r[v]);
        }
        for (long i = 0; i < columns; i++) {
            vec line[VECTORS];
            for (int v = 0; v < VECTORS; v++) line[v] = r[v][i];
            K::put(tile + (c + i) * TILE, line);
            if (K::WIDE && wide)
                for (int v = 0; v < VECTORS; v++) store(wide + (c + i) * TILE + v * LANES, line[v]);
        }
    }
}

template <class K, typename E>
static void to_rows(const E* tile, long count, long width, float* rows, long ld) {
    for (long c = 0; c < width; c += LANES) {
        const long columns = std::min<long>(LANES, width - c);
        vec r[VECTORS][LANES];
        for (long i = 0; i < LANES; i++) {
            vec line[VECTORS];
            if constexpr (sizeof(E) == sizeof(float)) whole(tile + (c + std::min(i, columns - 1)) * TILE, line);
            else K::get(tile + (c + std::min(i, columns - 1)) * TILE, line);
            for (int v = 0; v < VECTORS; v++) r[v][i] = line[v];
        }
        for (int v = 0; v < VECTORS; v++) {
            exchange<1>(r[v]);
            for (int i = 0; i < LANES && v * LANES + i < count; i++)
                std::memcpy(rows + (v * LANES + i) * ld + c, &r[v][i], columns * sizeof(float));
        }
    }
}

// The embeddings of `count` tokens: the sum of a row of each table, normed; or what was computed elsewhere.
template <class K>
static void enter(const Encoder& e, const Input& in, long first, long count, typename K::elem* tile, float* wide) {
    const long width = e.hidden;
    if (in.rows) return to_lines<K>(in.rows + first * width, width, count, width, tile, wide);
    float* rows = static_cast<float*>(scratch<0>((TILE * width + LANES) * sizeof(float)));
    const long full = width / LANES * LANES;
    for (long t = 0; t < count; t++) {
        const float* word = e.words + in.words[first + t] * width;
        const float* place = e.places ? e.places + in.places[first + t] * width : nullptr;
        const float* kind = e.kinds ? e.kinds + in.kinds[first + t] * width : nullptr;
        float* row = rows + t * width;
        vec sums = splat(0.f), squares = splat(0.f);
        float sum = 0.f, square = 0.f;
        for (long c = 0; c < full; c += LANES) {
            vec v = load(word + c);
            if (kind) v += load(kind + c);
            if (place) v += load(place + c);
            store(row + c, v);
            sums += v;
        }
        for (long c = full; c < width; c++) sum += row[c] = word[c] + (kind ? kind[c] : 0.f) + (place ? place[c] : 0.f);
        for (int l = 0; l < LANES; l++) sum += sums[l];
        const float mean = sum / width;
        for (long c = 0; c < full; c += LANES) {
            const vec d = load(row + c) - mean;
            squares += d * d;
        }
        for (long c = full; c < width; c++) square += (row[c] - mean) * (row[c] - mean);
        for (int l = 0; l < LANES; l++) square += squares[l];
        const float factor = 1.f / std::sqrt(square / width + (float)e.norm_eps);
        for (long c = 0; c < full; c += LANES)
            store(row + c, (load(row + c) - mean) * factor * load(e.norm_weight + c) + load(e.norm_bias + c));
        for (long c = full; c < width; c++) row[c] = (row[c] - mean) * factor * e.norm_weight[c] + e.norm_bias[c];
    }
    to_lines<K>(rows, width, count, width, tile, wide);
}

INLINE long tiles_of(long tokens) { return (tokens + TILE - 1) / TILE; }

template <class K>
struct Pass {
    typedef typename K::elem E;
    const Encoder& e;
    const Input& in;
    float* out;        // (sentences or tokens, hidden)
    E* seen;           // of the last layer, what attention gave each sentence's first token
    E* firsts;         // and its lines
    float* rests;      // and what is added to them, where that is not the same
    long wide, deep;   // the widest that queries and neurons of any layer are

    Pass(const Encoder& e_, const Input& in_, float* out_) : e(e_), in(in_), out(out_), seen(), firsts(), rests(), wide(0), deep(0) {
        for (long l = 0; l < e.count; l++) {
            wide = std::max<long>(wide, e.layers[l].value.width);
            deep = std::max<long>(deep, e.layers[l].inner.width);
        }
        wide = std::max(wide, e.hidden);
    }

    // Lines for `tiles` tiles.
    struct Memory {
        Lines<E> x, q, k, v, a, y, f;
        Source<E> sx, sa, sf;
        Lines<float> r;
    };
    Memory memory(long tiles) const {
        const size_t line = (size_t)tiles * TILE, extra = 64, columns = 2 * e.hidden + 4 * wide + deep;
        const size_t bytes = (K::QUANTIZED ? line * (e.hidden + wide + deep) + 3 * (2 * line * sizeof(float) + extra) : 0)
            + (K::WIDE ? line * e.hidden * sizeof(float) : 0);
        char* at = static_cast<char*>(scratch<1>(line * columns * sizeof(E) + bytes + 32 * extra + TILE * 8));
        const auto next = [&](size_t size) { char* p = at; at += (size + extra - 1) / extra * extra; return p; };
        const auto lines = [&](long width) { return Lines<E>{(E*)next(line * width * sizeof(E)), width}; };
        Memory m{lines(e.hidden), lines(wide), lines(wide), lines(wide), lines(wide), lines(e.hidden), lines(deep), {}, {}, {}, {}};
        if constexpr (K::WIDE) m.r = {(float*)next(line * e.hidden * sizeof(float)), e.hidden};
        else m.r = m.x;
        const auto source = [&](const Lines<E>& of) {
            if (!K::QUANTIZED) return Source<E>{of, nullptr, nullptr};
            uint8_t* b = (uint8_t*)next(line * of.width);
            return Source<E>{of, b, (float*)next(2 * line * sizeof(float))};
        };
        m.sx = source(m.x), m.sa = source(m.a), m.sf = source(m.f);
        return m;
    }

    static Source<E> narrowed(Source<E> source, long width) { return source.lines.width = width, source; }

    static void ready(const Source<E>& source, long tiles, const Team& team) {
        if (!K::QUANTIZED) return;
        quantize<K>(source, team.from(tiles), team.to(tiles));
        team.wait();
    }

    // What comes after attention: `x` and what attention gave to it, in `m.a`.
    void rest(const EncoderLayer& l, Memory& m, long tiles, const Team& team) const {
        const Source<E> seen = narrowed(m.sa, l.out.inputs);
        ready(seen, tiles, team);
        K::linear(l.out, seen, tiles, m.y, team);
        team.wait();
        add_norm<K>(m.y, m.x, m.r, team.from(tiles), team.to(tiles), l.norm_weight, l.norm_bias, l.norm_eps);
        team.wait();
        ready(m.sx, tiles, team);
        const Source<E> inner = narrowed(m.sf, l.inner.width);
        const long fits = 2 * NEAR / (l.inner.width * TILE * (long)sizeof(E) + 1);
        const long chunk = team.size > 1 ? tiles : std::max<long>(1, std::min<long>(fits, CHUNK / TILE));  // what the middle of it holds stays near
        for (long t = 0; t < tiles; t += chunk) {
            const long n = std::min(chunk, tiles - t);
            K::linear(l.inner, m.sx.from(t), n, inner.lines, team);
            team.wait();
            ready(inner, n, team);
            K::linear(l.outer, inner, n, Lines<E>{m.y.tile(t), m.y.width}, team);
        }
        team.wait();
        add_norm<K>(m.y, m.x, m.r, team.from(tiles), team.to(tiles), l.last_weight, l.last_bias, l.last_eps);
        team.wait();
    }

    static constexpr long CHUNK = 128;  // tokens, fewer where their inner lines would not stay in the second cache

    // Sentences [first, last) through all layers; of the last layer, where it is enough, up to attention.
    void block(long first, long last, const Team& team, Memory& m) const {
        const long begin = in.starts[first], tokens = in.starts[last - 1] + in.lengths[last - 1] - begin;
        const long tiles = tiles_of(tokens), hidden = e.hidden;
        for (long t = team.from(tiles); t < team.to(tiles); t++)
            enter<K>(e, in, begin + t * TILE, std::min<long>(TILE, tokens - t * TILE), m.x.tile(t), m.r.tile(t));
        team.wait();
        for (long number = 0; number < e.count; number++) {
            const EncoderLayer& l = e.layers[number];
            const double start = in.spent ? omp_get_wtime() : 0;
            const bool short_ = e.first_only && number == e.count - 1;
            m.q.width = m.k.width = m.v.width = m.a.width = m.sa.lines.width = l.value.width;
            ready(m.sx, tiles, team);
            K::linear(l.key, m.sx, tiles, m.k, team);
            K::linear(l.value, m.sx, tiles, m.v, team);
            long query_tiles = tiles;
            if (short_) {  // queries for each sentence's first token alone, side by side
                query_tiles = tiles_of(last - first);
                if (team.me == 0) firsts_of(m.x, first, last, begin, m.y);
                team.wait();
                Source<E> source = m.sx;
                source.lines = m.y;
                ready(source, query_tiles, team);
                K::linear(l.query, source, query_tiles, m.q, team);
            } else K::linear(l.query, m.sx, tiles, m.q, team);
            team.wait();
            attention(l, m, first, last, begin, short_, team);
            if (!short_) {
                clear_beyond(m.a, tokens, tiles, team);
                team.wait();
                rest(l, m, tiles, team);
            }
            spent(number, start, team);
        }
        if (e.first_only) {
            team.wait();
            for (long s = first + team.from(last - first); s < first + team.to(last - first); s++) {
                const long tile = (in.starts[s] - begin) / TILE, lane = (in.starts[s] - begin) % TILE;
                for (long c = 0; c < hidden; c++) {
                    firsts[(s / TILE * hidden + c) * TILE + s % TILE] = m.x.line(tile, c)[lane];
                    if (K::WIDE) rests[(s / TILE * hidden + c) * TILE + s % TILE] = m.r.line(tile, c)[lane];
                }
                for (long c = 0; c < m.a.width; c++)
                    seen[(s / TILE * m.a.width + c) * TILE + s % TILE] = *(m.a.line((s - first) / TILE, c) + (s - first) % TILE);
            }
            team.wait();
            return;
        }
        for (long t = team.from(tiles); t < team.to(tiles); t++)
            to_rows<K>(m.r.tile(t), std::min<long>(TILE, tokens - t * TILE), hidden, out + (begin + t * TILE) * hidden, hidden);
        team.wait();
    }

    // Seconds of all threads together.
    void spent(long layer, double start, const Team& team) const {
        if (!in.spent || team.me) return;
        const double seconds = (omp_get_wtime() - start) * team.size;
#pragma omp atomic
        in.spent[layer] += seconds;
    }

    void firsts_of(const Lines<E>& x, long first, long last, long begin, const Lines<E>& to) const {
        std::memset(to.at, 0, tiles_of(last - first) * e.hidden * TILE * sizeof(E));
        for (long s = first; s < last; s++)
            for (long c = 0; c < e.hidden; c++)
                to.line((s - first) / TILE, c)[(s - first) % TILE] = x.line((in.starts[s] - begin) / TILE, c)[(in.starts[s] - begin) % TILE];
    }

    // Lanes behind the last token hold nothing that ever was a number.
    static void clear_beyond(const Lines<E>& a, long tokens, long tiles, const Team& team) {
        if (tokens % TILE && team.me == 0)
            for (long c = 0; c < a.width; c++)
                std::memset(a.line(tiles - 1, c) + tokens % TILE, 0, (TILE - tokens % TILE) * sizeof(E));
    }

    void attention(const EncoderLayer& l, const Memory& m, long first, long last, long begin, bool short_, const Team& team) const {
        const long heads = l.heads, tasks = (last - first) * heads;
        for (long task = team.from(tasks); task < team.to(tasks); task++) {
            const long s = first + task / heads, head = task % heads, at = in.starts[s] - begin, n = in.lengths[s];
            const long query = short_ ? s - first : at;
            K::attend(e, l, head, m.q, query, short_ ? 1 : n, m.k, m.v, at, n, m.a);
        }
    }

    // Sentences in blocks of like size, one thread each; empty where a team does better.
    std::vector<long> blocks() const {
        const long threads = std::max<long>(1, in.threads);
        long count = (in.tokens + in.block - 1) / in.block;
        count = std::min(in.sentences, (count + threads - 1) / threads * threads);
        std::vector<long> at(1, 0);
        long most = 0;
        for (long s = 0; s < in.sentences; s++) {
            const long so_far = in.starts[s] + in.lengths[s];
            if (so_far * count >= in.tokens * (long)at.size() || s + 1 == in.sentences) {
                most = std::max(most, so_far - in.starts[at.back()]);
                at.push_back(s + 1);
            }
        }
        const long rounds = ((long)at.size() - 1 + threads - 1) / threads;
        if (threads > 1 && tiles_of(most) * TILE * rounds * threads > 1.2 * in.tokens + TILE / 2) return {};
        return at;
    }

    void run() {
        const long tiles = tiles_of(in.sentences), last_width = e.layers[e.count - 1].value.width;
        if (e.first_only) {
            const size_t lines = (size_t)tiles * TILE, size = lines * (e.hidden * (sizeof(E) + sizeof(float)) + last_width * sizeof(E));
            rests = static_cast<float*>(scratch<2>(size + TILE * 8));
            std::memset(rests, 0, size);
            firsts = reinterpret_cast<E*>(rests + lines * e.hidden);
            seen = firsts + lines * e.hidden;
        }
        const std::vector<long> at = blocks();
        const long whole = std::max(tiles_of(in.tokens), tiles);
        Memory shared{};
        if (at.empty()) shared = memory(whole);
        Memory after{};
#pragma omp parallel num_threads(std::max<long>(1, in.threads))
        {
            K::begin();
            const Team team{omp_get_thread_num(), omp_get_num_threads()};
            if (at.empty()) {
                Memory m = shared;
                block(0, in.sentences, team, m);
            } else {
#pragma omp for schedule(dynamic, 1)
                for (long b = 0; b < (long)at.size() - 1; b++) {
                    long most = tiles_of(in.starts[at[b + 1] - 1] + in.lengths[at[b + 1] - 1] - in.starts[at[b]]);
                    Memory m = memory(std::max(most, tiles_of(at[b + 1] - at[b])));
                    block(at[b], at[b + 1], Team{0, 1}, m);
                }
            }
            if (e.first_only) {
#pragma omp barrier
                if (team.me == 0) after = memory(tiles);
#pragma omp barrier
                Memory m = after;
                const EncoderLayer& l = e.layers[e.count - 1];
                m.x.at = m.sx.lines.at = firsts;
                if constexpr (K::WIDE) m.r.at = rests;
                else m.r.at = firsts;
                m.a.at = m.sa.lines.at = seen, m.a.width = m.sa.lines.width = last_width;
                const double start = in.spent ? omp_get_wtime() : 0;
                rest(l, m, tiles, team);
                spent(e.count - 1, start, team);
                for (long t = team.from(tiles); t < team.to(tiles); t++)
                    to_rows<K>(m.r.tile(t), std::min<long>(TILE, in.sentences - t * TILE), e.hidden, out + t * TILE * e.hidden, e.hidden);
            }
            K::end();
        }
    }
};

// A layer alone, rows in and rows out, for encoders that run module by module.
template <class K>
static void linear_rows(const Linear& layer, const float* x, long ldx, long tokens, float* y, long ldy, int threads) {
    typedef typename K::elem E;
    const long tiles = tiles_of(tokens), group = std::max<long>(1, std::min<long>(4, tiles / std::max(1, threads)));
    const long groups = (tiles + group - 1) / group;
    const bool alone = groups >= threads || layer.outputs;
    E* shared = nullptr;
    const size_t size = (size_t)group * TILE * (layer.inputs + layer.width) * sizeof(E)
        + group * TILE * (layer.inputs + 8 * sizeof(float)) + 512;
    if (!alone) shared = static_cast<E*>(scratch<1>(size * groups));
#pragma omp parallel num_threads(threads)
    {
        K::begin();
        const Team team{omp_get_thread_num(), omp_get_num_threads()};
        const auto one = [&](long g, char* memory, const Team& with_) {
            const long first = g * group, n = std::min(group, tiles - first);
            E* in = reinterpret_cast<E*>(memory);
            E* out = in + group * TILE * layer.inputs;
            float* scales = reinterpret_cast<float*>(out + group * TILE * layer.width);
            const Source<E> source{{in, layer.inputs}, reinterpret_cast<uint8_t*>(scales + 2 * group * TILE), scales};
            for (long t = with_.from(n); t < with_.to(n); t++)
                to_lines<K>(x + (first + t) * TILE * ldx, ldx, std::min<long>(TILE, tokens - (first + t) * TILE), layer.inputs, in + t * TILE * layer.inputs);
            with_.wait();
            Pass<K>::ready(source, n, with_);
            K::linear(layer, source, n, Lines<E>{out, layer.width}, with_);
            with_.wait();
            for (long t = with_.from(n); t < with_.to(n); t++)
                to_rows<K>(out + t * TILE * layer.width, std::min<long>(TILE, tokens - (first + t) * TILE), layer.width, y + (first + t) * TILE * ldy, ldy);
            with_.wait();
        };
        if (alone) {
            char* memory = static_cast<char*>(scratch<1>(size));
#pragma omp for schedule(dynamic, 1)
            for (long g = 0; g < groups; g++) one(g, memory, Team{0, 1});
        } else
            for (long g = 0; g < groups; g++) one(g, reinterpret_cast<char*>(shared), team);
        K::end();
    }
}

// A layer as it runs inside the pass: lines in and lines out, quantizing included.
template <class K>
static void linear_lines(const Linear& layer, typename K::elem* x, uint8_t* bytes, float* scales, long tiles,
                         typename K::elem* y, int threads) {
    typedef typename K::elem E;
    const Source<E> source{{x, layer.inputs}, bytes, scales};
    const bool alone = tiles >= 2 * threads;
#pragma omp parallel num_threads(threads)
    {
        K::begin();
        const Team team{omp_get_thread_num(), omp_get_num_threads()};
        if (alone) {
            constexpr long GROUP = 8;
            for (long t = team.from(tiles); t < team.to(tiles); t += GROUP) {
                const long n = std::min<long>(GROUP, team.to(tiles) - t);
                Pass<K>::ready(source.from(t), n, Team{0, 1});
                K::linear(layer, source.from(t), n, Lines<E>{y + t * layer.width * TILE, layer.width}, Team{0, 1});
            }
        } else {
            Pass<K>::ready(source, tiles, team);
            K::linear(layer, source, tiles, Lines<E>{y, layer.width}, team);
        }
        K::end();
    }
}

#define PRUNESCOPE_PASS(K)                                                                                             \
    extern "C" {                                                                                                       \
    int prunescope_tile() { return TILE; }                                                                             \
    int prunescope_rows() { return K::ROWS; }                                                                          \
    void prunescope_pass(const Encoder* e, const Input* in, float* out) { Pass<K>(*e, *in, out).run(); }               \
    void prunescope_linear_rows(const Linear* layer, const float* x, int64_t ldx, int64_t tokens, float* y,            \
                                int64_t ldy, int threads) {                                                            \
        linear_rows<K>(*layer, x, ldx, tokens, y, ldy, threads);                                                       \
    }                                                                                                                  \
    void prunescope_linear_lines(const Linear* layer, K::elem* x, uint8_t* bytes, float* scales, int64_t tiles,        \
                                 K::elem* y, int threads) {                                                            \
        linear_lines<K>(*layer, x, bytes, scales, tiles, y, threads);                                                  \
    }                                                                                                                  \
    }
