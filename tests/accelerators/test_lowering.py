"""Every hot program, as a GPU and a TPU would get it: looked at, without one."""

import re

import jax
import pytest

from tests.accelerators import circuits_programs, foveation_programs

TABLES = {
    "circuits": circuits_programs.programs(),
    "foveation": foveation_programs.programs(),
}
ROWS = [(table, name) for table, rows in TABLES.items() for name in rows]
PRODUCT = re.compile(r"stablehlo\.(dot|convolution)")


def loops(jaxpr):
    """Lengths of all loops, in what accelerators are given of a choice by platform."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"]
        for inner in inside(equation):
            yield from loops(inner)


def inside(equation):
    if "branches" in equation.params:  # platform_dependent: the CPU's form is not theirs
        branches = equation.params["branches"]
        yield from (b.jaxpr for b in (branches[1:] if by_platform(equation) else branches))
        return
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield inner


def by_platform(equation):
    return equation.params.get("branches_platforms") is not None


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: " ".join(row))
def row(request):
    table, name = request.param
    program = TABLES[table][name]
    return program, program.traced()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_what_it_is_made_of(row, platform):
    program, traced = row
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if PRODUCT.search(line)]
    if program.science:
        assert not [line for line in products if line.count("HIGHEST") != 2]
    assert not re.search(r"(feature|batch)_group_count = ([2-9]|1\d)", text)
    assert not re.search(r"callback|infeed|outfeed|stablehlo\.(send|recv)", text)


def test_nothing_is_done_one_by_one(row):
    program, traced = row
    assert not set(program.one_by_one) & set(loops(traced.jaxpr.jaxpr))


def test_the_look_finds_what_it_looks_for():
    def wrong(x):
        return jax.lax.map(lambda row: row @ row, x)

    traced = jax.jit(wrong).trace(jax.ShapeDtypeStruct((5, 3), "float32"))
    assert 5 in set(loops(traced.jaxpr.jaxpr))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert [line for line in text.splitlines() if PRODUCT.search(line) and "HIGHEST" not in line]
