"""The figures: few colours, ours in the foreground, names beside the lines."""

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

OURS, OLD, FLOOR = "emcache", "emcache 1.3.3", "floor"
ACCENT, OLD_COLOUR, GREY, LIGHT = "#0a5cd5", "#c2570c", "#6b7280", "#b6bcc6"
STYLE = {
    OURS: {"color": ACCENT, "linewidth": 2.6, "zorder": 5},
    OLD: {"color": OLD_COLOUR, "linewidth": 1.6, "zorder": 4},
    f"{OLD} autobatching": {
        "color": OLD_COLOUR,
        "linewidth": 1.6,
        "linestyle": (0, (4, 2)),
        "zorder": 4,
    },
    FLOOR: {"color": GREY, "linewidth": 1.2, "linestyle": (0, (1, 2))},
}
OTHERS = {"color": LIGHT, "linewidth": 1.4}
NAMES = {
    OURS: "emcache 2",
    f"{OLD} autobatching": "1.3.3 autobatching",
    FLOOR: "floor (asyncio alone)",
}
PIECES = {
    "emcache": ACCENT,
    "Python, asyncio, the benchmark's own loop": "#94a3b8",
    "libc (copies, memory)": "#cbd5e1",
    "kernel, for the client": "#f2b27a",
    "kernel, for memcached": "#f7d3b0",
    "memcached": "#d9d9d9",
}

mpl.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.titleweight": "bold",
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e8eaee",
        "xtick.color": "#374151",
        "ytick.color": "#374151",
        "figure.dpi": 110,
        "svg.hashsalt": "emcache",
    }
)


def style(client):
    return STYLE.get(client, OTHERS)


def name(client):
    return NAMES.get(client, client)


def label_colour(client):
    return GREY if style(client) is OTHERS else style(client)["color"]


def figure(rows, columns, size):
    made, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    return made, axes


def save(made, folder, stem, kind):
    more = {"metadata": {"Date": None}} if kind == "svg" else {}
    made.savefig(folder / f"{stem}.{kind}", bbox_inches="tight", facecolor="white", **more)
    plt.close(made)


def short(value, _=None):
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def spread(places, gap):
    """Moves places apart that are nearer than `gap`; they must be sorted."""
    moved = list(places)
    for _ in range(200):
        for at in range(1, len(moved)):
            overlap = gap - (moved[at] - moved[at - 1])
            if overlap > 1e-9:
                moved[at] += overlap / 2
                moved[at - 1] -= overlap / 2
    return moved


def name_lines(axes, ends):
    """Writes the clients' names at the right ends of their lines; `ends`: client to (x, y)."""
    limits = axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    at = {client: to_axes.transform(end)[1] for client, end in ends.items()}
    ordered = sorted(at, key=at.get)
    places = spread([at[client] for client in ordered], 0.062)
    for client, place in zip(ordered, places, strict=True):
        weight = "bold" if client == OURS else "normal"
        axes.annotate(
            name(client),
            ends[client],
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            color=label_colour(client),
            fontweight=weight,
            fontsize=8.5,
            arrowprops={
                "arrowstyle": "-",
                "color": LIGHT,
                "linewidth": 0.5,
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )
    axes.set_ylim(limits)


def against_tasks(axes, curves, unit):
    """One line for each client; `curves`: client to [(tasks, figure)]."""
    for client, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, **style(client))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({tasks for points in curves.values() for tasks, _ in points})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    lowest, highest = axes.get_ylim()
    if highest / lowest < 300:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(unit)
    name_lines(axes, {client: points[-1] for client, points in curves.items()})


def distribution(axes, quantiles):
    """Plot the share of calls within each latency; `quantiles`: client to microseconds."""
    for client, values in quantiles.items():
        parts = [100 * at / len(values) for at in range(len(values))]
        axes.plot(values, parts, **style(client))
    ordered = sorted(quantiles, key=lambda client: quantiles[client][len(quantiles[client]) // 2])
    for at, client in enumerate(ordered):
        level = 0.92 - 0.11 * at
        values = quantiles[client]
        # The first has room at its left, the others at their right.
        left = at == 0
        axes.annotate(
            name(client).split(" (")[0],
            (values[int(level * len(values))], 100 * level),
            xytext=(-5 if left else 5, 0),
            ha="right" if left else "left",
            textcoords="offset points",
            va="center",
            color=label_colour(client),
            fontweight="bold" if client == OURS else "normal",
            fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            zorder=10,
        )
    axes.set_xscale("log")
    axes.set_xlim(left=min(values[0] for values in quantiles.values()) / 3.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.set_ylim(0, 100)
    axes.set_xlabel("latency, us")
    axes.set_ylabel("% of calls")


def bars(axes, figures, unit):
    """One bar for each client, the shortest on top."""
    ordered = sorted(figures, key=figures.get, reverse=True)
    values = [figures[client] for client in ordered]
    colours = [label_colour(client) if client in STYLE else LIGHT for client in ordered]
    drawn = axes.barh([name(client) for client in ordered], values, color=colours, height=0.62)
    axes.bar_label(drawn, [f"{value:.1f}" for value in values], padding=3, fontsize=8)
    axes.grid(visible=False)
    axes.tick_params(left=False)
    axes.set_xlim(0, max(values) * 1.18)
    axes.set_xlabel(unit)


def stacked(axes, rows):
    """One bar for each (name, {piece: microseconds}), pieces from left to right."""
    names = [title for title, _ in rows]
    left = [0.0] * len(rows)
    widest = max(sum(pieces.values()) for _, pieces in rows)
    for piece, colour in PIECES.items():
        widths = [pieces.get(piece, 0.0) for _, pieces in rows]
        drawn = axes.barh(
            names, widths, left=left, color=colour, height=0.62, label=piece, edgecolor="white"
        )
        texts = [f"{width:.1f}" if width > widest / 18 else "" for width in widths]
        white = colour == ACCENT
        axes.bar_label(
            drawn, texts, label_type="center", fontsize=8, color="white" if white else "black"
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for at, total in enumerate(left):
        axes.text(
            total + widest / 80, at, f"{total:.1f}", va="center", fontsize=8, fontweight="bold"
        )
    axes.set_xlim(0, widest * 1.08)
    axes.grid(visible=False)
    axes.tick_params(left=False)
    axes.invert_yaxis()
