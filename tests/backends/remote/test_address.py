"""What a user may write as the address of a net on a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_infer.backends.remote.address import ServerAddress, is_address
from alexnet_infer.errors import UsageError
from alexnet_infer.nets import find_net, find_source


@pytest.mark.parametrize(
    ("text", "canonical", "parts"),
    [
        ("http://localhost:8000/net", "http://localhost:8000/net", ("localhost:8000", "", "net", "")),
        ("HTTP://host/net/", "http://host/net", ("host", "", "net", "")),
        ("http://h:8000/net/versions/2", "http://h:8000/net/versions/2", ("h:8000", "", "net", "2")),
        ("https://h/v2/models/net", "https://h/net", ("h", "", "net", "")),
        ("http://h/v2/models/net/infer", "http://h/net", ("h", "", "net", "")),
        ("http://h/v2/models/net/versions/3/infer", "http://h/net/versions/3", ("h", "", "net", "3")),
        ("http://h/a/b/v2/models/net", "http://h/a/b/v2/models/net", ("h", "/a/b", "net", "")),
        ("http://h/v2", "http://h/v2", ("h", "", "v2", "")),
        ("grpc://[::1]:8001/my%20net", "grpc://[::1]:8001/my%20net", ("[::1]:8001", "", "my net", "")),
        ("http://h_1.example.com./net", "http://h_1.example.com./net", ("h_1.example.com.", "", "net", "")),
        ("http://h/a%3Fb%23c", "http://h/a%3Fb%23c", ("h", "", "a?b#c", "")),
        ("grpcs://h:8001/v2/models/net", "grpcs://h:8001/net", ("h:8001", "", "net", "")),
    ],
)
def test_an_address_names_a_server_and_a_model(text, canonical, parts):
    address = ServerAddress.parse(text)
    assert is_address(text)
    assert (address.host, address.base, address.name, address.version) == parts
    assert str(address) == canonical
    assert ServerAddress.parse(canonical) == address


def test_options_follow_a_question_mark_and_are_not_part_of_the_name():
    address = ServerAddress.parse("http://h/net?manifest=a%20folder%2Fnet.safetensors&views=center&timeout=2.5")
    assert (address.manifest, address.views, address.timeout) == (Path("a folder/net.safetensors"), "center", 2.5)
    assert str(address) == "http://h/net"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("http://h", "expected one model"),
        ("http://h/", "expected one model"),
        ("http://h/a/b", "expected one model"),
        ("http://h/net/versions/", "expected one model"),
        ("http://h/net/versions/%2e%2e%2f", "expected one model"),
        ("http://h/..", "expected one model"),
        ("http://h/a%2Fb", "expected one model"),
        ("http://h/a%0ab", "expected one model"),
        ("http://h/x%20y/v2/models/net", "expected a plain path before /v2"),
        ("http:///net", "is invalid"),
        ("http:/h/net", "is invalid"),
        ("ftp://h/net", "starts with ftp: expected http://HOST:8000/NAME"),
        ("http://h:port/net", "is invalid"),
        ("http://h:99999/net", "is invalid"),
        ("http://[::1/net", "is invalid"),
        ("http://h/net#part", "is invalid"),
        ("http://models..example.com:8000/net", "is invalid"),
        (f"grpc://{'h' * 64}.example.com:8001/net", "is invalid"),
        ("grpc://h/net", "expected a port"),
        ("grpc://h:1/base/v2/models/net", "no paths before /v2"),
        ("https://example.org/net.safetensors", "download it"),
        ("http://h/net?views=all", "expected ten or center"),
        ("http://h/net?timeout=0", "expected seconds"),
        ("http://h/net?timeout=nan", "expected seconds"),
        ("http://h/net?timeout=9999", "expected seconds"),
        ("http://h/net?manifest=", "manifest is empty"),
        ("http://h/net?views=ten&views=ten", "occurs twice"),
    ],
)
def test_anything_else_is_refused_with_what_is_expected(text, part):
    with pytest.raises(UsageError, match=r"^[^\n]{1,300}$") as error:
        ServerAddress.parse(text)
    assert part in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://me:secret@h/net",
        "http://secret@h:1/net",
        "http://h/net?token=secret",
        "http://h/net?secret",
        "http:/me:secret@h/net",
        "http:me:secret@h/net",
        "ftp://me:secret@h/net",
        "htp:/me:secret@h/net.onnx",
        "http://h/net?manifest=http://me:secret@h/net",
    ],
)
def test_passwords_are_refused_and_not_repeated(text):
    with pytest.raises(UsageError) as error:
        find_source(text)
    assert "secret" not in str(error.value)


def test_names_and_paths_are_no_addresses(tmp_path):
    assert not any(map(is_address, ("alexnet-64-0", "http", "./http:/x", "nets/http.onnx", "C:/net.onnx", "a/b:/c")))
    assert find_source(str(tmp_path / "net.onnx")) == tmp_path / "net.onnx"
    with pytest.raises(UsageError, match="gives only probabilities"):
        find_net("http://h/net")
    with pytest.raises(UsageError, match="gives only probabilities"):
        find_source("http://h/net?manifest=http://h/net")


def test_the_manifest_may_be_the_name_of_a_net():
    assert find_source("http://h/net?manifest=alexnet-64-1").manifest == find_net("alexnet-64-1")
