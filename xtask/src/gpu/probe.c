/*
 * What a program sees of GPUs, and how fast it is there: `probe list` prints them, `probe bench` times kernels in
 * milliseconds and checks their results, `probe hold` keeps 1 GiB of memory and a kernel running until it is killed.
 * The driver's library is opened at run time; nothing of CUDA is needed to build.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int CUresult;
typedef int CUdevice;
typedef void *CUcontext, *CUmodule, *CUfunction, *CUstream;
typedef unsigned long long CUdeviceptr;

static const char *KERNELS =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry vecadd(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u32 pn)\n{\n"
    " .reg .pred %p<2>; .reg .f32 %f<4>; .reg .b32 %r<6>; .reg .b64 %rd<12>;\n"
    " ld.param.u64 %rd1,[pa]; ld.param.u64 %rd2,[pb]; ld.param.u64 %rd3,[pc]; ld.param.u32 %r1,[pn];\n"
    " mov.u32 %r2,%ctaid.x; mov.u32 %r3,%ntid.x; mov.u32 %r4,%tid.x; mad.lo.u32 %r5,%r2,%r3,%r4;\n"
    " setp.ge.u32 %p1,%r5,%r1; @%p1 bra END;\n"
    " cvta.to.global.u64 %rd4,%rd1; cvta.to.global.u64 %rd5,%rd2; cvta.to.global.u64 %rd6,%rd3;\n"
    " mul.wide.u32 %rd7,%r5,4; add.s64 %rd8,%rd4,%rd7; add.s64 %rd9,%rd5,%rd7; add.s64 %rd10,%rd6,%rd7;\n"
    " ld.global.f32 %f1,[%rd8]; ld.global.f32 %f2,[%rd9]; add.f32 %f3,%f1,%f2; st.global.f32 [%rd10],%f3;\n"
    "END: ret;\n}\n"
    ".visible .entry matmul(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u32 pn)\n{\n"
    " .reg .pred %p<4>; .reg .f32 %f<4>; .reg .b32 %r<13>; .reg .b64 %rd<14>;\n"
    " ld.param.u64 %rd1,[pa]; ld.param.u64 %rd2,[pb]; ld.param.u64 %rd3,[pc]; ld.param.u32 %r1,[pn];\n"
    " cvta.to.global.u64 %rd11,%rd1; cvta.to.global.u64 %rd12,%rd2; cvta.to.global.u64 %rd13,%rd3;\n"
    " mov.u32 %r2,%ctaid.x; mov.u32 %r3,%ntid.x; mov.u32 %r4,%tid.x; mad.lo.u32 %r5,%r2,%r3,%r4;\n"
    " mov.u32 %r6,%ctaid.y; mov.u32 %r7,%ntid.y; mov.u32 %r8,%tid.y; mad.lo.u32 %r9,%r6,%r7,%r8;\n"
    " setp.ge.u32 %p1,%r5,%r1; setp.ge.u32 %p2,%r9,%r1; or.pred %p1,%p1,%p2; @%p1 bra END;\n"
    " mul.lo.u32 %r10,%r9,%r1; mul.wide.u32 %rd4,%r10,4; add.s64 %rd5,%rd11,%rd4;\n"
    " mul.wide.u32 %rd6,%r5,4; add.s64 %rd7,%rd12,%rd6; mul.wide.u32 %rd8,%r1,4;\n"
    " mov.f32 %f1,0f00000000; mov.u32 %r11,0;\n"
    "LOOP: ld.global.f32 %f2,[%rd5]; ld.global.f32 %f3,[%rd7]; fma.rn.f32 %f1,%f2,%f3,%f1;\n"
    " add.s64 %rd5,%rd5,4; add.s64 %rd7,%rd7,%rd8; add.u32 %r11,%r11,1;\n"
    " setp.lt.u32 %p3,%r11,%r1; @%p3 bra LOOP;\n"
    " add.u32 %r12,%r10,%r5; mul.wide.u32 %rd9,%r12,4; add.s64 %rd10,%rd13,%rd9; st.global.f32 [%rd10],%f1;\n"
    "END: ret;\n}\n";

static void *library;

static void *symbol(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "probe: libcuda has no %s\n", name);
        exit(3);
    }
    return found;
}

static void check(CUresult result, const char *what)
{
    if (result != 0) {
        fprintf(stderr, "probe: %s: CUDA error %d\n", what, result);
        exit(4);
    }
}

/* Calls a function of the driver's by its name; ends the program where it fails. */
#define CALL(name, types, ...) check(((CUresult(*) types)symbol(#name))(__VA_ARGS__), #name)

static double now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void list(int count)
{
    for (int index = 0; index < count; index++) {
        CUdevice device;
        char name[100];
        unsigned char uuid[16];
        CALL(cuDeviceGet, (CUdevice *, int), &device, index);
        CALL(cuDeviceGetName, (char *, int, CUdevice), name, sizeof name, device);
        CALL(cuDeviceGetUuid, (unsigned char *, CUdevice), uuid, device);
        printf("GPU-");
        for (int byte = 0; byte < 16; byte++)
            printf("%s%02x", byte == 4 || byte == 6 || byte == 8 || byte == 10 ? "-" : "", uuid[byte]);
        printf(" %s\n", name);
    }
}

static CUdeviceptr upload(const float *values, size_t bytes)
{
    CUdeviceptr memory;
    CALL(cuMemAlloc_v2, (CUdeviceptr *, size_t), &memory, bytes);
    CALL(cuMemcpyHtoD_v2, (CUdeviceptr, const void *, size_t), memory, values, bytes);
    return memory;
}

static void launch(CUfunction kernel, unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y, void **args)
{
    CALL(cuLaunchKernel,
         (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **),
         kernel, grid_x, grid_y, 1, block_x, block_y, 1, 0, NULL, args, NULL);
}

/* The time of `times` launches of a kernel over n by n (or n) numbers, whose result is then checked at some places. */
static void time_kernel(CUmodule module, const char *name, uint32_t n, int is_matrix, int times)
{
    size_t numbers = is_matrix ? (size_t)n * n : n, bytes = numbers * sizeof(float);
    float *a = malloc(bytes), *b = malloc(bytes), *c = malloc(bytes);
    for (size_t i = 0; i < numbers; i++) {
        a[i] = (float)(i % 7);
        b[i] = (float)(i % 5);
    }
    CUdeviceptr da = upload(a, bytes), db = upload(b, bytes), dc = upload(a, bytes);
    CUfunction kernel;
    CALL(cuModuleGetFunction, (CUfunction *, CUmodule, const char *), &kernel, module, name);
    void *args[] = {&da, &db, &dc, &n};
    unsigned blocks = is_matrix ? (n + 15) / 16 : (n + 255) / 256;
    for (int round = 0; round < 2; round++) { /* the first one warms up */
        double began = now_ms();
        for (int i = 0; i < times; i++)
            launch(kernel, blocks, is_matrix ? blocks : 1, is_matrix ? 16 : 256, is_matrix ? 16 : 1, args);
        CALL(cuCtxSynchronize, (void), );
        if (round == 1)
            printf("%s_x%d_ms %.3f\n", name, times, now_ms() - began);
    }
    CALL(cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t), c, dc, bytes);
    for (size_t i = 0; i < numbers; i += numbers / 97 + 1) {
        float expected = a[i] + b[i];
        if (is_matrix) {
            expected = 0;
            for (uint32_t k = 0; k < n; k++)
                expected += a[i / n * n + k] * b[(size_t)k * n + i % n];
        }
        if (c[i] != expected) {
            fprintf(stderr, "probe: %s: %f at %zu, and not %f\n", name, c[i], i, expected);
            exit(5);
        }
    }
    free(a);
    free(b);
    free(c);
}

/* Uses the GPU until it is killed. */
static void hold(CUmodule module)
{
    CUdeviceptr memory;
    CUfunction kernel;
    uint32_t n = 1 << 24;
    CALL(cuMemAlloc_v2, (CUdeviceptr *, size_t), &memory, (size_t)1 << 30);
    CALL(cuModuleGetFunction, (CUfunction *, CUmodule, const char *), &kernel, module, "vecadd");
    void *args[] = {&memory, &memory, &memory, &n};
    printf("holding\n");
    fflush(stdout);
    for (;;) {
        launch(kernel, (n + 255) / 256, 1, 256, 1, args);
        CALL(cuCtxSynchronize, (void), );
    }
}

int main(int argc, char **argv)
{
    double began = now_ms();
    int count;
    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "probe: %s\n", dlerror());
        return 2;
    }
    CALL(cuInit, (unsigned), 0);
    CALL(cuDeviceGetCount, (int *), &count);
    if (argc > 1 && strcmp(argv[1], "list") == 0) {
        list(count);
        return 0;
    }
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CALL(cuDeviceGet, (CUdevice *, int), &device, 0);
    CALL(cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice), &context, device);
    CALL(cuCtxSetCurrent, (CUcontext), context);
    CALL(cuModuleLoadData, (CUmodule *, const void *), &module, KERNELS);
    if (argc > 1 && strcmp(argv[1], "hold") == 0)
        hold(module);
    printf("init_ms %.3f\n", now_ms() - began);
    time_kernel(module, "vecadd", 1 << 24, 0, 100);
    time_kernel(module, "matmul", 1024, 1, 20);
    /* Many small launches, as a step of training has them. */
    time_kernel(module, "vecadd", 1 << 10, 0, 20000);
    return 0;
}
