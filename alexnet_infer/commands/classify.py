"""`alexnet-infer classify`: print labels for photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from alexnet_infer.backends import Choice, Device
from alexnet_infer.backends.opening import ENGINE_SUFFIXES
from alexnet_infer.errors import UsageError
from alexnet_infer.nets import choose_nets, load, nets_at_hand
from alexnet_infer.output import console, say, say_json, styled, tell
from alexnet_infer.packages import installed
from alexnet_infer.photos import expand
from alexnet_infer.predict import Ensemble, Net, Result
from alexnet_infer.preprocess import Views
from alexnet_infer.progress import counting

BAR_WIDTH = 24

FEW = 32
"""Below this number of photos, the runtime that starts faster is used: OpenVINO takes 0.2 s longer to start."""

LARGER_NET = "bvlc-alexnet"
"""The published net that is suggested after the labels of a bundled net."""


def run(
    photos: Sequence[str],
    *,
    model: Path | None,
    ensemble: int | None,
    top: int | None,
    views: Views | None,
    device: Device,
    backend: Choice,
    trust_engine: bool,
    as_json: bool,
) -> int:
    """Print the labels of `photos` by one net, or by the mean of `ensemble` bundled nets.

    Returns the exit code: 0, or 1 if some photos can't be read, or 3 if none can.
    """
    if model is not None and ensemble is not None and ensemble > 1:
        raise UsageError(
            f"--ensemble {ensemble}: averages bundled nets, and --model {model} is one net; leave out one of the two"
        )
    paths = choose_nets([model] if model is not None else [], ensemble)
    entries = list(expand(photos))
    if backend == "auto" and len(entries) < FEW and paths[0].suffix not in ENGINE_SUFFIXES and installed("onnxruntime"):
        backend = "onnxruntime"
    nets = [load(path, device=device, views=views, backend=backend, trust_engine=trust_engine) for path in paths]
    net = nets[0] if len(nets) == 1 else Ensemble(nets)
    results = net.classify_all(entries, top or min(5, len(net.classes)))
    if len(entries) > 1:
        results = _with_progress(results, len(entries))
    failed = 0
    for result in results:
        if result.error is not None:
            failed += 1
            tell(f"error: {result.error}")
        if as_json:
            say_json(_json_row(result, net))
        elif result.error is None:
            (_print_table if len(entries) == 1 else _print_line)(result, net)
    if not as_json and failed < len(entries) and paths[0] in nets_at_hand():
        _suggest_larger_net(net)
    return 0 if not failed else 3 if failed == len(entries) else 1


def _names(net: Net | Ensemble) -> list[str]:
    return [member.manifest.name for member in net.nets]


def _backend(net: Net | Ensemble) -> str:
    return ", ".join(dict.fromkeys(member.backend.description for member in net.nets))


def _json_row(result: Result, net: Net | Ensemble) -> dict:
    row: dict = {"photo": result.photo.name}
    if result.error is not None:
        return row | {"error": result.error}
    names = _names(net)
    row |= {"labels": [asdict(label) for label in result.labels]}
    row |= {"net": names[0]} if len(names) == 1 else {"net": f"mean of {len(names)} nets", "nets": names}
    return row | {"views": net.nets[0].views, "backend": _backend(net)}


def _print_line(result: Result, net: Net | Ensemble) -> None:
    guesses = ", ".join(f"{net.classes[label.index].short} {label.probability:.1%}" for label in result.labels)
    say(f"{result.photo.name}: {guesses}")


def _print_table(result: Result, net: Net | Ensemble) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading, style in (("label", "bold"), ("WordNet id", "dim"), ("", "cyan"), ("probability", "")):
        table.add_column(heading, style=style, justify="right" if heading == "probability" else "left")
    for label in result.labels:
        bar = "█" * round(label.probability * BAR_WIDTH) or "▏"
        name = net.classes[label.index].short
        table.add_row(styled(name), styled(label.wnid), bar.ljust(BAR_WIDTH), f"{label.probability:.1%}")
    names = _names(net)
    views = "ten views averaged" if net.nets[0].views == "ten" else "central view"  # the same for bundled nets
    title = names[0] if len(names) == 1 else f"mean of {len(names)} nets ({', '.join(names)})"
    out = console()
    out.print(styled(result.photo.name, "italic"), soft_wrap=True)
    out.print(table)
    out.print(styled(f"{title}, {views}, {_backend(net)}", "dim"), soft_wrap=True)


def _suggest_larger_net(net: Net | Ensemble) -> None:
    """Print one line on stderr about a net that knows more classes, unless it has been pulled."""
    with suppress(Exception):  # the labels are printed: a damaged registry or cache must not make the command fail
        from alexnet_infer.presets import variant
        from alexnet_infer.published.cache import cached
        from alexnet_infer.published.registry import registry

        larger = registry()[LARGER_NET]
        classes = variant(larger.preset).classes
        if cached(larger) is None and classes > len(net.classes):
            subject = "This net knows" if len(net.nets) == 1 else "These nets know"
            advice = f"For a net that knows {classes:,}: alexnet-infer pull {larger.name}"
            tell(f"{subject} {len(net.classes):,} classes. {advice}")


def _with_progress(results: Iterator[Result], total: int) -> Iterator[Result]:
    with counting("classifying", total, "photos") as advance:
        for result in results:
            yield result
            advance(1)
