"""What happens around a generation: files, manifests, batches."""
