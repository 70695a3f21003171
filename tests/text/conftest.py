"""A base that language runs of these tests start from."""

import pytest
from small_text import write_base


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))
