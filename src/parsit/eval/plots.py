"""Plots as SVG inside the page: they take its colours, light or dark, and need no file beside it.

matplotlib draws with stand-in colours that are then replaced by the page's CSS variables. No global
state of matplotlib is touched (no pyplot).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from parsit.eval.metrics import Series
from parsit.scores import Interval
from parsit.types import UsageError

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
except ModuleNotFoundError as error:
    raise UsageError("plots need matplotlib, which is not installed: pip install 'parsit[eval]'") from error

INK, MUTED, ACCENT, WARM, LINE = "#010101", "#020202", "#030303", "#040404", "#050505"
_CSS = {INK: "--ink", MUTED: "--muted", ACCENT: "--accent", WARM: "--warm", LINE: "--line"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


def _svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an inline `<svg>`; `name` sets its ids apart from other plots', `label` is read aloud."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, body = text.split(">", 1)
    view_box = re.search(r'viewBox="[^"]+"', head)
    assert view_box, "matplotlib's SVG has a viewBox"
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\1{name}-", body)
    for color, variable in _CSS.items():
        body = body.replace(color, f"var({variable})")
    return Markup(f'<svg {view_box.group()} role="img" aria-label="{escape(label)}">{body}')


def _figure(width_in: float, height_in: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def cer_histogram(cers: Sequence[float]) -> Markup:
    """How many samples have which CER; 0 and everything above 1 have a bar of their own."""
    edges = [tenth / 10 for tenth in range(1, 11)]
    names = ["0", *(f"≤ {edge:.1f}" for edge in edges), "> 1"]
    counts = [0] * len(names)
    for value in cers:
        place = (
            0 if value == 0 else next((i for i, edge in enumerate(edges, 1) if value <= edge + 1e-12), len(names) - 1)
        )
        counts[place] += 1
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _figure(9, 2.8)
        bars = axes.bar(names, counts, color=[ACCENT, *[MUTED] * 10, WARM], width=0.8)
        axes.bar_label(bars, [str(count) if count else "" for count in counts], padding=2)
        axes.grid(False, axis="x")
        axes.set(xlabel="character error rate of a sample", ylabel="samples")
        axes.margins(x=0.01, y=0.12)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _svg(figure, "histogram", "Histogram of the character error rate")


def length_histogram(num_tokens: np.ndarray, num_tiles: np.ndarray, name: str, unit: str = "tiles") -> Markup:
    """Two panels: how many samples have how many tokens (on a logarithmic axis), and how many tiles (or patches)."""
    with matplotlib.rc_context(_STYLE):
        figure, (tokens, tiles) = _figure(9, 2.8, 1, 2)
        low, high = int(num_tokens.min()), int(num_tokens.max())
        edges = np.geomspace(max(low, 1), high + 1, 41)
        tokens.hist(num_tokens, bins=edges.tolist(), color=ACCENT)
        tokens.set_xscale("log")
        tokens.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        tokens.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        tokens.xaxis.set_minor_locator(NullLocator())
        tokens.set(xlabel="tokens of a sample", ylabel="samples")
        bins = min(int(num_tiles.max()) + 1, 40)
        tiles.hist(num_tiles, bins=(np.linspace(-0.5, int(num_tiles.max()) + 0.5, bins + 1)).tolist(), color=ACCENT)
        tiles.set(xlabel=f"{unit} of a sample")
        tiles.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        for panel in (tokens, tiles):
            panel.grid(False, axis="x")
            panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _svg(figure, name, f"Lengths from {low} to {high} tokens, and {unit} up to {int(num_tiles.max())}")


def interval_plot(rows: Sequence[tuple[str, Interval]], unit: str, name: str) -> Markup:
    """One labelled point with its interval for each row, first row on top, on an axis that starts at 0."""
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _figure(7, 0.75 + 0.42 * len(rows))
        for place, (_, interval) in enumerate(rows):
            color = ACCENT if place == 0 else MUTED
            axes.plot([interval.low, interval.high], [place, place], color=color, linewidth=2.5)
            axes.plot([interval.value], [place], "o", color=color, markersize=8)
            axes.annotate(
                f"{interval.value:.3f}", (interval.value, place), (0, 9), textcoords="offset points", ha="center"
            )
        axes.set_yticks(range(len(rows)), [label for label, _ in rows], color=INK)
        axes.set(xlabel=unit, ylim=(len(rows) - 0.4, -0.8))
        axes.set_xlim(0, 1.08 * max(interval.high for _, interval in rows) or 1)
        axes.grid(False, axis="y")
    return _svg(figure, name, f"{unit}: " + "; ".join(f"{label} {row.value:.3f}" for label, row in rows))


def loss_plot(series: Mapping[str, Series], reach: int) -> Markup:
    """Training loss, raw and smoothed over `reach` values either side, and validation loss where there is one."""
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _figure(9, 3.6)
        loss = series["loss"]
        smooth = loss.smoothed(reach)
        axes.plot(loss.steps, loss.values, color=ACCENT, alpha=0.4, linewidth=0.8, label="training loss, each step")
        axes.plot(smooth.steps, smooth.values, color=ACCENT, linewidth=2, label="training loss, smoothed")
        if "eval_loss" in series:
            held = series["eval_loss"]
            axes.plot(held.steps, held.values, "o-", color=WARM, linewidth=1.2, markersize=5, label="validation loss")
        axes.set(xlabel="optimizer step", ylabel="loss")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
    return _svg(figure, "loss", f"Loss over {len(loss.steps)} steps")


def small_plots(series: Mapping[str, Series], titles: Mapping[str, str], reach: int) -> Markup | None:
    """A row of small plots for those names of `titles` that `series` holds; None if it holds none."""
    names = [name for name in titles if name in series]
    if not names:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(9, 2.1, 1, len(names))
        for name, panel in zip(names, axes, strict=True):
            values = series[name]
            panel.plot(values.steps, values.values, color=ACCENT, alpha=0.3, linewidth=0.7)
            smooth = values.smoothed(reach)
            panel.plot(smooth.steps, smooth.values, color=ACCENT, linewidth=1.5)
            panel.set_title(titles[name])
            panel.set_ylim(bottom=0)
            panel.ticklabel_format(axis="y", scilimits=(-2, 4))
            panel.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            panel.yaxis.set_major_locator(MaxNLocator(4))
    return _svg(figure, "metrics", "Training metrics: " + ", ".join(titles[name] for name in names))
