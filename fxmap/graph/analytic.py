"""Analytic operations: what agrees at a random point agrees everywhere, with probability one.

Sums, products, powers, softmax, GELU and compositions of them are analytic in their inputs and tensors, and the zeros of
such a function have measure zero unless it is zero everywhere (Krantz and Parks, A Primer of Real Analytic Functions, 2002,
doi 10.1007/978-0-8176-8134-0). Functions made of pieces are not: an input may not reach every piece. The list holds what is
known to be analytic, so that an operation that is not known stands against a proof, not for it. What copies by an index that
was computed is in it too: it is as the index is, and what computes that, sorting or comparing, is made of pieces.
"""

from fxmap.graph.kinds import IDENTITIES, MOVEMENT

_COPIES = """
    __setitem__ adjoint as_strided atleast_1d atleast_2d bfloat16 block_diag broadcast_to cartesian_prod cat col2im
    complex conj constant_pad_nd copy cpu cuda diag diag_embed diagonal double dsplit dstack embedding empty_like
    expand_as expand_copy feature_alpha_dropout fold full_like gather getattr half hsplit hstack im2col imag index
    index_select mT meshgrid new_empty new_full new_ones new_zeros numpy_T ones_like pad pixel_shuffle pixel_unshuffle
    real reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d reshape_as resolve_conj rot90
    select_scatter setitem shape size slice_scatter stack swapaxes swapdims take take_along_dim tensor_split tile tril
    triu type_as unfold unfold_copy view_as view_as_complex view_as_real view_copy vsplit vstack zeros_like
"""


_ARITHMETIC = """
    acos acosh add addcdiv addcmul asin asinh atan atanh cos cosh cumprod cumsum diff digamma div divide erf erfc
    erfinv exp exp2 expit expm1 gelu glu hypot lerp lgamma log log10 log1p log2 log_sigmoid log_softmax logaddexp
    logcumsumexp logit logsigmoid logsumexp mean mish mul multiply nansum neg negative polar positive pow prod
    reciprocal rpow rsqrt rsub rtruediv sigmoid silu sin sinc sinh softmax softmin softplus softsign sqrt square std
    std_mean sub subtract sum sum_to_size tan tanh tanhshrink trace var var_mean
"""


_LINEAR_ALGEBRA = """
    adaptive_avg_pool addbmm addmm addmv addr affine_grid affine_grid_generator avg_pool baddbmm bilinear bmm
    chain_matmul conv_tbc conv_transpose convolution cosine_similarity cross det dot einsum fft_c2c fft_c2r fft_fft
    fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_r2c
    fft_rfft fft_rfft2 fft_rfftn frobenius_norm grouped_mm inner interpolate inverse istft kron linalg_det linalg_inv
    linalg_inv_ex linalg_multi_dot linalg_slogdet linalg_vector_norm linear logdet lp_pool matmul matrix_exp mm
    multi_dot mv normalize outer rmatmul stft tensordot upsample upsample_bicubic2d upsample_bicubic2d_aa
    upsample_bilinear2d upsample_bilinear2d_aa upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_nearest_exact1d upsample_nearest_exact2d upsample_trilinear3d vdot vector_norm
"""


_COMPOSED = """
    batch_norm fused_rms_norm group_norm gru gru_cell instance_norm layer_norm local_response_norm lstm lstm_cell
    multi_head_attention_forward native_multi_head_attention rms_norm rnn_tanh rnn_tanh_cell
    scaled_dot_product_attention scaled_dot_product_attention_math scaled_dot_product_efficient_attention
    scaled_dot_product_flash_attention scaled_dot_product_flash_attention_for_cpu
"""


ANALYTIC = MOVEMENT | IDENTITIES | set(f"{_COPIES} {_ARITHMETIC} {_LINEAR_ALGEBRA} {_COMPOSED}".split())
