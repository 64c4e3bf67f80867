"""Writes the golden vectors: one JSON file per layer kind, beside this script.

    pip install -r tests/vectors/requirements.txt
    python tests/vectors/generate.py [kind ...]
    python tests/vectors/generate.py --optimized [kind ...]   # compare only

Every case is a random int8 layer whose output TensorFlow Lite's reference
kernels computed. The random numbers depend on the kind's seed alone, so that a
second run writes the same bytes.
"""
import json
import os
import pathlib
import sys
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import check
import tflite
from tflite import ACTIVATION, INT8, INT32, PADDING, Op, schema

HERE = pathlib.Path(__file__).resolve().parent
CASES = 260
MAX_FILE_BYTES = 900_000
SEEDS = {
    "conv2d": 101,
    "depthwise_conv2d": 102,
    "dense": 103,
    "max_pool2d": 104,
    "avg_pool2d": 105,
    "add": 106,
    "softmax": 107,
}

# What makes a case special. The plain ones come up most often; `MODES` is
# walked in a circle, so that each of the others appears in a fixed share.
MODES = [
    "plain", "tie", "near_tie", "gain", "plain", "saturate", "plain", "large_bias",
    "plain", "tie", "near_tie", "extreme_zero_points", "plain", "flat_input", "plain",
    "tie", "gain", "zero_weights", "plain", "relu6_tie", "near_tie", "flush", "plain",
]  # fmt: skip

# Shapes that a random choice would seldom hit, tried first:
# (height, width, channels), kernel, stride, padding.
EDGE_SHAPES = [
    ((1, 1, 1), (1, 1), (1, 1), "valid"),
    ((1, 1, 10), (1, 1), (1, 1), "same"),
    ((1, 1, 1), (5, 5), (1, 1), "same"),
    ((1, 1, 3), (3, 3), (2, 2), "same"),
    ((2, 2, 2), (5, 5), (1, 1), "same"),
    ((2, 3, 2), (5, 4), (2, 1), "same"),
    ((3, 1, 2), (2, 5), (3, 2), "same"),
    ((3, 3, 4), (3, 3), (1, 1), "valid"),
    ((5, 5, 1), (5, 5), (1, 1), "valid"),
    ((1, 9, 3), (1, 3), (1, 2), "valid"),
    ((9, 1, 3), (3, 1), (2, 1), "same"),
    ((9, 9, 1), (1, 1), (3, 3), "same"),
    ((8, 8, 1), (2, 2), (3, 3), "same"),
    ((7, 5, 2), (4, 2), (3, 1), "valid"),
    ((4, 6, 2), (4, 2), (1, 3), "same"),
    ((6, 6, 2), (2, 4), (2, 2), "same"),
    ((2, 2, 24), (1, 1), (1, 1), "valid"),
    ((12, 12, 3), (3, 3), (2, 2), "same"),
    ((16, 16, 1), (5, 5), (2, 2), "same"),
    ((3, 3, 16), (3, 3), (1, 1), "same"),
]


# --------------------------------------------------------------- random choices


def f32(x):
    return float(np.float32(x))


def log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def power_of_two(x):
    """The power of two nearest to x, in the logarithm."""
    return 2.0 ** round(np.log2(x))


def pick(rng, items):
    return items[int(rng.integers(len(items)))]


def random_int8(rng, shape, low=-128, high=127):
    return rng.integers(low, high + 1, size=shape).astype(np.int8)


def random_layer(rng, index):
    """Input shape, kernel, stride and padding."""
    if index < len(EDGE_SHAPES):
        shape, kernel, stride, padding = EDGE_SHAPES[index]
    else:
        shape = (int(rng.integers(1, 10)), int(rng.integers(1, 10)), random_channels(rng))
        kernel = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        fits = kernel[0] <= shape[0] and kernel[1] <= shape[1]
        padding = pick(rng, ["same", "valid"]) if fits else "same"
    layer = {"kernel": list(kernel), "stride": list(stride), "padding": padding}
    layer["activation"] = activation_of(index)
    return shape, layer


def random_channels(rng):
    return int(pick(rng, [1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 10]))


def activation_of(index):
    """MODES has an odd length, so every mode meets every activation."""
    if MODES[index % len(MODES)] == "relu6_tie":
        return "relu6"
    return ["none", "relu", "none", "relu6"][index % 4]


def input_zero_point(rng, mode):
    if mode == "extreme_zero_points":
        return pick(rng, [-128, 0, 127])
    return int(pick(rng, [-128, 0, 127, *rng.integers(-128, 128, size=5)]))


def output_zero_point(rng, mode, activation):
    """Mostly where the output has room: low under a rectifier, else central."""
    if mode == "extreme_zero_points":
        return pick(rng, [-128, 0, 127])
    if rng.random() < 0.1:
        return int(rng.integers(-128, 128))
    if rng.random() < 0.3:  # where converters put it: no negative values, or none special
        return 0 if activation == "none" else -128
    low, high = (-60, 60) if activation == "none" else (-128, -60)
    return int(rng.integers(low, high + 1))


def output_scale(rng, mode, activation):
    if mode == "relu6_tie":  # 6 / scale falls on or next to a half
        return f32(6.0 / (int(rng.integers(20, 120)) + 0.5))
    if activation == "relu6":  # between a clamp at 6 that bites and one past 127
        scale = log_uniform(rng, 6 / 300, 6 / 60)
    else:
        scale = log_uniform(rng, 1e-4, 1.0)
    return f32(power_of_two(scale) if mode == "tie" else scale)


def random_input(rng, mode, shape, zero_point):
    if mode == "flat_input":
        return np.full(shape, rng.integers(-128, 128), np.int8)
    if mode in ("gain", "tie"):  # small accumulators, so that a gain above 1 fits
        # and the multipliers of a tie are 1/2, 1/4 ..: exact halves are frequent
        reach = 9 if mode == "gain" else 50
        values = zero_point + rng.integers(-reach, reach + 1, size=shape)
        return np.clip(values, -128, 127).astype(np.int8)
    return random_int8(rng, shape)


def random_weights(rng, mode, shape):
    if mode == "zero_weights":
        return np.zeros(shape, np.int8)
    if mode == "gain":
        return random_int8(rng, shape, -2, 2)
    if mode == "tie":
        return random_int8(rng, shape, -4, 4)
    return random_int8(rng, shape, -127, 127)


def random_bias(rng, mode, acc):
    """Mostly a bias that centres each channel, so that outputs are informative."""
    channels = acc.shape[-1]
    if mode in ("large_bias", "flush"):
        return rng.integers(-(2**29), 2**29 + 1, size=channels)
    flat = acc.reshape(-1, channels)
    spread = np.maximum(flat.std(axis=0), np.abs(flat).max() * 0.3) + 1
    if mode == "zero_weights":
        spread = spread * 1000
    noise = rng.normal(0, 0.4, size=channels) * spread
    return np.round(noise - flat.mean(axis=0) * rng.uniform(0.5, 1.0)).astype(np.int64)


def near_tie_bias(rng, acc, multipliers, activation):
    """A bias that brings one random element of every channel as near to a
    half-way point as an integer can."""
    channels = acc.shape[-1]
    flat = acc.reshape(-1, channels)
    low, high = (-60, 60) if activation == "none" else (0, 110)
    halves = rng.integers(low, high, size=channels) + 0.5
    element = flat[int(rng.integers(len(flat)))]
    return np.round(halves / multipliers).astype(np.int64) - element


def random_multipliers(rng, mode, total):
    """input * weight / output scale of every channel. `total` is the accumulator
    with its bias: its largest magnitude is brought to about the output's range."""
    channels = total.shape[-1]
    if mode == "flush":  # below 2^-32 the fixed-point multiplier becomes zero
        return np.array([2.0 ** rng.uniform(-38, -26) for _ in range(channels)])
    reach = log_uniform(rng, 8, 40) if mode == "saturate" else rng.uniform(0.6, 1.7)
    largest = max(1.0, float(np.abs(total).max()))
    if mode == "near_tie":  # small multipliers let a bias come close to a half
        largest = 2.0 ** rng.uniform(18, 26)
    ratios = rng.uniform(0.3, 1.0, size=channels)
    if mode == "tie":
        ratios = np.array([power_of_two(r) for r in ratios])
        most = 2.0 ** -rng.integers(1, 4)
        return min(most, power_of_two(127 * reach / largest)) * ratios
    return 127 * reach / largest * ratios


def scales_of(rng, mode, multipliers, s_out):
    """Splits each multiplier into an input scale and a weight scale."""
    s_in = log_uniform(rng, 1e-3, 0.5)
    s_in = f32(power_of_two(s_in) if mode == "tie" else s_in)
    return s_in, [f32(m * s_out / s_in) for m in multipliers]


# ----------------------------------------------------------------------- cases


def quantized(shape, scale, zero_point, data=None):
    entry = {"shape": list(shape), "scale": scale, "zero_point": int(zero_point)}
    if data is not None:
        entry["data"] = data.tobytes().hex()
    return entry


def weighted_case(rng, kind, index, shape, weight_shape, layer, out_shape, per_tensor=False):
    """A layer with weights and bias; its scales follow from its accumulators."""
    mode = MODES[index % len(MODES)]
    activation = layer["activation"]
    z_in = input_zero_point(rng, mode)
    data = random_input(rng, mode, shape, z_in)
    weights = random_weights(rng, mode, weight_shape)
    image = data.astype(np.int64) - z_in
    acc = check.ACCUMULATE[kind](image, weights.astype(np.int64), layer)
    bias = random_bias(rng, mode, acc)
    s_out = output_scale(rng, mode, activation)
    multipliers = random_multipliers(rng, mode, acc + bias)
    s_in, s_weights = scales_of(rng, mode, multipliers[:1] if per_tensor else multipliers, s_out)
    if mode == "near_tie":
        bias = near_tie_bias(rng, acc, s_in * np.array(s_weights) / s_out, activation)
    return {
        "input": quantized(shape, s_in, z_in, data),
        "weights": {"scales": s_weights, "data": weights.tobytes().hex()},
        "bias": [int(b) for b in bias],
        "layer": layer,
        "output": quantized(out_shape, s_out, output_zero_point(rng, mode, activation)),
    }


def conv2d_case(rng, index):
    shape, layer = random_layer(rng, index)
    kh, kw = layer["kernel"]
    oh, ow = check.output_size(layer, *shape[:2])
    # The file has a size limit: fewer filters where each is large.
    most = max(1, min(16, 500 // (kh * kw * shape[2]), 400 // (oh * ow)))
    layer["filters"] = int(rng.integers(1, most + 1))
    weight_shape = (layer["filters"], kh, kw, shape[2])
    return weighted_case(
        rng, "conv2d", index, shape, weight_shape, layer, (oh, ow, layer["filters"])
    )


def depthwise_case(rng, index):
    shape, layer = random_layer(rng, index)
    layer["depth_multiplier"] = 1 if rng.random() < 0.6 else int(rng.integers(2, 5))
    oh, ow = check.output_size(layer, *shape[:2])
    out = shape[2] * layer["depth_multiplier"]
    return weighted_case(
        rng, "depthwise_conv2d", index, shape, (1, *layer["kernel"], out), layer, (oh, ow, out)
    )


def dense_case(rng, index):
    inputs = pick(rng, [1, 2, 3, int(rng.integers(4, 20)), int(rng.integers(20, 150))])
    units = int(rng.integers(1, max(2, min(40, 1400 // inputs)) + 1))
    layer = {"activation": activation_of(index), "units": units}
    return weighted_case(
        rng, "dense", index, (1, 1, inputs), (units, inputs), layer, (1, 1, units),
        per_tensor=index % 3 == 0,
    )  # fmt: skip


def pool_case(rng, index):
    """Equal quantisation on both sides, as the format demands."""
    shape, layer = random_layer(rng, index)
    mode = MODES[index % len(MODES)]
    scale = output_scale(rng, mode, layer["activation"])
    zero_point = output_zero_point(rng, mode, layer["activation"])
    data = random_input(rng, mode, shape, zero_point)
    if layer["activation"] == "relu6" and mode != "flat_input":  # in and around 0 .. 6
        high = min(127, zero_point + round(6.6 / scale))
        low = zero_point + round(5 / scale) if mode == "relu6_tie" else zero_point - 20
        data = random_int8(rng, shape, int(np.clip(low, -128, 127)), high)
    oh, ow = check.output_size(layer, *shape[:2])
    return {
        "input": quantized(shape, scale, zero_point, data.astype(np.int8)),
        "layer": layer,
        "output": quantized((oh, ow, shape[2]), scale, zero_point),
    }


def add_case(rng, index):
    mode = MODES[index % len(MODES)]
    shape = (int(rng.integers(1, 10)), int(rng.integers(1, 10)), random_channels(rng))
    if index < len(EDGE_SHAPES):
        shape = EDGE_SHAPES[index][0]
    activation = activation_of(index)
    z1, z2 = input_zero_point(rng, mode), input_zero_point(rng, mode)
    a, b = random_input(rng, mode, shape, z1), random_input(rng, mode, shape, z2)
    s_out = output_scale(rng, mode, activation)
    # Up to 2^-8 apart; `flush` takes one so far below that its share vanishes.
    ratio = 2.0 ** (-rng.uniform(28, 40) if mode == "flush" else -rng.uniform(0, 8))
    pair = [1.0, ratio] if rng.random() < 0.5 else [ratio, 1.0]
    if rng.random() < 0.25:
        pair = [1.0, 1.0]
    real = pair[0] * (a.astype(float) - z1) + pair[1] * (b.astype(float) - z2)
    reach = log_uniform(rng, 8, 40) if mode == "saturate" else rng.uniform(0.6, 1.7)
    unit = 127 * reach / max(1.0, np.abs(real).max()) * s_out
    s1, s2 = (f32(unit * p) for p in pair)
    if mode == "tie":
        s1, s2 = (power_of_two(s) for s in (s1, s2))
    z_out = output_zero_point(rng, mode, activation)
    if activation == "none" and mode != "extreme_zero_points":  # centre the sum
        z_out = int(np.clip(z_out - np.mean(real) * unit / s_out, -128, 127))
    case = {
        "input": quantized(shape, s1, z1, a),
        "input2": quantized(shape, s2, z2, b),
        "layer": {"activation": activation},
        "output": quantized(shape, s_out, z_out),
    }
    return sharpened_add(rng, case) if mode == "near_tie" else case


def sharpened_add(rng, case):
    """Looks for a near-by output scale at which some sum lies so close to a half
    that fixed point and real arithmetic round it differently."""
    s1, s2, s_out = (case[k]["scale"] for k in ("input", "input2", "output"))
    a = check.tensor(case["input"]) - case["input"]["zero_point"]
    b = check.tensor(case["input2"]) - case["input2"]["zero_point"]
    sums = np.abs(s1 * a + s2 * b).reshape(-1)
    sums = sums[sums > s_out]  # more than one step, so that the scale stays near
    for value in sums[rng.permutation(len(sums))]:
        case["output"]["scale"] = f32(value / (value // s_out + 0.5))
        if (check.add("add", case) != check.add_float("add", case)).any():
            break
    return case


SOFTMAX_SCALES = [  # the extremes: near the smallest allowed, and past the cap at 32
    2.0**-25, 1e-6, 2.0**-10, 0.125, 0.25, 1.0, 4.0, 31.9, 32.0, 40.0, 300.0,
]  # fmt: skip


def near_tie_scale(rng, row, scale):
    """Near `scale`, the input scale at which one element's probability lies half
    way between two outputs. The softmax of f64 changes smoothly with the scale,
    so that bisection finds it."""
    element = int(rng.integers(row.size))

    def steps(s):
        e = np.exp(s * (row - row.max()))
        return 256 * e[element] / e.sum()

    low, high = scale / 2, scale * 2
    target = np.floor(steps(scale)) + 0.5
    if (steps(low) < target) == (steps(high) < target):
        return scale
    rising = steps(low) < target
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (steps(middle) < target) == rising else (low, middle)
    return f32(low)


def softmax_case(rng, index):
    classes = int(pick(rng, [1, 2, 2, 3, 4, 5, 6, 8, 10, 10, int(rng.integers(11, 60))]))
    classes = {20: 1001, 21: 200}.get(index, classes)
    rows = (1, 1)
    if classes <= 10 and rng.random() < 0.5:
        rows = (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    span = int(pick(rng, [255, 255, 255, 60, 60, 16, 2, 0]))
    low = int(rng.integers(-128, 128 - span))
    data = random_int8(rng, (*rows, classes), low, low + span)
    # A wide range of logits lets one class take everything; a narrow one says little.
    scale = f32(log_uniform(rng, 1.0, 10.0) / max(span, 8))
    if index < len(SOFTMAX_SCALES):
        scale = f32(SOFTMAX_SCALES[index])
    elif index % 7 == 3:
        scale = power_of_two(scale)
    elif index % 2 == 0:
        scale = near_tie_scale(rng, data[0, 0].astype(float), scale)
    zero_point = input_zero_point(rng, "plain")
    shape = data.shape
    return {
        "input": quantized(shape, scale, zero_point, data),
        "layer": {},
        "output": quantized(shape, 1 / 256, -128),
    }


CASE_MAKERS = {
    "conv2d": conv2d_case,
    "depthwise_conv2d": depthwise_case,
    "dense": dense_case,
    "max_pool2d": pool_case,
    "avg_pool2d": pool_case,
    "add": add_case,
    "softmax": softmax_case,
}


# ---------------------------------------------------------------------- models


def activation_tensor(builder, name, entry, shape):
    return builder.tensor(name, shape, INT8, [entry["scale"]], [entry["zero_point"]])


def weight_tensors(builder, case, shape, axis):
    """Symmetric weights, and a bias in input scale * weight scale."""
    scales = case["weights"]["scales"]
    zeros = [0] * len(scales)
    weights = check.int8_values(case["weights"]["data"]).astype(np.int8)
    bias = np.array(case["bias"], np.int32)
    bias_scales = [f32(np.float32(case["input"]["scale"]) * np.float32(s)) for s in scales]
    return [
        builder.tensor("weights", shape, INT8, scales, zeros, weights, axis),
        builder.tensor("bias", bias.shape, INT32, bias_scales, zeros, bias),
    ]


def window_options(options, layer):
    options.padding = PADDING[layer["padding"]]
    options.strideH, options.strideW = layer["stride"]
    options.fusedActivationFunction = ACTIVATION[layer["activation"]]
    return options


def conv2d_operator(builder, case):
    layer = case["layer"]
    shape = (layer["filters"], *layer["kernel"], case["input"]["shape"][2])
    options = window_options(schema.Conv2DOptionsT(), layer)
    options.dilationHFactor = options.dilationWFactor = 1
    weights = weight_tensors(builder, case, shape, axis=0)
    return Op.CONV_2D, 3, schema.BuiltinOptions.Conv2DOptions, options, weights


def depthwise_operator(builder, case):
    layer = case["layer"]
    shape = (1, *layer["kernel"], case["output"]["shape"][2])
    options = window_options(schema.DepthwiseConv2DOptionsT(), layer)
    options.depthMultiplier = layer["depth_multiplier"]
    options.dilationHFactor = options.dilationWFactor = 1
    weights = weight_tensors(builder, case, shape, axis=3)
    options_type = schema.BuiltinOptions.DepthwiseConv2DOptions
    return Op.DEPTHWISE_CONV_2D, 3, options_type, options, weights


def dense_operator(builder, case):
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = ACTIVATION[case["layer"]["activation"]]
    shape = (case["layer"]["units"], case["input"]["shape"][2])
    weights = weight_tensors(builder, case, shape, axis=0)
    options_type = schema.BuiltinOptions.FullyConnectedOptions
    return Op.FULLY_CONNECTED, 4, options_type, options, weights


def pool_operator(op):
    def make(builder, case):
        options = window_options(schema.Pool2DOptionsT(), case["layer"])
        options.filterHeight, options.filterWidth = case["layer"]["kernel"]
        return op, 2, schema.BuiltinOptions.Pool2DOptions, options, []

    return make


def add_operator(builder, case):
    options = schema.AddOptionsT()
    options.fusedActivationFunction = ACTIVATION[case["layer"]["activation"]]
    return Op.ADD, 2, schema.BuiltinOptions.AddOptions, options, []


def softmax_operator(builder, case):
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return Op.SOFTMAX, 2, schema.BuiltinOptions.SoftmaxOptions, options, []


OPERATORS = {
    "conv2d": conv2d_operator,
    "depthwise_conv2d": depthwise_operator,
    "dense": dense_operator,
    "max_pool2d": pool_operator(Op.MAX_POOL_2D),
    "avg_pool2d": pool_operator(Op.AVERAGE_POOL_2D),
    "add": add_operator,
    "softmax": softmax_operator,
}


def batched(kind, entry):
    """Batch 1. The dense operator wants [1, n] and the others [1, h, w, c]."""
    return (1, entry["shape"][2]) if kind == "dense" else (1, *entry["shape"])


def model_of(kind, case):
    builder = tflite.ModelBuilder()
    inputs = [
        activation_tensor(builder, name, case[name], batched(kind, case[name]))
        for name in ("input", "input2")
        if name in case
    ]
    op, version, options_type, options, constants = OPERATORS[kind](builder, case)
    output = activation_tensor(builder, "output", case["output"], batched(kind, case["output"]))
    return builder.build(
        op, version, options_type, options, inputs + constants, inputs, output
    )


def inputs_of(case):
    entries = [case[name] for name in ("input", "input2") if name in case]
    return [check.int8_values(e["data"]).astype(np.int8) for e in entries]


# ----------------------------------------------------------------------- files


def render(value):
    """Compact JSON. A scale is printed as the shortest decimal number that reads
    back as the same f32, whether it is parsed as f32 or as f64 and then rounded."""
    if isinstance(value, dict):
        return "{" + ",".join(f'"{k}":{render(v)}' for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(render, value)) + "]"
    if isinstance(value, float):
        text = str(np.float32(value))
        assert np.float32(text) == np.float32(float(text)) == value, text
        return text
    return json.dumps(value)


def file_text(kind, cases, litert_differs):
    header = {
        "kind": kind,
        "generator": "tests/vectors/generate.py",
        "tensorflow": metadata.version("tensorflow-cpu"),
        "kernels": "BUILTIN_REF",
        "ai_edge_litert": metadata.version("ai-edge-litert"),
        "ai_edge_litert_differing_bytes": litert_differs,
        "seed": SEEDS[kind],
    }
    lines = ",\n".join(render(case) for case in cases)
    return f'{render(header)[:-1]},"cases":[\n{lines}\n]}}\n'


def statistics(kind, cases):
    """How much the outputs say: an informative case has at least three output
    values (or is tiny) and under half of its bytes at -128 or 127."""
    outputs = [check.int8_values(c["output"]["data"]) for c in cases]
    every = np.concatenate(outputs)
    ends = np.isin(every, [-128, 127]).mean()
    informative = sum(
        len(set(o)) >= min(3, len(o)) and np.isin(o, [-128, 127]).mean() < 0.5
        for o in outputs
    )
    return (
        f"{len(cases)} cases, {len(every)} bytes, {len(set(every))} values, "
        f"{ends:.0%} at the ends, {informative} informative cases"
    )


def multiplier_statistics(kind, cases):
    """Channels whose multiplier is above 1, below 2^-20, or flushed to zero in
    fixed point, and outputs (before clamping) that are an exact half."""
    scales = [check.effective_scales(c, c["output"]["shape"][2]) for c in cases]
    every = np.concatenate(scales)
    exact = [check.accumulators(kind, c) * s for c, s in zip(cases, scales)]
    halves = sum(int((np.abs(x) % 1 == 0.5).sum()) for x in exact)
    flushed = sum(check.quantize_multiplier(float(s))[0] == 0 for s in every)
    return (
        f"    {len(every)} channels: {(every > 1).sum()} multipliers above 1, "
        f"{(every < 2**-20).sum()} below 2^-20, {flushed} flushed; {halves} exact halves"
    )


def compare_optimized(kind):
    """How far the optimised C++ kernels are from the vectors, for information."""
    differing = 0
    for case in check.load(kind):
        args = model_of(kind, case), inputs_of(case), "BUILTIN_WITHOUT_DEFAULT_DELEGATES"
        expected = check.int8_values(case["output"]["data"])
        differing += int((tflite.run_tensorflow(*args) != expected).sum())
    print(f"{kind}: optimised kernels differ in {differing} bytes")


def generate(kind):
    rng = np.random.default_rng(SEEDS[kind])
    cases, litert_differs = [], 0
    for index in range(CASES):
        case = CASE_MAKERS[kind](rng, index)
        model, inputs = model_of(kind, case), inputs_of(case)
        output = tflite.run_tensorflow(model, inputs)
        litert_differs += int((output != tflite.run_litert(model, inputs)).sum())
        case["output"]["data"] = output.tobytes().hex()
        cases.append(case)
    text = file_text(kind, cases, litert_differs)
    assert len(text) < MAX_FILE_BYTES, f"{kind}.json would have {len(text)} bytes"
    (HERE / f"{kind}.json").write_text(text)
    print(
        f"{kind}: {statistics(kind, cases)}, {len(text)} bytes of JSON, "
        f"LiteRT differs in {litert_differs} bytes",
        flush=True,
    )
    if "bias" in cases[0]:
        print(multiplier_statistics(kind, cases), flush=True)


if __name__ == "__main__":
    action = compare_optimized if "--optimized" in sys.argv else generate
    for name in [a for a in sys.argv[1:] if a in CASE_MAKERS] or CASE_MAKERS:
        action(name)
