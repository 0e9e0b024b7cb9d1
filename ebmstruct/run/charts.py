"""Line, bar and histogram charts as inline SVG: no script, no external file, colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ebmstruct.extend.task import Chart
from ebmstruct.run.markup import number, text

WIDTH, HEIGHT = 480, 260
TOP, RIGHT, BOTTOM, LEFT = 16, 14, 44, 62
COLOURS = 6
_MARKERS = 60
_POINTS = 800
_BARS = 60


def chart(drawing: Chart) -> str:
    """The SVG of a chart, or a sentence where there is nothing to draw. All text is escaped."""
    series = {name: [_finite(v) for v in values] for name, values in drawing.series.items()}
    if not any(v is not None for values in series.values() for v in values):
        return '<p class="empty">There are no values to draw.</p>'
    if drawing.kind == "bar":
        body = _bars(drawing, series)
    elif drawing.kind == "histogram":
        body = _histogram(drawing, series)
    else:
        body = _lines(drawing, series)
    return _legend(list(series)) + body


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high], about ``count`` of them."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next((m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= rough * (1 - 1e-9)), 10 * scale)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


class _Plane:
    """The plotting area: data to picture coordinates, with grid and axes."""

    def __init__(self, x: tuple[float, float], y: Sequence[float], height: int = HEIGHT) -> None:
        self.x_low, self.x_high = x if x[1] > x[0] else (x[0] - 0.5, x[0] + 0.5)
        self.y_ticks = ticks(min(y), max(y))
        self.y_low, self.y_high = self.y_ticks[0], self.y_ticks[-1]
        self.height = height

    def across(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def up(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)

    def frame(self, drawing: Chart, x_marks: Iterable[tuple[float, str]]) -> str:
        out = []
        for tick, label in zip(self.y_ticks, _ticks(self.y_ticks), strict=True):
            y = self.up(tick)
            rule = "base" if tick == 0 else "grid"
            out.append(f'<line class="{rule}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            out.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        for x, label in x_marks:
            anchor = "middle" if x + 3.5 * len(label) < WIDTH - 2 else "end"
            y = self.height - BOTTOM + 17
            out.append(f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{text(label)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        if drawing.x_label:
            out.append(
                f'<text class="axis" x="{middle:.0f}" y="{self.height - 6}" text-anchor="middle">'
                f"{text(drawing.x_label)}</text>"
            )
        if drawing.y_label:
            y = (self.height - BOTTOM + TOP) / 2
            out.append(
                f'<text class="axis" transform="translate(13 {y:.0f}) rotate(-90)" text-anchor="middle">'
                f"{text(drawing.y_label)}</text>"
            )
        return "".join(out)


def _lines(drawing: Chart, series: dict[str, list[float | None]]) -> str:
    longest = max(len(values) for values in series.values())
    named = any(isinstance(x, str) for x in drawing.x)
    given = [_finite(x) for x in drawing.x] if drawing.x and not named else []
    xs = given if len(given) >= longest and None not in given else [float(i) for i in range(longest)]
    places = [float(x) for x in xs if x is not None]
    values = [v for line in series.values() for v in line if v is not None]
    plane = _Plane((min(places), max(places)), [min(values), max(values)])
    if named:
        stride = max(1, math.ceil(longest / 8))
        marks = [(plane.across(i), str(x)) for i, x in enumerate(drawing.x[:longest]) if i % stride == 0]
    else:
        inside = _inside(plane, whole=all(x == int(x) for x in places))
        marks = [(plane.across(t), label) for t, label in zip(inside, _ticks(inside), strict=True)]
    out = [plane.frame(drawing, marks)]
    for i, (name, line) in enumerate(series.items()):
        points = [(x, v) for x, v in zip(places, line, strict=False)]
        out.append(_line(plane, f"s{i % COLOURS}", name, points))
    return _svg(drawing.title, "".join(out))


def _line(plane: _Plane, colour: str, name: str, points: list[tuple[float, float | None]]) -> str:
    points = points[:: max(1, math.ceil(len(points) / _POINTS))]
    path, pen = [], "M"
    for x, v in points:
        if v is None:
            pen = "M"  # a gap in the data is a gap in the line
            continue
        path.append(f"{pen}{plane.across(x):.1f} {plane.up(v):.1f}")
        pen = "L"
    out = [f'<path class="line {colour}" d="{" ".join(path)}"/>']
    marked = points if len(points) <= _MARKERS else points[:: max(1, len(points) // _MARKERS)]
    for x, v in marked:
        if v is not None:
            tip = f"{text(name)} at {_tick(x)}: {number(float(v))}"
            place = f'cx="{plane.across(x):.1f}" cy="{plane.up(v):.1f}"'
            out.append(f'<circle class="dot {colour}" {place} r="2.6"/>')
            out.append(f'<circle class="reach" {place} r="9"><title>{tip}</title></circle>')
    return "".join(out)


def _histogram(drawing: Chart, series: dict[str, list[float | None]]) -> str:
    samples = {name: [v for v in values if v is not None] for name, values in series.items()}
    every = [v for values in samples.values() for v in values]
    bins = max(6, min(24, math.ceil(math.sqrt(max(len(v) for v in samples.values())))))
    edges = ticks(min(every), max(every), bins)
    counts = {name: _counts(values, edges) for name, values in samples.items()}
    plane = _Plane((edges[0], edges[-1]), [0, max(max(c) for c in counts.values())])
    inside = _inside(plane)
    out = [plane.frame(drawing, [(plane.across(t), label) for t, label in zip(inside, _ticks(inside), strict=True)])]
    for i, (name, bars) in enumerate(counts.items()):
        for low, high, count in zip(edges, edges[1:], bars, strict=False):
            if count:
                tip = f"{text(name)}: {number(count)} from {_tick(low)} to {_tick(high)}"
                left, right = plane.across(low) + 0.6, plane.across(high) - 0.6
                out.append(
                    _rect(
                        left, plane.up(count), right - left, plane.up(0), f"s{i % COLOURS}", tip, many=len(counts) > 1
                    )
                )
    return _svg(drawing.title, "".join(out))


def _counts(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    bars = [0] * (len(edges) - 1)
    width = (edges[-1] - edges[0]) / len(bars)
    for value in values:
        bars[min(len(bars) - 1, max(0, int((value - edges[0]) / width)))] += 1
    return bars


def _bars(drawing: Chart, series: dict[str, list[float | None]]) -> str:
    """Bars that lie: names of any length fit, and it reads well on a phone."""
    whole = max(len(values) for values in series.values())
    longest = min(whole, _BARS)
    series = {name: bars[:longest] for name, bars in series.items()}
    names = [str(x) for x in drawing.x][:longest]
    names += [str(i + 1) for i in range(len(names), longest)]
    values = [v for bars in series.values() for v in bars if v is not None]
    marks = ticks(min(0.0, *values), max(0.0, *values), 4)
    left = min(190, 20 + 7 * max(len(name) for name in names))
    thick = 15 if len(series) == 1 else 13
    row = thick * len(series) + 9
    height = TOP + row * longest + 36

    def across(value: float) -> float:
        return left + (value - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - left - 52)

    out = []
    for tick, label in zip(marks, _ticks(marks), strict=True):
        x, rule = across(tick), "base" if tick == 0 else "grid"
        out.append(f'<line class="{rule}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 34}"/>')
        out.append(f'<text class="tick" x="{x:.1f}" y="{height - 20}" text-anchor="middle">{label}</text>')
    for j, name in enumerate(names):
        top = TOP + row * j
        label = name if len(name) <= 25 else name[:24] + "…"
        y = top + thick * len(series) / 2 + 4
        out.append(f'<text class="name" x="{left - 8}" y="{y:.1f}" text-anchor="end">{text(label)}</text>')
        for i, (label, bars) in enumerate(series.items()):
            value = bars[j] if j < len(bars) else None
            if value is None:
                continue
            ends = sorted((across(0.0), across(value)))
            y = top + thick * i
            tip = f"{text(name)}, {text(label)}: {number(value)}"
            out.append(_rect(ends[0], y, max(ends[1] - ends[0], 0.8), y + thick - 2, f"s{i % COLOURS}", tip))
            out.append(f'<text class="tick" x="{ends[1] + 5:.1f}" y="{y + thick - 4:.1f}">{number(value)}</text>')
    if drawing.x_label or drawing.y_label:
        label = text(drawing.y_label or drawing.x_label)
        out.append(
            f'<text class="axis" x="{(left + WIDTH) / 2:.0f}" y="{height - 4}" text-anchor="middle">{label}</text>'
        )
    more = f'<p class="note">The first {longest} of {number(whole)} are shown.</p>' if whole > longest else ""
    return _svg(drawing.title, "".join(out), height) + more


def _rect(x: float, top: float, width: float, foot: float, colour: str, tip: str, *, many: bool = False) -> str:
    place = f'x="{x:.1f}" y="{top:.1f}" width="{max(width, 0.5):.1f}" height="{max(foot - top, 0):.1f}"'
    return f'<rect class="bar {colour}{" many" if many else ""}" {place} rx="1.5"><title>{tip}</title></rect>'


def _svg(title: str, body: str, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text(title)}">{body}</svg>'


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    keys = (f'<span class="key"><i class="s{i % COLOURS}"></i>{text(name)}</span>' for i, name in enumerate(names))
    return f'<p class="legend">{"".join(keys)}</p>'


def _inside(plane: _Plane, *, whole: bool = False) -> list[float]:
    marks = [t for t in ticks(plane.x_low, plane.x_high, 6) if plane.x_low <= t <= plane.x_high]
    return [t for t in marks if not whole or t == int(t)]


def _tick(value: float) -> str:
    shown = f"{value:.6g}" if abs(value) < 1e5 else f"{value:.3g}"
    return shown.replace("-", "\N{MINUS SIGN}")


def _ticks(marks: Sequence[float]) -> list[str]:
    """Labels of an axis, all with the same number of decimals."""
    plain = [_tick(mark) for mark in marks]
    if any("e" in label for label in plain):
        return plain
    decimals = max((len(label.partition(".")[2]) for label in plain), default=0)
    return [f"{mark:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for mark in marks]


def _finite(value: object) -> float | None:
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and abs(found) < 1e300 else None
