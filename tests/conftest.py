"""For all tests: a property is not refuted by a busy machine."""

from hypothesis import settings

settings.register_profile("ziya-visual", deadline=None)
settings.load_profile("ziya-visual")
