"""Prints the constants to which tests/experiments_test.cpp compares its statistics: SSIM, AUROC, split-R-hat and ESS.

SSIM is that of scikit-image's structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
data_range=2, channel_axis=-1): SciPy's Gaussian filter, truncated at 3.5 sigma, without a border of 5 pixels. AUROC is
from SciPy's Mann-Whitney U. R-hat and ESS follow Vehtari et al. 2021, with NumPy's means, variances and correlations.
The inputs are formulas, which the test evaluates too. Needs NumPy and SciPy; writes no file. If scikit-image and
scikit-learn are installed, compares SSIM and AUROC with theirs.
"""
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu


def images(side):
    """The test's two images, in [-1, 1]."""
    y, x, c = np.ogrid[0:side, 0:side, 0:3]
    a = ((y * 37 + x * 91 + c * 53 + x * y % 17 * 11) % 256) / 127.5 - 1
    b = 0.8 * a + 0.15 * np.sin(0.7 * x + 0.3 * y + c)
    return a.astype(np.float32).astype(float), b.astype(np.float32).astype(float)


def ssim(a, b):
    values = []
    for c in range(3):
        u, v = a[..., c], b[..., c]
        blur = lambda image: gaussian_filter(image, 1.5, truncate=3.5, mode="reflect")
        mu, mv = blur(u), blur(v)
        vu, vv, vuv = blur(u * u) - mu * mu, blur(v * v) - mv * mv, blur(u * v) - mu * mv
        c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
        s = (2 * mu * mv + c1) * (2 * vuv + c2) / ((mu**2 + mv**2 + c1) * (vu + vv + c2))
        values.append(s[5:-5, 5:-5].mean())
    return np.mean(values)


def chains():
    """Four chains of 101 draws; the last one drifts."""
    t = np.arange(101)
    drift = 0, 0, 0, 0.004 * t
    return np.array([np.sin(0.9 * t * (m + 1)) + 0.3 * np.cos(0.05 * t + m) + drift[m] for m in range(4)])


def split(draws):
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def rhat(draws):
    s = split(draws)
    n, within = s.shape[1], s.var(axis=1, ddof=1).mean()
    return np.sqrt(((n - 1) / n * within + s.mean(axis=1).var(ddof=1)) / within)


def ess(draws):
    s = split(draws)
    m, n = s.shape
    within = s.var(axis=1, ddof=1).mean()
    plus = (n - 1) / n * within + s.mean(axis=1).var(ddof=1)
    centred = s - s.mean(axis=1, keepdims=True)
    covariance = np.mean([np.correlate(row, row, "full")[n - 1:] / n for row in centred], axis=0)
    rho = 1 - (within - covariance) / plus
    rho[0] = 1
    pairs = rho[0:n - n % 2:2] + rho[1:n:2]
    stop = np.argmax(pairs < 0) if (pairs < 0).any() else len(pairs)
    tau = -1 + 2 * np.minimum.accumulate(pairs[:stop]).sum()
    return m * n / max(tau, 1 / np.log10(m * n))


def check_against_libraries(low, high):
    """Fails if scikit-image or scikit-learn disagrees; skipped unless both are installed."""
    try:
        from skimage.metrics import structural_similarity
        from sklearn.metrics import roc_auc_score
    except ImportError:
        return print("scikit-image or scikit-learn is not installed: skipped the comparison")
    for side in (32, 19):
        a, b = images(side)
        theirs = structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                       data_range=2, channel_axis=-1)
        assert abs(theirs - ssim(a, b)) < 1e-12, (theirs, ssim(a, b))
    theirs = roc_auc_score([0] * len(low) + [1] * len(high), np.concatenate([low, high]))
    assert abs(theirs - mannwhitneyu(high, low).statistic / (len(low) * len(high))) < 1e-12, theirs
    print("SSIM agrees with scikit-image's and AUROC with scikit-learn's to 1e-12")


for side in (32, 19):
    a, b = images(side)
    mse = np.mean((a - b) ** 2)
    print(f"side {side}: mse {mse:.12f}, psnr {10 * np.log10(4 / mse):.10f}, ssim {ssim(a, b):.12f}")
low, high = np.arange(60) * 7 % 23, np.arange(45) * 5 % 29 + 2  # with many ties
check_against_libraries(low, high)
print(f"auroc {mannwhitneyu(high, low).statistic / (len(low) * len(high)):.12f}")
print(f"split-rhat {rhat(chains()):.12f}, ess {ess(chains()):.9f}")
smooth = chains()[:, :24].cumsum(axis=1)
print(f"running sums of the first 24 draws: split-rhat {rhat(smooth):.12f}, ess {ess(smooth):.9f}")
