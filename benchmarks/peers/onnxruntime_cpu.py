"""onnxruntime's CPU provider, on float32 models of one node."""


def prepare(family, case, threads):
    import onnxruntime as ort

    model = family.onnx(case) if family.onnx else None
    if model is None:
        raise NotImplementedError(f"no {case.kernel} in {case.dtype} in onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = family.onnx_inputs(case, [each.make(seed) for seed, each in enumerate(family.inputs(case))])
    feeds = dict(zip([each.name for each in session.get_inputs()], arrays, strict=True))
    return lambda: session.run(None, feeds)


def version(threads):
    import onnxruntime as ort

    return f"onnxruntime {ort.__version__}"
