"""A reader's folder, made once."""

import pytest
from world import build


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory):
    made = tmp_path_factory.mktemp("reader")
    build(made)
    return made
