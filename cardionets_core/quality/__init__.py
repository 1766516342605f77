"""How good a recording is: grades per lead, limb-lead reversals, intervals."""
