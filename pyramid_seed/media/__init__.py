"""Frames as files: video, images, contact sheets."""
