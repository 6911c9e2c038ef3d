"""What drawings of a plan are made of: colours of the ops, boxes, arrows, the legend.

A drawing stands alone: no script, no font, nothing fetched. Colours follow the reader's preference
for light or dark through classes, because not every viewer of SVG knows custom properties.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cohortium.report.svg import element

FONT = "Inter,ui-sans-serif,system-ui,-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif"


@dataclass(frozen=True)
class Hue:
    """Fill, stroke and text colour of a box, on light and on dark ground."""

    light: tuple[str, str, str]
    dark: tuple[str, str, str]


OPS = {
    "train": "learn from the site's own records",
    "reduce": "average updates",
    "mix": "mix with the neighbours' models",
    "select": "keep the better model",
    "consensus": "the round's model",
    "evaluate": "measure it on held-out records",
    "tally": "add up the sites' statistics",
    "outcome": "close the round",
}
"""What each op does, in the order of the legend."""

_HUES = {
    "train": Hue(("#ccfbf1", "#0f766e", "#0b4f4a"), ("#123c3a", "#2dd4bf", "#b8f5ea")),
    "reduce": Hue(("#fef0d5", "#b45309", "#7a3606"), ("#41290c", "#f0a955", "#fbdcae")),
    "mix": Hue(("#ede9fe", "#6d3fd4", "#4c2a9c"), ("#2c2250", "#ab94f5", "#ddd4fd")),
    "select": Hue(("#fce7f1", "#b8326f", "#86204f"), ("#451a30", "#f08ab8", "#fbd0e3")),
    "consensus": Hue(("#334155", "#1e293b", "#ffffff"), ("#cbd5e1", "#e2e8f0", "#16202c")),
    "evaluate": Hue(("#e0effc", "#2368a8", "#154a7c"), ("#122f49", "#6db0ec", "#c8e3fb")),
    "tally": Hue(("#eef1f5", "#64748b", "#35425a"), ("#232d39", "#8c9bae", "#d3dbe5")),
    "outcome": Hue(("#eef1f5", "#64748b", "#35425a"), ("#232d39", "#8c9bae", "#d3dbe5")),
    "other": Hue(("#f1f5f9", "#64748b", "#334155"), ("#232d39", "#8c9bae", "#d3dbe5")),
}

EDGES = {
    "model": "a model or an update travels",
    "metrics": "metrics or votes only, no model",
    "stays": "stays at the party",
}

_LIGHT = {
    "ground": "#ffffff",
    "ink": "#0f172a",
    "soft": "#526074",
    "line": "#d5dce5",
    "band": "#f6f8fa",
    "wire": "#5b6b80",
    "wisp": "#a9b5c4",
}
_DARK = {
    "ground": "#151d26",
    "ink": "#e8edf3",
    "soft": "#a1aebd",
    "line": "#33404e",
    "band": "#1b2530",
    "wire": "#93a2b5",
    "wisp": "#566577",
}


def _rules(tone: dict[str, str], which: int) -> str:
    rules = [
        ".plan-ground{{fill:{ground}}}",
        ".plan-ink{{fill:{ink}}}",
        ".plan-soft{{fill:{soft}}}",
        ".plan-band{{fill:{band};stroke:{line}}}",
        ".plan-lane{{stroke:{line}}}",
        ".plan-card{{fill:{ground};stroke:{wisp}}}",
        ".plan-model{{stroke:{wire}}}",
        ".plan-metrics{{stroke:{wire}}}",
        ".plan-stays{{stroke:{wisp}}}",
        ".plan-head{{fill:{wire}}}",
    ]
    css = "".join(rule.format(**tone) for rule in rules)
    for op, hue in _HUES.items():
        fill, stroke, text = hue.dark if which else hue.light
        css += f".plan-{op} rect{{fill:{fill};stroke:{stroke}}}.plan-{op} text{{fill:{text}}}"
    return css


STYLE = (
    f".plan{{font:400 12px {FONT}}}"
    ".plan text{dominant-baseline:central}"
    ".plan-edge{fill:none;stroke-width:1.4}"
    ".plan-metrics{stroke-dasharray:2 4;stroke-linecap:round}"
    ".plan-faint{opacity:.45}"
    ".plan-ghost rect{stroke-dasharray:4 3}"
    ".plan-edge:hover{stroke-width:3;opacity:1}"
    ".plan-strong{font-weight:600}"
    + _rules(_LIGHT, 0)
    + "@media (prefers-color-scheme:dark){"
    + _rules(_DARK, 1)
    + "}"
)
"""The style sheet of every drawing; a page that embeds one allows exactly this text."""


def hue_of(op: str) -> str:
    """Return the class of an op's boxes; ops that lowering passes made share one."""
    return f"plan-{op if op in _HUES else 'other'}"


def text_width(text: str, size: float = 12) -> float:
    """Return about how wide a text is: no font is measured, so it errs to the wide side."""
    return size * sum(map(_advance, text))


def _advance(letter: str) -> float:
    """Return a letter's width in em, as wide as in the widest of the fonts that are usual."""
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    if letter in "mwMW@%":
        return 0.95
    if letter.isupper() or letter.isdigit():
        return 0.68
    return 0.35 if letter in " iljtfI.,:;'|!()[]-/" else 0.6


def fit(text: str, width: float, size: float = 12) -> str:
    """Return a text that is no wider than `width`, shortened in its middle if need be.

    >>> fit("University Hospital of Somewhere", 100)
    'Universi…where'
    """
    if text_width(text, size) <= width:
        return text
    keep = min(len(text) - 1, int(width / (size * 0.35)))
    while keep > 2 and text_width(_shortened(text, keep), size) > width:
        keep -= 1
    return _shortened(text, keep)


def box(
    x: float, y: float, width: float, op: str, label: str, *, title: str = "", ghost: bool = False
) -> Markup:
    """Return a rounded box, 28 high, centred at (x, y)."""
    return element(
        "g",
        element("title", title) if title else Markup(""),
        element("rect", x=x - width / 2, y=y - 14, width=width, height=28, rx=8),
        element("text", label, x=x, y=y, text_anchor="middle"),
        class_=f"{hue_of(op)}{' plan-ghost' if ghost else ''}",
    )


def pill(x: float, y: float, width: float, op: str, label: str, *, title: str = "") -> Markup:
    """Return a small box, 18 high, whose left middle is (x, y)."""
    return element(
        "g",
        element("title", title) if title else Markup(""),
        element("rect", x=x, y=y - 9, width=width, height=18, rx=9),
        element("text", label, x=x + width / 2, y=y + 0.5, text_anchor="middle", font_size=10.5),
        class_=hue_of(op),
    )


def edge(d: str, kind: str, *, title: str = "", arrow: bool = True) -> Markup:
    """Return a line of a kind of `EDGES`."""
    return element(
        "path",
        element("title", title) if title else Markup(""),
        d=d,
        class_=f"plan-edge plan-{kind}",
        marker_end="url(#plan-arrow)" if arrow else None,
    )


def arrow_head() -> Markup:
    """Return the definition of the arrow head that edges end in."""
    head = element("path", d="M0 .8L9 5L0 9.2Z", class_="plan-head")
    marker = element(
        "marker",
        head,
        id="plan-arrow",
        viewBox="0 0 10 10",
        refX=8.5,
        refY=5,
        markerWidth=6.5,
        markerHeight=6.5,
        markerUnits="userSpaceOnUse",
        orient="auto",
    )
    return element("defs", marker)


def legend(
    ops: Collection[str], kinds: Collection[str], *, width: float, y: float
) -> tuple[Markup, float]:
    """Return the legend of what is in a drawing, and where it ends."""
    items = [(op, f"{op}: {what}") for op, what in OPS.items() if op in ops]
    items += [(op, op) for op in sorted(set(ops) - OPS.keys())]
    entries = [(_swatch(op), text) for op, text in items]
    entries += [(_sample(kind), text) for kind, text in EDGES.items() if kind in kinds]
    return _flow(entries, width=width, y=y)


def _swatch(op: str) -> Markup:
    rect = element("rect", x=0, y=-6, width=18, height=12, rx=4)
    return element("g", rect, class_=hue_of(op))


def _sample(kind: str) -> Markup:
    return edge("M0 0H20", kind, arrow=kind == "model")


def _flow(entries: Sequence[tuple[Markup, str]], *, width: float, y: float) -> tuple[Markup, float]:
    """Set entries into columns as wide as the widest, row by row."""
    column = max(text_width(text, 11) for _, text in entries) + 46
    columns = max(1, int((width - 40) // column))
    drawn = []
    for i, (mark, text) in enumerate(entries):
        x, line = 24 + (i % columns) * column, y + (i // columns) * 21
        label = element("text", text, x=28, y=0.5, class_="plan-soft", font_size=11)
        drawn.append(element("g", mark, label, transform=f"translate({x:.0f} {line:.0f})"))
    rows = -(-len(entries) // columns)
    return Markup("").join(drawn), y + 21 * rows


def _shortened(text: str, keep: int) -> str:
    head = -(-keep * 55 // 100)
    return f"{text[:head]}…{text[len(text) - (keep - head) :]}"
