"""A training step captured once as a CUDA graph and replayed: one launch in place of a thousand.

A GAN's step on small batches is over a thousand small kernels, and a fast GPU spends most of it
waiting for Python to ask for the next one. A graph asks for all of them at once.
"""

import warnings

import torch

WARM_UP = 8  # steps run as they are first: optimisers make their moments, cuDNN chooses kernels


class Replayed:
    """``function(way, accelerator, *tensors) -> dict of 0-d tensors``, as a graph of each ``way``.

    The function has to do the same for equal ``way``: no branch on a value that is on the GPU, none
    read back, random numbers from the GPU's own generator. It takes its tensors from, and leaves
    what it changes in, memory that stays where it is; ``optimizers`` are told. A learning rate is
    part of a graph: a changed one is captured anew. Where a capture fails (an operation that cannot
    be), a warning says so and the steps go on as they are.
    """

    def __init__(self, function, optimizers):
        self.function, self.optimizers = function, list(optimizers)
        self.graphs, self.ran, self.gave_up = {}, {}, False
        self.stream = torch.cuda.Stream()

    def __call__(self, way, accelerator, *tensors) -> dict[str, torch.Tensor]:
        rates = tuple(group["lr"] for o in self.optimizers for group in o.param_groups)
        kind = (way, *((part.shape, part.dtype) for part in tensors))
        key = (rates, *kind)
        self.ran[kind] = self.ran.get(kind, 0) + 1
        if key not in self.graphs and self.ran[kind] > WARM_UP and not self.gave_up:
            self.graphs = {kept: made for kept, made in self.graphs.items() if kept[0] == rates}
            self._capture(key, way, accelerator, tensors)
        if key in self.graphs:
            graph, given, names, values = self.graphs[key]
            for mine, new in zip(given, tensors):
                mine.copy_(new)
            graph.replay()
            return dict(zip(names, values.clone()))
        # on the stream that captures, so that what autograd keeps of a weight belongs to it
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            record = self.function(way, accelerator, *tensors)
        torch.cuda.current_stream().wait_stream(self.stream)
        return record

    def _capture(self, key, way, accelerator, tensors) -> None:
        graph, given = torch.cuda.CUDAGraph(), [part.clone() for part in tensors]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = True
        pool = next((kept.pool() for kept, *_ in self.graphs.values()), None)
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                record = self.function(way, accelerator, *given)
                values = torch.stack([value.double() for value in record.values()])
        except RuntimeError as error:
            self.gave_up = True
            warnings.warn(f"No CUDA graph of this step ({str(error).splitlines()[0]}): it runs as "
                          "it is, which is slower on a fast GPU.", stacklevel=3)  # fmt: skip
            return
        self.graphs[key] = graph, given, list(record), values


def learn_or_replay(method, way, accelerator, *tensors) -> dict[str, torch.Tensor]:
    """``method.learn(way, accelerator, *tensors)``; on a GPU of its own as ``method.replayed``."""
    if not tensors[0].is_cuda or accelerator.num_processes > 1:
        return method.learn(way, accelerator, *tensors)
    if method.replayed is None:
        method.replayed = Replayed(method.learn, method.optimizers.values())
    return method.replayed(way, accelerator, *tensors)
