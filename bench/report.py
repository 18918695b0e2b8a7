"""What bench/run and bench/compare share: figures of a row, and the tables.

The results are one JSON object: `header`, and `rows`: row -> box -> {"unit", "wall": [...], "cpu": [...]}, one sample a
round (null where the row failed), in nanoseconds or bytes. Rounds of different boxes with the same index belong together.
"""
import statistics

# What sbx should reach, as ratios to the box named first.
GOALS = {"cpu": ("native", 1.1), "getpid": ("native", 0.2), "null-call": ("native", 2),
         "mmap-touch-munmap-64k": ("native", 1.1), "page-fault": ("native", 1.1), "futex-pingpong": ("native", 1.1),
         "fork-wait": ("native", 2.5), "fork-exec-wait": ("native", 2.5), "sh: 200 x /bin/true": ("native", 2),
         "find 20k files + stat": ("native", 2.5), "start to exit": ("runc", 1.2)}


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
    name, ratio = GOALS[row]
    value, base = (median(cells.get(n, {}).get("wall", [])) for n in ("sbx", name))
    return "≤ %gx %s%s" % (ratio, name, ", is %.2fx" % (value / base) if value and base else "")


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
    lines += ["", "Wall time: median, ± half the distance of the quartiles, (ratio of the medians to native).", ""]
    lines += table(results, "wall")
    lines += ["", "CPU time of all processes of the box, per operation, less that of an empty container "
              "(`start to exit`: all of it).", ""]
    lines += table(results, "cpu")
    return "\n".join(lines) + "\n"
