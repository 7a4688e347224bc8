"""Likelihoods against scipy.stats and finite differences; nothing overflows."""

import numpy as np
import pytest
from scipy import stats

from numbarnn.forecasting.likelihoods import LIKELIHOODS, Gaussian, NegativeBinomial, StudentT


def softplus(x):
    return np.logaddexp(0, x)


def reference(name, raw):
    """The same distribution in scipy."""
    raw = np.asarray(raw, float)
    if name == "gaussian":
        return stats.norm(raw[..., 0], softplus(raw[..., 1]) + 1e-3)
    if name == "student_t":
        return stats.t(2 + softplus(raw[..., 2]), raw[..., 0], softplus(raw[..., 1]) + 1e-3)
    mean, r = np.exp(raw[..., 0]), np.exp(raw[..., 1])
    return stats.nbinom(r, r / (r + mean))


def draw(name, n=40, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    loss = LIKELIHOODS[name]()
    raw = rng.normal(size=(n, 3, loss.n_raw(1))) * 1.5
    y = rng.poisson(4, (n, 3, 1)).astype(float) if name == "negative_binomial" else rng.normal(size=(n, 3, 1))
    return loss, y.astype(dtype), raw.astype(dtype)


@pytest.mark.parametrize("name", LIKELIHOODS)
class TestEach:
    def test_density(self, name):
        loss, y, raw = draw(name)
        distribution = reference(name, raw)
        log_p = distribution.logpmf if name == "negative_binomial" else distribution.logpdf
        np.testing.assert_allclose(loss.terms(y, raw)[0][..., 0], -log_p(y[..., 0]), rtol=1e-9, atol=1e-9)

    def test_gradient(self, name):
        loss, y, raw = draw(name)
        _, gradient = loss.terms(y, raw)
        for k in range(raw.shape[-1]):
            step = np.zeros(raw.shape[-1])
            step[k] = 1e-5
            slope = (loss.terms(y, raw + step)[0] - loss.terms(y, raw - step)[0])[..., 0] / 2e-5
            np.testing.assert_allclose(gradient[..., k], slope, rtol=1e-6, atol=1e-7)

    def test_extremes_are_finite(self, name):
        loss = LIKELIHOODS[name]()
        corners = np.array(np.meshgrid(*[[-50.0, 0.0, 50.0]] * loss.n_raw(1))).reshape(loss.n_raw(1), -1).T
        for y in (0.0, 1.0, 1e6):
            for dtype in ("float32", "float64"):
                raw = corners.astype(dtype)
                value, gradient = loss.terms(np.full((len(raw), 1), y, dtype), raw)
                assert np.isfinite(value).all() and np.isfinite(gradient).all()
                assert gradient.dtype == dtype and gradient.shape == raw.shape
        assert np.isfinite(loss.mean(corners)).all()
        assert np.isfinite(loss.sample(corners, np.random.default_rng(0))).all()
        assert np.isfinite(loss.quantile(corners, [0.1, 0.9])).all()

    def test_quantiles_mean_and_median(self, name):
        loss, _, raw = draw(name)
        distribution = reference(name, raw[..., None, :])
        levels = [0.05, 0.5, 0.9]
        quantiles = loss.quantile(raw, levels)
        assert quantiles.shape == (40, 3, 3)
        np.testing.assert_allclose(quantiles, distribution.ppf(levels), rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(loss.mean(raw), reference(name, raw).mean())
        np.testing.assert_array_equal(loss.predict(raw), quantiles[..., 1:2])
        with pytest.raises(ValueError, match="levels was"):
            loss.quantile(raw, [0.0, 0.5])

    def test_samples(self, name):
        loss = LIKELIHOODS[name]()
        raw = np.broadcast_to(np.array([1.2, 0.7, 2.0])[: loss.n_raw(1)], (20000, loss.n_raw(1)))
        samples = loss.sample(raw, np.random.default_rng(0))
        assert samples.shape == (20000,) and samples.dtype == np.float64
        distribution = reference(name, raw[0])
        assert abs(samples.mean() - distribution.mean()) < 5 * distribution.std() / np.sqrt(20000)
        assert abs((samples <= distribution.ppf(0.9)).mean() - distribution.cdf(distribution.ppf(0.9))) < 0.01

    def test_is_a_loss_with_weights(self, name):
        loss, y, raw = draw(name, dtype="float32")
        weight = np.random.default_rng(1).random(y.shape[:2]).astype("float32")
        value, gradient = loss(y, raw, weight)
        terms, slopes = loss.terms(y, raw)
        assert value == pytest.approx((terms[..., 0] * weight).sum())
        np.testing.assert_allclose(gradient, slopes * weight[..., None], rtol=1e-6)
        assert loss(y, raw)[0] == pytest.approx(terms.mean())
        assert loss(y, raw)[1].dtype == np.float32


def test_numbers_of_parameters():
    assert [Gaussian().n_raw(1), StudentT().n_raw(1), NegativeBinomial().n_raw(3)] == [2, 3, 6]


@pytest.mark.parametrize("bad", [-1.0, 1.5])
def test_counts_are_checked(bad):
    loss = NegativeBinomial()
    loss.check(np.array([0.0, 3.0, np.nan]))
    with pytest.raises(ValueError, match=f"y had the value {bad}; loss='negative_binomial' expects counts"):
        loss.check(np.array([0.0, bad]))


def test_the_clipped_negative_binomial_finds_back():
    loss = NegativeBinomial()
    raw = np.array([[50.0, 0.0], [-50.0, 0.0]])
    gradient = loss.terms(np.array([[3.0], [3.0]]), raw)[1]
    assert gradient[0, 0] > 0 and gradient[1, 0] < 0
    stuck = loss.terms(np.array([[0.0]]), np.array([[-50.0, 0.0]]))[1]
    assert stuck[0, 0] == 0


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_descent_finds_the_parameters(name):
    loss = LIKELIHOODS[name]()
    truth = np.array([1.0, 0.5, 1.0])[: loss.n_raw(1)]
    y = loss.sample(np.broadcast_to(truth, (20000, len(truth))), np.random.default_rng(0))[:, None]
    raw = np.zeros(len(truth))
    for _ in range(300):
        gradient = loss(y, np.broadcast_to(raw, (len(y), len(raw))).copy())[1].sum(axis=0)
        raw -= 0.5 * gradient / max(1, np.abs(gradient).max())
    np.testing.assert_allclose(raw[:2], truth[:2], atol=0.15)
