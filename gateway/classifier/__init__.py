# SPDX-License-Identifier: GPL-2.0-or-later
"""The trained spam classifier: features, model, training, evaluation. Serving needs NumPy alone."""
