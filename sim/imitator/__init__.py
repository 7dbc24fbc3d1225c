"""What makes a simulated person move as somebody did: references, trackers, policies, and how well they do."""
