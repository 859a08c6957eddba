"""Passes by name, and their options."""

import enum
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Literal

import pytest

from zenith_mlir import Pass, ZenithError, option, register, registry
from zenith_mlir.errors import OptionError, PipelineError
from zenith_mlir.options import format_value, make_pass, options_of, parse_value
from zenith_mlir.pipeline import Pipeline


class Layout(enum.Enum):
    ROWS = "rows"
    COLUMNS = "columns"


@dataclass(frozen=True)
class Size:
    bytes: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        return cls(int(text.removesuffix("KiB")) * 1024)

    def __str__(self) -> str:
        return f"{self.bytes // 1024}KiB"


@register("test-options")
@dataclass(frozen=True)
class Options(Pass):
    """A pass with an option of every type."""

    flag: bool = option(False, "a flag")
    min_seq: int = option(128, "a number")
    ratio: float = option(0.5, "a fraction")
    label: str = option("", "a text")
    policy: Literal["sqrt", "optimal"] = option("sqrt", "a choice")
    limit: int | None = option(None, "a number or none")
    sizes: tuple[int, ...] = option((), "numbers")
    layout: Layout = option(Layout.ROWS, "a member")  # noqa: RUF009
    budget: Size = option(Size(1024), "a size")  # noqa: RUF009


def test_built_in_passes_are_found_by_file_name() -> None:
    assert "fuse-attention" in registry.names()
    assert registry.find("fuse-attention").name == "fuse-attention"
    assert all(registry.find(name).__doc__ for name in registry.names())


def test_names_imports_no_pass() -> None:
    code = "import sys; from zenith_mlir import registry; registry.names(); "
    code += "print(any('fuse_attention' in m for m in sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_unknown_pass_names_those_alike() -> None:
    with pytest.raises(PipelineError, match=r"did you mean fuse-attention"):
        registry.find("fuse-atention")


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("test-options", f"{__name__}:Options", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "_entry_points", lambda: {entry.name: entry, "liar": entry})
    monkeypatch.setattr(EntryPoint, "load", lambda self: Options)
    monkeypatch.setattr(registry, "_passes", {})
    assert "test-options" in registry.names()
    assert registry.find("test-options") is Options
    with pytest.raises(ZenithError, match="liar"):
        registry.find("liar")


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ZenithError, match="test-options is taken"):

        @register("test-options")
        @dataclass(frozen=True)
        class Other(Pass):
            """Another."""

    with pytest.raises(ZenithError, match="joined by hyphens"):
        register("Test_Options")
    with pytest.raises(ZenithError, match="deriving from Pass"):
        register("test-no-pass")(int)  # type: ignore[type-var]
    with pytest.raises(ZenithError, match="dataclass"):

        @register("test-no-dataclass")
        class NoDataclass(Pass):
            """No dataclass."""


TEXTS = [
    "test-options",
    "test-options{flag=true}",
    "test-options{min-seq=7 ratio=1e-05}",
    'test-options{label="two words"}',
    r'test-options{label="a \"quoted\" {word}, = \\"}',
    "test-options{policy=optimal limit=3}",
    "test-options{sizes=1,2,3}",
    "test-options{layout=columns budget=2KiB}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_options_parse_and_print_back(text: str) -> None:
    pipeline = Pipeline.parse(text)
    assert str(pipeline) == text
    assert Pipeline.parse(str(pipeline)) == pipeline


def test_values() -> None:
    (given,) = Pipeline.parse("test-options{ min_seq=0x10  limit=none flag=on sizes=4 label='x y' }").stages
    assert given == Options(min_seq=16, flag=True, sizes=(4,), label="x y")
    assert str(Options(policy="optimal")) == "test-options{policy=optimal}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("flag", "maybe"),
        ("min-seq", "many"),
        ("min-seq", "1.5"),
        ("ratio", "x"),
        ("policy", "cubic"),
        ("limit", "x"),
        ("sizes", "1,x"),
        ("layout", "diagonal"),
        ("budget", "2MB"),
    ],
)
def test_bad_values_name_the_option_and_its_type(name: str, text: str) -> None:
    with pytest.raises(OptionError, match=f"test-options: option {name}=<.*default .* cannot be '{text}'"):
        make_pass(Options, {name: text})


def test_unknown_option_lists_the_valid_ones() -> None:
    with pytest.raises(
        OptionError,
        match=r"no option min-sec \(did you mean min-seq\?\).*policy=<sqrt\|optimal>, default sqrt",
    ):
        make_pass(Options, {"min-sec": "1"})


def test_checks_of_the_pass_itself() -> None:
    @dataclass(frozen=True)
    class Checked(Pass):
        """Checks."""

        name = "checked"
        n: int = option(1, "positive")

        def __post_init__(self) -> None:
            if self.n < 1:
                raise ValueError(f"n is positive, not {self.n}")

    with pytest.raises(OptionError, match="checked: n is positive, not 0"):
        make_pass(Checked, {"n": "0"})


def test_every_type_prints_what_it_parses() -> None:
    options = options_of(Options)
    assert list(options) == [
        "flag",
        "min-seq",
        "ratio",
        "label",
        "policy",
        "limit",
        "sizes",
        "layout",
        "budget",
    ]
    for found in options.values():
        text = format_value(found.default).strip('"')
        assert parse_value(found.type, text) == found.default
        assert found.help
