"""Speaks as much of Isaac Gym's tensor interface as the backend uses, with MuJoCo behind it; it says so on standard output, as Isaac Gym does."""

print("Importing module 'gym_standin'")
