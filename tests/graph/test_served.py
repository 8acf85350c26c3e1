"""What a server says of its net: read back as it was written, refused if it is invalid, ignored if it is another's."""

from __future__ import annotations

import json

import pytest

from alexnet_infer.errors import SpecError
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.graph.served import ServedNet
from tests.nets import random_artifact

NET = ServedNet(
    manifest=random_artifact().manifest,
    info=ExportInfo(members=(Member(name="a", sha256="0" * 64), Member(name="b", sha256="1" * 64)), views="ten"),
    sha256="a" * 64,
    backend="ONNX Runtime 1.2, CPU",
)


@pytest.mark.parametrize("net", [NET, ServedNet(manifest=NET.manifest, info=NET.info)])
def test_parameters_restore_it_exactly(net):
    parameters = {**net.parameters(), "cudnn_conv_algo_search": "1"}
    assert all(isinstance(value, str) for value in json.loads(json.dumps(parameters)).values())
    read = ServedNet.from_parameters(parameters, "net")
    assert (read.parameters(), read.info, read.backend) == (net.parameters(), net.info, net.backend)


def test_another_programs_model_has_no_net():
    assert ServedNet.from_parameters({"cudnn_conv_algo_search": "1"}, "net") is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alexnet_infer": "{"}, "net: alexnet_infer: not JSON"),
        ({"alexnet_infer_export": "[]"}, "net: alexnet_infer_export=.*expected an object"),
        ({"alexnet_infer_export": None}, "net: has alexnet_infer without alexnet_infer_export"),
        ({"alexnet_infer_sha256": "A" * 64}, "net: alexnet_infer_sha256='A+.*expected 64 hexadecimal digits"),
        ({"alexnet_infer_sha256": ""}, "net: alexnet_infer_sha256='': expected 64 hexadecimal digits"),
    ],
)
def test_invalid_parameters_are_refused_with_the_place(changed, message):
    parameters = {key: value for key, value in {**NET.parameters(), **changed}.items() if value is not None}
    with pytest.raises(SpecError, match=message):
        ServedNet.from_parameters(parameters, "net")
