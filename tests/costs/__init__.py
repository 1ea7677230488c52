"""Tests of the cost model: closed form, trees, integer planner, rates and times of plans."""
