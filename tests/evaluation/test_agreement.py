"""Two nets on the same images: figures by hand, real files of one net, and nets that can't be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.artifact import load_artifact
from alexnet_infer.backends.opening import Opened
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.datasets import Example, open_images
from alexnet_infer.decode import read_square
from alexnet_infer.digests import image_digest
from alexnet_infer.errors import ModelFileError, UnreadableInputError, UsageError
from alexnet_infer.evaluation import agreement
from alexnet_infer.evaluation import pictures as pictures_module
from alexnet_infer.evaluation.agreement import (
    TOLERANCES,
    MeanNet,
    check_tolerance,
    compare,
    compare_all,
    default_tolerance,
)
from alexnet_infer.evaluation.statistics import paired_score
from alexnet_infer.graph.info import CalibrationRecord, ExportInfo, Member
from alexnet_infer.photos import Photo, expand
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Rescaling
from tests.datasets.mini import WNIDS
from tests.evaluation.toys import OTHER_WNIDS, save_net, write_greys, write_set
from tests.published.server import Server

CLASSES = len(WNIDS)

LABELS = [0, 1, 2, 3, 4, 5]

OURS = np.full((6, CLASSES), 0.1)
OURS[np.arange(6), LABELS] = 0.5  # right everywhere
OURS[4, [4, 5]] = 0.304, 0.296  # a near tie


def theirs() -> np.ndarray:
    """Return OURS with changes: image 0's probabilities change by at most 0.05, and 2 is guessed as 0, 4 as 5, 5 as 1.

    The label of image 5 is then not among the five best.
    """
    table = OURS.copy()
    table[0, [0, 1]] += -0.05, 0.05
    table[2, [0, 2]] = table[2, [2, 0]]
    table[4, [4, 5]] = table[4, [5, 4]]
    table[5] = 0.02
    table[5, [1, 5]] = 0.91, 0.01
    return table


class Table:
    """A backend that takes whole squares and looks up probabilities by grey level, starting at 1."""

    runtime, device, precision = "reference", "cpu", "fp32"
    takes_squares = True

    def __init__(self, rows: np.ndarray, description: str = "a table") -> None:
        self.rows, self.description = np.asarray(rows, np.float32), description
        self.seen: list[int] = []

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        levels = inputs[:, 0, 0, 0].astype(int)
        self.seen += levels.tolist()
        return self.rows[levels - 1]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return load_artifact(save_net(tmp_path_factory.mktemp("net") / "net.safetensors"))


@pytest.fixture
def tabled(artifact):
    def tabled(rows: np.ndarray, description: str = "a table") -> Net:
        return Net(artifact.manifest, Table(rows, description))

    return tabled


@pytest.fixture
def greys(tmp_path: Path) -> Path:
    return write_greys(tmp_path / "greys", LABELS)


def photos(folder: Path, count: int, side: tuple[int, int] = (9, 9)) -> list[Photo]:
    for level in range(1, count + 1):
        Image.new("RGB", side, (level,) * 3).save(folder / f"{level:03}.png")
    return list(expand([str(folder)]))


def test_figures_of_labelled_images_are_those_computed_by_hand(tabled, greys):
    result = compare(tabled(OURS), tabled(theirs(), "another table"), open_images(greys))
    assert (result.images, result.compared, result.classes, result.views) == (6, 6, CLASSES, "ten")
    assert (result.reference.backend, result.candidate.backend) == ("a table", "another table")
    assert result.largest == pytest.approx(0.91 - 0.1)
    assert result.largest_image == "006.png"
    differences = [0.05, 0.05, 0.4, 0.4, 0.008, 0.008, 0.81, 0.49, *[0.08] * 4]
    assert result.mean == pytest.approx(sum(differences) / (6 * CLASSES))
    assert (result.flips, result.near_ties) == (3, 1)
    assert sum(row.flips for row in result.flips_by_class) == 3
    top1, top5 = result.top1, result.top5
    assert (top1.second.wrong, top1.first.wrong) == (0, 3)
    assert (top1.second_only, top1.first_only) == (0, 3)
    assert top1.difference == pytest.approx(3 / 6)
    assert top1.low < 3 / 6 < top1.high
    assert top1.p == pytest.approx(2 / 2**3)  # three coins, all heads or all tails
    assert (top5.second.wrong, top5.first.wrong, top5.difference) == (0, 1, pytest.approx(1 / 6))


def test_the_sign_says_whether_the_candidate_is_worse(tabled, greys):
    result = compare(tabled(theirs()), tabled(OURS), open_images(greys))
    assert result.top1.difference == pytest.approx(-3 / 6)
    assert (result.top1.second_only, result.top1.first_only) == (3, 0)


def test_without_labels_there_are_no_errors(tabled, tmp_path):
    result = compare(tabled(OURS), tabled(theirs()), photos(tmp_path, 6))
    assert result.top1 is result.top5 is None
    assert result.largest == pytest.approx(0.91 - 0.1)


def test_a_photo_counts_whole_and_in_quarters(tabled, tmp_path):
    pixels = np.ones((41, 60, 3), np.uint8)
    pixels[:20, 30:], pixels[21:, :30], pixels[21:, 30:] = 2, 3, 4
    Image.fromarray(pixels).save(tmp_path / "four.png")
    net = tabled(OURS)
    rows = OURS.copy()
    rows[3, [3, 5]] = 0.1, 0.5
    result = compare(net, tabled(rows), expand([str(tmp_path / "four.png")]))
    assert result.images == 5
    assert net.backend.seen == [1, 1, 2, 3, 4]  # the whole, and each quarter, by its upper left pixel
    assert result.largest_image == f"{tmp_path}/four.png, lower right"


def test_a_photo_of_one_pixel_has_no_quarters(tabled, tmp_path):
    assert compare(tabled(OURS), tabled(OURS), photos(tmp_path, 1, (1, 5))).images == 1


def test_the_exif_orientation_is_applied_to_photos_and_not_to_labelled_images(tabled, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.full((40, 40, 3), 1, np.uint8)
    pixels[20:] = 2
    folder = write_greys(tmp_path / "greys", LABELS)
    Image.fromarray(pixels).save(folder / "001.png", exif=exif)
    net = tabled(OURS)
    compare(net, tabled(OURS), open_images(folder))
    assert net.backend.seen[0] == 1
    net = tabled(OURS)
    compare(net, tabled(OURS), expand([str(folder / "001.png")]))
    assert net.backend.seen[0] == 2


def test_unreadable_images_are_listed_and_say_nothing_of_errors(tabled, greys):
    (greys / "002.png").write_bytes(b"not an image")
    result = compare(tabled(OURS), tabled(OURS), open_images(greys))
    assert (result.images, result.compared, result.flips) == (6, 5, 0)
    ((image, reason),) = [(entry.image, entry.reason) for entry in result.unreadable]
    assert image == "002.png"
    assert reason.startswith("not an image")
    assert result.judged == 5
    assert (result.top1.second.wrong, result.top1.first.wrong) == (0, 0)
    assert (result.top1.low, result.top1.high) == paired_score(0, 0, 5)
    assert result.largest == 0  # the zeros in place of the image are not compared


def test_images_of_classes_that_the_nets_lack_do_not_narrow_the_interval(tmp_path):
    """On them, both nets are wrong for sure."""
    manifest = load_artifact(save_net(tmp_path / "three.safetensors", wnids=WNIDS[:3])).manifest
    nets = [Net(manifest, Table(table[:, :3] / 2, "a table")) for table in (OURS, theirs())]
    result = compare(*nets, open_images(write_greys(tmp_path / "greys", LABELS)))
    assert (result.images, result.compared, result.judged) == (6, 6, 3)
    assert result.top1.first_only == 1  # image 2, which is guessed as 0; images 3 to 5 are of other classes
    assert (result.top1.low, result.top1.high) == paired_score(1, 0, 3)


def test_a_comparison_without_readable_images_is_refused(tabled, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    for inputs in ([str(tmp_path)], ["-"], [str(tmp_path / "absent.jpg")]):
        with pytest.raises(UnreadableInputError, match="none of the 1 images can be read; the first is") as refused:
            compare(tabled(OURS), tabled(OURS), expand(inputs))
        assert "\n" not in str(refused.value)
    with pytest.raises(UnreadableInputError, match="none of the 0 images"):
        compare(tabled(OURS), tabled(OURS), [])


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.5])
def test_values_that_are_not_probabilities_are_refused(tabled, greys, value):
    broken = OURS.copy()
    broken[3, 2] = value
    for nets, role in (((broken, OURS), "reference"), ((OURS, broken), "candidate"), ((broken, broken), "reference")):
        with pytest.raises(
            ModelFileError, match=rf"^004\.png: the outputs of the {role} \(a table\) are not probabilities"
        ):
            compare(*map(tabled, nets), open_images(greys))


def test_a_sample_has_every_class_and_is_the_same_each_time(tabled, tmp_path):
    root = write_greys(tmp_path / "many", LABELS * 3)
    rows = np.concatenate([OURS] * 3)
    seen = []
    for _ in range(2):
        net = tabled(rows)
        assert compare(net, tabled(rows), open_images(root), limit=6).images == 6
        seen.append(net.backend.seen)
    assert seen[0] == seen[1]
    assert sorted((level - 1) % 6 for level in seen[0]) == LABELS


@pytest.mark.parametrize("limit", [0, -1, 7])
def test_a_sample_larger_than_the_set_or_empty_is_refused(tabled, greys, limit):
    with pytest.raises(UsageError, match=f"--limit {limit}: expected 1 to 6"):
        compare(tabled(OURS), tabled(OURS), open_images(greys), limit=limit)


def test_a_sample_of_photos_is_refused(tabled, tmp_path):
    with pytest.raises(UsageError, match="--limit 1: expected a labelled set to sample from"):
        compare(tabled(OURS), tabled(OURS), photos(tmp_path, 2), limit=1)


def test_figures_do_not_depend_on_the_number_of_images_per_call(tabled, greys, monkeypatch):
    together = compare(tabled(OURS), tabled(theirs()), open_images(greys))
    monkeypatch.setattr(agreement, "PHOTOS_PER_CALL", 1)
    apart = compare(tabled(OURS), tabled(theirs()), open_images(greys))
    assert apart == replace(together, mean=apart.mean)
    assert apart.mean == pytest.approx(together.mean, rel=1e-12)


def test_a_net_gets_no_more_images_per_call_than_in_classify(tabled, tmp_path):
    net, done = tabled(np.concatenate([OURS] * 4)), []
    real, calls = net.backend.infer, []
    net.backend.infer = lambda inputs: calls.append(len(inputs)) or real(inputs)
    result = compare(net, tabled(np.concatenate([OURS] * 4)), photos(tmp_path, 20), on_images=done.append)
    assert result.images == sum(done) == sum(calls) == 100
    assert max(calls) <= agreement.PHOTOS_PER_CALL


def test_nets_with_other_classes_are_refused_naming_the_first(tabled, artifact, tmp_path, greys):
    other = load_artifact(save_net(tmp_path / "other.safetensors", wnids=OTHER_WNIDS))
    with pytest.raises(UsageError, match="output 5 is 'n04522168' and 'n09999999'"):
        compare(tabled(OURS), Net(other.manifest, Table(OURS)), open_images(greys))
    fewer = load_artifact(save_net(tmp_path / "fewer.safetensors", wnids=WNIDS[:-1]))
    with pytest.raises(UsageError, match=r"different classes \(6 and 5\)"):
        compare(tabled(OURS), Net(fewer.manifest, Table(OURS[:, :5])), open_images(greys))


def test_nets_with_other_views_are_refused_with_the_fix(tabled, artifact, greys):
    with pytest.raises(UsageError, match="views=ten, the other views=center: expected the same; export again"):
        compare(tabled(OURS), Net(artifact.manifest, Table(OURS), "center"), open_images(greys))


def test_each_net_gets_the_square_that_its_own_preprocessing_makes(artifact, tmp_path):
    """The oracle: each net on the square that `read_square` makes for it."""
    root = write_set(tmp_path / "set", 6)
    other = load_artifact(save_net(tmp_path / "other.safetensors", resample="nearest"))
    nets = [Net(model.manifest, ReferenceBackend(model), "center") for model in (artifact, other)]
    result = compare(*nets, open_images(root))
    largest, flips = 0.0, 0
    for example in open_images(root):
        p, q = (
            net.probabilities([read_square(example.data, name="", rescaling=Rescaling(size=64, resample=resample))])[0]
            for net, resample in zip(nets, ("bicubic", "nearest"), strict=True)
        )
        largest = max(largest, np.abs(p - q).max())
        flips += int(p.argmax() != q.argmax())
    assert result.largest == pytest.approx(largest, abs=1e-12)
    assert largest > 1e-3  # the filters make a difference
    assert result.flips == flips


def test_a_net_agrees_with_itself_exactly_and_not_with_another(artifact, tmp_path):
    images = photos(tmp_path, 2, (40, 30))
    net = Net(artifact.manifest, ReferenceBackend(artifact), "center")
    same = compare(net, net, images)
    assert (same.largest, same.mean, same.flips) == (0, 0, 0)
    assert same.within(0)
    stranger = load_artifact(save_net(tmp_path / "other.safetensors", seed=1))
    other = compare(net, Net(stranger.manifest, ReferenceBackend(stranger), "center"), images)
    assert not other.within(TOLERANCES["int8"] / 10)


def test_an_ensemble_is_the_mean_of_its_nets(tabled, greys):
    mean = (OURS + theirs()) / 2
    result = compare(MeanNet([tabled(OURS), tabled(theirs())]), tabled(mean), open_images(greys))
    assert result.within(1e-7)
    assert result.reference.net == " + ".join([result.candidate.net] * 2)
    assert not compare(tabled(OURS), tabled(mean), open_images(greys)).within(0.1)


@pytest.mark.parametrize(
    ("precisions", "tolerance"),
    [
        (["fp32", "fp32"], TOLERANCES["fp32"]),
        (["fp32", "fp16"], TOLERANCES["fp16"]),
        (["int8", "fp16"], TOLERANCES["int8"]),
    ],
)
def test_the_tolerance_is_that_of_the_coarser_precision(tabled, precisions, tolerance):
    nets = [tabled(OURS) for _ in precisions]
    for net, precision in zip(nets, precisions, strict=True):
        net.backend.precision = precision
    assert default_tolerance(*nets) == tolerance


@pytest.mark.parametrize("value", [-1e-9, 1.1, float("nan"), float("inf")])
def test_a_tolerance_that_is_not_from_0_to_1_is_refused(value):
    with pytest.raises(UsageError, match=r"--tolerance .*: expected a difference of probabilities"):
        check_tolerance(value)


def test_the_interval_is_the_one_that_a_gate_judges_by(tabled, greys):
    result = compare(tabled(OURS), tabled(theirs()), open_images(greys))
    assert (result.top1.low, result.top1.high) == paired_score(3, 0, 6)
    same = compare(tabled(OURS), tabled(OURS), open_images(greys))
    assert (same.top1.low, same.top1.high) == paired_score(0, 0, 6)  # not [0, 0]


def test_several_candidates_are_compared_as_each_alone(tabled, greys):
    (greys / "002.png").write_bytes(b"not an image")
    tables = [OURS, theirs(), np.roll(OURS, 1, axis=1)]
    alone = [compare(tabled(OURS), tabled(table), open_images(greys)) for table in tables]
    together = compare_all(tabled(OURS), [tabled(table) for table in tables], open_images(greys))
    assert together == alone
    assert len({result.top1.difference for result in alone}) == 3


def test_the_reference_and_the_images_are_read_once_for_all_candidates(tabled, greys, monkeypatch):
    real, read = Example.squares, []
    monkeypatch.setattr(Example, "squares", lambda self, kinds: read.append(self.name) or real(self, kinds))
    nets = [tabled(OURS) for _ in range(4)]
    compare_all(nets[0], nets[1:], open_images(greys))
    assert len(read) == 6
    assert [net.backend.seen for net in nets] == [[1, 2, 3, 4, 5, 6]] * 4


def test_a_bad_candidate_among_several_is_named(tabled, artifact, greys):
    broken = OURS.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ModelFileError, match=r"^004\.png: the outputs of the candidate 2 \(a table\)"):
        compare_all(tabled(OURS), [tabled(OURS), tabled(broken)], open_images(greys))
    other = Net(artifact.manifest, Table(OURS), "center")
    with pytest.raises(UsageError, match=r"^candidate 2: one net averages views=ten"):
        compare_all(tabled(OURS), [tabled(OURS), other], open_images(greys))


@pytest.fixture
def calibrated(artifact):
    """calibrated(digests) makes an int8 net calibrated on images with these digests, or on unknown ones if None."""

    def calibrated(digests: list[str] | None) -> Net:
        record = None if digests is None else CalibrationRecord(method="entropy", images=tuple(sorted(digests)))
        member = Member(name="net", sha256="0" * 64)
        info = ExportInfo(members=(member,), precision="int8", int8_for="cpu", calibration=record)
        backend = Table(OURS)
        backend.precision = "int8"
        opened = Opened(manifest=artifact.manifest, backend=backend, files=(Path("net.onnx"),), info=info)
        return Net(artifact.manifest, backend, "ten", opened)

    return calibrated


def test_images_of_calibration_are_counted_by_the_digest_of_their_files(tabled, calibrated, greys):
    files = [image_digest((greys / f"{level:03}.png").read_bytes()) for level in (1, 3, 4)]
    assert len({*files}) == 3
    net, other = calibrated([*files[:2], "0" * 16]), calibrated(files[1:])
    results = compare_all(tabled(OURS), [net, tabled(OURS), other], open_images(greys))
    assert [result.calibration_images for result in results] == [2, 0, 2]
    assert compare(other, net, open_images(greys)).calibration_images == 3  # either net's
    assert compare(tabled(OURS), net, open_images(greys), limit=6).calibration_images == 2


def test_an_unreadable_image_of_calibration_does_not_count(tabled, calibrated, greys):
    (greys / "002.png").write_bytes(b"not an image")
    net = calibrated([image_digest(b"not an image"), image_digest((greys / "001.png").read_bytes())])
    assert compare(tabled(OURS), net, open_images(greys)).calibration_images == 1


def test_an_image_of_calibration_that_errors_do_not_count_does_not_count(tmp_path):
    manifest = load_artifact(save_net(tmp_path / "three.safetensors", wnids=WNIDS[:3])).manifest
    greys = write_greys(tmp_path / "greys", LABELS)
    files = [image_digest((greys / f"{level:03}.png").read_bytes()) for level in range(2, 6)]  # labels 1 to 4
    record = CalibrationRecord(method="entropy", images=tuple(sorted(files)))
    info = ExportInfo(
        members=(Member(name="net", sha256="0" * 64),), precision="int8", int8_for="cpu", calibration=record
    )
    backend = Table(OURS[:, :3] / 2)
    opened = Opened(manifest=manifest, backend=backend, files=(Path("net.onnx"),), info=info)
    result = compare(Net(manifest, backend), Net(manifest, backend, "ten", opened), open_images(greys))
    assert (result.calibration_images, result.counted) == (2, 3)


def test_images_of_calibration_are_unknown_if_an_int8_file_does_not_name_them(tabled, calibrated, greys):
    for nets in ((tabled(OURS), calibrated(None)), (calibrated(None), calibrated(["0" * 16]))):
        assert compare(*nets, open_images(greys)).calibration_images is None


def test_photos_and_their_quarters_are_images_of_calibration_from_a_file_or_a_url(tabled, calibrated, tmp_path):
    first, second = photos(tmp_path, 2)
    net = calibrated([image_digest(first.path.read_bytes())])
    assert compare(tabled(OURS), net, [first, second]).calibration_images == 5
    server = Server(first.path.read_bytes())
    try:
        assert compare(tabled(OURS), net, expand([server.url])).calibration_images == 5
    finally:
        server.close()


def test_digests_are_computed_only_for_a_net_that_names_its_images(tabled, calibrated, greys, monkeypatch):
    computed = []
    monkeypatch.setattr(pictures_module, "image_digest", lambda data: computed.append(data) or "")
    compare_all(tabled(OURS), [tabled(OURS), calibrated(None)], open_images(greys))
    assert not computed
    compare(tabled(OURS), calibrated(["0" * 16]), open_images(greys))
    assert len(computed) == 6
