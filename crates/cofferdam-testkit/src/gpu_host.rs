//! A host with NVIDIA GPUs, as far as files go: what the driver shows in /proc, device nodes, libraries, programs.
//!
//! Its device nodes are those of /dev/null, so that a container that is given one can open it.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::lab::new_command;

/// The directory below which that host's files lie.
#[derive(Debug)]
pub struct GpuHost {
    root: PathBuf,
    driver: String,
}

/// The source of a stand-in for NVML.
const NVML: &str = include_str!("nvml.c");
/// Where a tree has its libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The version that every tree has unless it is given another one: the newest that runsc 20240729 knows.
pub const DRIVER: &str = "550.90.07";

impl GpuHost {
    /// A host with so many GPUs.
    ///
    /// # Panics
    /// When its files cannot be made.
    #[must_use]
    pub fn new(root: &Path, gpus: u32, driver: &str) -> Self {
        let host = Self { root: root.to_owned(), driver: driver.to_owned() };
        host.put(
            "proc/driver/nvidia/version",
            &format!(
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Fri May 31 09:35:42 UTC 2024\n"
            ),
        );
        std::fs::create_dir_all(root.join("dev/pts")).expect("it can be made");
        std::fs::create_dir(root.join("dev/shm")).expect("it can be made");
        std::fs::create_dir_all(root.join("etc/cdi")).expect("it can be made");
        for name in ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"] {
            host.node(name, 3);
        }
        host.usual_devices();
        for index in 0..gpus {
            host.add_gpu(index);
        }
        for library in ["libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler"] {
            host.library(&format!("{LIBRARIES}/{library}.so.{driver}"));
        }
        // Of another version, and of somebody else.
        host.library(&format!("{LIBRARIES}/libcuda.so.535.54.03"));
        host.library(&format!("{LIBRARIES}/libother.so.1"));
        host.put("usr/bin/nvidia-smi", "#!/bin/sh\necho fake\n");
        host.put(&format!("lib/firmware/nvidia/{driver}/gsp_ga10x.bin"), "firmware");
        host
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The UUID of a GPU.
    #[must_use]
    pub fn uuid(index: u32) -> String {
        format!("GPU-{index:08x}-1111-2222-3333-444444444444")
    }

    /// The options of cofferdam that have it look there, and for descriptions of CDI only in a directory that is empty.
    #[must_use]
    pub fn options(&self) -> [String; 4] {
        let root = self.root.display().to_string();
        let empty = self.root.join("etc/cdi").display().to_string();
        ["--nvidia-driver-root".into(), root, "--cdi-spec-dir".into(), empty]
    }

    /// Gives it an NVML that answers, with a C compiler: it knows so many GPUs, and no process.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn add_nvml(&self, gpus: u32) {
        let folder = self.root.join(LIBRARIES);
        let library = folder.join(format!("libnvidia-ml.so.{}", self.driver));
        let source = folder.join("nvml.c");
        std::fs::write(&source, NVML).expect("it can be written");
        let built = new_command("cc")
            .args([
                "-shared",
                "-fPIC",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-Wl,-soname,libnvidia-ml.so.1",
                "-o",
            ])
            .args([&library, &source])
            .status();
        assert!(built.expect("there is a C compiler").success(), "{} is not built", source.display());
        std::fs::remove_file(source).expect("it was just written");
        let link = folder.join("libnvidia-ml.so.1");
        std::os::unix::fs::symlink(library.file_name().expect("it has one"), link).expect("it can be made");
        let gpu = |index| format!("gpu {index} 0000{} {}\n", Self::bus(index), Self::uuid(index));
        let gpus: String = (0..gpus).map(gpu).collect();
        self.put(&format!("{LIBRARIES}/nvml.txt"), &format!("driver {}\n{gpus}", self.driver));
    }

    /// Has its NVML know a process on a GPU, with so much of its memory.
    ///
    /// # Panics
    /// When it has no NVML.
    pub fn add_process(&self, index: u32, pid: i32, bytes: u64) {
        let file = self.root.join(LIBRARIES).join("nvml.txt");
        let before = std::fs::read_to_string(&file).expect("it has an NVML");
        std::fs::write(file, format!("{before}process {index} {pid} {bytes}\n")).expect("it can be written");
    }

    /// The address of a GPU.
    #[must_use]
    pub fn bus(index: u32) -> String {
        format!("0000:{:02x}:00.0", 0x10 + index)
    }

    fn add_gpu(&self, index: u32) {
        let model = if index.is_multiple_of(2) { "NVIDIA H100 80GB HBM3" } else { "NVIDIA A100-SXM4-40GB" };
        let bus = Self::bus(index);
        let information = format!(
            "Model: \t\t {model}\nIRQ:   \t\t {}\nGPU UUID: \t {}\nVideo BIOS: \t 96.00.5e.00.01\n\
             Bus Type: \t PCIe\nDMA Size: \t 52 bits\nDMA Mask: \t 0xfffffffffffff\nBus Location: \t {bus}\n\
             Device Minor: \t {index}\nGPU Firmware: \t {}\nGPU Excluded:\t No\n",
            180 + index,
            Self::uuid(index),
            self.driver,
        );
        self.put(&format!("proc/driver/nvidia/gpus/{bus}/information"), &information);
        self.node(&format!("nvidia{index}"), 3);
    }

    /// Those that every program expects.
    fn usual_devices(&self) {
        for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
            self.node(name, minor);
        }
        let links = [
            ("pts/ptmx", "ptmx"),
            ("/proc/self/fd", "fd"),
            ("fd/0", "stdin"),
            ("fd/1", "stdout"),
            ("fd/2", "stderr"),
        ];
        for (target, name) in links {
            std::os::unix::fs::symlink(target, self.devices().join(name)).expect("it can be made");
        }
    }

    /// Its /dev.
    #[must_use]
    pub fn devices(&self) -> PathBuf {
        self.root.join("dev")
    }

    fn node(&self, name: &str, minor: u32) {
        let path = self.root.join("dev").join(name);
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(1, minor)).expect("root can make nodes");
    }

    /// The C library of this machine has a SONAME, which is all that matters.
    fn library(&self, path: &str) {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("it is there");
        let own = maps
            .lines()
            .find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("/libc.so")));
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
        std::fs::copy(own.expect("it is linked to one"), path).expect("it can be copied");
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
        std::fs::write(path, text).expect("it can be written");
    }
}
