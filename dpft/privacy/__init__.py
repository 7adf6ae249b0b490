"""Differential privacy: accounting, calibration, ledger and mechanism. Independent of models and data."""
