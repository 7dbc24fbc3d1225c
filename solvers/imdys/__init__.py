"""ImDyS: ground forces learned from markers, then exact inverse dynamics."""
