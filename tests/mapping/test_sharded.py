"""Models of DTensors: bit-equal to one process, and all ranks end where one fails."""

from pathlib import Path

import pytest
from torch import distributed as dist

from tests.mapping.ranks import (
    check_equal,
    check_failures,
    check_planned,
    run_ranks,
    save_and_load,
    save_source,
    write_source,
)

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


def test_fsdp_and_tensor_parallel_on_two_ranks_are_equal_to_one_process(tmp_path: Path) -> None:
    write_source(tmp_path / "a.safetensors")
    run_ranks(2, tmp_path, check_equal, "fsdp", "tp")


@pytest.mark.slow
def test_fsdp_of_tensor_parallel_on_four_ranks_is_equal_to_one_process(tmp_path: Path) -> None:
    write_source(tmp_path / "a.safetensors")
    run_ranks(4, tmp_path, check_equal, "fsdp and tp", "fsdp")


def test_a_checkpoint_of_two_ranks_is_loaded_by_torch_with_a_planner_of_the_mapping(tmp_path: Path) -> None:
    write_source(tmp_path / "a.safetensors")
    run_ranks(2, tmp_path, save_and_load)


@pytest.mark.slow
def test_a_checkpoint_of_four_ranks_is_loaded_by_two(tmp_path: Path) -> None:
    write_source(tmp_path / "a.safetensors")
    run_ranks(4, tmp_path, save_source)
    (tmp_path / "ranks").unlink(missing_ok=True)
    run_ranks(2, tmp_path, check_planned)


def test_a_rank_that_fails_or_ends_leaves_the_others_with_their_old_values_and_an_error(tmp_path: Path) -> None:
    for rank in range(2):
        write_source(tmp_path / f"{rank}.safetensors")
    run_ranks(2, tmp_path, check_failures)
