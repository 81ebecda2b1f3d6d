// AMX's tile instructions in plain C++, for processors without them: pass_amx.cpp is built with this before it (-include)
// and EMULATED_TILES defined, and then runs anywhere with AVX-512.
//
// Arithmetic as Intel documents it. tdpbf16ps sums the even and the odd columns of a tile apart, from 0, each by fused
// multiply-adds in order, then adds the two and then what was there; rounded to nearest even, denormals are 0 on the
// way in and out. tdpbsud is exact. What the processor would refuse, or what only a mistake can mean, is kept as text.

#pragma once
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace emulated {

struct Tile {
    int rows, bytes;
    bool written;  // since tiles were configured
    alignas(64) uint8_t at[16][64];
};

static std::atomic<int> configured_threads{0}, mistakes{0};
static char first_mistake[160];

static void mistake(const char* what, long tile) {
    if (mistakes.fetch_add(1) == 0) std::snprintf(first_mistake, sizeof first_mistake, "%s (%ld)", what, tile);
}

static thread_local bool configured = false;
static thread_local Tile tiles[8];

static Tile& known(int number, const char* doing) {
    static thread_local Tile none;
    if (number < 0 || number > 7) return mistake("no such tile", number), none;
    if (!configured) mistake(doing, number);
    else if (!tiles[number].rows || !tiles[number].bytes) mistake("a tile without rows or bytes", number);
    return tiles[number];
}

static Tile& source(int number) {
    Tile& tile = known(number, "multiplied without a configuration");
    if (!tile.written) mistake("multiplied or stored before anything was put there", number);
    return tile;
}

static void check_memory(const void* at, long stride, const Tile& tile) {
    if (stride < tile.bytes) mistake("rows overlap: stride", stride);
    if (reinterpret_cast<uintptr_t>(at) % 64 || stride % 64) mistake("rows across cache lines: stride", stride);
}

static void check_shapes(int c, int a, int b) {
    if (c == a || c == b || a == b) return mistake("the same tile twice in a product", c);
    const Tile &to = tiles[c], &left = tiles[a], &right = tiles[b];
    if (to.bytes % 4 || left.bytes % 4 || right.bytes % 4 || to.bytes != right.bytes || to.rows != left.rows
        || left.bytes / 4 != right.rows)
        mistake("tiles that do not fit one another", c);
}

static inline float flushed(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
    std::memcpy(&v, &bits, 4);
    return v;
}

static inline float widened(uint32_t bits) {
    float v;
    std::memcpy(&v, &bits, 4);
    return flushed(v);
}

}  // namespace emulated

template <class Config>
static void tiles_begin(const Config& config) {
    static_assert(sizeof(Config) == 64, "what ldtilecfg reads");
    uint8_t raw[64];
    std::memcpy(raw, &config, 64);
    if (raw[0] != 1 || raw[1] != 0) emulated::mistake("palette or first row", raw[0]);
    for (int i = 2; i < 64; i++)
        if ((i < 16 || (i >= 32 && i < 48) || i >= 56) && raw[i]) emulated::mistake("a reserved byte is set", i);
    for (int i = 0; i < 8; i++) {
        emulated::Tile& tile = emulated::tiles[i];
        tile = {raw[48 + i], raw[16 + 2 * i] | raw[17 + 2 * i] << 8, false, {}};
        if (tile.rows > 16 || tile.bytes > 64 || !tile.rows != !tile.bytes) emulated::mistake("rows or bytes of a tile", i);
    }
    if (emulated::configured) emulated::mistake("configured twice", 0);
    else emulated::configured_threads++;
    emulated::configured = true;
}

static void tiles_end() {
    if (!emulated::configured) emulated::mistake("released without a configuration", 0);
    else emulated::configured_threads--;
    emulated::configured = false;
    for (emulated::Tile& tile : emulated::tiles) tile = {};
}

template <int T>
static void tile_zero() {
    emulated::Tile& tile = emulated::known(T, "zeroed without a configuration");
    std::memset(tile.at, 0, sizeof tile.at);
    tile.written = true;
}

template <int T, int STRIDE>
static void tile_load(const void* from) {
    emulated::Tile& tile = emulated::known(T, "loaded without a configuration");
    emulated::check_memory(from, STRIDE, tile);
    std::memset(tile.at, 0, sizeof tile.at);
    for (int r = 0; r < tile.rows; r++) std::memcpy(tile.at[r], static_cast<const char*>(from) + r * STRIDE, tile.bytes);
    tile.written = true;
}

template <int T, int STRIDE>
static void tile_store(void* to) {
    const emulated::Tile& tile = emulated::source(T);
    emulated::check_memory(to, STRIDE, tile);
    for (int r = 0; r < tile.rows; r++) std::memcpy(static_cast<char*>(to) + r * STRIDE, tile.at[r], tile.bytes);
}

template <int C, int A, int B>
static void tile_dot_bf16() {
    using namespace emulated;
    Tile& to = source(C);
    const Tile &left = source(A), &right = source(B);
    check_shapes(C, A, B);
    for (int m = 0; m < to.rows; m++) {
        float even[16] = {}, odd[16] = {}, sums[16];
        for (int k = 0; k < left.bytes / 4; k++) {
            uint32_t a, b[16];
            std::memcpy(&a, left.at[m] + 4 * k, 4);
            std::memcpy(b, right.at[k], 64);
            const float first = widened(a << 16), second = widened(a & 0xffff0000u);
            for (int n = 0; n < 16; n++) {
                even[n] = flushed(__builtin_fmaf(first, widened(b[n] << 16), even[n]));
                odd[n] = flushed(__builtin_fmaf(second, widened(b[n] & 0xffff0000u), odd[n]));
            }
        }
        std::memcpy(sums, to.at[m], 64);
        for (int n = 0; n < 16; n++) sums[n] = flushed(flushed(sums[n]) + flushed(even[n] + odd[n]));
        std::memcpy(to.at[m], sums, 64);
    }
}

template <int C, int A, int B>
static void tile_dot_bytes() {
    using namespace emulated;
    Tile& to = source(C);
    const Tile &left = source(A), &right = source(B);
    check_shapes(C, A, B);
    for (int m = 0; m < to.rows; m++) {
        uint32_t sums[16];
        std::memcpy(sums, to.at[m], 64);
        for (int k = 0; k < left.bytes / 4; k++)
            for (int n = 0; n < 16; n++)
                for (int i = 0; i < 4; i++)
                    sums[n] += (int32_t)(int8_t)left.at[m][4 * k + i] * (int32_t)right.at[k][4 * n + i];
        std::memcpy(to.at[m], sums, 64);
    }
}

extern "C" {
int emulated_mistakes() { return emulated::mistakes; }
const char* emulated_first_mistake() { return emulated::first_mistake; }
int emulated_configured_threads() { return emulated::configured_threads; }
}
