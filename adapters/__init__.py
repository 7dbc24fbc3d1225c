"""The doors: OpenSim models and objects, marker, motion and force files; into the common representation and back out."""
