"""What a plan costs: closed form and integer planner, rates of machines, times of plans."""
