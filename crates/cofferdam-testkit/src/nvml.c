/*
 * A stand-in for NVML (libnvidia-ml.so.1): it answers with what a file beside it says, so that whoever asks NVML can be
 * tried without a GPU. Its types and numbers are those of NVIDIA's nvml.h.
 *
 * The file nvml.txt has lines such as
 *   driver 550.90.07
 *   gpu 0 00000000:10:00.0 GPU-00000000-1111-2222-3333-444444444444
 *   process 0 4711 1073741824
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

typedef int Return;
typedef struct Gpu *Device;

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { GPUS = 16, PROCESSES = 64 };

struct Gpu {
    unsigned minor;
    char bus[32], uuid[80];
};
struct Pci {
    char old_bus[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
};
struct Utilization {
    unsigned gpu, memory;
};
struct Memory {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct Process {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
};

static char driver[80];
static struct Gpu gpus[GPUS];
static struct Process processes[PROCESSES];
static unsigned gpu_count, process_count, owners[PROCESSES];

/* Reads the file anew, as a driver knows new processes. */
static Return load(void)
{
    Dl_info own;
    char path[4096], line[256];
    if (!dladdr((void *)load, &own))
        return NOT_FOUND;
    const char *slash = strrchr(own.dli_fname, '/');
    snprintf(path, sizeof path, "%.*s/nvml.txt", slash ? (int)(slash - own.dli_fname) : 1, slash ? own.dli_fname : ".");
    FILE *file = fopen(path, "r");
    if (!file)
        return NOT_FOUND;
    gpu_count = process_count = 0;
    while (fgets(line, sizeof line, file)) {
        struct Gpu *gpu = &gpus[gpu_count];
        struct Process *process = &processes[process_count];
        if (sscanf(line, "driver %79s", driver) == 1)
            continue;
        if (gpu_count < GPUS && sscanf(line, "gpu %u %31s %79s", &gpu->minor, gpu->bus, gpu->uuid) == 3)
            gpu_count++;
        else if (process_count < PROCESSES &&
                 sscanf(line, "process %u %u %llu", &owners[process_count], &process->pid, &process->memory) == 3)
            process_count++;
    }
    fclose(file);
    return SUCCESS;
}

static Return text(char *to, unsigned size, const char *from)
{
    if (strlen(from) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

Return nvmlInit_v2(void) { return load(); }
Return nvmlInit(void) { return load(); }
Return nvmlInitWithFlags(unsigned flags) { return (void)flags, load(); }
Return nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(Return code) { return code == SUCCESS ? "Success" : "an error of the stand-in"; }
Return nvmlSystemGetDriverVersion(char *version, unsigned size) { return text(version, size, driver); }
Return nvmlDeviceGetCount_v2(unsigned *count) { return *count = gpu_count, SUCCESS; }
Return nvmlDeviceGetUUID(Device gpu, char *uuid, unsigned size) { return text(uuid, size, gpu->uuid); }
Return nvmlDeviceGetMinorNumber(Device gpu, unsigned *minor) { return *minor = gpu->minor, SUCCESS; }
Return nvmlDeviceGetName(Device gpu, char *name, unsigned size) { return (void)gpu, text(name, size, "stand-in"); }
Return nvmlDeviceGetPowerUsage(Device gpu, unsigned *milliwatts) { return (void)gpu, *milliwatts = 75000, SUCCESS; }

Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *gpu)
{
    if (index >= gpu_count)
        return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    return SUCCESS;
}

Return nvmlDeviceGetPciInfo_v3(Device gpu, struct Pci *pci)
{
    memset(pci, 0, sizeof *pci);
    sscanf(gpu->bus, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
    snprintf(pci->old_bus, sizeof pci->old_bus, "%.12s", gpu->bus + 4);
    return text(pci->bus_id, sizeof pci->bus_id, gpu->bus);
}

Return nvmlDeviceGetMigMode(Device gpu, unsigned *current, unsigned *pending)
{
    return (void)gpu, *current = *pending = 0, SUCCESS;
}

Return nvmlDeviceGetMaxMigDeviceCount(Device gpu, unsigned *count) { return (void)gpu, *count = 0, SUCCESS; }

Return nvmlDeviceGetUtilizationRates(Device gpu, struct Utilization *rates)
{
    return (void)gpu, *rates = (struct Utilization){40, 10}, SUCCESS;
}

Return nvmlDeviceGetMemoryInfo_v2(Device gpu, struct Memory *memory)
{
    return (void)gpu, *memory = (struct Memory){memory->version, 80ULL << 30, 0, 79ULL << 30, 1ULL << 30}, SUCCESS;
}

Return nvmlDeviceGetComputeRunningProcesses_v3(Device gpu, unsigned *count, struct Process *found)
{
    unsigned room = *count, own = 0;
    for (unsigned i = 0; i < process_count; i++) {
        if (&gpus[owners[i]] != gpu)
            continue;
        if (own < room)
            found[own] = processes[i];
        own++;
    }
    *count = own;
    return own <= room ? SUCCESS : INSUFFICIENT_SIZE;
}

Return nvmlDeviceGetGraphicsRunningProcesses_v3(Device gpu, unsigned *count, struct Process *found)
{
    return (void)gpu, (void)found, *count = 0, SUCCESS;
}
