"""A model on a server: which nets can be one, its name, and the digest of its answers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.export.job import ExportRequest, export
from alexnet_infer.graph.info import Batch, CalibrationRecord
from alexnet_infer.graph.served import ServedNet
from alexnet_infer.nets import load
from alexnet_infer.predict import Ensemble, Net
from alexnet_infer.serve.model import Model
from tests.nets import TINY, random_artifact
from tests.serve.running import random_squares

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


def opened(net: Net, **options: object) -> Net:
    return load(net.opened.path, device="cpu", backend="onnxruntime", **options)


def test_nets_that_differ_in_what_the_server_states_once_are_not_one_model(nets, tmp_path):
    center = opened(nets[1], views="center")
    with pytest.raises(UsageError, match=r"tiny 0 and tiny 1 differ in views \('ten' and 'center'\)"):
        Model.of(Ensemble([nets[0], center]))
    random_artifact(TINY, size=TINY.patch + 11, seed=5).save(tmp_path / "larger.safetensors")
    larger = load(tmp_path / "larger.safetensors", device="cpu", backend="onnxruntime")
    with pytest.raises(UsageError, match="differ in the squares that they take"):
        Model.of(Ensemble([nets[0], larger]))
    half = export(ExportRequest(models=(nets[1].opened.path,), precision="fp16", views="ten", out=tmp_path / "half"))
    with pytest.raises(UsageError, match=r"differ in precision \('fp32' and 'fp16'\)"):
        Model.of(Ensemble([nets[0], load(half.onnx, device="cpu", backend="onnxruntime")]))


@pytest.mark.parametrize("name", ["", "a/b", "a b", "é", ".", "..", "a\n", "x" * 101])
def test_a_name_is_what_a_url_holds_unescaped(nets, name):
    with pytest.raises(UsageError, match="expected 1 to 100 of the characters"):
        Model.of(nets[0], name)


def test_the_digest_changes_with_the_nets_their_order_and_their_views(nets):
    center = opened(nets[0], views="center")
    models = [nets[0], nets[1], center, Ensemble(nets[:2]), Ensemble(nets[1::-1]), Ensemble([nets[0]])]
    digests = [Model.of(model).served(8).sha256 for model in models]
    assert len({*digests}) == 5
    assert digests[5] == digests[0] == Model.of(opened(nets[0]), "other").served(16).sha256


def test_an_exported_file_says_from_what_it_was_exported(nets, tmp_path):
    exported = export(
        ExportRequest(
            models=tuple(net.opened.path for net in nets[:2]), views="center", lrn="conv", out=tmp_path / "out"
        )
    )
    net = load(exported.onnx, device="cpu", backend="onnxruntime")
    model = Model.of(net)
    served = model.served(16)
    assert [member.sha256 for member in served.info.members] == [net.opened.sha256 for net in nets[:2]]
    assert (served.info.views, served.info.lrn, served.info.batch) == ("center", "conv", Batch(opt=16, max=16))
    assert ServedNet.from_parameters(served.parameters(), "x").parameters() == served.parameters()
    squares = random_squares(model, 3)
    assert (model.run([model.prepare(squares)]) == net.probabilities(list(squares))).all()


def test_inputs_of_several_requests_are_one_batch(nets):
    model = Model.of(Ensemble(nets[:2]))
    squares = random_squares(model, 3)
    apart = [model.prepare(squares[:1]), model.prepare(squares[1:])]
    assert (model.run(apart) == model.run([model.prepare(squares)])).all()
    first, second = model.prepare(squares)
    assert first is second  # both nets have the same preprocessing
    assert first.shape[0] == 30
    assert np.isfinite(first).all()


def test_a_mean_of_int8_nets_names_the_calibration_images_of_all_or_of_none():
    def calibration(*records: CalibrationRecord | None) -> CalibrationRecord | None:
        nets = [SimpleNamespace(opened=SimpleNamespace(info=SimpleNamespace(calibration=record))) for record in records]
        return Model._calibration.fget(SimpleNamespace(net=SimpleNamespace(nets=nets)))

    a, b = (
        CalibrationRecord(method="entropy", images=images) for images in (("0" * 16, "1" * 16), ("1" * 16, "2" * 16))
    )
    assert calibration(a, b).images == ("0" * 16, "1" * 16, "2" * 16)
    assert calibration(a) == a
    assert calibration(a, None) is calibration(None, a) is None
