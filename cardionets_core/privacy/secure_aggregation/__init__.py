"""Secure aggregation: the server learns the sum of the updates and none of them.

Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning" (CCS),
figure 4: pairwise masks that cancel in the sum, a mask of each site's own, and secret shares of
both so that sites may drop out. docs/secure_aggregation.md says what it hides and what not.
"""
