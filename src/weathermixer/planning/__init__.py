"""What a step costs, and which mesh to choose, known before anything runs."""
