"""The next embedded multimodal LLM: richer generated scenes and questions; its weights are made by ``training/``."""
