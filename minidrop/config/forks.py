"""What widely used forks of Caffe have and Caffe lacks: fields and layer types, and how to do without them.

Facts from the forks' caffe.proto files, collected by hand. The texts are advice: nothing depends on them.
"""

from __future__ import annotations

from typing import NamedTuple

SSD = "SSD (weiliu89/caffe, branch ssd)"
FAST_RCNN = "Fast and Faster R-CNN (rbgirshick/caffe-fast-rcnn)"
R_FCN = "R-FCN (daijifeng001/caffe-rfcn)"
DEEPLAB = "DeepLab (deeplab-public)"
BN_FORKS = "SegNet, PSPNet and others with a BN layer"
SEGNET = "SegNet (alexgkendall/caffe-segnet)"
CRF_RNN = "CRF-RNN (torrvision/caffe)"
NVCAFFE = "NVCaffe (NVIDIA/caffe)"
INTEL = "Intel's Caffe (intel/caffe)"
FLOWNET = "FlowNet 2 (lmb-freiburg/flownet2)"
SENET = "SENet (hujie-frank/SENet)"
MOBILENET = "MobileNet's (depthwise convolution)"
SHUFFLENET = "ShuffleNet's (farmingyard/ShuffleNet)"
YOLO = "YOLO's (eric612/MobileNet-YOLO, darknet2caffe)"
OPENCL = "Caffe's OpenCL branch (naibaf7)"
FACES = "face recognition (ydwen/caffe-face, wy1iu/sphereface)"
TSN = "temporal segments (yjxiong/caffe)"
SGDR = "warm restarts (SGDR)"
C3D = "C3D (facebook/C3D)"
READING = "recognition of text (jolibrain/caffe and others with ContinuationIndicator)"
CAFFE_LSTM = "caffe-lstm (junhyukoh/caffe-lstm)"

_SPEED = "only speed or memory changes"
_FLOAT32 = "numbers stay float32; --precision float16 is minidrop's way"
_IMAGES = "images are not changed in this way, so training sees less variety"
_TEST_OUTPUT = "tests show the net's outputs as they are"
_OTHER_LAYER = "nothing changes unless a layer of the fork's type reads it"
_THREE_AXES = "the layer knows no axis of time; write kernel_size, stride and pad for each of the three axes"


class Foreign(NamedTuple):
    """What a fork has: the fork's name, and what happens (a field) or what to write instead (a type)."""

    fork: str
    without: str


_FIELDS = {
    SSD: {
        "TransformationParameter": {
            "resize_param": "images keep their size; store them in the size that the net takes",
            **dict.fromkeys(("noise_param", "distort_param", "expand_param"), _IMAGES),
            "emit_constraint": "it chooses boxes for a crop; nothing changes where there are none",
            **dict.fromkeys(("crop_h", "crop_w"), "no crop is taken; crop_size takes square ones"),
        },
        "SolverParameter": {
            **dict.fromkeys(("eval_type", "ap_version", "show_per_class_result"), _TEST_OUTPUT),
            "plateau_winsize": "the learning rate does not wait for a plateau; use lr_policy multistep"},
        "LayerParameter": dict.fromkeys((
            "annotated_data_param", "multibox_loss_param", "prior_box_param",
            "detection_output_param", "detection_evaluate_param", "norm_param", "video_data_param"),
            _OTHER_LAYER)},
    FAST_RCNN: {
        "LayerParameter": dict.fromkeys(("roi_pooling_param", "smooth_l1_loss_param"), _OTHER_LAYER),
        "DropoutParameter": {"scale_train": "what is kept is scaled in training, as scale_train: true does; "
                                            "scale_train: false would be another net"}},
    R_FCN: {
        "LayerParameter": dict.fromkeys(("psroi_pooling_param", "box_annotator_ohem_param"), _OTHER_LAYER)},
    DEEPLAB: {
        "ConvolutionParameter": dict.fromkeys(("hole", "hole_h", "hole_w"), "the kernel has no holes"),
        "ImageDataParameter": {"label_type": "labels are one integer an image, never an image",
                               "has_label": "each line of the list ends with a label"},
        "LayerParameter": {"strict_dim": "weights are read where their shapes are equal",
                           "softmaxloss_param": "every class counts the same; class_weight can weigh them",
                           **dict.fromkeys(("dense_crf_param", "seg_accuracy_param", "mat_read_param",
                                         "mat_write_param", "interp_param"), _OTHER_LAYER)}},
    SEGNET: {
        "LossParameter": dict.fromkeys(("weight_by_label_freqs", "class_weighting"),
                                       "every class counts the same; class_weight can weigh them"),
        "DropoutParameter": {"sample_weights_test": "tests drop nothing; test --mc samples as it means to"},
        "LayerParameter": dict.fromkeys(("dense_image_data_param", "upsample_param"), _OTHER_LAYER)},
    BN_FORKS: {"LayerParameter": {"bn_param": _OTHER_LAYER}},
    CRF_RNN: {"LayerParameter": {"multi_stage_meanfield_param": _OTHER_LAYER}},
    NVCAFFE: {
        "NetParameter": {
            **dict.fromkeys(("default_forward_type", "default_backward_type", "default_forward_math",
                             "default_backward_math"), _FLOAT32),
            "global_grad_scale": "gradients are not scaled; with --precision float16 minidrop finds a scale",
            **dict.fromkeys(("reduce_buckets", "default_conv_algos_override",
                             "default_cudnn_math_override", "eltwise_mem_sharing"), _SPEED)},
        "LayerParameter": {
            **dict.fromkeys(("forward_type", "backward_type", "forward_math", "backward_math"), _FLOAT32),
            "cudnn_math_override": _SPEED, "debug": "nothing more is printed; debug_info of a net prints",
            **dict.fromkeys(("detectnet_groundtruth_param", "detectnet_augmentation_param"), _OTHER_LAYER)},
        "SolverParameter": {
            **dict.fromkeys(("rampup_interval", "rampup_lr"),
                            "the learning rate begins at base_lr, without a ramp"),
            **dict.fromkeys(("larc", "larc_policy", "larc_eta", "larc_turbo", "local_lr_auto",
                             "local_gw_ratio"), "layers do not adapt their rates; they follow lr_mult"),
            "store_blobs_in_old_format": "snapshots are minidrop's own"},
        "BatchNormParameter": dict.fromkeys(
            ("scale_bias", "scale_filler", "bias_filler"),
            "the layer neither scales nor shifts; put a Scale layer with bias_term: true behind it"),
        "ConvolutionParameter": dict.fromkeys(("cudnn_convolution_algo_seeker", "conv_algos_override"),
                                              _SPEED),
        "DataParameter": {**dict.fromkeys(("threads", "parser_threads", "cache"), _SPEED),
                          "shuffle": "records are read in the order of the database"},
        "ImageDataParameter": dict.fromkeys(("threads", "cache"), _SPEED),
        "TransformationParameter": {
            "use_gpu_transform": _SPEED,
            **dict.fromkeys(("img_rand_resize_lower", "img_rand_resize_upper", "rand_resize_ratio_lower",
                             "rand_resize_ratio_upper"), _IMAGES)}},
    INTEL: {
        "NetParameter": {"engine": _SPEED, "bn_stats_batch_size": "statistics are those of a whole batch"},
        "LayerParameter": {
            "engine": _SPEED,
            **dict.fromkeys(("multinode", "mn_activation_param", "mn_grad_compress_param"),
                            "the net runs in one process"),
            "quantization_param": "numbers are not quantised", "spatial_dropout_param": _OTHER_LAYER},
        "SolverParameter": {
            "engine": _SPEED, "warmup_start_lr": "a warm-up (warmup_iter) begins near 0"},
        "TransformationParameter": {
            **dict.fromkeys(("random_resize_param", "random_aspect_ratio_param"), _IMAGES),
            "bgr2rgb": "channels keep their order"}},
    FLOWNET: {
        "LayerParameter": {
            "reshape_every_iter": _SPEED,
            **dict.fromkeys(("augmentation_param", "coeff_schedule_param", "correlation_param",
                             "l1_loss_param", "writer_param", "reader_param", "mean_param", "resample_param",
                             "downsample_param", "lpq_loss_param", "flow_warp_param", "accum_param"),
                            _OTHER_LAYER)},
        "DataParameter": {**dict.fromkeys(("disk_reader_threads", "verbose"), _SPEED),
                          **dict.fromkeys(("rand_permute", "rand_permute_order", "rand_permute_seed"),
                                          "records are read in the order of the database")}},
    MOBILENET: {"LayerParameter": {"relu6_param": _OTHER_LAYER}},
    SHUFFLENET: {"LayerParameter": {"shuffle_channel_param": _OTHER_LAYER}},
    YOLO: {
        "LayerParameter": dict.fromkeys(("reorg_param", "region_loss_param", "yolov3_param",
                                         "yolo_detection_output_param", "yolov3_detection_output_param",
                                         "eval_detection_param", "mish_param"), _OTHER_LAYER),
        "DataParameter": {"side": _OTHER_LAYER}},
    OPENCL: {
        "LayerParameter": dict.fromkeys(("device", "buffer"), _SPEED),
        "BatchNormParameter": {"fused_relu": "no ReLU is applied; put a ReLU layer behind it"},
        "ConvolutionParameter": {"fuse_type": "nothing is fused; the layers fused into it must be written"}},
    FACES: {"LayerParameter": dict.fromkeys(("center_loss_param", "margin_inner_product_param"),
                                            _OTHER_LAYER)},
    TSN: {"TransformationParameter": {
        **dict.fromkeys(("fix_crop", "multi_scale", "more_fix_crop", "max_distort", "scale_ratios"), _IMAGES),
        "is_flow": "a mirrored flow keeps its sign"}},
    C3D: {
        message: dict.fromkeys(("kernel_depth", "temporal_stride", "temporal_pad"), without)
        for message, without in (("ConvolutionParameter", _THREE_AXES), ("PoolingParameter", _OTHER_LAYER))},
    READING: {"LayerParameter": {"continuation_indicator_param": _OTHER_LAYER}},
    CAFFE_LSTM: {"LayerParameter": {"lstm_param": _OTHER_LAYER}},
    SGDR: {"SolverParameter": {"mult_factor": "the learning rate has no warm restarts"}},
}

_BATCH_NORM = "write a BatchNorm layer and behind it a Scale layer with bias_term: true"
_DEPTHWISE = "write type: \"Convolution\" with group: as large as num_output, which is the same"
_CLASS = "write a Python layer, or a layer of your own for --import"

_TYPES = {
    SSD: dict.fromkeys(("AnnotatedData", "DetectionEvaluate", "DetectionOutput", "MultiBoxLoss", "Normalize",
                        "PriorBox", "VideoData"), _CLASS),
    FAST_RCNN: dict.fromkeys(("ROIPooling", "SmoothL1Loss", "Proposal"), _CLASS),
    R_FCN: dict.fromkeys(("PSROIPooling", "BoxAnnotatorOHEM", "SoftmaxWithLossOHEM", "SmoothL1LossOHEM"),
                         _CLASS),
    DEEPLAB: {**dict.fromkeys(("DenseCRF", "MatRead", "MatWrite", "SegAccuracy", "UniqueLabel"), _CLASS),
              "ImageSegData": "write HDF5Data or Data layers, one of images and one of labels",
              "Interp": "write a Python layer, or a Deconvolution with a weight_filler of type bilinear and "
                        "lr_mult: 0, which does not put corners on corners"},
    BN_FORKS: {"BN": _BATCH_NORM},
    SEGNET: {"DenseImageData": "write HDF5Data or Data layers, one of images and one of labels",
             "Upsample": "write a Python layer that puts values where the mask, the Pooling's second top, "
                         "says; a Deconvolution would be another net"},
    CRF_RNN: {"MultiStageMeanfield": _CLASS},
    NVCAFFE: {"DetectNetTransformation": _CLASS},
    INTEL: {"SpatialDropout": "write a Dropout with axes: 2 axes: 3, or an ApproxDropout",
            **dict.fromkeys(("MnActivation", "MnParamGradCompress"), "leave it out: one process needs none")},
    FLOWNET: dict.fromkeys((
        "Accum", "ChannelNorm", "Correlation", "CustomData", "DataAugmentation", "Downsample",
        "FlowAugmentation", "FlowWarp", "FLOWriter", "GenerateAugmentationParameters", "ImgWriter", "L1Loss",
        "LpqLoss", "Mean", "Resample"), _CLASS),
    SENET: {"Axpy": "write a Flatten of the factors, a Scale of two bottoms with axis: 0, and an Eltwise"},
    MOBILENET: {**dict.fromkeys(("ConvolutionDepthwise", "DepthwiseConvolution"), _DEPTHWISE),
                "ReLU6": "write a Clip layer with min: 0 max: 6, which is the same"},
    SHUFFLENET: {"ShuffleChannel": _CLASS},
    YOLO: dict.fromkeys(("EvalDetection", "Mish", "RegionLoss", "Reorg", "YoloDetectionOutput", "Yolov3",
                         "Yolov3DetectionOutput"), _CLASS),
    FACES: dict.fromkeys(("CenterLoss", "MarginInnerProduct"), _CLASS),
    C3D: {**dict.fromkeys(("Convolution3D", "Deconvolution3D"),
                          "write the type without 3D, with kernel_size, stride and pad given once for each "
                          "of the three axes, time first"),
          "Pooling3D": _CLASS},
    READING: {"ContinuationIndicator": "write type: \"Fill\" with a bottom and fill_param { shape { dim: "
                                       "STEPS dim: SEQUENCES } value: 1 first: 0 }, which is the same"},
    CAFFE_LSTM: {"Lstm": "write an LSTM with recurrent_param, which has bottoms of steps, sequences and "
                         "inputs, and of where sequences begin"},
    "domain adaptation (ddtm/caffe)": {"GradientReversal": _CLASS, "GradientScaler": _CLASS},
}

RENAMED = {("ConvolutionParameter", "hole"): "dilation",
           **{("ConvolutionParameter", f"hole_{side}"): "dilation, once for each axis," for side in "hw"}}
"""What Caffe calls a field of a fork."""

YOUNGER_TYPES = {
    "CROP": "; it found by itself where to cut, and has to be told now: crop_param { axis: 2 offset: N }",
}
"""Values of V1's `type` of forks, and what today's type of the name does otherwise."""

# Values of enums that Caffe lacks; all of them choose how something is computed, never what.
_VALUES = {
    **dict.fromkeys(("MKL2017", "MKLDNN"), INTEL),
    **dict.fromkeys(("LIBDNN", "INTEL_SPATIAL", "SPATIAL", "FFT"), OPENCL),
}

FIELDS = {(message, field): Foreign(fork, without) for fork, messages in _FIELDS.items()
          for message, fields in messages.items() for field, without in fields.items()}
FOREIGN_TYPES = {kind: Foreign(fork, advice) for fork, kinds in _TYPES.items()
                 for kind, advice in kinds.items()}


def foreign_field(message: str, field: str) -> Foreign | None:
    """Return the fork that has a field of a message, e.g. ("LayerParameter", "norm_param"), or None.

    `without` says what happens if the field is ignored. Fields of today's layers are those of V1's, too.
    """
    return FIELDS.get((message.removeprefix("V1"), field))


def foreign_type(kind: str) -> Foreign | None:
    """Return the fork that has a layer type, by exactly this name; None: no known one.

    `without` says what to write instead.
    """
    return FOREIGN_TYPES.get(kind)


def foreign_v1_type(value: str) -> str:
    """Return the layer type that a fork means by a value of V1's `type`, as PriorBox by PRIOR_BOX, or ""."""
    plain = value.replace("_", "").lower()
    return next((kind for kind in FOREIGN_TYPES if kind.lower() == plain), "")


def foreign_engine(value: str) -> str:
    """Return the fork that has a value of an `engine`, "" if no known one has it."""
    return _VALUES.get(value, "")
