"""One-operator int8 `.tflite` models, built straight through the schema's
object API, and their run on reference kernels.

Nothing is converted or calibrated: scales, zero points, weights and biases are
exactly the ones that the caller gives.
"""
import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import interpreter as litert
from tensorflow.lite.python import schema_py_generated as schema

Op = schema.BuiltinOperator
INT8, INT32 = schema.TensorType.INT8, schema.TensorType.INT32
PADDING = {"same": schema.Padding.SAME, "valid": schema.Padding.VALID}
ACTIVATION = {
    "none": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}


class ModelBuilder:
    """Collects tensors, then wraps them into a model of one operator."""

    def __init__(self):
        self.tensors = []
        self.buffers = [schema.BufferT()]  # buffer 0 stays empty, by convention

    def tensor(self, name, shape, dtype, scales, zero_points, data=None, axis=0):
        """Adds a tensor; with `data` it is a constant. Returns its index."""
        quantization = schema.QuantizationParametersT()
        quantization.scale = [float(s) for s in scales]
        quantization.zeroPoint = [int(z) for z in zero_points]
        quantization.quantizedDimension = axis
        tensor = schema.TensorT()
        tensor.name = name
        tensor.shape = list(shape)
        tensor.type = dtype
        tensor.quantization = quantization
        tensor.buffer = len(self.buffers)
        buffer = schema.BufferT()
        if data is not None:
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def build(self, op, version, options_type, options, inputs, activations, output):
        """`inputs` feed the operator, `activations` are the graph's inputs."""
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = op
        code.version = version
        operator = schema.OperatorT()
        operator.opcodeIndex = 0
        operator.inputs = inputs
        operator.outputs = [output]
        operator.builtinOptionsType = options_type
        operator.builtinOptions = options
        graph = schema.SubGraphT()
        graph.name = "main"
        graph.tensors = self.tensors
        graph.inputs = activations
        graph.outputs = [output]
        graph.operators = [operator]
        model = schema.ModelT()
        model.version = 3
        model.operatorCodes = [code]
        model.subgraphs = [graph]
        model.buffers = self.buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def invoke(interpreter, inputs):
    """Runs one inference and returns the output as a flat int8 array."""
    interpreter.allocate_tensors()
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    # A delegate (XNNPACK) would show up here as an operator of its own.
    assert len(names) == 1 and "DELEGATE" not in names[0].upper(), names
    for detail, values in zip(interpreter.get_input_details(), inputs):
        interpreter.set_tensor(detail["index"], values.reshape(detail["shape"]))
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert output.dtype == np.int8
    return output.reshape(-1).copy()


def run_tensorflow(model, inputs, resolver="BUILTIN_REF"):
    resolver = getattr(tf.lite.experimental.OpResolverType, resolver)
    return invoke(
        tf.lite.Interpreter(
            model_content=model, num_threads=1, experimental_op_resolver_type=resolver
        ),
        inputs,
    )


def run_litert(model, inputs, resolver="BUILTIN_REF"):
    resolver = getattr(litert.OpResolverType, resolver)
    return invoke(
        litert.Interpreter(
            model_content=model, num_threads=1, experimental_op_resolver_type=resolver
        ),
        inputs,
    )
