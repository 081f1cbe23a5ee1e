"""What each command of `ctr` computes, and how its result is printed."""
