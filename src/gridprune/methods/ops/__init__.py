"""What several methods share: similarities, greedy picks, neighbours, cells, signs."""
