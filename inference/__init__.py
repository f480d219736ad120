"""Writing text with a trained model: the engine, sampling, text streams, the server's worker. Knows nothing of training."""
