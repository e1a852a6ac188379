"""Scaling of whole training steps, measured on real ranks beside what was planned and peers."""
