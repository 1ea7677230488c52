"""Rules, analyses, estimates and lowering: from what a program means to how it will run."""
