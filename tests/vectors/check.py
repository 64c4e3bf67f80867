"""The exact int8 arithmetic of TensorFlow Lite's reference kernels.

A small model of every operator in numpy, written from the rules below and not
from any framework. It recomputes every output of the golden vectors and counts
the bytes that differ; zero everywhere is what a correct implementation gets.

    python tests/vectors/check.py            # must print 0 for every kind
    python tests/vectors/check.py --rivals   # how many bytes a wrong rule misses

Only numpy is needed. All integers are int64 here, but every value named an
`int32` in a comment fits in one; `fits_i32` asserts it.
"""
import json
import math
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
I32_MIN, I32_MAX = -(2**31), 2**31 - 1


# ---------------------------------------------------------------- fixed point


def fits_i32(x):
    assert np.all((x >= I32_MIN) & (x <= I32_MAX)), "a value left the int32 range"
    return x


def quantize_multiplier(real):
    """Splits real = q * 2^(shift - 31) with 2^30 <= q < 2^31 (QuantizeMultiplier).

    `real` is an f64. The mantissa is rounded half away from zero.
    """
    if real == 0.0:
        return 0, 0
    mantissa, shift = math.frexp(real)  # mantissa in [0.5, 1)
    q = math.floor(mantissa * 2**31 + 0.5)  # exact: the product is below 2^31
    if q == 2**31:
        q //= 2
        shift += 1
    if shift < -31:  # every bit would be shifted out
        return 0, 0
    return q, shift


def saturating_rounding_doubling_high_mul(a, b):
    """(a * b) / 2^31 rounded to nearest, ties towards +infinity.

    gemmlowp adds a nudge that depends on the sign, and then divides with
    truncation towards zero, as C++ does. The one overflow is MIN * MIN.
    """
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    product = a * b
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    result = np.where(nudged >= 0, nudged >> 31, -((-nudged) >> 31))
    return np.where((a == b) & (a == I32_MIN), I32_MAX, result)


def rounding_divide_by_pot(x, exponent):
    """x / 2^exponent rounded to nearest, ties away from zero."""
    x = np.asarray(x, np.int64)
    mask = (1 << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + (remainder > threshold)


def multiply_by_quantized_multiplier(x, q, shift):
    """x * q * 2^(shift - 31), rounded twice: once at bit 31, once at the end."""
    left, right = max(shift, 0), max(-shift, 0)
    shifted = fits_i32(np.asarray(x, np.int64) << left)
    return rounding_divide_by_pot(
        saturating_rounding_doubling_high_mul(shifted, q), right
    )


def single_rounding_multiply(x, q, shift):
    """The rival rule (TFLITE_SINGLE_ROUNDING): one rounding, ties upwards."""
    total = 31 - shift
    return (np.asarray(x, np.int64) * q + (1 << (total - 1))) >> total


# ------------------------------------------------------------------- geometry


def axis_geometry(size, kernel, stride, padding):
    """Output length and leading padding of one spatial axis."""
    if padding == "valid":
        return (size - kernel) // stride + 1, 0
    out = (size + stride - 1) // stride
    total = max(0, (out - 1) * stride + kernel - size)
    return out, total // 2  # an odd element goes to the end


def windows(image, layer):
    """Yields (out_y, out_x, window, taps): the part of the kernel that lies
    inside the image, and the slices of the kernel that it stands for."""
    h, w, _ = image.shape
    (kh, kw), (sh, sw) = layer["kernel"], layer["stride"]
    oh, pad_y = axis_geometry(h, kh, sh, layer["padding"])
    ow, pad_x = axis_geometry(w, kw, sw, layer["padding"])
    for oy in range(oh):
        for ox in range(ow):
            y, x = oy * sh - pad_y, ox * sw - pad_x
            y0, y1, x0, x1 = max(y, 0), min(y + kh, h), max(x, 0), min(x + kw, w)
            taps = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
            yield oy, ox, image[y0:y1, x0:x1], taps


def output_size(layer, h, w):
    (kh, kw), (sh, sw) = layer["kernel"], layer["stride"]
    return (
        axis_geometry(h, kh, sh, layer["padding"])[0],
        axis_geometry(w, kw, sw, layer["padding"])[0],
    )


# ---------------------------------------------------------------- accumulation
# acc = sum(weight * (input - input_zero_point)); the padding adds nothing. The
# bias comes on top. All of it in int32.


def conv2d_accumulate(image, weights, layer):
    """`weights` are [out, kh, kw, in]; `image` has its zero point subtracted."""
    oh, ow = output_size(layer, *image.shape[:2])
    acc = np.zeros((oh, ow, weights.shape[0]), np.int64)
    for oy, ox, window, (ty, tx) in windows(image, layer):
        acc[oy, ox] = np.tensordot(weights[:, ty, tx], window, axes=3)
    return acc


def depthwise_accumulate(image, weights, layer):
    """`weights` are [1, kh, kw, out]; output channel c reads input channel
    c // depth_multiplier."""
    oh, ow = output_size(layer, *image.shape[:2])
    acc = np.zeros((oh, ow, weights.shape[3]), np.int64)
    for oy, ox, window, (ty, tx) in windows(image, layer):
        repeated = np.repeat(window, layer["depth_multiplier"], axis=2)
        acc[oy, ox] = (weights[0, ty, tx] * repeated).sum(axis=(0, 1))
    return acc


def dense_accumulate(image, weights, layer):
    return (weights @ image.reshape(-1)).reshape(1, 1, -1)


ACCUMULATE = {
    "conv2d": conv2d_accumulate,
    "depthwise_conv2d": depthwise_accumulate,
    "dense": dense_accumulate,
}


# --------------------------------------------------------------------- outputs


def activation_range(activation, scale, zero_point):
    """Bounds in the output's own int8 units. 6 / scale is an f32 division, and
    its rounding is half away from zero."""
    if activation == "none":
        return -128, 127
    low = max(-128, zero_point)
    if activation == "relu":
        return low, 127
    six = np.float32(6.0) / np.float32(scale)
    return low, min(127, zero_point + int(round_half_away(six)))


def round_half_away(x):
    """C's round(), Rust's f64::round()."""
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.sign(x), whole)


def finish(scaled, case):
    out = case["output"]
    low, high = activation_range(
        case["layer"]["activation"], out["scale"], out["zero_point"]
    )
    return np.clip(scaled + out["zero_point"], low, high)


def effective_scales(case, channels):
    """input scale * weight scale / output scale of every output channel, in
    f64 and in this order of operations. The three factors are f32 values."""
    s_in, s_out = np.float64(case["input"]["scale"]), np.float64(case["output"]["scale"])
    scales = np.float64(case["weights"]["scales"])
    return np.broadcast_to(s_in * scales / s_out, (channels,))


def accumulators(kind, case):
    image = tensor(case["input"]) - case["input"]["zero_point"]
    acc = ACCUMULATE[kind](image, weights_of(kind, case), case["layer"])
    return fits_i32(acc + np.int64(case["bias"]))


def fixed_point_requantize(acc, scales, multiply=multiply_by_quantized_multiplier):
    out = np.empty_like(acc)
    for c, scale in enumerate(scales):
        out[..., c] = multiply(acc[..., c], *quantize_multiplier(float(scale)))
    return out


def convolution(kind, case):
    """conv2d and depthwise_conv2d: fixed point, two roundings."""
    acc = accumulators(kind, case)
    return finish(fixed_point_requantize(acc, effective_scales(case, acc.shape[-1])), case)


def dense(kind, case):
    """FullyConnected: one f64 product, one rounding half away from zero; the
    same with one weight scale as with one per unit."""
    acc = accumulators(kind, case)
    real = acc.astype(np.float64) * effective_scales(case, acc.shape[-1])
    return finish(fits_i32(round_half_away(real)).astype(np.int64), case)


def max_pool(kind, case):
    image = tensor(case["input"])
    out = np.empty(case["output"]["shape"], np.int64)
    for oy, ox, window, _ in windows(image, case["layer"]):
        out[oy, ox] = window.max(axis=(0, 1))
    return finish(out - case["output"]["zero_point"], case)


def avg_pool(kind, case):
    """Sum of the raw int8 values (zero point included), divided by the number
    of elements inside the image, rounded half away from zero."""
    image = tensor(case["input"])
    out = np.empty(case["output"]["shape"], np.int64)
    for oy, ox, window, _ in windows(image, case["layer"]):
        count = window.shape[0] * window.shape[1]
        total = window.sum(axis=(0, 1))
        magnitude = (np.abs(total) + count // 2) // count
        out[oy, ox] = np.where(total > 0, magnitude, -magnitude)
    return finish(out - case["output"]["zero_point"], case)


def add_multipliers(case):
    """Both inputs are brought to twice the larger scale, so each multiplier is
    at most one half; the output multiplier takes the 20 extra bits back."""
    s1, s2 = (np.float64(case[k]["scale"]) for k in ("input", "input2"))
    twice_max = 2 * max(s1, s2)
    s_out = np.float64(case["output"]["scale"])
    reals = (s1 / twice_max, s2 / twice_max, twice_max / (2.0**20 * s_out))
    return [quantize_multiplier(float(real)) for real in reals]


def add(kind, case, multiply=multiply_by_quantized_multiplier):
    """Each input is shifted left by 20 bits first, to keep precision; three
    fixed-point multiplications follow, each with two roundings."""
    m1, m2, m_out = add_multipliers(case)
    a = (tensor(case["input"]) - case["input"]["zero_point"]) << 20
    b = (tensor(case["input2"]) - case["input2"]["zero_point"]) << 20
    total = fits_i32(multiply(a, *m1) + multiply(b, *m2))
    return finish(multiply(total, *m_out), case)


# --------------------------------------------------------------------- softmax
# Fixed point throughout (gemmlowp). Qm.n is an int32 with m integer bits and
# n = 31 - m fraction bits. A product of two Q values is
# saturating_rounding_doubling_high_mul of the raw integers.

EXP_MULTIPLIERS = (  # exp(-2^k) as Q0.31, for k = -2 .. 4
    1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242,
)  # fmt: skip


def exp_between_minus_quarter_and_zero(a):
    """exp(a) for a in [-1/4, 0), Q0.31 to Q0.31: a Taylor series at -1/8."""
    mul = saturating_rounding_doubling_high_mul
    x = a + (1 << 28)  # a + 1/8
    x2 = mul(x, x)
    x3 = mul(x2, x)
    x4 = mul(x2, x2)
    x4_over_4 = rounding_divide_by_pot(x4, 2)
    one_third = 715827883
    tail = rounding_divide_by_pot(mul(x4_over_4 + x3, one_third) + x2, 1)
    exp_minus_eighth = 1895147668
    return exp_minus_eighth + mul(exp_minus_eighth, x + tail)


def exp_of_negative(a):
    """exp(a) for a <= 0, Q5.26 to Q0.31. The quarters of `a` select factors."""
    quarter = 1 << 24
    fraction = (a & (quarter - 1)) - quarter  # in [-1/4, 0), Q5.26
    result = exp_between_minus_quarter_and_zero(fits_i32(fraction << 5))
    remainder = fraction - a  # a multiple of 1/4, >= 0
    for k, factor in enumerate(EXP_MULTIPLIERS):
        scaled = saturating_rounding_doubling_high_mul(result, factor)
        result = np.where(remainder & (1 << (24 + k)), scaled, result)
    return np.where(a == 0, I32_MAX, result)  # 1.0 does not fit in Q0.31


def one_over_one_plus(a):
    """1 / (1 + a) for a in [0, 1), Q0.31: three Newton-Raphson steps."""
    mul = saturating_rounding_doubling_high_mul
    half_denominator = (a + I32_MAX + 1) // 2  # (a + 1) / 2; the sum is >= 0
    x = 1515870810 + mul(half_denominator, -1010580540)  # 48/17 - 32/17 d, Q2.29
    for _ in range(3):
        correction = (1 << 29) - mul(half_denominator, x)
        # Q2 * Q2 is Q4: back to Q2.29 with a saturating shift by two.
        x = x + np.clip(mul(x, correction) << 2, I32_MIN, I32_MAX)
    # x / 2 as Q1.30 has the same raw value; then Q0.31, saturating.
    return np.clip(fits_i32(x) << 1, I32_MIN, I32_MAX)


def softmax_scaling(scale):
    """The multiplier that brings an input difference to Q5.26, and the
    smallest difference that is not simply taken as exp = 0."""
    real = min(float(scale) * 2**26, 2.0**31 - 1.0)
    q, left = quantize_multiplier(real)
    diff_min = -math.floor(31.0 * 2**26 / 2.0**left)
    return q, left, diff_min


def softmax_row(row, q, left, diff_min):
    diff = row - row.max()
    used = diff >= diff_min
    # Where a difference is not used its value does not matter; zero is safe.
    scaled = saturating_rounding_doubling_high_mul(
        fits_i32(np.where(used, diff, 0) << left), q
    )
    exps = exp_of_negative(scaled)
    # The sum has 12 integer bits, each term is rounded to them: Q12.19.
    total = int(rounding_divide_by_pot(exps, 12)[used].sum())
    headroom = 32 - total.bit_length()  # leading zeros of the uint32
    reciprocal = int(one_over_one_plus(np.int64((total << headroom) - 2**31)))
    exponent = (12 - headroom) + 31 - 8
    product = saturating_rounding_doubling_high_mul(reciprocal, exps)
    out = rounding_divide_by_pot(product, exponent) - 128
    return np.where(used, np.clip(out, -128, 127), -128)


def softmax(kind, case):
    """Over the last axis. The input's zero point cancels out."""
    scaling = softmax_scaling(case["input"]["scale"])
    rows = tensor(case["input"])
    flat = rows.reshape(-1, rows.shape[-1])
    return np.stack([softmax_row(r, *scaling) for r in flat]).reshape(rows.shape)


RULES = {
    "conv2d": convolution,
    "depthwise_conv2d": convolution,
    "dense": dense,
    "max_pool2d": max_pool,
    "avg_pool2d": avg_pool,
    "add": add,
    "softmax": softmax,
}


# ---------------------------------------------------------- rules that are wrong
# Each looks right and is close. They show that the vectors tell them apart.


def convolution_single(kind, case):
    acc = accumulators(kind, case)
    scales = effective_scales(case, acc.shape[-1])
    return finish(fixed_point_requantize(acc, scales, single_rounding_multiply), case)


def convolution_float(kind, case):
    return dense(kind, case)


def convolution_f32_multiplier(kind, case):
    acc = accumulators(kind, case)
    scales = np.float32(effective_scales(case, acc.shape[-1]))
    return finish(fixed_point_requantize(acc, scales), case)


def dense_fixed(kind, case):
    return convolution(kind, case)


def dense_half_even(kind, case):
    acc = accumulators(kind, case)
    return finish(np.rint(acc * effective_scales(case, acc.shape[-1])).astype(np.int64), case)


def dense_first_scale(kind, case):
    one = dict(case["weights"], scales=case["weights"]["scales"][:1])
    return dense(kind, dict(case, weights=one))


def dense_f32(kind, case):
    acc = accumulators(kind, case).astype(np.float32)
    scales = effective_scales(case, acc.shape[-1]).astype(np.float32)
    return finish(round_half_away(acc * scales).astype(np.int64), case)


def avg_pool_half_up(kind, case):
    image = tensor(case["input"])
    out = np.empty(case["output"]["shape"], np.int64)
    for oy, ox, window, _ in windows(image, case["layer"]):
        count = window.shape[0] * window.shape[1]
        out[oy, ox] = (2 * window.sum(axis=(0, 1)) + count) // (2 * count)
    return finish(out - case["output"]["zero_point"], case)


def avg_pool_count_padding(kind, case):
    image = tensor(case["input"]) - case["input"]["zero_point"]
    count = case["layer"]["kernel"][0] * case["layer"]["kernel"][1]
    out = np.empty(case["output"]["shape"], np.int64)
    for oy, ox, window, _ in windows(image, case["layer"]):
        out[oy, ox] = round_half_away(window.sum(axis=(0, 1)) / count)
    return finish(out, case)


def add_single(kind, case):
    return add(kind, case, single_rounding_multiply)


def add_float(kind, case):
    s1, s2, s_out = (np.float64(case[k]["scale"]) for k in ("input", "input2", "output"))
    a = tensor(case["input"]) - case["input"]["zero_point"]
    b = tensor(case["input2"]) - case["input2"]["zero_point"]
    return finish(round_half_away((s1 * a + s2 * b) / s_out).astype(np.int64), case)


def softmax_float(kind, case):
    x = tensor(case["input"]) * np.float64(case["input"]["scale"])
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.clip(round_half_away(e / e.sum(axis=-1, keepdims=True) * 256) - 128, -128, 127)


def six_in_f64(kind, case):
    """The right rule, but the bound of relu6 is divided in f64."""
    result = RULES[kind](kind, dict(case, layer=dict(case["layer"], activation="relu")))
    if case["layer"]["activation"] != "relu6":
        return RULES[kind](kind, case)
    steps = round_half_away(np.float64(6.0) / case["output"]["scale"])
    return np.minimum(result, case["output"]["zero_point"] + int(steps))


RIVALS = {
    "conv2d": [
        convolution_single, convolution_float, convolution_f32_multiplier, six_in_f64,
    ],
    "depthwise_conv2d": [
        convolution_single, convolution_float, convolution_f32_multiplier, six_in_f64,
    ],
    "dense": [
        dense_fixed, convolution_single, dense_half_even, dense_first_scale, dense_f32,
        six_in_f64,
    ],
    "max_pool2d": [six_in_f64],
    "avg_pool2d": [avg_pool_half_up, avg_pool_count_padding, six_in_f64],
    "add": [add_single, add_float],
    "softmax": [softmax_float],
}  # fmt: skip


# ----------------------------------------------------------------------- files


def int8_values(text):
    return np.frombuffer(bytes.fromhex(text), np.int8).astype(np.int64)


def tensor(entry):
    return int8_values(entry["data"]).reshape(entry["shape"])


def weights_of(kind, case):
    flat, layer = int8_values(case["weights"]["data"]), case["layer"]
    channels = case["input"]["shape"][2]
    if kind == "dense":
        return flat.reshape(layer["units"], -1)
    if kind == "depthwise_conv2d":
        return flat.reshape(1, *layer["kernel"], channels * layer["depth_multiplier"])
    return flat.reshape(layer["filters"], *layer["kernel"], channels)


def scales_as_f32(entry):
    """The files print a scale as the shortest decimal that names its f32, so it
    must be rounded to f32 before any f64 arithmetic starts from it."""
    for key in ("scale", "scales"):
        if key in entry:
            entry[key] = np.float32(entry[key]).astype(np.float64).tolist()
    return entry


def load(kind):
    text = (HERE / f"{kind}.json").read_text()
    return json.loads(text, object_hook=scales_as_f32)["cases"]


def differing_bytes(kind, cases, rule):
    return sum(int((rule(kind, c) != tensor(c["output"])).sum()) for c in cases)


def main():
    failed = False
    for kind, rule in RULES.items():
        cases = load(kind)
        total = sum(len(c["output"]["data"]) // 2 for c in cases)
        wrong = differing_bytes(kind, cases, rule)
        failed |= wrong != 0
        print(f"{kind}: {len(cases)} cases, {total} output bytes, {wrong} differ")
        if "--rivals" in sys.argv:
            for rival in RIVALS[kind]:
                missed = differing_bytes(kind, cases, rival)
                print(f"    {rival.__name__}: {missed} differ")
    sys.exit(failed)


if __name__ == "__main__":
    main()
