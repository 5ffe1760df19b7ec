"""What a program does, from its text: against XLA's own analysis and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments.benchmark.hlo_convolution import convolution_flops
from experiments.benchmark.hlo_cost import Program
from experiments.benchmark.hlo_reads import shares_read
from experiments.benchmark.hlo_text import type_bytes
from fedjax_comp.execution import CLIENTS_AXIS, device_mesh

SIDE = 64
MATRIX = jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32)


def compiled(function, *like):
    return jax.jit(function).lower(*like).compile()


def cost(function, *like):
    return Program(compiled(function, *like).as_text()).cost


def repeated(count, inner=lambda x: x):
    def body(x, _):
        return jnp.tanh(inner(x) @ x), None

    return lambda x: jax.lax.scan(body, x, None, length=count)[0]


def test_loops_are_multiplied_out():
    product = 2 * SIDE**3
    once = cost(lambda x: jnp.tanh(x @ x), MATRIX)
    assert once.flops == product
    many = cost(repeated(7), MATRIX)
    assert (many.flops, many.unknown_loops) == (7 * product, 0)
    # Some copies of the carry beside seven times the body.
    assert 7 * once.num_bytes * 0.9 < many.num_bytes < 7 * once.num_bytes * 2
    nested = cost(repeated(5, repeated(3)), MATRIX)
    assert nested.flops == 5 * (3 + 1) * product


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    def until(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1e6, lambda x: x @ x, x)

    found = cost(until, MATRIX)
    assert (found.flops, found.unknown_loops) == (2 * SIDE**3, 1)


def test_without_loops_bytes_are_those_of_the_compilers_analysis():
    def function(x, kernel, w):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.tanh(y.reshape(4, -1) @ w))

    like = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((4, 14, 14, 3), (5, 5, 3, 8), (7 * 7 * 8, 16))
    ]
    program = compiled(jax.grad(function, argnums=(0, 1, 2)), *like)
    found, theirs = Program(program.as_text()).cost, program.cost_analysis()
    assert found.num_bytes == pytest.approx(theirs["bytes accessed"], rel=0.02)
    # Theirs counts an operation for every number beside the products.
    assert 0.9 * theirs["flops"] < found.flops <= theirs["flops"]


def test_what_is_taken_out_of_an_array_counts_and_not_the_array():
    rows = jax.ShapeDtypeStruct((100, SIDE, SIDE), jnp.float32)

    def each(x, rows):
        return jax.lax.scan(lambda x, row: (x + row, x[0]), x, rows)

    size = 4 * SIDE**2
    found = cost(each, MATRIX, rows).num_bytes
    # Of each: a row read, the carry read and written, a 64th of it kept.
    assert 100 * 3 * size < found < 100 * 6 * size


def test_collectives_are_those_of_the_program():
    if jax.local_device_count() < 2:
        pytest.skip("needs several devices")
    spread = jax.shard_map(
        lambda x: jax.lax.psum(x, CLIENTS_AXIS),
        mesh=device_mesh(),
        in_specs=PartitionSpec(CLIENTS_AXIS),
        out_specs=PartitionSpec(),
    )
    like = jax.ShapeDtypeStruct((jax.local_device_count(), 1000), jnp.float32)
    found = cost(spread, like)
    assert found.collectives == {"all-reduce": 4000}
    width = jax.local_device_count()
    assert found.sent == {"all-reduce": 4000 * 2 * (width - 1) / width}


@pytest.mark.parametrize(
    ("line", "received", "sent"),
    [
        ("f32[8,5]{1,0} all-gather(%x), replica_groups={{0,1},{2,3}}", 160, 80),
        ("f32[8,5]{1,0:T(8,128)} all-gather(%x), replica_groups={}", 4096, 120),
        ("f32[2,5]{1,0} reduce-scatter(%x), replica_groups=[1,4]<=[4]", 40, 120),
        ("(u8[3], u8[3]) all-to-all(%x, %x), replica_groups={{0,2},{1,3}}", 6, 3),
        ("f32[6]{0} all-reduce(%x), replica_groups={{0,1,2}}", 24, 32),
        ("(f32[3], f32[6]) all-gather-start(%x), replica_groups={{1,0}}", 24, 12),
        ("u16[9]{0} collective-permute(%x), source_target_pairs={{0,1}}", 18, 18),
    ],
)
def test_what_a_device_sends_and_receives(line, received, sent):
    text = (
        "HloModule jit_f, num_partitions=4\n\nENTRY %main (x: f32[3]) -> f32[3] {\n"
        f"  %x = f32[3]{{0}} parameter(0)\n  ROOT %y = {line}\n}}\n"
    )
    found = Program(text).cost
    (kind,) = found.sent
    assert found.sent[kind] == pytest.approx(sent)
    assert found.collectives[kind] == received


TPU = """HloModule jit_f

%body (arg: (s32[], f32[8,128], f32[7,8,128])) -> (s32[], f32[8,128], f32[7,8,128]) {
  %arg = (s32[], f32[8,128]{1,0:T(8,128)}, f32[7,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %x = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%arg), index=1
  %rows = f32[7,8,128]{2,1,0:T(8,128)} get-tuple-element(%arg), index=2
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %sliced = f32[1,8,128]{2,1,0:T(8,128)} fusion(%rows, %i), kind=kLoop, calls=%take
  %row = f32[8,128]{1,0:T(8,128)} bitcast(%sliced)
  %sum = f32[8,128]{1,0:T(8,128)S(1)} add(%x, %row)
  ROOT %out = (s32[], f32[8,128], f32[7,8,128]) tuple(%next, %sum, %rows)
}

%take (rows.1: f32[7,8,128], i.1: s32[]) -> f32[1,8,128] {
  %rows.1 = f32[7,8,128]{2,1,0:T(8,128)} parameter(0)
  %i.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %taken = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%rows.1, %i.1, %zero, %zero), dynamic_slice_sizes={1,8,128}
}

%until (arg.1: (s32[], f32[8,128], f32[7,8,128])) -> pred[] {
  %arg.1 = (s32[], f32[8,128], f32[7,8,128]) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %most = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%i.2, %most), direction=LT
}

ENTRY %main (x.1: f32[8,128], rows.2: f32[7,8,128]) -> f32[8,128] {
  %x.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %rows.2 = f32[7,8,128]{2,1,0:T(8,128)} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %all = (s32[], f32[8,128], f32[7,8,128]) tuple(%start, %x.1, %rows.2)
  %loop = (s32[], f32[8,128], f32[7,8,128]) while(%all), condition=%until, body=%body
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""  # noqa: E501 - lines as the compiler writes them


def test_the_text_of_a_tpus_program():
    found = Program(TPU).cost
    scalar, tile = type_bytes("s32[]{:T(128)}"), 4 * 8 * 128
    assert scalar == 4
    # The counter's sum, a row taken and written, the sum, and the comparison.
    body = 3 * scalar + (2 * tile + scalar) + 3 * tile
    assert found.num_bytes == 7 * (body + 2 * scalar + 1)
    # The carry's row lies in vector memory: read once and written once a step.
    assert found.main_bytes == found.num_bytes - 7 * 2 * tile
    assert found.unknown_loops == 0


FUSED = """HloModule jit_f

%moved (m: f32[8,128]) -> f32[1024] {
  %m = f32[8,128]{1,0} parameter(0)
  ROOT %flat = f32[1024]{0} bitcast(%m)
}

%body (a: f32[8,128], b: f32[1024], c: f32[7,1024], i: s32[]) -> f32[7,1024] {
  %a = f32[8,128]{1,0} parameter(0)
  %b = f32[1024]{0} parameter(1)
  %c = f32[7,1024]{1,0} parameter(2)
  %i = s32[] parameter(3)
  %all = f32[1024]{0} fusion(%a), kind=kLoop, calls=%moved
  %twice = f32[1024]{0} add(%b, %b)
  %some = f32[1,16]{1,0} slice(%twice), slice={[0:16]}
  %zero = f32[] constant(0)
  %wide = f32[1,1024]{1,0} pad(%some, %zero), padding=0_0x0_1008
  %row = f32[1,1024]{1,0} bitcast(%all)
  %sum = f32[1,1024]{1,0} add(%row, %wide)
  %start = s32[] constant(0)
  ROOT %put = f32[7,1024]{1,0} dynamic-update-slice(%c, %sum, %i, %start)
}

ENTRY %main (x: f32[8,128], y: f32[1024], z: f32[7,1024], j: s32[]) -> f32[7,1024] {
  %x = f32[8,128]{1,0} parameter(0)
  %y = f32[1024]{0} parameter(1)
  %z = f32[7,1024]{1,0} parameter(2)
  %j = s32[] parameter(3)
  ROOT %out = f32[7,1024]{1,0} fusion(%x, %y, %z, %j), kind=kLoop, calls=%body
}
"""


def test_a_fusion_reads_what_its_result_asks_for():
    program = Program(FUSED)
    shares = shares_read(program.computations, program.roots, "body")
    # All of what is renamed in a fusion of its own, a slice of what is added up before
    # it is cut, nothing of what is written in place.
    assert shares == {"0": 1.0, "1": 16 / 1024, "2": 0.0, "3": 1.0}
    # And a row of the result is written.
    assert program.cost.num_bytes == 4 * (1024 + 16 + 0 + 1 + 1024)
    half = shares_read(program.computations, program.roots, "moved", 0.5)
    assert half == {"0": 0.5}


SUMS = """HloModule jit_f

%body (a: f32[8,16], b: f32[16,4]) -> f32[2] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16,4]{1,0} parameter(1)
  %product = f32[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %zero = f32[] constant(0)
  %sums = f32[8]{0} reduce(%product, %zero), dimensions={1}, to_apply=%add
  %rows = f32[8]{0} reduce(%a, %zero), dimensions={1}, to_apply=%add
  %both = f32[8]{0} add(%sums, %rows)
  ROOT %first = f32[2]{0} slice(KEPT), slice={[0:2]}
}

ENTRY %main (x: f32[8,16], y: f32[16,4]) -> f32[2] {
  %x = f32[8,16]{1,0} parameter(0)
  %y = f32[16,4]{1,0} parameter(1)
  ROOT %out = f32[2]{0} fusion(%x, %y), kind=kLoop, calls=%body
}
"""  # noqa: E501 - lines as the compiler writes them


def test_sums_ask_for_what_is_added_and_products_for_everything():
    def shares(kept):
        program = Program(SUMS.replace("KEPT", kept))
        return shares_read(program.computations, program.roots, "body")

    assert shares("%rows") == {"0": 2 / 8, "1": 0.0}
    assert shares("%sums") == {"0": 1.0, "1": 1.0}
    assert shares("%both") == {"0": 1.0, "1": 1.0}


def test_padding_and_batches_written_as_windows_are_no_products():
    # A product for each of 6 batches: [6, 5, 3] x [6, 3, 4], as TPU compilers write it.
    labels = ", dim_labels=0bf_0io->0bf"
    window = ", window={size=6 pad=5_5 rhs_reversal=1}"
    # Every place of the result meets every batch of the kernel once, 6 of 11 places.
    found = convolution_flops((6, 5, 3), (6, 3, 4), (11, 5, 4), window + labels)
    assert found == 2 * 5 * 4 * 3 * 36
    same = ", window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"
    direct = sum(1 for o in range(4) for k in range(3) if 0 <= o - 1 + k < 4)
    assert convolution_flops((2, 4, 5), (3, 5, 7), (2, 4, 7), same) == (
        2 * 2 * 7 * 5 * direct
    )


def test_numbers_of_the_text():
    assert type_bytes("bf16[3,200]{1,0:T(8,128)(2,1)}") == 2 * 8 * 256
    assert type_bytes("f32[3,200]{0,1:T(8,128)}") == 4 * 128 * 200
    assert type_bytes("u4[5]") == 2.5
    with pytest.raises(ValueError, match="ENTRY"):
        Program("no program")
    assert np.isfinite(Program(TPU).cost.num_bytes)
