"""The address of a service: each form, and what is refused."""

import pytest

from idservice import errors
from idservice.client.address import ServiceAddress


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://central:8080", ("central", 8080, "", False, "central:8080")),
        ("http://central:8080/", ("central", 8080, "", False, "central:8080")),
        ("http://10.0.0.1", ("10.0.0.1", 80, "", False, "10.0.0.1:80")),
        ("https://ids.example", ("ids.example", 443, "", True, "ids.example:443")),
        ("http://[::1]:8080", ("::1", 8080, "", False, "[::1]:8080")),
        ("unix:/run/ids.sock", ("localhost", 0, "/run/ids.sock", False, "localhost")),
    ],
)
def test_an_address_is_read(url: str, expected: tuple[object, ...]) -> None:
    address = ServiceAddress.parse(url)
    assert (address.host, address.port, address.path, address.tls, address.authority) == expected


@pytest.mark.parametrize(
    "url",
    ["", "central:8080", "http://", "http://:80", "http://c:99999", "http://c:0", "ftp://c:80",
     "http://c:80/v1", "http://c:80/?a=b", "http://c:80/#a", "http://u:p@c:80", "unix:",
     "http://c d", "http://c:8080\r\nHost: d", "http://ü:80", "http://a..b:80",
     f"http://{'c' * 64}:80"],
)  # fmt: skip
def test_an_address_of_no_known_form_is_refused_with_the_forms(url: str) -> None:
    with pytest.raises(errors.Usage, match="unix:PATH"):
        ServiceAddress.parse(url)
