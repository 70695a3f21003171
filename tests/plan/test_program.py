"""Compiled programs as text: loops are counted, groups are named by mesh axes, and bytes are those that move."""

import pytest

from mtlora_jax.plan.program import Program

LOOP = """\
HloModule jit_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%layer (p.0: f32[8,16,16], p.1: s32[], p.2: f32[4,16]) -> f32[4,16] {
  %p.0 = f32[8,16,16]{2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %p.2 = f32[4,16]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %slice = f32[1,16,16]{2,1,0} dynamic-slice(%p.0, %p.1, %zero, %zero), dynamic_slice_sizes={1,16,16}
  ROOT %dot = f32[4,16]{1,0} convolution(%p.2, %slice), dim_labels=bf_io->bf
}

%body (carry: (s32[], f32[4,16], f32[8,16,16])) -> (s32[], f32[4,16], f32[8,16,16]) {
  %carry = (s32[], f32[4,16]{1,0}, f32[8,16,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = f32[4,16]{1,0} get-tuple-element(%carry), index=1
  %w = f32[8,16,16]{2,1,0} get-tuple-element(%carry), index=2
  %y = f32[4,16]{1,0} fusion(%w, %i, %x), kind=kOutput, calls=%layer
  %reduced = f32[4,16]{1,0} all-reduce(%y), channel_id=1, replica_groups=[4,2]<=[8], to_apply=%sum
  %one = s32[] constant(1)
  %next = s32[]{:T(128)S(1)} add(%i, %one)
  ROOT %out = (s32[], f32[4,16]{1,0}, f32[8,16,16]{2,1,0}) tuple(%next, %reduced, %w)
}

%condition (carry.1: (s32[], f32[4,16], f32[8,16,16])) -> pred[] {
  %carry.1 = (s32[], f32[4,16]{1,0}, f32[8,16,16]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  %limit = s32[] constant(8)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.0: f32[4,16], w.0: f32[8,16,16]) -> f32[4,16] {
  %x.0 = f32[4,16]{1,0} parameter(0)
  %w.0 = f32[8,16,16]{2,1,0} parameter(1)
  %gathered = f32[8,16]{1,0} all-gather(%x.0), channel_id=2, replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}
  %zero.1 = s32[] constant(0)
  %start = (s32[], f32[4,16]{1,0}, f32[8,16,16]{2,1,0}) tuple(%zero.1, %x.0, %w.0)
  %loop = (s32[], f32[4,16]{1,0}, /*index=2*/f32[8,16,16]{2,1,0}) while(%start), condition=%condition, body=%body
  ROOT %result = f32[4,16]{1,0} get-tuple-element(%loop), index=1
}
"""
MESH = {"data": 4, "fsdp": 2, "tensor": 1}


def test_what_a_loop_sends_is_counted_every_turn():
    reduced, gathered = sorted(Program(LOOP, MESH).collectives(), key=lambda c: c.kind, reverse=True)[::-1]
    assert (gathered.kind, gathered.axes, gathered.count) == ("all-reduce", "fsdp", 8)
    assert gathered.sent == 8 * 2 * (1 / 2) * 4 * 16 * 4
    assert (reduced.kind, reduced.axes, reduced.count) == ("all-gather", "data", 1)
    assert reduced.sent == 3 / 4 * 8 * 16 * 4


def test_a_layer_reads_its_own_weights_of_the_stack():
    x, layer = 4 * 16 * 4, 16 * 16 * 4
    per_turn = (x + layer + 4 + x) + 2 * x + (4 + 4)  # the product, the sum over devices, the counter
    per_turn += 1  # the comparison's result
    per_turn += 8  # and its operands
    assert Program(LOOP, MESH).hbm_bytes() == pytest.approx(8 * per_turn + x + 8 * 16 * 4, rel=0.02)


def test_a_slice_within_a_fusion_of_a_fusion_is_a_slice():
    # As the compiler writes them where a layer computes with its slice at once, laid out anew.
    inner = """\
%copied (q.0: f32[8,16,16]) -> f32[8,16,16] {
  %q.0 = f32[8,16,16]{2,1,0} parameter(0)
  ROOT %copy.1 = f32[8,16,16]{1,2,0} copy(%q.0)
}

%sliced (r.0: f32[8,16,16], r.1: s32[]) -> f32[1,16,16] {
  %r.0 = f32[8,16,16]{1,2,0} parameter(0)
  %r.1 = s32[] parameter(1)
  %zero.2 = s32[] constant(0)
  ROOT %slice.1 = f32[1,16,16]{2,1,0} dynamic-slice(%r.0, %r.1, %zero.2, %zero.2), dynamic_slice_sizes={1,16,16}
}

%layer """
    outer = """\
  %anew = f32[8,16,16]{1,2,0} fusion(%p.0), kind=kLoop, calls=%copied
  %slice = f32[1,16,16]{2,1,0} fusion(%anew, %p.1), kind=kLoop, calls=%sliced
"""
    written = next(line for line in LOOP.splitlines(keepends=True) if "dynamic-slice" in line)
    nested = LOOP.replace("%layer ", inner, 1).replace(written, outer)
    assert Program(nested, MESH).hbm_bytes() == Program(LOOP, MESH).hbm_bytes()
    whole = LOOP.replace(written, written.replace("dynamic-slice", "reverse"))
    assert Program(whole, MESH).hbm_bytes() > Program(LOOP, MESH).hbm_bytes() + 8 * 7 * 16 * 16 * 4 * 0.9


# With a kernel whose attributes go over several lines.
COPIES = """\
HloModule jit_step, is_scheduled=true

%part (p.0: f32[4,8,128]) -> f32[1,8,128] {
  %p.0 = f32[4,8,128]{2,1,0:T(8,128)} parameter(0)
  %slice.4 = f32[1,8,128]{2,1,0:T(8,128)} slice(%p.0), slice={[1:2]}
  ROOT %negative = f32[1,8,128]{2,1,0:T(8,128)} negate(%slice.4)
}

ENTRY %main (x.0: f32[4,8,128]) -> f32[1,8,128] {
  %x.0 = f32[4,8,128]{2,1,0:T(8,128)} parameter(0)
  %near = f32[4,8,128]{2,1,0:T(8,128)S(1)} custom-call(), frontend_attributes={kernel_metadata={
 "block": 256
}}, backend_config={}
  %slice.0 = ((f32[4,8,128]{2,1,0:T(8,128)}), f32[1,8,128]{2,1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x.0)
  %slice.1 = f32[1,8,128]{2,1,0:T(8,128)S(1)} slice-done(%slice.0)
  %copy.0 = (f32[1,8,128]{2,1,0:T(8,128)}, f32[1,8,128]{2,1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%slice.1)
  %copy.1 = f32[1,8,128]{2,1,0:T(8,128)} copy-done(%copy.0)
  %slice.2 = f32[2,8,128]{2,1,0:T(8,128)} slice(%near), slice={[0:2]}
  %fused = f32[1,8,128]{2,1,0:T(8,128)S(1)} fusion(%x.0), kind=kLoop, calls=%part
  ROOT %slice.3 = f32[1,8,128]{2,1,0:T(8,128)} slice(%x.0), slice={[0:1]}
}
"""


def test_of_what_is_copied_the_parts_that_lie_in_memory_count():
    part = 8 * 128 * 4
    assert Program(COPIES, MESH).hbm_bytes() == part + part + 2 * part + part + 2 * part
