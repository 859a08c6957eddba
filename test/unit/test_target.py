"""Target descriptions."""

import pytest

from zenith_mlir.errors import TargetError
from zenith_mlir.target import CPU_LEVELS, Target

pytestmark = pytest.mark.once

GIVEN = ["cpu", "cpu:avx2", "cpu:avx512+avx512_bf16", "cpu:generic", "cuda:sm_90", "none"]
GIVEN += ["cuda:sm_90,cudnn=91002,memory=80GiB,bandwidth=3.3TB/s", *(f"cpu:{level}" for level in CPU_LEVELS)]


@pytest.mark.parametrize("text", GIVEN)
def test_text_parses_back(text: str) -> None:
    target = Target.parse(text)
    assert str(target) == text
    assert Target.parse(str(target)) == target
    assert Target.parse(target) is target
    hash(target)


def test_cpu_levels_contain_each_other() -> None:
    generic, avx2, avx512, amx = (
        Target.parse(f"cpu:{level}").features for level in ("generic", "avx2", "avx512", "amx")
    )
    assert generic < avx2 < avx512 < amx
    assert Target.parse("cpu:avx2").has("avx2", "fma")
    assert not Target.parse("cpu:avx2").has("avx2", "avx512f")


def test_facts_of_a_gpu() -> None:
    target = Target.parse("cuda:sm_90,memory=2GiB,bandwidth=1.5TB/s,cudnn=90100")
    assert target.compute_capability == 90
    assert (target.memory, target.bandwidth, target.cudnn) == (2 << 30, 1_500_000_000_000, 90100)
    assert Target.parse("cuda:sm_90").memory == 80 << 30
    assert Target.parse("cuda:sm_90").cudnn > 0
    assert Target.parse("cuda:sm_103").bandwidth == Target.parse("cuda:sm_100").bandwidth
    assert Target.parse("cuda").platform == "cuda"


def test_only_gpus_have_a_compute_capability() -> None:
    assert Target.parse("cpu").compute_capability == 0
    assert Target.parse("none").compute_capability == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu", "cuda:sm_90"),
        ("", "cpu:avx2"),
        ("cudaa", "did you mean cuda?"),
        ("cuda:sm90", "not cuda:sm90"),
        ("cuda:90", "cuda:sm_90"),
        ("cpu:avx22", "did you mean avx2"),
        ("cpu,memory=1GiB", "takes no facts"),
        ("cuda:sm_90,colour=red", "colour=red"),
        ("cuda:sm_90,memory=much", "memory=much"),
        ("none:x", "none"),
    ],
)
def test_bad_text(text: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        Target.parse(text)


def test_host_is_a_target_that_parses_back() -> None:
    host = Target.host()
    assert host.platform in ("cpu", "cuda", "none")
    assert Target.parse(str(host)) == host
