"""What the papers report whose methods are reproduced, and others of the same nets."""

# Song and Jiang (arXiv 1805.08939), after 60000 iterations of Caffe: (rate, net): method -> (accuracy in %,
# conventional and with it; speed-up).
MNIST = {
    (0.5, "1024x64"): {"ROW": (98.39, 97.87, 1.18), "TILE": (98.32, 97.78, 1.12)},
    (0.5, "1024x1024"): {"ROW": (98.50, 98.01, 1.19), "TILE": (98.26, 98.02, 1.19)},
    (0.5, "2048x2048"): {"ROW": (98.44, 97.58, 1.45), "TILE": (98.29, 98.08, 1.54)},
    (0.5, "4096x4096"): {"ROW": (98.37, 98.00, 1.48), "TILE": (98.26, 98.07, 1.62)},
    (0.7, "1024x64"): {"ROW": (98.19, 97.80, 1.27), "TILE": (98.30, 97.51, 1.19)},
    (0.7, "1024x1024"): {"ROW": (98.33, 98.03, 1.45), "TILE": (98.26, 97.76, 1.22)},
    (0.7, "2048x2048"): {"ROW": (98.42, 97.82, 1.77), "TILE": (98.23, 97.81, 1.60)},
    (0.7, "4096x4096"): {"ROW": (98.48, 98.02, 1.95), "TILE": (98.29, 97.58, 2.16)},
}
LANGUAGE_MODELS = {     # (net, rate) -> speed-up of ROW; of TILE it is the same within 0.04
    ("caption_lm_2", 0.3): 1.16, ("caption_lm_2", 0.5): 1.23, ("caption_lm_2", 0.7): 1.31,
    ("caption_lm_3", 0.3): 1.18, ("caption_lm_3", 0.5): 1.43, ("caption_lm_3", 0.7): 1.49,
}

# What Lo (2024) reports of SparseDrop, on an RTX 2060 in 16-bit numbers: task -> method -> (best rate,
# accuracy in % or, of gpt, loss; minutes to it), all on records that are left out of the training set.
SPARSEDROP = {
    "mlp": {"none": (0, 96.96, 1.94), "conventional": (0.5, 97.82, 2.78), "BLOCK": (0.3, 97.61, 3.18)},
    "vit_fashion": {"none": (0, 85.69, 20.2), "conventional": (0.5, 86.84, 38.1),
                    "BLOCK": (0.2, 87.04, 22.6)},
    "vit_cifar10": {"none": (0, 48.71, 12.3), "conventional": (0.4, 53.05, 24.7),
                    "BLOCK": (0.4, 56.79, 45.1)},
    "gpt": {"none": (0, 1.643, 6.5), "conventional": (0.6, 1.448, 46.8), "BLOCK": (0.5, 1.430, 42.6)},
}

# Sarma et al. (Structured in Space, Randomized in Time, arXiv 2106.12089): how many times faster trainings of
# three tasks ran, least and most, at equal metrics. Their tables by task and method are not reproduced here.
STRUCTURED = (1.23, 1.64)
# What others report of nets like these with ordinary dropout: model -> (value, who).
CONVENTIONAL = {
    "ptb_medium": (82.7, "Zaremba et al., arXiv 1409.2329"),
    "nmt_multi30k": (28.3, "public recipes of a GRU with attention"),
    "ner_conll2003": (83.6, "Lample et al., arXiv 1603.01360, without pretrained embeddings"),
}
