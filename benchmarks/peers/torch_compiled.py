"""torch.compile, where it builds."""

from peers import torch_eager


def prepare(family, case, threads):
    return torch_eager.prepare(family, case, threads, compiled=True)


def version(threads):
    return f"{torch_eager.version(threads)}, compiled"
