"""The pass on AMX tiles: built as it ships, and run with the tile instructions emulated (emulated_tiles.hpp).

Nothing here says how fast it is.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import emulated
import numpy as np
import pytest
import torch
from emulated import AMX, HEADER, HERE, TILES, forget, needs_avx512
from torch.nn import functional as F

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.execution import native, packing, paths
from prune_core.latency.strips import Live, plan_matrix


@pytest.fixture(autouse=True)
def anew():
    forget()
    yield
    forget()


@pytest.fixture
def tiles(monkeypatch):
    yield from emulated.tiles(monkeypatch)


# ---------------------------------------------------------------- the build that ships, and what it needs


@needs_avx512
@pytest.mark.parametrize("path", AMX)
def test_it_builds_and_its_instructions_are_those_of_the_manual(path):
    library, why = native.kernels(path)
    assert why == "" and library.prunescope_rows() == 32 and library.prunescope_tile() == 32
    code = Path(library._name).read_bytes()
    # tilerelease; tmm0 += tmm4 tmm6, by tdpbf16ps and by tdpbsud (VEX.128.F3.0F38.W0 5C and 5E)
    bf16, signed_by_unsigned = bytes.fromhex("c4e24a5cc4"), bytes.fromhex("c4e24a5ec4")
    assert bytes.fromhex("c4e27849c0") in code and bf16 in code  # attention is in bf16 in both
    assert (signed_by_unsigned in code) == (path == "int8 amx")


@pytest.mark.skipif(TILES <= HERE, reason="the processor has AMX")
def test_without_amx_the_path_is_refused_and_the_next_one_taken():
    assert "amx_tile" in paths.why_not("bf16 amx") and "processor lacks" in paths.why_not("bf16 amx")
    with pytest.raises(InputError, match="does not run here: the processor lacks"):
        paths.choose("bf16", "bf16 amx")
    assert paths.choose("bf16").path != "bf16 amx"


@needs_avx512
@pytest.mark.parametrize("left", [True, False])
def test_refused_registers_leave_the_next_best_path_and_are_told(monkeypatch, left):
    found = HERE | TILES if left else frozenset(TILES)
    monkeypatch.setattr(paths, "flags", lambda: found)
    monkeypatch.setattr(paths, "_permission", lambda: "the system refuses the tile registers (No space left on device)")
    monkeypatch.setattr(paths, "timed", lambda: {"fp32": 9.0, "bf16 avx512": 5.0})
    monkeypatch.setattr(native, "kernels", lambda path: (None, "") if path != "bf16 amx" else pytest.fail("built"))
    choice = paths.choose("bf16")
    assert choice.path == ("bf16 avx512" if left else "fp32")
    assert "bf16 amx" in choice.why and ("refuses the tile registers" if left else "processor lacks") in choice.why


@needs_avx512
def test_kernels_that_do_not_build_leave_the_next_best_path_and_are_told(monkeypatch):
    source, more = native.PASSES["bf16 amx"]
    monkeypatch.setitem(native.PASSES, "bf16 amx", (source, (*more, "-DTILE_BYTES=0")))
    monkeypatch.setattr(paths, "flags", lambda: HERE | TILES)
    monkeypatch.setattr(paths, "_permission", lambda: "")
    monkeypatch.setattr(paths, "timed", lambda: {"fp32": 9.0, "bf16 avx512": 5.0})
    choice = paths.choose("bf16")
    assert choice.path == "bf16 avx512" and "bf16 amx" in choice.why and "could not build" in choice.why


# ---------------------------------------------------------------- a linear layer


def packed(path: str, weight: torch.Tensor, bias: torch.Tensor, kept: np.ndarray, block: BlockShape, act: str = ""):
    """(what the kernels take, the masked weight)"""
    blocking = packing.blocking(path)
    plan = plan_matrix(kept, block, Live.all(*weight.shape), blocking)
    masked = weight * torch.from_numpy(block.expand(kept, *weight.shape))
    return packing.pack(masked, bias, plan, path, blocking, act), masked


def run_rows(path: str, layer: packing.Packed, x: torch.Tensor, threads: int = 1) -> torch.Tensor:
    y = torch.full((len(x), layer.struct.width), torch.nan)
    native.kernels(path)[0].prunescope_linear_rows(
        ctypes.addressof(layer.struct), x.data_ptr(), x.shape[1], len(x), y.data_ptr(), y.shape[1], threads)
    return y


def run_lines(path: str, layer: packing.Packed, x: torch.Tensor, threads: int = 1) -> torch.Tensor:
    """x (tiles, inputs, 32) in bf16 -> (tiles, outputs, 32)"""
    tiles, inputs, tile = x.shape
    quantized, scales = torch.zeros(x.shape, dtype=torch.uint8), torch.zeros(tiles, 2, tile)
    y = torch.full((tiles, layer.struct.width, tile), torch.nan, dtype=torch.bfloat16)
    native.kernels(path)[0].prunescope_linear_lines(
        ctypes.addressof(layer.struct), x.data_ptr(), quantized.data_ptr(), scales.data_ptr(), tiles, y.data_ptr(),
        threads)
    return y


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().double()


def kept_counts(counts: list[int], inputs: int, rows: int, seed: int = 0) -> np.ndarray:
    """A strip of `rows` outputs for each count, with so many kept columns."""
    random, kept = np.random.default_rng(seed), np.zeros((len(counts), inputs), bool)
    for strip, count in zip(kept, counts, strict=True):
        strip[random.permutation(inputs)[:count]] = True
    return kept


COUNTS = [0, 1, 31, 32, 33, 63, 64, 65, 2, 96, 97, 128, 129, 160, 300, 0, 7]


@needs_avx512
@pytest.mark.parametrize("act", ["", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("rows", [64, 48, 33, 16, 5])
def test_a_layer_is_the_one_in_float64(tiles, rows, act):
    inputs = 300
    draw = torch.Generator().manual_seed(rows)
    weight, bias = (torch.randn(rows * len(COUNTS), n, generator=draw) for n in (inputs, 1))
    kept = kept_counts(COUNTS, inputs, rows)
    for tokens in (1, 32, 100):
        x = torch.randn(tokens, inputs, generator=draw)
        layer, masked = packed("bf16 amx", weight, bias[:, 0], kept, BlockShape(rows, 1), act)
        got = run_rows("bf16 amx", layer, x)
        want = rounded(x) @ rounded(masked).T + bias[:, 0].double()
        want = {"": want, "relu": want.relu(), "gelu": F.gelu(want), "gelu_tanh": F.gelu(want, approximate="tanh")}[act]
        assert ((got - want).abs() <= 2e-4 + want.abs() / 256 + 2e-5 * inputs**0.5).all()
        assert torch.equal(run_rows("bf16 amx", layer, x, threads=3), got)  # a team, and threads of their own
        one = run_rows("bf16 amx", layer, x[-1:].clone())
        assert torch.equal(one, got[-1:])


@needs_avx512
@pytest.mark.parametrize("inputs", [301, 64])
def test_a_layer_that_keeps_all_is_the_one_in_float64(tiles, inputs):
    draw = torch.Generator().manual_seed(inputs)
    weight, bias, x = (torch.randn(n, inputs, generator=draw) for n in (200, 200, 300))
    kept = np.ones((4, inputs), bool)
    for cut in (0, 3):  # all strips whole; some in part, too
        kept[3, :cut] = False
        layer, masked = packed("bf16 amx", weight, bias[:, 0].contiguous(), kept, BlockShape(50, 1))
        got, want = run_rows("bf16 amx", layer, x), rounded(x) @ rounded(masked).T + bias[:, 0].double()
        assert ((got - want).abs() <= want.abs() / 256 + 2e-5 * inputs**0.5).all()
        assert torch.equal(run_rows("bf16 amx", layer, x[:40], threads=3), got[:40])  # each thread too few to pair


@needs_avx512
@pytest.mark.parametrize("act", ["", "gelu", "relu"])
def test_missing_columns_are_zeros_whatever_lies_behind(tiles, act):
    """A token that is no number reaches no other, and a column that is not kept no output."""
    kept, x = np.zeros((3, 40), bool), torch.ones(70, 40)
    kept[0, 1:33] = kept[1, 1:4] = kept[2, 0] = True  # the last one's column is the next in the list of the one before
    x[:, 0] = x[:, 33:] = x[5] = torch.nan
    layer, _ = packed("bf16 amx", torch.ones(192, 40), torch.zeros(192), kept, BlockShape(64, 1), act)
    got = run_rows("bf16 amx", layer, x)
    others = torch.arange(70) != 5
    assert (got[others, :64] == 32).all() and (got[others, 64:128] == 3).all()
    assert got[5].isnan().all() and got[:, 128:].isnan().all()


@needs_avx512
@pytest.mark.skipif("avx512_vnni" not in HERE, reason="VNNI")
@pytest.mark.parametrize("shape", ["64x1", "16x1", "48x1", "8x1", "1x16", "4x4", "24x3", "1x1", "64x64"])
@pytest.mark.parametrize("act", ["", "gelu"])
def test_int8_has_the_bits_of_vnni(tiles, shape, act):
    block, (m, n) = BlockShape.parse(shape), (192, 192)
    draw, random = torch.Generator().manual_seed(1), np.random.default_rng(1)
    weight, bias = torch.randn(m, n, generator=draw), torch.randn(m, generator=draw)
    x = torch.randn(5, n, 32, generator=draw).bfloat16()
    for share in (0.1, 0.5, 1.0):
        kept = random.random(block.grid(m, n)) < share
        kept[0] &= share == 1.0  # a strip of nothing
        here, there = (packed(path, weight, bias, kept, block, act)[0] for path in ("int8 amx", "int8 vnni"))
        got = run_lines("int8 amx", here, x)
        assert torch.equal(got, run_lines("int8 vnni", there, x))
        assert torch.equal(got, run_lines("int8 amx", here, x, threads=2))


# ---------------------------------------------------------------- the emulation itself

PROGRAM = r"""
#include "emulated_tiles.hpp"
struct Config { uint8_t palette = 1, start = 0, none[14] = {}; uint16_t bytes[16] = {64,64,64,64,64,64,64,64};
                uint8_t rows[16] = {16,16,16,16,16,16,16,16}; };
alignas(64) static char a[1024], b[1024], c[1024];
int main(int count, char** words) {
    const char what = words[1][0];
    Config config;
    if (what == 'w') config.bytes[6] = 60;
    if (what == 'r') config.none[3] = 1;
    if (what != 'u') tiles_begin(config);
    if (what == 'f' || what == 'i') {
        char* const tiles[] = {a, b, c};
        for (char* one : tiles)
            if (std::fread(one, 1, 1024, stdin) != 1024) return 1;
        tile_load<0, 64>(c), tile_load<4, 64>(a), tile_load<6, 64>(b);
        if (what == 'f') tile_dot_bf16<0, 4, 6>(); else tile_dot_bytes<0, 4, 6>();
        tile_store<0, 64>(c);
        std::fwrite(c, 1, 1024, stdout);
        return 0;
    }
    if (what == 's') tile_load<1, 32>(a);
    tile_zero<0>(), tile_load<4, 64>(what == 'l' ? a + 4 : a);
    if (what == 'e') tiles_end();
    if (what == 'd') tiles_begin(config);
    if (what != 'n') tile_load<6, 64>(b);
    if (what == 't') tile_dot_bf16<0, 4, 4>(); else tile_dot_bf16<0, 4, 6>();
    std::puts(emulated_first_mistake());
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    if native.compiler() is None:
        pytest.skip("no compiler")
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "program.cpp").write_text(PROGRAM)
    subprocess.run([native.compiler(), "-O1", "-std=c++17", f"-I{HEADER.parent}", str(folder / "program.cpp"), "-o",
                    str(folder / "program")], check=True)
    return folder / "program"


@pytest.mark.parametrize("case, told", [("u", "without a configuration"), ("w", "do not fit"), ("r", "reserved"),
                                        ("s", "rows overlap"), ("l", "across cache lines"), ("e", "without a config"),
                                        ("d", "configured twice"), ("n", "before anything was put there"),
                                        ("t", "the same tile twice"), ("-", "")])
def test_misuse_of_tiles_is_noticed(program, case, told):
    said = subprocess.run([str(program), case], capture_output=True, text=True, check=True).stdout.strip()
    assert told in said and bool(told) == bool(said)


def product(program: Path, case: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    sent = b"".join(x.tobytes() for x in (a, b, c))
    done = subprocess.run([str(program), case], input=sent, capture_output=True, check=True)
    return np.frombuffer(done.stdout, c.dtype).reshape(16, 16)


def flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x).astype(np.float32)


def test_emulated_products_are_those_of_the_manual(program):
    random = np.random.default_rng(0)
    a, b, c = (random.standard_normal((16, n)) * 8.0 ** random.integers(-6, 6, (16, n)) for n in (32, 32, 16))
    a[0, :4], b[0, :4], c[3, :2] = 2.0**-130, 2.0**-128, 2.0**-140  # denormals
    a, b = ((x.view(np.uint32) >> 16).astype(np.uint16) for x in (a.astype(np.float32), b.astype(np.float32)))
    c = c.astype(np.float32)
    got = product(program, "f", a, b, c)
    wide_a, wide_b = (flushed((x.astype(np.uint32) << 16).view(np.float32)) for x in (a, b))
    sums = np.zeros((2, 16, 16), np.float32)
    for k in range(16):
        for half in range(2):  # products of bf16 and the sum with a float are exact in long double, rounded once
            exact = wide_a[:, 2 * k + half, None].astype(np.longdouble) * wide_b[k, half::2][None] + sums[half]
            sums[half] = flushed(exact.astype(np.float32))
    want = flushed(flushed(c) + flushed(sums[0] + sums[1]))
    assert np.array_equal(got, want)


def test_emulated_bytes_are_signed_by_unsigned(program):
    random = np.random.default_rng(1)
    a, b = random.integers(-128, 128, (16, 64)).astype(np.int8), random.integers(0, 256, (16, 64)).astype(np.uint8)
    c = random.integers(-2**31, 2**31, (16, 16)).astype(np.int32)
    got = product(program, "i", a, b, c)
    rows = b.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16)  # (columns of A, tokens)
    want = c.astype(np.int64) + a.astype(np.int64) @ rows.astype(np.int64)
    assert np.array_equal(got, want.astype(np.int32))
