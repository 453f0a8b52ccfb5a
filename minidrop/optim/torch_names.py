"""PyTorch's names of optimizers and schedulers that have another one here: each with what to write."""

HINTS = {
    "lr_scheduler": "md.optim.schedulers", "RMSprop": "md.optim.RMSProp", "Adagrad": "md.optim.AdaGrad",
    "Adadelta": "md.optim.AdaDelta", "swa_utils": "md.optim.EMA", "LBFGS": "md.optim.SGD with momentum",
    **dict.fromkeys(("clip_grad_norm_",), "md.optim.clip_grad_norm(params, most)"),
    **dict.fromkeys(("clip_grad_value", "clip_grad_value_"), "p.grad = p.grad.clip(-most, most) of each p"),
}

SCHEDULERS = {
    "StepLR": "schedulers.step(optimizer, stepsize, gamma)",
    "MultiStepLR": "schedulers.multistep(optimizer, stepvalues, gamma)",
    "ExponentialLR": "schedulers.exp(optimizer, gamma)",
    "PolynomialLR": "schedulers.poly(optimizer, max_iter)",
    "CosineAnnealingLR": "schedulers.cosine(optimizer, max_iter, min_lr)",
    "CosineAnnealingWarmRestarts": "schedulers.cosine, and scheduler.seek(0) for each restart",
    "OneCycleLR": "schedulers.onecycle(optimizer, max_lr, max_iter)",
    "CyclicLR": "schedulers.onecycle(optimizer, max_lr, max_iter)",
    "ConstantLR": "schedulers.fixed(optimizer)", "LinearLR": "warmup_iter=... of a scheduler",
    **dict.fromkeys(("SequentialLR", "ChainedScheduler"), "warmup_iter=..., or one after the other"),
    **dict.fromkeys(("LambdaLR", "MultiplicativeLR"), "optimizer.lr = ... before each step"),
    "ReduceLROnPlateau": "optimizer.lr = optimizer.lr / 10 where a loss no longer falls",
}

SCHEDULER = {       # attributes of a scheduler
    **dict.fromkeys(("get_last_lr", "get_lr"), "rates(scheduler.iteration)"), "last_epoch": "iteration",
    "base_lrs": "rates(0)", "optimizer": "groups",
}
OPTIMIZER = {"state": "param_groups[i].history"}
