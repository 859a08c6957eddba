"""torch, as its users call it."""


def prepare(family, case, threads, compiled=False):
    import torch

    torch.set_num_threads(threads)
    if family.torch is None:
        raise NotImplementedError(f"no {case.kernel} in torch")
    inputs = [
        torch.from_numpy(each.make(seed)).to(torch.int64 if each.high else getattr(torch, each.dtype or case.dtype))
        for seed, each in enumerate(family.inputs(case))
    ]
    program = torch.compile(family.torch(case)) if compiled else family.torch(case)
    return lambda: program(*inputs)


def version(threads):
    import torch

    return f"torch {torch.__version__}"
