"""Frames as files: video, pictures, contact sheets."""
