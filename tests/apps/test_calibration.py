"""Calibration: accuracy, likelihood, error and bins against values by hand, and the entropy of rows."""

from math import log

import numpy as np
import pytest

from minidrop.apps.calibration import Calibration, entropy


class TestCalibration:
    def test_by_hand(self):
        found = Calibration(bins=5)
        found.add(np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 0]))
        found.add(np.array([[0.15, 0.85], [0.45, 0.55]]), np.array([1, 1]))
        assert found.accuracy == 3 / 4
        assert found.negative_log_likelihood == pytest.approx(-log(0.9 * 0.3 * 0.85 * 0.55) / 4, rel=1e-14)
        # bin (0.4, 0.6]: one of one right, confidence 0.55; (0.6, 0.8]: none of one, 0.7; (0.8, 1]: two of
        # two, 0.875
        assert found.calibration_error == pytest.approx(0.25 * 0.45 + 0.25 * 0.7 + 0.5 * 0.125, rel=1e-14)
        bins = found.reliability()
        assert [one["count"] for one in bins] == [0, 0, 1, 1, 2]
        assert (bins[4]["from"], bins[4]["to"], bins[4]["accuracy"]) == (0.8, 1.0, 1.0)
        assert bins[4]["confidence"] == pytest.approx(0.875)
        assert bins[3]["accuracy"] == 0 and np.isnan(bins[0]["accuracy"])

    def test_right_and_wrong_in_one_bin_cancel(self):
        found = Calibration()
        found.add(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]))
        assert found.calibration_error == 0 and found.accuracy == 0.75
        assert len(found.reliability()) == 15

    def test_edges_belong_to_the_bin_below(self):
        found = Calibration(bins=5)
        found.add(np.array([[0.6, 0.4], [1.0, 0.0], [np.nextafter(0.6, 1), 0.4]]), np.array([0, 0, 0]))
        assert found.count.tolist() == [0, 0, 1, 1, 1]

    def test_extremes(self):
        found = Calibration()
        assert np.isnan([found.accuracy, found.negative_log_likelihood, found.calibration_error]).all()
        found.add(np.array([[1.0, 0.0]]), np.array([1]))
        assert found.accuracy == 0 and found.calibration_error == 1
        assert found.negative_log_likelihood == pytest.approx(-log(np.finfo(np.float64).tiny))
        found = Calibration()
        found.add(np.full((1, 2), np.nan), np.array([0]))
        assert found.accuracy == 0 and found.count.sum() == 1

    def test_a_tie_counts_against_the_prediction(self):
        found = Calibration()
        found.add(np.array([[0.5, 0.5], [0.4, 0.6]]), np.array([0, 1]))
        assert found.accuracy == 0.5

    def test_entropy(self):
        np.testing.assert_allclose(entropy(np.array([[0.5, 0.5, 0], [1, 0, 0], [0.25, 0.25, 0.5]])),
                                   [log(2), 0, 1.5 * log(2)], rtol=1e-15)
