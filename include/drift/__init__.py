"""How far features and scores moved from training and from the partitions before."""
