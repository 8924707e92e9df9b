import pytest

from ziya_visual.core.errors import ConfigError
from ziya_visual.forge.ask.endpoint import Sending, retry_after_seconds, split_endpoint


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


def test_model_and_url_are_split_at_the_last_at_sign() -> None:
    assert split_endpoint("a/b@c@https://x/v1") == ("a/b@c", "https://x/v1")
    assert split_endpoint("runs/checkpoint@2") is None


def test_options_that_never_send_anything_are_refused() -> None:
    with pytest.raises(ConfigError, match="concurrency is 0, expected at least 1"):
        Sending("m", "http://127.0.0.1/v1", concurrency=0)
    with pytest.raises(ConfigError, match="a rate of 0 per minute"):
        Sending("m", "http://127.0.0.1/v1", requests_per_minute=0)
