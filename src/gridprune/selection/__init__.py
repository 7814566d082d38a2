"""From encoded images to kept tokens: cues, decisions, embeddings."""
