/* A CUDA without a GPU: memory is the host's, copies copy, kernels and products do nothing but leave a line in a log.
 *
 * onnxruntime-gpu loads it in place of NVIDIA's libraries and runs for real on top of it: it partitions the graph,
 * looks for kernels, checks shapes, plans memory, binds, captures, replays. Only the numbers are missing. So what is
 * tested with it is all that our code and ONNX Runtime do on the host, and which kernels they would start.
 *
 * One file, compiled once per library (stand_in.py); symbols a library does not need do no harm.
 * STAND_IN_LOG names the log, STAND_IN_MEMORY the bytes a device has, STAND_IN_DEVICES how many there are (default 1).
 * The structure of device properties is that of CUDA 13. Function names and signatures: NVIDIA's public API reference.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned x, y, z; } dim3;
typedef void *handle;

enum { SUCCESS = 0, NO_MEMORY = 2, NO_DEVICE = 100 };

static long number(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text ? atol(text) : otherwise;
}

static void say(const char *what, const char *detail) {
  const char *path = getenv("STAND_IN_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  fprintf(file, "%s %s\n", what, detail);
  fclose(file);
}

/* ---- memory: each block has its size in front ---- */
static long used;
static const size_t HEAD = 256;

static int allocate(void **out, size_t size) {
  if (used + (long)size > number("STAND_IN_MEMORY", 8L << 30)) return NO_MEMORY;
  char *block = aligned_alloc(256, (size + HEAD + 255) / 256 * 256);
  if (!block) return NO_MEMORY;
  *(size_t *)block = size;
  used += size;
  *out = block + HEAD;
  return SUCCESS;
}
static int release(void *at) {
  if (!at) return SUCCESS;
  char *block = (char *)at - HEAD;
  used -= *(size_t *)block;
  free(block);
  return SUCCESS;
}
int cudaMalloc(void **out, size_t size) { return allocate(out, size); }
int cudaMallocHost(void **out, size_t size) { return allocate(out, size); }
int cudaHostAlloc(void **out, size_t size, unsigned flags) { return allocate(out, size); }
int cudaMallocFromPoolAsync(void **out, size_t size, handle pool, handle stream) { return allocate(out, size); }
int cudaFree(void *at) { return release(at); }
int cudaFreeHost(void *at) { return release(at); }
int cudaFreeAsync(void *at, handle stream) { return release(at); }
int cudaMemGetInfo(size_t *left, size_t *total) {
  *total = number("STAND_IN_MEMORY", 8L << 30);
  *left = *total - used;
  return SUCCESS;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memmove(to, from, size); return SUCCESS; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, handle stream) { memmove(to, from, size); return SUCCESS; }
int cudaMemset(void *at, int value, size_t size) { memset(at, value, size); return SUCCESS; }
int cudaMemsetAsync(void *at, int value, size_t size, handle stream) { memset(at, value, size); return SUCCESS; }

/* ---- devices ---- */
static __thread int current;
int cudaGetDeviceCount(int *count) { *count = number("STAND_IN_DEVICES", 1); return *count ? SUCCESS : NO_DEVICE; }
int cudaSetDevice(int device) { current = device; return device < number("STAND_IN_DEVICES", 1) ? SUCCESS : NO_DEVICE + 1; }
int cudaGetDevice(int *device) { *device = current; return SUCCESS; }
int cudaDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 1: *value = 1024; break;          /* threads of a block */
    case 10: *value = 32; break;           /* warp */
    case 16: *value = 132; break;          /* multiprocessors */
    case 75: *value = 9; break;            /* compute capability */
    case 76: *value = 0; break;
    case 8: case 97: *value = 232448; break; /* shared memory of a block */
    default: *value = 1;
  }
  return SUCCESS;
}
struct properties {
  char name[256], uuid[16], luid[8];
  unsigned node_mask;
  size_t memory, shared_per_block;
  int registers, warp;
  size_t pitch;
  int threads, thread_dims[3], grid[3];
  size_t constants;
  int major, minor;
  size_t texture_alignment, texture_pitch;
  int multiprocessors;
};
int cudaGetDeviceProperties(struct properties *p, int device) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "stand-in");
  p->memory = number("STAND_IN_MEMORY", 8L << 30);
  p->shared_per_block = 49152;
  p->registers = 65536;
  p->warp = 32;
  p->threads = 1024;
  p->thread_dims[0] = p->thread_dims[1] = 1024, p->thread_dims[2] = 64;
  p->grid[0] = 2147483647, p->grid[1] = p->grid[2] = 65535;
  p->major = 9, p->minor = 0;
  p->multiprocessors = 132;
  return SUCCESS;
}
int cudaPointerGetAttributes(int *attributes, const void *at) { attributes[0] = 2; attributes[1] = current; return SUCCESS; }
int cudaDeviceSynchronize(void) { return SUCCESS; }
int cudaGetLastError(void) { return SUCCESS; }
int cudaPeekAtLastError(void) { return SUCCESS; }
const char *cudaGetErrorName(int error) { return error == NO_MEMORY ? "cudaErrorMemoryAllocation" : error == NO_DEVICE ? "cudaErrorNoDevice" : "cudaError"; }
const char *cudaGetErrorString(int error) {
  return error == NO_MEMORY ? "out of memory" : error == NO_DEVICE ? "no CUDA-capable device is detected" : error == NO_DEVICE + 1 ? "invalid device ordinal" : "error";
}

/* ---- streams, events, graphs: none of them waits, since nothing runs ---- */
static char something[64];
static __thread int capturing;
int cudaStreamCreate(handle *out) { *out = something; return SUCCESS; }
int cudaStreamCreateWithFlags(handle *out, unsigned flags) { *out = something; return SUCCESS; }
int cudaStreamDestroy(handle stream) { return SUCCESS; }
int cudaStreamSynchronize(handle stream) {
  if (capturing) say("error", "synchronised while capturing");
  return capturing ? 900 : SUCCESS;
}
int cudaStreamWaitEvent(handle stream, handle event, unsigned flags) { return SUCCESS; }
int cudaStreamIsCapturing(handle stream, int *status) { *status = capturing; return SUCCESS; }
int cudaStreamBeginCapture(handle stream, int mode) { capturing = 1; say("capture", ""); return SUCCESS; }
int cudaStreamEndCapture(handle stream, handle *graph) { capturing = 0; *graph = something; return SUCCESS; }
int cudaGraphInstantiate(handle *out, handle graph, unsigned long long flags) { *out = something; return SUCCESS; }
int cudaGraphLaunch(handle graph, handle stream) { say("replay", ""); return SUCCESS; }
int cudaGraphDestroy(handle graph) { return SUCCESS; }
int cudaGraphExecDestroy(handle graph) { return SUCCESS; }
int cudaEventCreate(handle *out) { *out = something; return SUCCESS; }
int cudaEventCreateWithFlags(handle *out, unsigned flags) { *out = something; return SUCCESS; }
int cudaEventDestroy(handle event) { return SUCCESS; }
int cudaEventRecord(handle event, handle stream) { return SUCCESS; }
int cudaEventRecordWithFlags(handle event, handle stream, unsigned flags) { return SUCCESS; }
int cudaEventSynchronize(handle event) { return SUCCESS; }
int cudaEventElapsedTime(float *ms, handle from, handle to) { *ms = 1; return SUCCESS; }
int cudaLaunchHostFunc(handle stream, void (*function)(void *), void *data) { function(data); return SUCCESS; }
int cudaMemPoolCreate(handle *out, const void *properties) { *out = something; return SUCCESS; }
int cudaMemPoolDestroy(handle pool) { return SUCCESS; }
int cudaMemPoolSetAttribute(handle pool, int attribute, void *value) { return SUCCESS; }
int cudaMemPoolGetAttribute(handle pool, int attribute, void *value) { *(size_t *)value = 0; return SUCCESS; }
int cudaMemPoolTrimTo(handle pool, size_t keep) { return SUCCESS; }

/* ---- kernels: known by the host function they are registered under ---- */
static struct { const void *function; const char *name; } kernels[60000];
static int known;
handle *__cudaRegisterFatBinary(void *binary) { static handle one; return &one; }
void __cudaRegisterFatBinaryEnd(handle *binary) {}
void __cudaUnregisterFatBinary(handle *binary) {}
void __cudaRegisterVar(handle *binary, char *host, char *address, const char *name, int ext, size_t size, int constant, int global) {}
void __cudaRegisterFunction(handle *binary, const char *function, char *device, const char *name, int limit, void *a, void *b, void *c, void *d, int *e) {
  if (known < 60000) kernels[known].function = function, kernels[known++].name = name;
}
static int launch(const void *function) {
  for (int i = 0; i < known; i++)
    if (kernels[i].function == function) { say("kernel", kernels[i].name); return SUCCESS; }
  say("kernel", "?");
  return SUCCESS;
}
static struct { dim3 grid, block; size_t shared; handle stream; } pushed;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, handle stream) {
  pushed.grid = grid, pushed.block = block, pushed.shared = shared, pushed.stream = stream;
  return 0;
}
int __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, handle *stream) {
  *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared, *stream = pushed.stream;
  return SUCCESS;
}
int __cudaGetKernel(handle *kernel, const void *function) { *kernel = (handle)function; return SUCCESS; }
int __cudaLaunchKernel(handle kernel, dim3 grid, dim3 block, void **arguments, size_t shared, handle stream) { return launch(kernel); }
int cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared, handle stream) { return launch(function); }
int cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared, handle stream) { return launch(function); }
int cudaLaunchKernelExC(const void *config, const void *function, void **arguments) { return launch(function); }
int cudaFuncSetAttribute(const void *function, int attribute, int value) { return SUCCESS; }
int cudaKernelSetAttributeForDevice(handle kernel, int attribute, int value, int device) { return SUCCESS; }
int cudaFuncGetAttributes(int *attributes, const void *function) { memset(attributes, 0, 64); attributes[6] = 1024; return SUCCESS; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int size, size_t shared, unsigned flags) { *blocks = 1; return SUCCESS; }

/* ---- products ---- */
int cublasCreate_v2(handle *out) { *out = something; return SUCCESS; }
int cublasDestroy_v2(handle h) { return SUCCESS; }
int cublasSetStream_v2(handle h, handle stream) { return SUCCESS; }
int cublasSetMathMode(handle h, int mode) { char text[32]; snprintf(text, 32, "%d", mode); say("math", text); return SUCCESS; }
int cublasGetMathMode(handle h, int *mode) { *mode = 0; return SUCCESS; }
static int product(const char *name, int m, int n, int k) {
  char text[96];
  snprintf(text, sizeof text, "%s %dx%dx%d", name, m, n, k);
  say("product", text);
  return SUCCESS;
}
int cublasGemmEx(handle h, int a, int b, int m, int n, int k) { return product("GemmEx", m, n, k); }
int cublasSgemm_v2(handle h, int a, int b, int m, int n, int k) { return product("Sgemm", m, n, k); }
int cublasGemmStridedBatchedEx(handle h, int a, int b, int m, int n, int k) { return product("GemmStridedBatchedEx", m, n, k); }
int cublasGemmBatchedEx(handle h, int a, int b, int m, int n, int k) { return product("GemmBatchedEx", m, n, k); }
int cublasSgemmStridedBatched(handle h, int a, int b, int m, int n, int k) { return product("SgemmStridedBatched", m, n, k); }
int cublasLtCreate(handle *out) { *out = something; return SUCCESS; }
int cublasLtDestroy(handle h) { return SUCCESS; }
int cublasLtMatmul(handle h) { say("product", "LtMatmul"); return SUCCESS; }

/* ---- the driver ---- */
int cuInit(unsigned flags) { return number("STAND_IN_DEVICES", 1) ? SUCCESS : NO_DEVICE; }
int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = number("STAND_IN_DEVICES", 1); return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "stand-in", length); return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return cudaDeviceGetAttribute(value, attribute, device); }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = number("STAND_IN_MEMORY", 8L << 30); return SUCCESS; }

/* ---- what is linked and never called by our graphs ---- */
#define NEVER(name) int name(void) { say("never", #name); return 999; }
NEVER(cublasDgeam) NEVER(cublasDgemmBatched) NEVER(cublasDgemmStridedBatched) NEVER(cublasDgemm_v2) NEVER(cublasDgetrfBatched)
NEVER(cublasDgetriBatched) NEVER(cublasScopy_v2) NEVER(cublasSgeam) NEVER(cublasSgemmBatched) NEVER(cublasSgetrfBatched)
NEVER(cublasSgetriBatched) NEVER(cublasSscal_v2) NEVER(cublasLtMatmulAlgoConfigSetAttribute) NEVER(cublasLtMatmulAlgoGetHeuristic)
NEVER(cublasLtMatmulAlgoInit) NEVER(cublasLtMatmulDescCreate) NEVER(cublasLtMatmulDescDestroy) NEVER(cublasLtMatmulDescSetAttribute)
NEVER(cublasLtMatmulPreferenceCreate) NEVER(cublasLtMatmulPreferenceDestroy) NEVER(cublasLtMatmulPreferenceSetAttribute)
NEVER(cublasLtMatrixLayoutCreate) NEVER(cublasLtMatrixLayoutDestroy) NEVER(cublasLtMatrixLayoutSetAttribute)
NEVER(cublasLtMatrixTransform) NEVER(cublasLtMatrixTransformDescCreate) NEVER(cublasLtMatrixTransformDescDestroy)
NEVER(cudaGetDriverEntryPointByVersion) NEVER(cudaLibraryGetKernel) NEVER(cudaLibraryLoadData) NEVER(cudaLibraryUnload)
NEVER(cudaMemcpy2DAsync) NEVER(cudaMemcpyFromSymbol) NEVER(cuTensorMapEncodeTiled)
const char *cublasGetStatusName(int status) { return "status"; }
const char *cublasGetStatusString(int status) { return "status"; }
