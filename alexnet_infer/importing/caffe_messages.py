"""The part of Caffe's schema that is read, declared at run time after BVLC's `src/caffe/proto/caffe.proto`.

protobuf skips all other fields of a file. Layers come in two layouts: V1 (from 2014, with numbered types) and the
current one. The messages that describe a convolution, a pooling and so on are the same in both.
"""

from __future__ import annotations

import functools

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SIDES = ("num", "channels", "height", "width")
"""The fields in which old files store a shape."""

V1_KINDS = {
    1: "Accuracy", 4: "Convolution", 6: "Dropout", 8: "Flatten", 14: "InnerProduct", 15: "LRN", 17: "Pooling",
    18: "ReLU", 20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split", 23: "TanH", 36: "Silence",
}  # fmt: skip
"""Number of a layer type in the V1 layout -> its current name, for the types that are read."""

_FIELD = descriptor_pb2.FieldDescriptorProto
_WHOLE, _FLOAT, _BOOL, _BYTES = _FIELD.TYPE_INT64, _FIELD.TYPE_FLOAT, _FIELD.TYPE_BOOL, _FIELD.TYPE_BYTES

_Field = tuple[int, int | str] | tuple[int, int | str, str]
"""Number, type or message, and Caffe's default if the field is absent. A default of "..." marks a repeated field."""

_MESSAGES: dict[str, dict[str, _Field]] = {
    "ConvolutionParameter": {
        "num_output": (1, _WHOLE),
        "pad": (3, _WHOLE, "..."),
        "kernel_size": (4, _WHOLE, "..."),
        "group": (5, _WHOLE, "1"),
        "stride": (6, _WHOLE, "..."),
        "pad_h": (9, _WHOLE),
        "pad_w": (10, _WHOLE),
        "kernel_h": (11, _WHOLE),
        "kernel_w": (12, _WHOLE),
        "stride_h": (13, _WHOLE),
        "stride_w": (14, _WHOLE),
        "dilation": (18, _WHOLE, "..."),
    },
    "InnerProductParameter": {"num_output": (1, _WHOLE), "transpose": (6, _BOOL)},
    "LRNParameter": {
        "local_size": (1, _WHOLE, "5"),
        "alpha": (2, _FLOAT, "1"),
        "beta": (3, _FLOAT, "0.75"),
        "norm_region": (4, _WHOLE),
        "k": (5, _FLOAT, "1"),
    },
    "PoolingParameter": {
        "pool": (1, _WHOLE),
        "kernel_size": (2, _WHOLE, "..."),
        "stride": (3, _WHOLE, "..."),
        "pad": (4, _WHOLE, "..."),
        "kernel_h": (5, _WHOLE),
        "kernel_w": (6, _WHOLE),
        "stride_h": (7, _WHOLE),
        "stride_w": (8, _WHOLE),
        "pad_h": (9, _WHOLE),
        "pad_w": (10, _WHOLE),
        "global_pooling": (12, _BOOL),
    },
    "ReLUParameter": {"negative_slope": (1, _FLOAT)},
    "BlobShape": {"dim": (1, _WHOLE, "...")},
    # Weights are declared as bytes, which is how a packed list of floats is encoded. NumPy reads the bytes directly,
    # whereas protobuf would create a Python number for each value.
    "BlobProto": {
        **{side: (number, _WHOLE) for number, side in enumerate(SIDES, start=1)},
        "data": (5, _BYTES, "..."),
        "shape": (7, "BlobShape"),
        "double_data": (8, _BYTES, "..."),
    },
    "LayerParameter": {
        "name": (1, _BYTES),
        "type": (2, _BYTES),
        "bottom": (3, _BYTES, "..."),
        "blobs": (7, "BlobProto", "..."),
        "convolution_param": (106, "ConvolutionParameter"),
        "inner_product_param": (117, "InnerProductParameter"),
        "lrn_param": (118, "LRNParameter"),
        "pooling_param": (121, "PoolingParameter"),
        "relu_param": (123, "ReLUParameter"),
    },
    "V1LayerParameter": {
        "name": (4, _BYTES),
        "type": (5, _WHOLE),
        "bottom": (2, _BYTES, "..."),
        "blobs": (6, "BlobProto", "..."),
        "convolution_param": (10, "ConvolutionParameter"),
        "inner_product_param": (17, "InnerProductParameter"),
        "lrn_param": (18, "LRNParameter"),
        "pooling_param": (19, "PoolingParameter"),
        "relu_param": (30, "ReLUParameter"),
    },
    "NetParameter": {"layers": (2, "V1LayerParameter", "..."), "layer": (100, "LayerParameter", "...")},
}


@functools.cache
def net_parameter() -> type:
    """Return the message class of a `.caffemodel` file."""
    file = descriptor_pb2.FileDescriptorProto(name="alexnet_infer/caffe.proto", package="caffe", syntax="proto2")
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind, *default) in fields.items():
            field = declared.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kind
            if default == ["..."]:
                field.label = _FIELD.LABEL_REPEATED
            elif default:
                field.default_value = default[0]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))
