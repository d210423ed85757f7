"""Programs that come from a file: what is no program is refused when it is read."""

import pytest

from fxmap.errors import MappingError
from fxmap.expressions.base import Source
from fxmap.expressions.computed import Computed


@pytest.mark.parametrize("program", ["", "{", "3", '[["add", 9]]', '{"a": 1}', "null", "[[[[]]]]"])
def test_what_is_no_program_is_refused(program: str) -> None:
    with pytest.raises(MappingError, match="no program of 1 tensors"):
        Computed((Source("a"),), program)
