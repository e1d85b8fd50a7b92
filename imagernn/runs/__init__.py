"""What a training run of any model needs: its loop, state, checkpoints, signals and status."""
