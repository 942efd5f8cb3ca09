"""An archive of images scored by a bundle: listed once, predicted shard by shard, each image exactly once."""
