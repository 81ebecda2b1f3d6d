// The pass in bf16 on AMX tiles, and, with INT8, with linear layers in 8 bits on them.
//
// A tile has 16 rows of 64 bytes. 16 outputs x 16 tokens are a tile of weights (16 outputs x 32 columns, 64 in 8 bits)
// times one of activations (16 rows of 2 columns, 4 in 8 bits, a token's values side by side). Weights are packed so;
// kept columns are gathered so. A step takes the columns of a tile: two tiles of outputs times two of tokens, four products.

#if defined(INT8)
#include "int8.hpp"
#else
#include "bf16.hpp"
#endif
#include <utility>
#define ALWAYS __attribute__((always_inline))
#define METHOD inline ALWAYS

// ------------------------------------------------------------------------------------------------- instructions

struct alignas(64) TileConfig {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#if !defined(EMULATED_TILES)
// Written out, as the compiler's own do not tell it what memory they read.
template <int STRIDE> struct TileMemory { char bytes[15 * STRIDE + 64]; };

INLINE void tiles_begin(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
INLINE void tiles_end() { asm volatile("tilerelease"); }
template <int T> INLINE void tile_zero() { asm volatile("tilezero %%tmm%c0" : : "i"(T)); }
template <int T, int STRIDE>
INLINE void tile_load(const void* at) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
                 : : "r"(at), "r"((long)STRIDE), "i"(T), "m"(*static_cast<const TileMemory<STRIDE>*>(at)));
}
template <int T, int STRIDE>
INLINE void tile_store(void* at) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(at), "r"((long)STRIDE), "i"(T) : "memory");
}
// C += A B: rows of A times rows of B
template <int C, int A, int B>
INLINE void tile_dot_bf16() { asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B)); }
template <int C, int A, int B>  // A signed, B unsigned
INLINE void tile_dot_bytes() { asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B)); }
#endif

// ------------------------------------------------------------------------------------------------- columns and outputs

constexpr int PART_ROWS = 32, TILE_ROWS = 16;
constexpr long TILE_BYTES = 1024, STEP_BYTES = 2 * TILE_BYTES;  // of weights, and of a step's columns for 32 tokens
constexpr int ROW = TILE;                                       // sums lie as [32 outputs][32 tokens]

// Two columns in bf16: tokens come in the order of low_pairs and high_pairs.
struct Pairs {
    typedef uint16_t in;
    typedef float sum;
    static constexpr int COLUMNS = 32;
    struct Factors {};

    INLINE const in* input(const Source<uint16_t>& source, long tile) { return source.lines.tile(tile); }
    template <int C, int A, int B> INLINE void dot() { tile_dot_bf16<C, A, B>(); }

    INLINE void pair(__m512i a, __m512i b, char* to) {
        _mm512_store_si512(to, low_pairs(a, b));
        _mm512_store_si512(to + 64, high_pairs(a, b));
    }
    INLINE void gather(const in* x, const int32_t* columns, long count, char* to) {
        if (__builtin_expect(count < COLUMNS, 0)) return last(x, columns, count, to);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) pair(words(x + columns[2 * i]), words(x + columns[2 * i + 1]), to + i * 128);
    }
    // What is missing of a step's columns is 0: 0 times whatever lay there might be no number.
    __attribute__((noinline)) static void last(const in* x, const int32_t* columns, long count, char* to) {
        const __m512i none = _mm512_setzero_si512();
        for (int i = 0; i < 16; i++)
            pair(2 * i < count ? words(x + columns[2 * i]) : none, 2 * i + 1 < count ? words(x + columns[2 * i + 1]) : none, to + i * 128);
    }

    INLINE Factors factors(const Source<uint16_t>&, long) { return {}; }
    template <int ACT>
    INLINE void finish(const Linear& layer, long out, const sum* at, const Factors&, uint16_t* y) {
        const vec bias = splat(layer.bias[out]);
        vec v[2] = {load(at) + bias, load(at + 16) + bias};
        if (ACT)
            for (int i = 0; i < 2; i++) v[i] = activated<true>(ACT == GELU ? GELU : layer.act, v[i]);
        _mm512_store_si512(y, line((__m512)v[0], (__m512)v[1]));
    }
    INLINE void start(sum* at) { store(at, splat(0.f)), store(at + 16, splat(0.f)); }
    INLINE void add(const sum* from, sum* to) {
        for (int i = 0; i < 2; i++) store(to + i * 16, load(to + i * 16) + load(from + i * 16));
    }
};

#if defined(INT8)
// Four columns in bytes; tokens come as ByteLines has them. What is missing of a step's columns may be
// anything, its weights are 0.
struct Fours {
    typedef uint8_t in;
    typedef int32_t sum;
    static constexpr int COLUMNS = 64;
    typedef ByteLines::Tokens Factors;

    INLINE const in* input(const Source<uint16_t>& source, long tile) { return source.bytes + tile * source.lines.width * TILE; }
    template <int C, int A, int B> INLINE void dot() { tile_dot_bytes<C, A, B>(); }

    // Two groups of four, one in each half of the registers.
    INLINE void two(const in* x, const int32_t* columns, char* to) {
        const auto bytes = [&](int c) {
            const __m256i one = _mm256_loadu_si256((const __m256i*)(x + columns[c]));
            return _mm512_inserti64x4(_mm512_castsi256_si512(one), _mm256_loadu_si256((const __m256i*)(x + columns[4 + c])), 1);
        };
        const __m512i a = bytes(0), b = bytes(1), c = bytes(2), d = bytes(3);
        const __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
        const __m512i low2 = _mm512_unpacklo_epi8(c, d), high2 = _mm512_unpackhi_epi8(c, d);
        const __m512i r[4] = {_mm512_unpacklo_epi16(low, low2), _mm512_unpackhi_epi16(low, low2),
                              _mm512_unpacklo_epi16(high, high2), _mm512_unpackhi_epi16(high, high2)};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            _mm256_store_si256((__m256i*)(to + i * 32), _mm512_castsi512_si256(r[i]));
            _mm256_store_si256((__m256i*)(to + 128 + i * 32), _mm512_extracti64x4_epi64(r[i], 1));
        }
    }
    INLINE void gather(const in* x, const int32_t* columns, long count, char* to) {
        if (__builtin_expect(count < COLUMNS, 0)) {
            for (long i = 0; 8 * i < count; i++) two(x, columns + 8 * i, to + i * 256);
            return;
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) two(x, columns + 8 * i, to + i * 256);
    }

    INLINE Factors factors(const Source<uint16_t>& source, long tile) { return Factors(source.scales + 2 * tile * TILE); }
    template <int ACT>
    INLINE void finish(const Linear& layer, long out, const sum* at, const Factors& factors, uint16_t* y) {
        const __m512i sums[2] = {_mm512_load_si512(at), _mm512_load_si512(at + 16)};
        ByteLines::finish<ACT == TANH_GELU ? -1 : ACT>(layer, out, sums, factors, y);
    }
    INLINE void start(sum* at) {
        for (int i = 0; i < 2; i++) _mm512_store_si512(at + i * 16, _mm512_setzero_si512());
    }
    INLINE void add(const sum* from, sum* to) {
        for (int i = 0; i < 2; i++)
            _mm512_store_si512(to + i * 16, _mm512_add_epi32(_mm512_load_si512(to + i * 16), _mm512_load_si512(from + i * 16)));
    }
};
#endif

// ------------------------------------------------------------------------------------------------- a linear layer

// What falls to a thread of a strip: rows [from, to), in parts of `width`.
struct Piece {
    const Strip* strip;
    long from, to, width, steps;
    long parts() const { return (to - from + width - 1) / width; }
};

// A layer on some tiles of tokens, P: how columns are gathered and sums finished.
//
// While products of a step run, columns of a later one are gathered, and the sums of the block before are finished.
template <class P>
struct LinearOnTiles {
    typedef typename P::in in;
    typedef typename P::sum sum;
    const Linear& layer;
    const Source<uint16_t>& source;
    const Lines<uint16_t>& y;
    char* ring;  // gathered columns
    sum* sums;   // of a block

    static constexpr long AHEAD = 2;              // steps: a tile that is loaded right after it was written stalls
    static constexpr long SHORT = 4;              // steps of which two sets stay in the first cache beside all the rest
    static constexpr long NEAR_TILES = 8;         // tiles of tokens whose columns, all paired, stay in the second
    static constexpr long WORTH_PAIRING = 4;      // parts that take all columns

    LinearOnTiles(const Linear& l, const Source<uint16_t>& s, const Lines<uint16_t>& to) : layer(l), source(s), y(to) {
        ring = static_cast<char*>(scratch<5>(2 * SHORT * STEP_BYTES + PART_ROWS * ROW * sizeof(sum)));
        sums = reinterpret_cast<sum*>(ring + 2 * SHORT * STEP_BYTES);
    }

    METHOD const char* weights(const Piece& piece, long row) const {
        return static_cast<const char*>(layer.weights) + (piece.strip->weights + row * piece.steps * P::COLUMNS) * sizeof(in);
    }

    // R tiles of outputs; `columns(step)`: where they lie gathered; `beside(step)` runs in the shadow.
    template <int R, typename C, typename B>
    METHOD void products(const char* w, long steps, const C& columns, const B& beside) const {
        tile_zero<0>(), tile_zero<1>();
        if (R == 2) tile_zero<2>(), tile_zero<3>();
        for (long k = 0; k < steps; k++, w += R * TILE_BYTES) {
            const char* x = columns(k);
            tile_load<6, 128>(x);
            tile_load<4, 64>(w);
            P::template dot<0, 4, 6>();
            tile_load<7, 128>(x + 64);
            P::template dot<1, 4, 7>();
            if (R == 2) {
                tile_load<5, 64>(w + TILE_BYTES);
                P::template dot<2, 5, 6>();
                P::template dot<3, 5, 7>();
            }
            beside(k);
        }
        tile_store<0, ROW * 4>(sums), tile_store<1, ROW * 4>(sums + 16);
        if (R == 2) tile_store<2, ROW * 4>(sums + 16 * ROW), tile_store<3, ROW * 4>(sums + 16 * ROW + 16);
    }

    // A block whose sums are to be finished.
    struct Before {
        long out = 0, rows = 0, done = 0;
        uint16_t* y = nullptr;
        typename P::Factors factors;
    };
    template <int ACT>
    METHOD void finish(Before& before, long until) const {
        const Linear l = layer;  // copies, which no store can change
        const sum* at = sums + before.done * ROW;
        uint16_t* to = before.y + before.done * TILE;
        for (; before.done < until; before.done++, at += ROW, to += TILE)
            P::template finish<ACT>(l, before.out + before.done, at, before.factors, to);
    }

    // The products of a part with a tile of tokens.
    template <int ACT, typename C, typename B>
    METHOD void block(const Piece& piece, long row, long tile, Before& before, const C& columns, const B& ahead) const {
        const long rows = std::min(piece.width, piece.to - row), out = piece.strip->out + row;
        const long each = (before.rows + piece.steps - 1) / piece.steps;
        uint16_t* to = y.line(tile, out);
        for (long r = 0; r < rows; r++) __builtin_prefetch(to + r * TILE, 1);  // they are written in a block's time
        const auto beside = [&](long k) ALWAYS {
            ahead(k);
            finish<ACT>(before, std::min(before.rows, before.done + each));
        };
        if (rows > TILE_ROWS) products<2>(weights(piece, row), piece.steps, columns, beside);
        else products<1>(weights(piece, row), piece.steps, columns, beside);
        before = {out, rows, 0, to, P::factors(source, tile)};
    }

    // Gathers step after step in the order in which the blocks take them.
    struct Ahead {
        const LinearOnTiles& on;
        const Piece *piece, *end;
        long first, tiles;  // tokens' tiles [first, tiles)
        bool once;          // for all parts of a piece, else for each
        long again = 0, tile = 0, step = 0;
        const int32_t* columns = nullptr;
        const in* x = nullptr;

        Ahead(const LinearOnTiles& on_, const std::vector<Piece>& pieces, long first_, long tiles_, bool once_)
            : on(on_), piece(pieces.data()), end(piece + pieces.size()), first(first_), tiles(tiles_), once(once_) { enter(); }
        void enter() {
            if (piece == end) return;
            columns = on.layer.columns + piece->strip->columns;
            again = once ? 1 : piece->parts();
            tile = first;
            x = P::input(on.source, tile);
        }
        METHOD long steps() const { return piece == end ? 0 : piece->steps; }
        METHOD void gather(char* to) {
            if (piece == end) return;
            P::gather(x, columns + step * P::COLUMNS, piece->strip->kept - step * P::COLUMNS, to);
            if (++step == piece->steps) next();
        }
        void next() {
            step = 0;
            if (++tile == tiles) {
                tile = first;
                if (--again == 0) return ++piece, enter();
            }
            x = P::input(on.source, tile);
        }
    };

    // Many columns: part by part, columns gathered for each.
    template <int ACT>
    void each_part(const std::vector<Piece>& pieces, long first, long tiles) const {
        Ahead ahead(*this, pieces, first, tiles, false);
        Before before;
        char *now = ring, *then = ring, *const last = ring + (AHEAD - 1) * STEP_BYTES;
        const auto turn = [&](char*& at) { return std::exchange(at, at == last ? ring : at + STEP_BYTES); };
        for (long i = 0; i < AHEAD; i++) ahead.gather(turn(then));
        for (const Piece& piece : pieces)
            for (long row = piece.from; row < piece.to; row += piece.width)
                for (long tile = first; tile < tiles; tile++)
                    block<ACT>(piece, row, tile, before, [&](long) ALWAYS { return turn(now); }, [&](long) ALWAYS { ahead.gather(turn(then)); });
        finish<ACT>(before, before.rows);
    }

    // Few columns: gathered once for all parts of a strip, while those of the tile of tokens before are multiplied.
    template <int ACT>
    void together(const std::vector<Piece>& pieces, long first, long tiles) const {
        Ahead ahead(*this, pieces, first, tiles, true);
        Before before;
        char *now = ring, *then = ring + SHORT * STEP_BYTES;
        for (long i = 0, steps = ahead.steps(); i < steps; i++) ahead.gather(now + i * STEP_BYTES);
        for (const Piece& piece : pieces)
            for (long tile = first; tile < tiles; tile++) {
                const long all = piece.parts() * piece.steps, steps = ahead.steps();
                long owed = 0, made = 0;
                const auto gather = [&](long) ALWAYS {
                    for (owed += steps; owed > 0; owed -= all) ahead.gather(then + made++ * STEP_BYTES);
                };
                for (long row = piece.from; row < piece.to; row += piece.width)
                    block<ACT>(piece, row, tile, before, [&](long k) ALWAYS { return now + k * STEP_BYTES; }, gather);
                std::swap(now, then);
            }
        finish<ACT>(before, before.rows);
    }

    // All columns: paired once for all strips.
    template <int ACT>
    void whole(const std::vector<Piece>& pieces, long first, long tiles) const {
        const Piece& any = pieces[0];
        const long size = any.steps * STEP_BYTES;
        char* paired = static_cast<char*>(scratch<6>((tiles - first) * size));
        for (long tile = first; tile < tiles; tile++)
            for (long k = 0; k < any.steps; k++)
                P::gather(P::input(source, tile), layer.columns + any.strip->columns + k * P::COLUMNS,
                          any.strip->kept - k * P::COLUMNS, paired + (tile - first) * size + k * STEP_BYTES);
        Before before;
        for (const Piece& piece : pieces)
            for (long row = piece.from; row < piece.to; row += piece.width)
                for (long tile = first; tile < tiles; tile++) {
                    const char* x = paired + (tile - first) * size;
                    block<ACT>(piece, row, tile, before, [&](long k) { return x + k * STEP_BYTES; }, [](long) {});
                }
        finish<ACT>(before, before.rows);
    }

    template <int ACT>
    void run(const std::vector<Piece> (&pieces)[4], long tiles) const {
        for (const Piece& piece : pieces[EMPTY])
            for (long tile = 0; tile < tiles; tile++)
                for (long row = piece.from; row < piece.to; row++) {
                    P::start(sums);
                    P::template finish<ACT>(layer, piece.strip->out + row, sums, P::factors(source, tile), y.line(tile, piece.strip->out + row));
                }
        if (!pieces[WHOLE].empty())
            for (long tile = 0; tile < tiles; tile += NEAR_TILES) whole<ACT>(pieces[WHOLE], tile, std::min(tiles, tile + NEAR_TILES));
        if (!pieces[MANY].empty()) each_part<ACT>(pieces[MANY], 0, tiles);
        if (!pieces[FEW].empty()) together<ACT>(pieces[FEW], 0, tiles);
    }
    enum { EMPTY, WHOLE, MANY, FEW };

    void operator()(long tiles, const Team& team) const {
        static thread_local std::vector<Piece> pieces[4];
        for (auto& some : pieces) some.clear();
        long all = 0;
        share(layer, team, PART_ROWS, TILE_ROWS, [&](const Strip& strip, long from, long to) {
            if (strip.kept == layer.inputs) all += (to - from + PART_ROWS - 1) / PART_ROWS;
        });
        share(layer, team, PART_ROWS, TILE_ROWS, [&](const Strip& strip, long from, long to) {
            const Piece piece{&strip, from, to, part_width(strip.rows, PART_ROWS, TILE_ROWS), (strip.kept + P::COLUMNS - 1) / P::COLUMNS};
            const bool few = piece.parts() > 1 && piece.steps > 1 && piece.steps <= SHORT;
            const int kind = !piece.steps ? EMPTY : strip.kept == layer.inputs && all >= WORTH_PAIRING ? WHOLE : few ? FEW : MANY;
            pieces[kind].push_back(piece);
        });
        switch (layer.act) {
            case PLAIN: return run<PLAIN>(pieces, tiles);
            case GELU: return run<GELU>(pieces, tiles);
            default: return run<TANH_GELU>(pieces, tiles);  // or whichever else layer.act says
        }
    }

    // Strips that add to the outputs they list: a thread owns a tile of tokens.
    void scattered(long tiles, const Team& team) const {
        long most = 0;
        for (long s = 0; s < layer.count; s++) most = std::max<long>(most, layer.strips[s].kept);
        sum* totals = static_cast<sum*>(scratch<4>(layer.width * ROW * sizeof(sum) + (most / P::COLUMNS + 1) * STEP_BYTES));
        char* gathered = reinterpret_cast<char*>(totals + layer.width * ROW);
        for (long tile = team.from(tiles); tile < team.to(tiles); tile++) {
            for (long r = 0; r < layer.width; r++) P::start(totals + r * ROW);
            for (long s = 0; s < layer.count; s++) {
                const Strip& strip = layer.strips[s];
                const Piece piece{&strip, 0, strip.rows, part_width(strip.rows, PART_ROWS, TILE_ROWS), (strip.kept + P::COLUMNS - 1) / P::COLUMNS};
                for (long k = 0; k < piece.steps; k++)
                    P::gather(P::input(source, tile), layer.columns + strip.columns + k * P::COLUMNS, strip.kept - k * P::COLUMNS, gathered + k * STEP_BYTES);
                const auto columns = [&](long k) { return gathered + k * STEP_BYTES; };
                for (long row = 0; row < strip.rows; row += piece.width) {
                    const long rows = std::min(piece.width, strip.rows - row);
                    if (rows > TILE_ROWS) products<2>(weights(piece, row), piece.steps, columns, [](long) {});
                    else products<1>(weights(piece, row), piece.steps, columns, [](long) {});
                    for (long r = 0; r < rows; r++) P::add(sums + r * ROW, totals + (long)layer.outputs[strip.out + row + r] * ROW);
                }
            }
            const auto factors = P::factors(source, tile);
            for (long r = 0; r < layer.width; r++) P::template finish<TANH_GELU>(layer, r, totals + r * ROW, factors, y.line(tile, r));
        }
    }
};

// ------------------------------------------------------------------------------------------------- attention

// 2^t for t <= 0 or little above: 7.5e-5 relative, by a cubic for the part behind the point.
INLINE vec exp2_rough(vec t) {
    const vec f = (vec)_mm512_reduce_ps((__m512)t, 9);  // t less the next whole number below
    vec p = splat(0.07802452f);
    p = p * f + 0.22606716f;
    p = p * f + 0.69583356f;
    p = p * f + 0.9999252f;
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)t);
}

// One head of one sentence with a depth of 32 * D: S^T = K Q^T, softmax down the keys, O^T = V^T P^T.
template <int D>
struct HeadOnTiles {
    static constexpr float LOG2E = 1.44269504088896341f;
    static constexpr long DEPTH = 32 * D, LINES = DEPTH * TILE;  // of a head in a tile of tokens
    long n, blocks;
    char *keys, *asks, *shares;           // tiles: keys [block][2][D], asks [D], shares [block]
    uint16_t *values, *copied, *results;  // lines
    float *scores, *sums;                 // [block][32 keys][32 queries], [32 outputs][32 queries]

    HeadOnTiles(long n_) : n(n_), blocks(tiles_of(n_)) {
        const long a_block = D * STEP_BYTES + STEP_BYTES + 4 * TILE * TILE + LINES * 2;
        keys = static_cast<char*>(scratch<3>(blocks * a_block + D * STEP_BYTES + 4 * TILE * TILE + 2 * LINES * 2 + 4 * TILE * 2));
        asks = keys + blocks * D * STEP_BYTES;
        shares = asks + D * STEP_BYTES;
        scores = reinterpret_cast<float*>(shares + blocks * STEP_BYTES);
        sums = scores + blocks * TILE * TILE;
        values = reinterpret_cast<uint16_t*>(sums + TILE * TILE);
        copied = values + blocks * LINES;  // each with room for a line behind it, as `take` needs
        results = copied + LINES + 2 * TILE;
    }

    // The head's lines of up to 32 tokens from one on: where they are, if they begin with a line, else copied.
    METHOD const uint16_t* lines(const Lines<uint16_t>& from, long column, long token, long count, uint16_t* to) const {
        if (token % TILE == 0) return from.line(token / TILE, column);
        for (long c = 0; c < DEPTH; c++) take(from, column + c, token, count, to + c * TILE);
        return to;
    }

    // Pairs of a head's columns: of up to 16 tokens in their order, of more in that of low_pairs and high_pairs.
    template <int V>
    METHOD void pairs(const uint16_t* from, int i, __m512i& first, __m512i& second) const {
        const __m512i a = words(from + 2 * i * TILE), b = words(from + (2 * i + 1) * TILE);
        if (V == 2) first = low_pairs(a, b), second = high_pairs(a, b);
        else pairs_in_order(a, b, first, second);
    }

    // K as tiles of 16 keys x 32 columns.
    template <int V>
    void take_keys(const uint16_t* from, char* to) const {
        for (int d = 0; d < D; d++) {
            vec r[2][16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                __m512i first, second;
                pairs<V>(from, 16 * d + i, first, second);
                r[0][i] = (vec)first, r[1][i] = (vec)second;
            }
            for (int half = 0; half < V; half++) {
                exchange<1>(r[half]);
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++) store(reinterpret_cast<float*>(to + (half * D + d) * TILE_BYTES) + i * 16, r[half][i]);
            }
        }
    }

    template <int V>
    void take_asks(const uint16_t* from) const {
        for (int i = 0; i < 16 * D; i++) {
            __m512i first, second;
            pairs<V>(from, i, first, second);
            _mm512_store_si512(asks + i * 128, first);
            if (V == 2) _mm512_store_si512(asks + i * 128 + 64, second);
        }
    }

    // V's lines: 0 behind the last key, as whatever stood there would be multiplied by 0.
    const uint16_t* take_values(const Lines<uint16_t>& v, long column, long at, long block) const {
        const long count = std::min<long>(TILE, n - block * TILE), token = at + block * TILE;
        if (count == TILE && token % TILE == 0) return v.line(token / TILE, column);
        alignas(64) uint16_t line[2 * TILE];
        uint16_t* to = values + block * LINES;
        for (long c = 0; c < DEPTH; c++) {
            take(v, column + c, token, count, line);
            _mm512_store_si512(to + c * TILE, _mm512_maskz_loadu_epi16((__mmask32)((1ull << count) - 1), line));
        }
        return to;
    }

    METHOD bool half(long block) const { return n - block * TILE <= TILE_ROWS; }  // one tile holds its keys

    // The scores of a key for 32 queries; a block's first 16 keys as low_pairs has them.
    METHOD float* row(long key) const {
        const long j = key % TILE, at = half(key / TILE) ? j : (j >> 2 & 1) * 16 + (j >> 3) * 4 + (j & 3);
        return scores + (key - j + at) * TILE;
    }

    template <int V>
    void score() const {
        for (long b = 0; b < blocks; b++) {
            const char* k = keys + b * D * STEP_BYTES;
            float* to = scores + b * TILE * TILE;
            const bool both = !half(b);
            tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
            for (int d = 0; d < D; d++, k += TILE_BYTES) {
                tile_load<4, 64>(k);
                tile_load<6, 128>(asks + d * STEP_BYTES);
                tile_dot_bf16<0, 4, 6>();
                if (V == 2) tile_load<7, 128>(asks + d * STEP_BYTES + 64), tile_dot_bf16<1, 4, 7>();
                if (!both) continue;
                tile_load<5, 64>(k + D * TILE_BYTES);
                tile_dot_bf16<2, 5, 6>();
                if (V == 2) tile_dot_bf16<3, 5, 7>();
            }
            tile_store<0, 128>(to);
            if (V == 2) tile_store<1, 128>(to + 16);
            if (both) tile_store<2, 128>(to + 16 * TILE);
            if (both && V == 2) tile_store<3, 128>(to + 16 * TILE + 16);
        }
    }

    // Scores with MPNet's bias, as exponents of 2.
    template <int V>
    void add_bias(float factor, const float* bias) const {
        for (long j = 0; j < n; j++) {
            __m512 b[2] = {_mm512_loadu_ps(bias - j), _mm512_loadu_ps(bias - j + 16)};
            if (V == 2) in_order(b);
            float* s = row(j);
            for (int i = 0; i < V; i++) store(s + i * 16, load(s + i * 16) * factor + (vec)b[i] * LOG2E);
        }
    }

    template <int V>
    void largest(vec (&most)[2]) const {
        vec m[2][V];
        for (int i = 0; i < V; i++) m[0][i] = m[1][i] = splat(-INFINITY);
        const long whole = n / TILE * TILE;
#pragma GCC unroll 4
        for (long j = 0; j < whole; j += 2)  // in whichever order
            for (int i = 0; i < V; i++)
                for (int k = 0; k < 2; k++) m[k][i] = larger(m[k][i], load(scores + (j + k) * TILE + i * 16));
        for (long j = whole; j < n; j++)
            for (int i = 0; i < V; i++) m[0][i] = larger(m[0][i], load(row(j) + i * 16));
        for (int i = 0; i < V; i++) most[i] = larger(m[0][i], m[1][i]);
    }

    // scores -> shares in bf16, in pairs of keys; `sum`: what they are still to be multiplied by. `factor` makes scores
    // exponents of 2.
    template <int V>
    void softmax(float factor, vec (&sum)[2]) const {
        vec most[2];
        largest<V>(most);
        for (int i = 0; i < V; i++) most[i] *= -factor, sum[i] = splat(0.f);
        const __m512i half = _mm512_set1_epi32(0x8000);
        const auto power = [&](const float* s, int i) ALWAYS {
            return exp2_rough((vec)_mm512_fmadd_ps(_mm512_load_ps(s + i * 16), _mm512_set1_ps(factor), (__m512)most[i]));
        };
        const auto pair = [&](const float* s, const float* t, char* to) ALWAYS {
            for (int i = 0; i < V; i++) {
                const vec a = power(s, i), b = t ? power(t, i) : splat(0.f);
                sum[i] += a + b;
                const __m512i x = _mm512_srli_epi32(_mm512_add_epi32((__m512i)a, half), 16), y = _mm512_add_epi32((__m512i)b, half);
                _mm512_store_si512(to + i * 64, _mm512_mask_blend_epi16(0xaaaaaaaa, x, y));
            }
        };
        char* to = shares;
        const float* s = scores;
        for (long b = 0; b < n / TILE; b++, s += 16 * TILE)
            for (int k = 0; k < 4; k++, s += 4 * TILE, to += 4 * 128)  // keys in their order: see `row`
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    const float* at = s + ((i >> 1) * 16 + (i & 1) * 2) * TILE;
                    pair(at, at + TILE, to + i * 128);
                }
        for (long j = n / TILE * TILE; j < blocks * TILE; j += 2, to += 128) {
            if (j + 1 < n) pair(row(j), row(j + 1), to);
            else if (j < n) pair(row(j), nullptr, to);
            else
                for (int i = 0; i < V; i++) _mm512_store_si512(to + i * 64, _mm512_setzero_si512());
        }
        for (int i = 0; i < V; i++) sum[i] = 1.f / sum[i];
    }
    // From the order of tokens to that of low_pairs and high_pairs.
    INLINE void in_order(__m512 (&v)[2]) {
        const __m512i a = (__m512i)v[0], b = (__m512i)v[1];
        v[0] = (__m512)_mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), b);
        v[1] = (__m512)_mm512_permutex2var_epi64(a, _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15), b);
    }

    // 32 of the head's outputs for all queries, from line `to` on.
    template <int V, typename Values>
    void weigh(int d, const Values& value, const vec (&sum)[2], uint16_t* to) const {
        tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
        for (long b = 0; b < blocks; b++) {
            const char* p = shares + b * STEP_BYTES;
            const uint16_t* v = value(b) + d * 32 * TILE;
            tile_load<4, 64>(v);
            tile_load<6, 128>(p);
            tile_dot_bf16<0, 4, 6>();
            if (V == 2) tile_load<7, 128>(p + 64), tile_dot_bf16<1, 4, 7>();
            tile_load<5, 64>(v + 16 * TILE);
            tile_dot_bf16<2, 5, 6>();
            if (V == 2) tile_dot_bf16<3, 5, 7>();
        }
        tile_store<0, 128>(sums), tile_store<2, 128>(sums + 16 * TILE);
        if (V == 2) tile_store<1, 128>(sums + 16), tile_store<3, 128>(sums + 16 * TILE + 16);
        for (int c = 0; c < 32; c++) {
            const vec first = load(sums + c * TILE) * sum[0];
            if (V == 2) _mm512_store_si512(to + c * TILE, line((__m512)first, (__m512)(load(sums + c * TILE + 16) * sum[1])));
            else {
                const vec v[2] = {first, splat(0.f)};
                Bf16Lines::put(to + c * TILE, v);
            }
        }
    }

    template <int V, typename Values>
    void queries(float factor, const float* bias, const uint16_t* from, long count, const Values& value,
                 const Lines<uint16_t>& out, long column, long token) const {
        vec sum[2];
        take_asks<V>(from);
        score<V>();
        if (bias) add_bias<V>(factor, bias);
        softmax<V>(bias ? 1.f : factor, sum);
        const bool there = count == TILE && token % TILE == 0;
        uint16_t* to = there ? out.line(token / TILE, column) : results;
        for (int d = 0; d < D; d++) weigh<V>(d, value, sum, to + d * 32 * TILE);
        if (!there)
            for (long c = 0; c < DEPTH; c++) give(results + c * TILE, count, out, column + c, token);
    }

    void attend(const Encoder& e, const EncoderLayer& l, long head, const Lines<uint16_t>& q, long query, long queries_,
                    const Lines<uint16_t>& k, const Lines<uint16_t>& v, long at, const Lines<uint16_t>& out) const {
        const long column = head * DEPTH;
        for (long b = 0; b < blocks; b++) {
            const uint16_t* from = lines(k, column, at + b * TILE, std::min<long>(TILE, n - b * TILE), copied);
            char* to = keys + b * D * STEP_BYTES;
            half(b) ? take_keys<1>(from, to) : take_keys<2>(from, to);
        }
        const bool in_place = at % TILE == 0;
        for (long b = in_place ? n / TILE : 0; b < blocks; b++) take_values(v, column, at, b);
        const auto value = [&](long b) -> const uint16_t* {
            return in_place && (b + 1) * TILE <= n ? v.line(at / TILE + b, column) : values + b * LINES;
        };
        const float factor = l.scale * LOG2E;
        for (long from = 0; from < queries_; from += TILE) {
            const long count = std::min<long>(TILE, queries_ - from);
            const float* bias = e.bias ? e.bias + head * (2 * e.bias_reach - 1) + e.bias_reach - 1 + from : nullptr;
            const uint16_t* asked = lines(q, column, query + from, count, copied);
            if (count > 16) queries<2>(factor, bias, asked, count, value, out, column, query + from);
            else queries<1>(factor, bias, asked, count, value, out, column, query + from);
        }
    }
};

// ------------------------------------------------------------------------------------------------- the pass

template <class P>
struct OnTiles : Bf16Lines {
    static constexpr bool QUANTIZED = sizeof(typename P::in) == 1;
    static constexpr int ROWS = PART_ROWS;
    static void begin() { tiles_begin(TileConfig()); }
    static void end() { tiles_end(); }

    static void linear(const Linear& layer, const Source<uint16_t>& source, long tiles, const Lines<uint16_t>& y, const Team& team) {
        const LinearOnTiles<P> on(layer, source, y);
        if (layer.outputs) on.scattered(tiles, team);
        else on(tiles, team);
    }

    static void attend(const Encoder& e, const EncoderLayer& l, long head, const Lines<uint16_t>& q, long query, long queries,
                       const Lines<uint16_t>& k, const Lines<uint16_t>& v, long at, long n, const Lines<uint16_t>& out) {
        if (e.depth == 32) HeadOnTiles<1>(n).attend(e, l, head, q, query, queries, k, v, at, out);
        else if (e.depth == 64) HeadOnTiles<2>(n).attend(e, l, head, q, query, queries, k, v, at, out);
        else Bf16Lines::attend(e, l, head, q, query, queries, k, v, at, n, out);
    }
};

#if defined(INT8)
typedef OnTiles<Fours> AmxInt8;
PRUNESCOPE_PASS(AmxInt8)
#else
typedef OnTiles<Pairs> Amx;
PRUNESCOPE_PASS(Amx)
#endif
