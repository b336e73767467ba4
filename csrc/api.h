/* The library's C interface.  cffi reads this file as it stands, so it holds no preprocessor line.
 *
 * Sizes are 64-bit and counted in elements; 1-D and 2-D problems have leading axes of size 1.  Arrays are contiguous,
 * row-major and aligned to their element.  Functions that return int give a vox_status.  Long work returns VOX_AGAIN
 * about every 50 ms: call again with the same arguments and the same cursor, which starts at 0. */

/* Code that was compiled against this file and kept on disk asks vox_abi() whether it still fits.  Count up VOX_ABI with
 * every change of a struct, an enumeration or a function below. */
enum vox_version { VOX_ABI = 9 };
int64_t vox_abi(void);

enum vox_status { VOX_OK = 0, VOX_AGAIN = 1, VOX_INVALID = -1, VOX_OVERFLOW = -2, VOX_NO_MEMORY = -3, VOX_OUTSIDE = -4 };

enum vox_type {
  VOX_F32 = 0, VOX_F64 = 1, VOX_I8 = 2, VOX_U8 = 3, VOX_I16 = 4, VOX_U16 = 5, VOX_I32 = 6, VOX_U32 = 7, VOX_I64 = 8,
  VOX_U64 = 9
};

enum vox_operation { VOX_CONV = 0, VOX_CONV_INPUT_GRAD = 1, VOX_CONV_WEIGHT_GRAD = 2 };

enum vox_algorithm { VOX_DIRECT = 0, VOX_IM2COL = 1, VOX_WINOGRAD = 2, VOX_DEPTHWISE = 3 };

enum vox_activation { VOX_IDENTITY = 0, VOX_RELU = 1, VOX_LEAKY_RELU = 2 };

/* input (n, c, spatial), weight (k, c / groups, kernel), output (n, k, output); pad is what lies before each axis.  `once`
 * says that packed weights serve a single call: where that pays they are packed on the way, and stay where they are until
 * then.  The results are the same.  points is how many Winograd's forms may have along an axis, 0 for as many as it likes:
 * 4 leaves tiles of two outputs of three taps, which round the least. */
typedef struct vox_conv {
  int64_t n, c, k, groups;
  int64_t spatial[3], kernel[3], stride[3], pad[3], dilation[3], output[3];
  int32_t type, operation, algorithm, activation;
  double slope;
  int64_t once, points;
} vox_conv;

/* x (planes, spatial), y (planes, output).  pad_after and the last two fields concern average pooling. */
typedef struct vox_window {
  int64_t planes;
  int64_t spatial[3], kernel[3], stride[3], pad[3], pad_after[3], dilation[3], output[3];
  int32_t type, count_include_pad;
  int64_t divisor; /* 0: the number of elements of the window */
} vox_window;

/* Which instruction sets this build has, best first, and which of them this machine can run. */
int vox_isa_count(void);
const char *vox_isa_name(int isa);
int vox_isa_supported(int isa);
int vox_isa_lanes(int isa, int type);

/* The instruction set in use: VOXCONV_ISA if set, else the best; VOX_INVALID if that name is unknown or not there. */
int vox_isa_used(void);

/* Run multiply-adds of VOX_F32 or VOX_F64 on registers alone, with the instruction set in use: what to time for its
 * ceiling.  Returns how many multiplications and additions that was; VOX_INVALID for another type. */
int64_t vox_probe_fma(int32_t type, int64_t iterations, double *sink);

/* Copy `count` floats `iterations` times with vectors of the instruction set in use, whole ones only: what to time for
 * the bandwidth of the memory that holds them.  Returns the bytes read and written, or VOX_INVALID. */
int64_t vox_probe_copy(int64_t iterations, int64_t count, const float *from, float *to);

/* Packed weights, workspace of a call, and the call.  For the weight gradient, a is the input, b the output's gradient
 * and nothing is packed; otherwise a is what the sum reads and b the packed weight.  For the input gradient that
 * may refer to the weight, which must stay as it is until the last run.  bias may be NULL. */
int64_t vox_conv_packed_bytes(const vox_conv *p);
int64_t vox_conv_workspace_bytes(const vox_conv *p, int64_t threads);
int vox_conv_pack(const vox_conv *p, const void *weight, void *packed);
int vox_conv_run(const vox_conv *p, int64_t threads, const void *a, const void *b, const void *bias, void *out,
                 void *workspace, int64_t *cursor);

/* All of it in one call, for callers that keep nothing: packs b, the weight as it lies, in memory that it takes and gives
 * back, and runs.  The sizes are those from above.  memory is where to keep that between calls, NULL at first and at last:
 * who gives up before gives it back. */
int vox_conv_once(const vox_conv *p, int64_t threads, int64_t packed_bytes, int64_t workspace_bytes, const void *a,
                  const void *b, const void *bias, void *out, void **memory, int64_t *cursor);

/* The same for callers that nothing interrupts: to the end, on the process-wide number of threads, as if `once`. */
int vox_conv_whole(const vox_conv *p, const void *a, const void *b, const void *bias, void *out);

/* Outputs of one tile along each axis that Winograd's algorithm takes for this problem, and how many times faster than
 * the direct sum it is estimated to be, by shape and instruction set alone; VOX_INVALID where it does not apply. */
int vox_conv_winograd_tile(const vox_conv *p, int64_t tile[3], double *gain);

/* out (k) = sum of grad_output (n, k, size) over n and size. */
int vox_conv_bias_grad(int32_t type, int64_t threads, int64_t n, int64_t k, int64_t size, const void *grad_output,
                       void *out, int64_t *cursor);

/* out (n, k, size) = grad_output where output is not <= 0, else 0: the way back through a ReLU whose result was output.
 * sums (k), which may be NULL, gets the sums of out over n and size: the gradient of a bias before it. */
int vox_relu_grad(int32_t type, int64_t threads, int64_t n, int64_t k, int64_t size, const void *output,
                  const void *grad_output, void *out, void *sums, int64_t *cursor);

/* indices may be NULL.  Any vox_type. */
int vox_max_pool(const vox_window *p, int64_t threads, const void *x, void *y, int64_t *indices, int64_t *cursor);

/* What a training step wants of a max-pool whose windows are two wide, lie side by side and cover the planes, of VOX_F32 or
 * VOX_F64: kernel and stride (1 or 2, 1 or 2, 2).  taps (planes, output) gets where in its window each maximum stands.  On
 * the way back a channel's planes are k apart; dx (planes, spatial) is dy where its tap was the maximum, else 0.  What may
 * be NULL: pooled (planes, output) are results of a ReLU, dy is 0 where they are <= 0; add is added to dx; output are results
 * of a ReLU, dx is 0 where they are <= 0; sums (k) gets the sums of dx.  add's and output's channels are as close as dx's,
 * their samples add_stride and output_stride elements apart. */
int vox_max_pool_taps(const vox_window *p, int64_t threads, const void *x, void *y, uint8_t *taps, int64_t *cursor);
int vox_max_pool_taps_grad(const vox_window *p, int64_t threads, int64_t k, const void *pooled, const void *dy,
                           const uint8_t *taps, const void *output, int64_t output_stride, const void *add,
                           int64_t add_stride, void *dx, void *sums, int64_t *cursor);

/* out (planes, spatial) = 0, then values (planes, pooled) are stored or added at indices into a plane, in order.  Any
 * vox_type.  VOX_OUTSIDE, with some of out written, where an index is none of a plane's. */
int vox_scatter(int32_t type, int64_t threads, int64_t planes, const int64_t pooled[3], const int64_t spatial[3],
                int32_t accumulate, const void *values, const int64_t *indices, void *out, int64_t *cursor);

/* float and double only.  columns are (planes * taps, output). */
int vox_avg_pool(const vox_window *p, int64_t threads, const void *x, void *y, int64_t *cursor);
int vox_avg_pool_grad(const vox_window *p, int64_t threads, const void *dy, void *dx, int64_t *cursor);
int vox_unfold(const vox_window *p, int64_t threads, const void *x, void *columns, int64_t *cursor);
int vox_fold(const vox_window *p, int64_t threads, const void *columns, void *x, int64_t *cursor);

/* Arrays that are learned, each with its gradient and what earlier steps have left behind: mean, the velocity of VOX_SGD or
 * the running mean of gradients, and square, that of their squares; NULL where the rule keeps none.  rate is the size of the
 * step, scale what the root of square is multiplied by. */
typedef struct vox_learned {
  int64_t size;
  void *data;
  const void *grad;
  void *mean, *square;
  double rate, scale;
} vox_learned;

enum vox_rule { VOX_SGD = 0, VOX_ADAM = 1 };

/* data is multiplied by `shrink`, and weight_decay * data added to the gradient; momentum and second are how much of mean and
 * of square stays.  With nesterov VOX_SGD looks one step ahead. */
typedef struct vox_descent {
  int32_t rule, nesterov;
  double momentum, second, eps, weight_decay, shrink;
} vox_descent;

/* One step of an optimiser, in place.  VOX_F32 or VOX_F64. */
int vox_descend(int32_t type, int64_t threads, const vox_descent *descent, int64_t count, const vox_learned *learned,
                int64_t *cursor);

/* Aligned memory, counted.  What is given back is kept for the next request, up to a limit, until it is released. */
void *vox_alloc(int64_t bytes);
void vox_free(void *memory);
void vox_release_memory(void);
int64_t vox_live_bytes(void);
int64_t vox_kept_bytes(void);
int64_t vox_peak_bytes(void);
void vox_reset_peak(void);

/* The process-wide number of threads that calls use, and what it can be at most in one call. */
void vox_set_num_threads(int64_t threads);
int64_t vox_get_num_threads(void);

/* Run a caller's own items on the library's threads: body(context, item, slot) once for each, in any order.  What runs
 * at the same time has different slots, below `threads`. */
int vox_share(int64_t items, int64_t threads, void (*body)(void *context, int64_t item, int64_t slot), void *context,
              int64_t *cursor);
