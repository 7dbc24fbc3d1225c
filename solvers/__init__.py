"""The answers: classic inverse dynamics, plate-free physics, and learned solvers."""
