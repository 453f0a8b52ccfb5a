"""PyTorch's names of datasets and samplers that have another one here: each with what to write."""

HINTS = {
    **dict.fromkeys(("TensorDataset", "StackDataset"), "md.data.ArrayDataset(x, y)"),
    **dict.fromkeys(("ConcatDataset", "ChainDataset"), "a list of the records, [*first, *second]"),
    **dict.fromkeys(("Sampler", "SequentialSampler", "SubsetRandomSampler", "BatchSampler"),
                    "md.data.Subset(dataset, indices), in this order"),
    "RandomSampler": "md.data.DataLoader(dataset, 32, shuffle=True, seed=0)",
    "WeightedRandomSampler": "md.data.Subset(dataset, rng.choice(len(dataset), size, p=weights))",
    "DistributedSampler": "md.Solver.of(..., communicator=world()) (docs/how_to/several_machines.md)",
    "default_collate": "collate=None, the default of md.data.DataLoader",
    "get_worker_info": "augment=function(rng, *arrays) of md.data.DataLoader, whose numbers follow the batch",
}
