"""The SMPL family of bodies: files of motions and body models, the 24-joint skeleton, and motion on it."""
