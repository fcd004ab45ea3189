"""What the training scripts share: options, data, augmentation, recipes, the loop, its records."""
