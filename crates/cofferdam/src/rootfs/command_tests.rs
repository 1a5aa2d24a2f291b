//! Commands that are there, are not, or cannot be executed.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Fixture {
    directory: tempfile::TempDir,
    rootfs: Rootfs,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("bin")).unwrap();
        std::fs::create_dir_all(directory.path().join("opt/dir")).unwrap();
        let rootfs = Rootfs::open(directory.path()).unwrap();
        Self { directory, rootfs }
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) {
        let path = self.directory.path().join(path);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn check(&self, command: &str) -> Result<(), CommandError> {
        self.check_as(command, Some((0, &[0])))
    }

    fn check_as(&self, command: &str, ids: Option<(u32, &[u32])>) -> Result<(), CommandError> {
        let process = ProcessFacts {
            command,
            env: &["PATH=/sbin:/bin:/opt"],
            cwd: "/",
            ids,
            covered: &["/data".into()],
            machine: std::env::consts::ARCH,
            foreign_binaries: false,
        };
        check_command(&self.rootfs, &process)
    }
}

/// An ELF header of a static program for the machine with this number: no segments.
fn elf_for(machine: u16) -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    header.resize(16, 0);
    header.extend([2, 0]);
    header.extend(machine.to_le_bytes());
    header.extend([1, 0, 0, 0]);
    header.resize(52, 0);
    header.extend([64, 0, 56, 0, 0, 0, 64, 0, 0, 0, 0, 0]);
    header
}

fn native_machine() -> u16 {
    if cfg!(target_arch = "x86_64") { 62 } else { 183 }
}

#[test]
fn a_missing_command_is_127() {
    let fixture = Fixture::new();
    for command in ["nope", "/nope", "./nope", "/bin/nope", "/opt/dir/nope"] {
        let error = fixture.check(command).unwrap_err();
        assert_eq!(error.code(), Code::CommandNotFound, "{command}: {error}");
    }
    assert!(fixture.check("nope").unwrap_err().to_string().contains("nor along PATH=/sbin:/bin:/opt"));
}

#[test]
fn a_missing_loader_or_interpreter_is_127_and_named() {
    let fixture = Fixture::new();
    fixture.file("bin/script", "#! /usr/bin/env -S python3\n", 0o755);
    let error = fixture.check("script").unwrap_err();
    assert_eq!(error.code(), Code::CommandNotFound);
    assert!(error.to_string().contains("/usr/bin/env"), "{error}");
    // The test's own binary is a program for this machine, with a dynamic loader.
    fixture.file("bin/dynamic", std::fs::read(std::env::current_exe().unwrap()).unwrap(), 0o755);
    let error = fixture.check("dynamic").unwrap_err();
    assert!(
        matches!(&error, CommandError::InterpreterMissing { needs, .. } if needs.contains("/ld-")),
        "{error}"
    );
}

#[test]
fn what_cannot_be_executed_is_126() {
    let fixture = Fixture::new();
    fixture.file("bin/data", "just text\n", 0o755);
    fixture.file("bin/empty", "", 0o755);
    fixture.file("bin/plain", elf_for(native_machine()), 0o644);
    fixture.file("bin/foreign", elf_for(8), 0o755);
    fixture.file("bin/cut", &elf_for(native_machine())[..20], 0o755);
    fixture.file("bin/a", "#!/bin/a\n", 0o755);
    fixture.file("bin/to-dir", "#!/opt/dir\n", 0o755);
    for command in ["data", "empty", "plain", "foreign", "cut", "a", "to-dir", "/opt/dir", "/bin/data/x"] {
        let error = fixture.check(command).unwrap_err();
        assert_eq!(error.code(), Code::CommandNotExecutable, "{command}: {error}");
    }
}

#[test]
fn a_static_program_and_a_script_of_it_are_fine() {
    let fixture = Fixture::new();
    fixture.file("bin/static", elf_for(native_machine()), 0o755);
    fixture.file("opt/script", "#!/bin/static -x\n", 0o755);
    symlink("/bin/static", fixture.directory.path().join("opt/linked")).unwrap();
    for command in ["static", "/bin/static", "bin/static", "script", "linked", "/opt/../bin/static"] {
        fixture.check(command).unwrap();
    }
}

#[test]
fn a_directory_on_the_path_is_passed_over_like_by_a_shell() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.directory.path().join("sbin/tool")).unwrap();
    fixture.file("bin/tool", elf_for(native_machine()), 0o755);
    fixture.check("tool").unwrap();
}

#[test]
fn what_a_mount_covers_is_let_through() {
    let fixture = Fixture::new();
    fixture.file("bin/script", "#!/data/python\n", 0o755);
    fixture.check("/data/anything").unwrap();
    fixture.check("script").unwrap();
}

#[test]
fn permission_depends_on_who_it_is() {
    let fixture = Fixture::new();
    fixture.file("bin/others-not", elf_for(native_machine()), 0o750);
    let owner = rustix::process::getuid().as_raw();
    let group = rustix::process::getgid().as_raw();
    fixture.check_as("others-not", Some((owner + 1, &[group]))).unwrap();
    assert!(fixture.check_as("others-not", Some((owner + 1, &[group + 1]))).is_err());
    fixture.check_as("others-not", None).unwrap();
}

proptest::proptest! {
    #[test]
    fn no_content_panics(content: Vec<u8>, elf: bool) {
        let fixture = Fixture::new();
        let mut bytes = if elf { elf_for(native_machine()) } else { vec![] };
        bytes.extend(content);
        fixture.file("bin/any", bytes, 0o755);
        let _ = fixture.check("any");
    }
}
