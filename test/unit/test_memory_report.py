"""Memory reports: XLA's numbers for compiled programs, held to what XLA says of itself, and estimates."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import zenith_mlir as zenith
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.hlo import read_program
from zenith_mlir.ir.wire import WireError, fields, integers
from zenith_mlir.memory.liveness import timeline_of
from zenith_mlir.memory.memory_report import MemoryReport
from zenith_mlir.memory.timeline import Moment, Timeline, Value


def layer(w: Any, x: Any) -> Any:
    hidden = jax.nn.gelu(x @ w[0])
    return x + hidden @ w[1]


def step(unrolled: bool) -> tuple[Any, ...]:
    """A training step of four layers and its arguments; each layer keeps 256 KiB values of [64, 1024]."""

    def loss(ws: Any, x: Any) -> Any:
        if unrolled:
            for i in range(4):
                x = layer([w[i] for w in ws], x)
        else:
            x, _ = jax.lax.scan(lambda x, w: (layer(w, x), None), x, ws)
        return (x**2).mean()

    def train(ws: Any, x: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(ws, x)
        return value, jax.tree.map(lambda w, g: w - 0.1 * g, ws, gradients)

    ws = (jax.ShapeDtypeStruct((4, 64, 1024), jnp.float32), jax.ShapeDtypeStruct((4, 1024, 64), jnp.float32))
    return train, ws, jax.ShapeDtypeStruct((64, 64), jnp.float32)


def convolutions() -> tuple[Any, ...]:
    def loss(kernels: Any, x: Any) -> Any:
        for kernel in kernels:
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", None, None, ("NHWC", "HWIO", "NHWC"))
            )
        return x.mean()

    kernels = [jax.ShapeDtypeStruct((3, 3, i, o), jnp.float32) for i, o in ((3, 8), (8, 16))]
    return jax.grad(loss), kernels, jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)


def control_flow() -> tuple[Any, ...]:
    def body(state: Any) -> Any:
        carried, fixed, total = state
        new = carried + jnp.sin(carried @ fixed)
        # `new` and `fixed` wait for the end of the body while these are computed.
        ranked = jnp.sort(jnp.sort(new @ new, 0) @ new, 1)
        return new, fixed, total + (ranked @ ranked).max()

    def program(p: Any, x: Any) -> Any:
        chosen = jax.lax.cond(p, lambda x: jnp.sort(x @ x, 0) @ x, lambda x: x, x)
        looped, _, total = jax.lax.while_loop(lambda state: state[2] < 10, body, (x, x @ x, 0.0))
        return chosen + looped * total

    return program, jax.ShapeDtypeStruct((), jnp.bool), jax.ShapeDtypeStruct((128, 128), jnp.float32)


PROGRAMS = {
    "unrolled": lambda: step(True),
    "scan": lambda: step(False),
    "convolutions": convolutions,
    "control flow": control_flow,
}
LOOPLESS = ("unrolled", "convolutions")


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    made = {}
    for name, make in PROGRAMS.items():
        program, *arguments = make()
        made[name] = jax.jit(program).lower(*arguments).compile()
    return made


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(i for i, line in enumerate(lines, start=1) if text in line)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_timeline_peaks_where_xla_allocates(compiled: dict[str, Any], name: str) -> None:
    report = zenith.memory.report(compiled[name])
    stats = compiled[name].memory_analysis()
    assert report.exact
    assert report.temporaries == stats.temp_size_in_bytes
    assert (report.arguments, report.outputs) == (stats.argument_size_in_bytes, stats.output_size_in_bytes)
    assert 0.96 * report.temporaries <= report.peak <= report.temporaries
    assert sum(value.bytes for value in report.at_peak) == report.peak


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_that_live_together_do_not_share_memory(compiled: dict[str, Any], name: str) -> None:
    """XLA placed them so that this holds: a life that is too long here shows as an overlap."""
    timeline = zenith.memory.report(compiled[name]).timeline
    assert timeline is not None
    for moment in range(len(timeline.moments)):
        end = 0
        for value in sorted(timeline.alive(moment), key=lambda value: value.place):
            assert value.place[1] >= end or value.bytes == 0, (moment, value)
            end = value.place[1] + value.bytes


@pytest.mark.parametrize("name", LOOPLESS)
def test_the_peak_is_that_of_xla_to_the_byte(compiled: dict[str, Any], name: str) -> None:
    """A life that is too short would make it less. XLA names the buffers at the peak of each allocation."""
    stats = compiled[name].memory_analysis()
    module = compiled[name].runtime_executable().hlo_modules()[0].as_serialized_hlo_module_proto()
    program = read_program(module, stats.serialized_buffer_assignment_proto)
    sizes = {buffer.id: buffer.size for buffer in program.buffers}
    temporary = {allocation.id for allocation in program.allocations if allocation.temporary}
    peak = 0
    for number, value in fields(stats.serialized_buffer_assignment_proto):
        if number == 5 and isinstance(value, memoryview):
            parts = dict(fields(value))
            if parts.get(1, 0) in temporary:
                peak += sum(sizes[i] for i in integers(parts[2]))
    assert peak > 0
    # A tuple's table of addresses may be freed a moment earlier.
    assert abs(timeline_of(program).peak - peak) <= 64


@pytest.mark.parametrize("name", ["unrolled", "scan"])
def test_values_at_the_peak_are_those_of_the_users_lines(compiled: dict[str, Any], name: str) -> None:
    report = zenith.memory.report(compiled[name])
    largest = [value for value in report.at_peak if value.bytes >= 64 * 1024 * 4]
    lines = {value.moment.line for value in largest if value.moment.file == __file__}
    assert line_of("hidden = jax.nn.gelu") in lines
    # What the layers leave for the backward; under scan it is in stacks.
    kept = [value for value in largest if value.moment.line == line_of("hidden = jax.nn.gelu")]
    kept = [value for value in kept if "transpose" not in value.moment.op]
    assert {value.shape for value in kept} == {"f32[4,64,1024]" if name == "scan" else "f32[64,1024]"}


def test_a_loops_own_temporaries_count_while_it_runs(compiled: dict[str, Any]) -> None:
    report = zenith.memory.report(compiled["scan"])
    assert report.timeline is not None
    peak = report.timeline.moments[report.timeline.peak_at]
    assert "transpose" in peak.op and "while/body" in peak.op


def test_donated_arguments_hold_results() -> None:
    program, ws, x = step(True)
    report = zenith.memory.report(jax.jit(program, donate_argnums=0).lower(ws, x).compile())
    weights = 2 * 4 * 64 * 1024 * 4
    assert report.aliased == weights
    assert report.total == report.arguments + report.outputs - weights + report.temporaries
    assert 0.96 * report.temporaries <= report.peak <= report.temporaries


def test_reports_of_modules_and_of_what_they_compile_to() -> None:
    def program(x: Any) -> Any:
        return jnp.sin(x @ x) @ x

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    module = zenith.trace(program, x)
    estimated, exact = zenith.memory.report(module), zenith.memory.report(module.compile())
    assert not estimated.exact and exact.exact
    assert estimated.arguments == exact.arguments == estimated.outputs == exact.outputs == 64 * 64 * 4
    lowered = zenith.memory.report(jax.jit(program).lower(x))
    assert (lowered.exact, lowered.peak) == (False, estimated.peak)


def test_text_json_and_plot(compiled: dict[str, Any], tmp_path: Path) -> None:
    report = zenith.memory.report(compiled["unrolled"])
    text = str(report)
    assert "temporaries" in text and "4 × f32[64,1024]" in text
    assert f"{Path(__file__).name}:{line_of('hidden = jax.nn.gelu')}" in text.replace("\n", "")
    data = json.loads(report.to_json())
    assert data["peak"] == report.peak == max(moment["live"] for moment in data["timeline"])
    assert data["timeline"][data["peak_at"]]["live"] == data["peak"]
    assert sum(value["bytes"] for value in data["at_peak"]) == data["peak"]
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "timeline.svg")
    assert "<svg" in (tmp_path / "timeline.svg").read_text()
    with pytest.raises(ZenithError, match="saved as"):
        report.plot(tmp_path / "timeline.doc")
    with pytest.raises(ZenithError, match="no directory"):
        report.plot(tmp_path / "nowhere" / "timeline.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["timeline.svg"]


def test_what_has_no_report() -> None:
    with pytest.raises(ZenithError, match="got function"):
        zenith.memory.report(step)  # type: ignore[arg-type]
    empty = MemoryReport(0, 0, 0, 0, 0, True, None)
    assert (empty.peak, empty.at_peak) == (0, [])
    assert json.loads(empty.to_json())["timeline"] is None
    assert "temporaries" in str(empty)
    with pytest.raises(ZenithError, match="no timeline"):
        empty.plot("timeline.svg")


@pytest.mark.once
def test_one_place_counts_once() -> None:
    moment = Moment("add", "add")

    def value(size: int, born: int, dies: int, place: int, **more: Any) -> Value:
        return Value("v", "f32[]", size, born, dies, (0, place), moment, **more)

    values = [value(8, 0, 2, 0), value(16, 2, 3, 0), value(4, 1, 1, 32), value(100, 0, 3, 64, memory="host")]
    timeline = Timeline([moment] * 4, values)
    assert timeline.live.tolist() == [8, 12, 16, 16]
    assert (timeline.peak, timeline.peak_at, timeline.host_peak) == (16, 2, 100)
    assert [v.bytes for v in timeline.alive(2)] == [16]
    assert Timeline([], []).peak == 0


@pytest.mark.once
def test_wire_format() -> None:
    # Field 1: 300. Field 2: "ab". Field 3: four bytes. Field 4: eight.
    message = b"\x08\xac\x02" + b"\x12\x02ab" + b"\x1dabcd" + b"\x21abcdefgh"
    found = [(number, value if isinstance(value, int) else bytes(value)) for number, value in fields(message)]
    assert found == [(1, 300), (2, b"ab"), (3, b"abcd"), (4, b"abcdefgh")]
    assert integers(memoryview(b"\x01\xac\x02")) == [1, 300] and integers(7) == [7]
    for broken in (b"\x08", b"\x12\x05ab", b"\x0b", b"\x08\xff"):
        with pytest.raises(WireError):
            list(fields(broken))
