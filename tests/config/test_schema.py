"""The schema: Caffe's names, numbers and defaults; generated module and reference page are current."""

import pathlib
import re
import subprocess
import sys

import pytest
from cases import in_turn, script

from minidrop.config import LayerParameter, NetParameter, SolverParameter, minidrop_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]

# name number [default]; from Caffe's published interface.
CAFFE = {
    "BlobShape": "dim 1",
    "FillerParameter": "type 1 constant, value 2 0, min 3 0, max 4 1, mean 5 0, std 6 1, sparse 7 -1, "
                       "variance_norm 8 0",
    "NetParameter": "name 1, input 3, input_shape 8, input_dim 4, force_backward 5 False, state 6, "
                    "debug_info 7 False, layers 2, "
                    "layer 100",
    "SolverParameter": "net 24, net_param 25, train_net 1, test_net 2, train_net_param 21, test_net_param "
                       "22, "
                       "train_state 26, test_state 27, test_iter 3, test_interval 4 0, test_compute_loss 19 "
                       "False, "
                       "test_initialization 32 True, base_lr 5, display 6, average_loss 33 1, max_iter 7, "
                       "iter_size 36 1, "
                       "lr_policy 8, gamma 9, power 10, momentum 11, weight_decay 12, regularization_type "
                       "29 L2, "
                       "stepsize 13, stepvalue 34, clip_gradients 35 -1, snapshot 14 0, snapshot_prefix 15, "
                       "snapshot_diff 16 False, snapshot_format 37 1, solver_mode 17 1, device_id 18 0, "
                       "random_seed 20 -1, "
                       "type 40 SGD, delta 31 1e-8, momentum2 39 0.999, rms_decay 38 0.99, debug_info 23 "
                       "False, "
                       "snapshot_after_train 28 True, solver_type 30 0, layer_wise_reduce 41 True, weights "
                       "42",
    "NetState": "phase 1 1, level 2 0, stage 3",
    "NetStateRule": "phase 1, min_level 2, max_level 3, stage 4, not_stage 5",
    "ParamSpec": "name 1, share_mode 2, lr_mult 3 1, decay_mult 4 1",
    "LayerParameter": "name 1, type 2, bottom 3, top 4, phase 10, loss_weight 5, param 6, propagate_down 11, "
                      "blobs 7, data_param 107, hdf5_output_param 113, image_data_param 115, "
                      "python_param 130, window_data_param 129, "
                      "include 8, exclude 9, transform_param 100, loss_param 101, accuracy_param 102, "
                      "argmax_param 103, batch_norm_param 139, bias_param 141, clip_param 148, "
                      "concat_param 104, contrastive_loss_param 105, convolution_param 106, crop_param 144, "
                      "dropout_param 108, dummy_data_param 109, eltwise_param 110, elu_param 140, "
                      "embed_param 137, exp_param 111, flatten_param 135, hdf5_data_param 112, "
                      "hinge_loss_param 114, infogain_loss_param 116, inner_product_param 117, "
                      "input_param 143, log_param 134, lrn_param 118, memory_data_param 119, mvn_param 120, "
                      "parameter_param 145, pooling_param 121, power_param 122, prelu_param 131, "
                      "recurrent_param 146, reduction_param 136, relu_param 123, reshape_param 133, "
                      "scale_param 142, sigmoid_param 124, slice_param 126, softmax_param 125, "
                      "spp_param 132, swish_param 147, tanh_param 127, threshold_param 128, tile_param 138",
    "TransformationParameter": "scale 1 1, mirror 2 False, crop_size 3 0, mean_file 4, mean_value 5, "
                               "force_color 6 False, "
                               "force_gray 7 False",
    "LossParameter": "ignore_label 1, normalization 3 1, normalize 2",
    "AccuracyParameter": "top_k 1 1, axis 2 1, ignore_label 3",
    "ArgMaxParameter": "out_max_val 1 False, top_k 2 1, axis 3",
    "BatchNormParameter": "use_global_stats 1, moving_average_fraction 2 0.999, eps 3 1e-05",
    "BiasParameter": "axis 1 1, num_axes 2 1, filler 3",
    "ClipParameter": "min 1, max 2",
    "ConcatParameter": "axis 2 1, concat_dim 1 1",
    "ContrastiveLossParameter": "margin 1 1, legacy_version 2 False",
    "ConvolutionParameter": "num_output 1, bias_term 2 True, pad 3, kernel_size 4, stride 6, dilation 18, "
                            "pad_h 9 0, pad_w 10 0, kernel_h 11, kernel_w 12, stride_h 13, stride_w 14, "
                            "group 5 1, weight_filler 7, bias_filler 8, engine 15 0, axis 16 1, "
                            "force_nd_im2col 17 False",
    "CropParameter": "axis 1 2, offset 2",
    "DropoutParameter": "dropout_ratio 1 0.5",
    "DummyDataParameter": "data_filler 1, shape 6, num 2, channels 3, height 4, width 5",
    "EltwiseParameter": "operation 1 1, coeff 2, stable_prod_grad 3 True",
    "ELUParameter": "alpha 1 1",
    "EmbedParameter": "num_output 1, input_dim 2, bias_term 3 True, weight_filler 4, bias_filler 5",
    "ExpParameter": "base 1 -1, scale 2 1, shift 3 0",
    "FlattenParameter": "axis 1 1, end_axis 2 -1",
    "HDF5DataParameter": "source 1, batch_size 2, shuffle 3 False",
    "HingeLossParameter": "norm 1 1",
    "InfogainLossParameter": "source 1, axis 2 1",
    "InnerProductParameter": "num_output 1, bias_term 2 True, weight_filler 3, bias_filler 4, axis 5 1, "
                             "transpose 6 False",
    "InputParameter": "shape 1",
    "LogParameter": "base 1 -1, scale 2 1, shift 3 0",
    "LRNParameter": "local_size 1 5, alpha 2 1, beta 3 0.75, norm_region 4 0, k 5 1, engine 6 0",
    "MemoryDataParameter": "batch_size 1, channels 2, height 3, width 4",
    "MVNParameter": "normalize_variance 1 True, across_channels 2 False, eps 3 1e-09",
    "ParameterParameter": "shape 1",
    "PoolingParameter": "pool 1 0, pad 4 0, pad_h 9 0, pad_w 10 0, kernel_size 2, kernel_h 5, kernel_w 6, "
                        "stride 3 1, stride_h 7, stride_w 8, engine 11 0, global_pooling 12 False, "
                        "round_mode 13 0",
    "PowerParameter": "power 1 1, scale 2 1, shift 3 0",
    "PReLUParameter": "filler 1, channel_shared 2 False",
    "RecurrentParameter": "num_output 1, weight_filler 2, bias_filler 3, debug_info 4 False, "
                          "expose_hidden 5 False",
    "ReductionParameter": "operation 1 1, axis 2 0, coeff 3 1",
    "ReLUParameter": "negative_slope 1 0, engine 2 0",
    "ReshapeParameter": "shape 1, axis 2 0, num_axes 3 -1",
    "ScaleParameter": "axis 1 1, num_axes 2 1, filler 3, bias_term 4 False, bias_filler 5",
    "SigmoidParameter": "engine 1 0",
    "SliceParameter": "axis 3 1, slice_point 2, slice_dim 1 1",
    "SoftmaxParameter": "engine 1 0, axis 2 1",
    "SPPParameter": "pyramid_height 1, pool 2 0, engine 6 0",
    "SwishParameter": "beta 1 1",
    "TanHParameter": "engine 1 0",
    "ThresholdParameter": "threshold 1 0",
    "TileParameter": "axis 1 1, tiles 2",
    "BlobProto":
        "shape 7, data 5, diff 6, double_data 8, double_diff 9, num 1 0, channels 2 0, height 3 0, width 4 "
        "0",
    "BlobProtoVector":
        "blobs 1",
    "Datum":
        "channels 1, height 2, width 3, data 4, label 5, float_data 6, encoded 7 False",
    "SolverState":
        "iter 1, learned_net 2, history 3, current_step 4 0",
    "DataParameter":
        "source 1, batch_size 4, rand_skip 7 0, backend 8 0, scale 2 1, mean_file 3, crop_size 5 0, mirror "
        "6 False, force_encoded_color 9 False, prefetch 10 4",
    "HDF5OutputParameter":
        "file_name 1",
    "PythonParameter":
        "module 1, layer 2, param_str 3, share_in_parallel 4 False",
    "V0LayerParameter":
        "name 1, type 2, num_output 3, biasterm 4 True, weight_filler 5, bias_filler 6, pad 7 0, "
        "kernelsize 8, group 9 1, stride 10 1, pool 11 0, dropout_ratio 12 0.5, local_size 13 5, alpha 14 "
        "1, beta 15 0.75, k 22 1, source 16, scale 17 1, meanfile 18, batchsize 19, cropsize 20 0, mirror "
        "21 False, blobs 50, blobs_lr 51, weight_decay 52, rand_skip 53 0, det_fg_threshold 54 0.5, "
        "det_bg_threshold 55 0.5, det_fg_fraction 56 0.25, det_context_pad 58 0, det_crop_mode 59 warp, "
        "new_num 60 0, new_channels 61 0, new_height 62 0, new_width 63 0, shuffle_images 64 False, "
        "concat_dim 65 1, hdf5_output_param 1001",
    "V1LayerParameter":
        "bottom 2, top 3, name 4, include 32, exclude 33, type 5, blobs 6, param 1001, blob_share_mode "
        "1002, blobs_lr 7, weight_decay 8, loss_weight 35, accuracy_param 27, argmax_param 23, "
        "concat_param 9, contrastive_loss_param 40, convolution_param 10, data_param 11, dropout_param 12, "
        "dummy_data_param 26, eltwise_param 24, exp_param 41, hdf5_data_param 13, hdf5_output_param 14, "
        "hinge_loss_param 29, image_data_param 15, infogain_loss_param 16, inner_product_param 17, "
        "lrn_param 18, memory_data_param 22, mvn_param 34, pooling_param 19, power_param 21, relu_param "
        "30, sigmoid_param 38, softmax_param 39, slice_param 31, tanh_param 37, threshold_param 25, "
        "window_data_param 20, transform_param 36, loss_param 42, layer 1",
    "ImageDataParameter":
        "source 1, batch_size 4 1, rand_skip 7 0, shuffle 8 False, new_height 9 0, new_width 10 0, "
        "is_color 11 True, root_folder 12, scale 2 1, mean_file 3, crop_size 5 0, mirror 6 False",
    "WindowDataParameter":
        "source 1, scale 2 1, mean_file 3, batch_size 4, crop_size 5 0, mirror 6 False, fg_threshold 7 "
        "0.5, bg_threshold 8 0.5, fg_fraction 9 0.25, context_pad 10 0, crop_mode 11 warp, cache_images 12 "
        "False, root_folder 13",
}
OWN = {
    "ApproxDropoutParameter": "dropout_ratio 1 0.5, pattern 2 PERIODIC, max_period 3 0, step 4 0, scale 5 "
                              "0, search 6 0, tile_size 7 0, block_samples 8 0, block_units 9 0, "
    "reshuffle_interval 10 0, "
                              "time 11 0, groups 12 0, grouping 13 0, axis 14, heads 15 1, whole_heads 16 "
                              "False, steps_per_pattern 17 0",
    "AttentionParameter": "num_heads 1 1, causal 2 False, scale 3, dropout_ratio 4 0, block_keys 5 0, "
                          "cache 6 0",
    "FillParameter": "shape 1, value 2 0, first 3",
    "GELUParameter": "approximate 1 0",
    "LayerNormParameter": "axis 1 -1, eps 2 1e-05, bias_term 3 True, weight_term 4 True",
    "EarlyStoppingParameter": "metric 1, mode 2, patience 3 3, min_delta 4 0",
    "LossParameter": "label_smoothing 5000 0, class_weight 5001",
    "PatchesParameter": "patch_size 1",
    "PermuteParameter": "order 1",
    "PositionParameter": "kind 1 0, max_steps 2 0, base 3 10000, weight_filler 4, continues 5 False",
    "RMSNormParameter": "axis 1 -1, eps 2 1e-06",
    "RotaryParameter": "num_heads 1 1, base 2 10000, continues 3 False",
    "DropoutParameter": "axes 5000, shared 5001 False",
    "LayerParameter": "approx_dropout_param 5000, text_data_param 5001, param_str 5002, "
                      "attention_param 5003, gelu_param 5004, layer_norm_param 5005, patches_param 5006, "
                      "permute_param 5007, "
                      "position_param 5008, rms_norm_param 5009, rotary_param 5010, "
                      "tagged_text_data_param 5011, parallel_text_data_param 5012, crf_param 5013, "
                      "decoder_param 5014, fill_param 5015",
    "AttentionDecoderParameter": "num_output 1, weight_filler 2, bias_filler 3, score 4 0, input_feeding 5 "
                                 "True, bridge 6 True, hidden_dropout 7, hidden_dropout_type 8 0, continues "
                                 "9 False",
    "ParallelTextDataParameter": "source 1, target 2, batch_size 3, source_steps 4, target_steps 5, "
                                 "source_vocabulary 6, target_vocabulary 7, source_min_count 8 1, "
                                 "target_min_count 9 1, too_long 10 0, shuffle 11 True, pool 12 20",
    "ParameterParameter": "filler 5000", "PoolingParameter": "ceil_mode 5000 True",
    "RecurrentParameter": "bidirectional 5000 False, hidden_dropout 5001, hidden_dropout_type 5002 0, "
    "output_product 5003 True",
    "CRFParameter": "weight_filler 1, bias_filler 2, scheme 3 0",
    "TaggedTextDataParameter": "source 1, vocabulary 2, batch_size 3, word_column 4 0, tag_column 5 -1, "
    "scheme 6 0, digits_to_zero 7 False, lower_case 8 False, minimum_count 9 1, unknown_rate 10 0, "
    "most_characters 11 40, steps 12 0, shuffle 13 False",
    "TextDataParameter": "source 1, batch_size 2, steps 3, level 4 0, vocabulary 5, vocabulary_size 6 0, "
    "begin 7 0, end 8 1, "
                         "sentences 9 False, shuffle 10 False",
    "SolverParameter": "snapshot_keep 5000 0, snapshot_best 5001, precision 5002 float32, capture_steps 5003 "
    "True, warmup_iter 5004 0, min_lr 5005 0, decay_axes 5006 0, max_lr 5007, pct_start 5008 0.3, "
    "log_gradient_norm 5009 False, "
    "ema_decay 5013 0, ema_warmup 5014 False, ema_test 5015 True, early_stopping 5016, "
    "average_interval 5090 0, reduce_bucket 5091 262144, wire 5092",
    "HDF5DataParameter": "prefetch 5000 4, shuffle_across_files 5001 False",
    "ImageDataParameter": "prefetch 5000 4",
    "TransformationParameter": "mean_data 5000",
    "WindowDataParameter": "prefetch 5000 4",
}
ENUMS = {
    "TagScheme": "IOBES IOB2 NONE",
    "Phase": "TRAIN TEST", "FillerParameter.VarianceNorm": "FAN_IN FAN_OUT AVERAGE",
    "SolverParameter.SnapshotFormat": "HDF5 BINARYPROTO", "SolverParameter.SolverMode": "CPU GPU",
    "SolverParameter.SolverType": "SGD NESTEROV ADAGRAD RMSPROP ADADELTA ADAM",
    "ParamSpec.DimCheckMode": "STRICT PERMISSIVE",
         "LossParameter.NormalizationMode": "FULL VALID BATCH_SIZE NONE",
    "EarlyStoppingParameter.Mode": "MIN MAX",
    "EltwiseParameter.EltwiseOp": "PROD SUM MAX", "ReLUParameter.Engine": "DEFAULT CAFFE CUDNN",
    "SigmoidParameter.Engine": "DEFAULT CAFFE CUDNN", "SoftmaxParameter.Engine": "DEFAULT CAFFE CUDNN",
    "TanHParameter.Engine": "DEFAULT CAFFE CUDNN", "ApproxDropoutParameter.Scale": "RATE PATTERN",
    "ApproxDropoutParameter.Search": "EXACT SGD", "ApproxDropoutParameter.Time": "SEQUENCE STEP",
    "ApproxDropoutParameter.Grouping": "STRATIFIED INDEPENDENT",
    "RecurrentParameter.DropoutType": "APPROX CONVENTIONAL",
    "TextDataParameter.Level": "WORD CHARACTER PIECE",
    "GELUParameter.Approximate": "NONE TANH", "PositionParameter.Kind": "LEARNED SINUSOIDAL",
    "AttentionDecoderParameter.Score": "GENERAL DOT ADDITIVE",
    "ParallelTextDataParameter.TooLong": "CUT LEAVE_OUT",
    "ConvolutionParameter.Engine": "DEFAULT CAFFE CUDNN", "HingeLossParameter.Norm": "L1 L2",
    "LRNParameter.Engine": "DEFAULT CAFFE CUDNN",
    "LRNParameter.NormRegion": "ACROSS_CHANNELS WITHIN_CHANNEL",
    "PoolingParameter.Engine": "DEFAULT CAFFE CUDNN", "PoolingParameter.PoolMethod": "MAX AVE STOCHASTIC",
    "PoolingParameter.RoundMode": "CEIL FLOOR", "ReductionParameter.ReductionOp": "SUM ASUM SUMSQ MEAN",
    "SPPParameter.Engine": "DEFAULT CAFFE CUDNN", "SPPParameter.PoolMethod": "MAX AVE STOCHASTIC",
    "DataParameter.DB": "LEVELDB LMDB", "V0LayerParameter.PoolMethod": "MAX AVE STOCHASTIC",
    "V1LayerParameter.DimCheckMode": "STRICT PERMISSIVE",
    "V1LayerParameter.LayerType":
        "NONE ACCURACY BNLL CONCAT CONVOLUTION DATA DROPOUT EUCLIDEAN_LOSS FLATTEN HDF5_DATA HDF5_OUTPUT "
        "IM2COL IMAGE_DATA INFOGAIN_LOSS INNER_PRODUCT LRN MULTINOMIAL_LOGISTIC_LOSS POOLING RELU SIGMOID "
        "SOFTMAX SOFTMAX_LOSS SPLIT TANH WINDOW_DATA ELTWISE POWER SIGMOID_CROSS_ENTROPY_LOSS HINGE_LOSS "
        "MEMORY_DATA ARGMAX THRESHOLD DUMMY_DATA SLICE MVN ABSVAL SILENCE CONTRASTIVE_LOSS EXP DECONVOLUTION",
}
FROM_ONE = ("HingeLossParameter.Norm", "ReductionParameter.ReductionOp")


def as_facts(message):
    facts = set()
    for field in message.fields:
        default = field.default_value if field.has_default_value else ""
        if isinstance(default, float):
            default = float(f"{default:.6g}")
            default = int(default) if default == int(default) else default
        facts.add(f"{field.name} {field.number} {default}".strip())
    return facts


@in_turn("name", sorted(CAFFE.keys() | OWN.keys()))
def test_numbers_and_defaults_are_as_published(name):
    listed = f"{CAFFE.get(name, '')}, {OWN.get(name, '')}".replace("1e-8", "1e-08")
    wanted = {fact.strip() for fact in listed.split(",") if fact.strip()}
    assert as_facts(minidrop_pb2.DESCRIPTOR.message_types_by_name[name]) == wanted


def test_the_tables_here_cover_the_schema():
    assert set(minidrop_pb2.DESCRIPTOR.message_types_by_name) == CAFFE.keys() | OWN.keys()


def test_enum_values_are_numbered_in_caffes_order():
    file = minidrop_pb2.DESCRIPTOR
    enums = dict(file.enum_types_by_name)
    for name, message in file.message_types_by_name.items():
        enums.update({f"{name}.{enum.name}": enum for enum in message.enum_types})
    assert {name: [(v.name, v.number) for v in enum.values] for name, enum in enums.items()} == {
        name: [(value, i) for i, value in enumerate(values.split(), name in FROM_ONE)]
        for name, values in ENUMS.items()}


def test_own_fields_of_caffes_messages_are_numbered_from_5000():
    for message in (LayerParameter, SolverParameter, NetParameter):
        assert all(field.number < 5000 or field.name in OWN[message.DESCRIPTOR.name]
                   for field in message.DESCRIPTOR.fields)


def test_generated_module_belongs_to_the_schema():
    recorded = re.search(r"sha256 of minidrop.proto: (\w+)",
                         pathlib.Path(minidrop_pb2.__file__).read_text()).group(1)
    assert recorded == script("generate_proto").proto_hash(), "stale: run python scripts/generate_proto.py"


def test_generated_module_is_what_protoc_makes():
    pytest.importorskip("grpc_tools", reason="no protoc here: grpcio-tools is in the extra `proto`")
    from importlib.metadata import version
    if not version("grpcio-tools").startswith("1.72."):
        pytest.skip(f"grpcio-tools {version('grpcio-tools')} generates for another protobuf than 1.72.* does")
    assert script("generate_proto").generate() == pathlib.Path(minidrop_pb2.__file__).read_text()


def test_generated_module_imports_without_a_word_on_this_protobuf():
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import minidrop.config.minidrop_pb2"],
                          cwd=ROOT,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_generated_module_asks_for_no_newer_protobuf_than_6_30():
    text = pathlib.Path(minidrop_pb2.__file__).read_text()
    assert "# Protobuf Python Version: 6.30." in text


def test_reference_page_is_current():
    docs = script("generate_docs")
    assert docs.REFERENCE.read_text() == docs.reference(), "stale: run python scripts/generate_docs.py"


def test_reference_page_has_every_field():
    text = script("generate_docs").REFERENCE.read_text()
    for message in minidrop_pb2.DESCRIPTOR.message_types_by_name.values():
        section = text.split(f"\n## {message.name}\n")[1].split("\n## ")[0]
        for field in message.fields:
            assert f"| `{field.name}` |" in section
