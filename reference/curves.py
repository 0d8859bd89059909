"""Plots a run's metrics.csv, for RESULTS.md: python3 curves.py METRICS.csv OUT.png"""
import csv
import sys

try:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError as missing:
    sys.exit(f"{missing}: needs matplotlib (Debian: python3-matplotlib)")

PANELS = (("reconstruction MSE per pixel", ("mse",)),
          ("energy gap E(model) - E(data)", ("energy_gap",)),
          ("statistics distance", ("distance_generator", "distance_revised")))


def smoothed(values, width=50):
    """Running mean over the last `width` values."""
    windows = [values[max(0, i - width + 1):i + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def main():
    with open(sys.argv[1], newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.2), constrained_layout=True)
    for axis, (title, columns) in zip(axes, PANELS):
        for column in columns:
            points = [(int(row["iteration"]), float(row[column])) for row in rows if row[column]]
            iterations, values = zip(*points)
            axis.plot(iterations, smoothed(values) if len(points) == len(rows) else values, label=column)
        axis.set(title=title, xlabel="iteration")
        axis.legend()
        axis.grid(alpha=0.3)
    for axis in axes[0], axes[2]:
        axis.set_yscale("log")
    figure.savefig(sys.argv[2], dpi=80)


if __name__ == "__main__":
    main()
