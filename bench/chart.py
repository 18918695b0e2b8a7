"""A bar chart of results of bench/run as SVG: one group of bars a row, wall time as a multiple of native's."""
import math

import report

COLOURS = {"crun": "#b8c4ce", "runc": "#8fa3b3", "runsc": "#e0913a", "sbx": "#2f6fb2"}
LEFT, WIDTH, BAR, GAP, TOP = 230, 640, 5, 7, 44  # in pixels
LOW, HIGH = 1 / 64, 64  # ends of the axis; what is outside is cut off, its number tells


def x(ratio):
    inside = min(max(ratio, LOW), HIGH)
    return LEFT + WIDTH * math.log(inside / LOW) / math.log(HIGH / LOW)


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def text(at, y, what, anchor="start"):
    return '<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>' % (at, y, anchor, escaped(what))


def svg(results):
    boxes = [b for b in results["header"]["boxes"] if b in COLOURS]
    rows = [(name, {b: report.ratio(cells, b) for b in boxes}) for name, cells in results["rows"].items()]
    rows = [(name, ratios) for name, ratios in rows if any(ratios.values())]
    step = BAR * len(boxes) + GAP
    bottom = TOP + step * len(rows)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="10">'
             % (LEFT + WIDTH + 60, bottom + 10), '<rect width="100%" height="100%" fill="white"/>',
             text(8, 14, "Wall time as a multiple of native (logarithmic, less is better); %s, %s"
                  % (results["header"]["date"], results["header"]["mode"]))]
    for i, box in enumerate(boxes):
        parts.append('<rect x="%d" y="22" width="10" height="10" fill="%s"/>' % (LEFT + 70 * i, COLOURS[box]))
        parts.append(text(LEFT + 14 + 70 * i, 31, box))
    for power in range(-6, 7):
        at = x(2.0**power)
        parts.append('<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="%s"/>'
                     % (at, at, TOP, bottom, "#444" if power == 0 else "#ddd"))
        parts.append(text(at, TOP - 3, "%g" % 2**power if power >= 0 else "1/%d" % 2**-power, "middle"))
    for i, (name, ratios) in enumerate(rows):
        y = TOP + 4 + i * step
        parts.append(text(LEFT - 8, y + step / 2, name, "end"))
        for j, box in enumerate(boxes):
            ratio = ratios[box]
            if not ratio:
                continue
            begin, end = sorted((x(1), x(ratio)))
            parts.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>'
                         % (begin, y + j * BAR, max(1.0, end - begin), BAR, COLOURS[box]))
            if box == "sbx" or not LOW <= ratio <= HIGH:
                parts.append(text(max(end, x(1)) + 3, y + j * BAR + 6, "%.2f" % ratio))
    return "\n".join(parts) + "\n</svg>\n"
