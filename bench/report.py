"""What bench/run and bench/compare share: figures of a row, and the tables.

The results are one JSON object: `header`, and `rows`: row -> box -> {"unit", "wall": [...], "cpu": [...]}, one sample a
round (null where the row failed), in nanoseconds or bytes. Rounds of different boxes with the same index belong together.
"""
import statistics

import rows


GOALS = {row.name: row.goal for row in rows.ROWS if row.goal}


def present(samples):
    return [s for s in samples if s is not None]


def median(samples):
    values = present(samples)
    return statistics.median(values) if values else None


def spread(samples):
    """Half the distance between the quartiles: what a typical round differs from the median."""
    values = sorted(present(samples))
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def ratios(samples, base):
    """Round by round, so that a slow minute of the machine divides out."""
    return [s / b if s is not None and b else None for s, b in zip(samples, base)]


def ratio(cells, name, base="native"):
    """Of the medians of wall time, or None."""
    value, reference = (median(cells.get(n, {}).get("wall", [])) for n in (name, base))
    return value / reference if value and reference else None


def summary(results):
    """Over all rows that both have: how sbx compares on the whole."""
    def all_of(base):
        found = {row: ratio(cells, "sbx", base) for row, cells in results["rows"].items()}
        return {row: r for row, r in found.items() if r}
    lines = []
    for base, limit in (("native", 2.5), ("runsc", 1.0)):
        found = all_of(base)
        if not found:
            continue
        worse = ["%s (%.2fx)" % item for item in sorted(found.items(), key=lambda item: -item[1]) if item[1] > limit]
        lines.append("* sbx to %s: geometric mean %.2fx over %d rows; above %gx: %s"
                     % (base, statistics.geometric_mean(found.values()), len(found), limit, ", ".join(worse) or "none"))
    return lines


def quantity(value, unit):
    if unit == "B":
        return "%.2f MiB" % (value / 2**20)
    for limit, divisor, name in ((1e3, 1, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms")):
        if abs(value) < limit:
            return "%.3g %s" % (value / divisor, name) if abs(value) < 100 * divisor else "%.0f %s" % (value / divisor, name)
    return "%.2f s" % (value / 1e9)


def cell(cell_of, base, key):
    value = median(cell_of.get(key, [])) if cell_of else None
    if value is None:
        return "-"
    text = quantity(value, cell_of["unit"])
    if value > 0:
        text += " ±%.0f%%" % (100 * spread(cell_of[key]) / value)
    reference = median(base.get(key, [])) if base and base is not cell_of else None
    return text + (" (%.2fx)" % (value / reference) if reference and reference > 0 else "")


def goal(row, cells):
    """The goal of a row, and how far sbx is."""
    if row not in GOALS:
        return ""
    name, most = GOALS[row]
    now = ratio(cells, "sbx", name)
    return "≤ %gx %s%s" % (most, name, ", is %.2fx" % now if now else "")


def table(results, key):
    boxes = results["header"]["boxes"]
    extra = ["goal"] if key == "wall" else []
    lines = ["| row | " + " | ".join(boxes + extra) + " |", "|---|" + "---:|" * len(boxes + extra)]
    for row, cells in results["rows"].items():
        if not any(present(c.get(key, [])) for c in cells.values()):
            continue
        columns = [cell(cells.get(b), cells.get("native"), key) for b in boxes]
        lines.append("| %s | %s |" % (row, " | ".join(columns + ([goal(row, cells)] if extra else []))))
    return lines


def markdown(results):
    h = results["header"]
    lines = ["Taken %s, %d rounds after one of warm-up, mode: %s." % (h["date"], h["rounds"], h["mode"]), "",
             "* machine: %s, %d processors, %.1f GiB, Linux %s" % (h["cpu"], h["cpus"], h["memory"] / 2**30, h["kernel"]),
             "* other load: other processes used %.2f of %d processors on average; load average %s before, %s after"
             % (h["other_cpus"], h["cpus"], h["load_before"], h["load_after"])]
    lines += ["* %s: %s" % item for item in h["versions"].items()]
    lines += ["* %s" % note for note in h["notes"]]
    lines += summary(results)
    lines += ["", "Wall time: median, ± half the distance of the quartiles, (ratio of the medians to native).", ""]
    lines += table(results, "wall")
    lines += ["", "CPU time of all processes of the box, per operation, less that of an empty container "
              "(`start to exit`: all of it).", ""]
    lines += table(results, "cpu")
    return "\n".join(lines) + "\n"
