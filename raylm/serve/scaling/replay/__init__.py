"""Replays requests against modelled replicas, under any scaling policy, without engines."""
