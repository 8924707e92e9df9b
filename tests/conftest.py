"""What tests of every folder share; a property is not refuted by a busy machine."""

import pytest
from hypothesis import settings

from ziya_visual.core import log

settings.register_profile("ziya-visual", deadline=None)
settings.load_profile("ziya-visual")


@pytest.fixture
def own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the log settings that ``main`` changes, because other tests capture the log."""
    monkeypatch.setattr(log, "console", log.console)
    for name, value in (("handlers", [*log.logger.handlers]), ("propagate", log.logger.propagate)):
        monkeypatch.setattr(log.logger, name, value)
    monkeypatch.setattr(log.logger, "level", log.logger.level)
